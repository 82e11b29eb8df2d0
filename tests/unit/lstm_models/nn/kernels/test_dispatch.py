"""The loop over time: the hand-derived gradient against the reference loop, and the selection of the implementation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lstm_models.nn.cells import LSTMState
from lstm_models.nn.kernels import dispatch
from lstm_models.nn.kernels.reference import STANDARD_CELL, Loop, reference_loop, scan_loop

# PyTorch's own forward mode raises this warning on its first use
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

# Tolerance relative to the tensor's largest value, or to 1 if that is larger. The two loops sum the same products in
# different orders; the largest difference in 20,000 random cases was 7e-15 in float64 and 3e-6 in float32. A wrong
# factor or a missing step causes a difference of at least 1e-3.
CLOSE = {torch.float64: 1e-13, torch.float32: 3e-5}
NAMES = ("x", "hidden", "cell", "weight_ih", "weight_hh", "bias", "weight_hr")

Arguments = tuple[Any, ...]  # a tensor, or None, for each of NAMES


class Case(NamedTuple):
    """Arguments of the loop, and the results that gradients are requested for."""

    T: int = 3
    B: int = 2
    D: int = 2
    H: int = 3
    P: int | None = None  # None: no projection
    bias: bool = True
    scale: float = 1.0  # of the input: at 10 most gates are saturated
    layout: str = "contiguous"  # of the input, the state, the weights and the incoming gradients
    loss_of: str = "both"  # the results with incoming gradients
    without: frozenset[str] = frozenset()  # arguments that require no gradient
    dtype: torch.dtype = torch.float64
    seed: int = 0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = st.integers(1, 5)
    return Case(
        T=draw(st.integers(1, 7)),
        B=draw(st.integers(0, 4)),
        D=draw(size),
        H=draw(size),
        P=draw(st.none() | size),
        bias=draw(st.booleans()),
        scale=draw(st.sampled_from([0.1, 1, 10])),
        layout=draw(st.sampled_from(["contiguous", "transposed", "every other", "expanded"])),
        loss_of=draw(st.sampled_from(["both", "hidden", "cell", "last"])),
        without=draw(st.frozensets(st.sampled_from(NAMES)).filter(lambda names: not names.issuperset(NAMES[:5]))),
        dtype=draw(st.sampled_from([torch.float64, torch.float32])),
        seed=draw(st.integers(0, 2**31)),
    )


def random_tensor(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    """Return random numbers in a tensor with this layout."""
    match layout:
        case "transposed":
            drawn = torch.randn(*reversed(shape), dtype=dtype)
            return drawn.permute(*reversed(range(len(shape))))
        case "every other":
            return torch.randn(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
        case "expanded":
            return torch.randn(1, *shape[1:], dtype=dtype).expand(shape)
    return torch.randn(shape, dtype=dtype)


def draw_arguments(case: Case) -> Arguments:
    torch.manual_seed(case.seed)
    P = case.P or case.H
    shapes = {
        "x": (case.T, case.B, case.D),
        "hidden": (case.B, P),
        "cell": (case.B, case.H),
        "weight_ih": (4 * case.H, case.D),
        "weight_hh": (4 * case.H, P),
        "bias": (4 * case.H,) if case.bias else None,
        "weight_hr": (case.P, case.H) if case.P else None,
    }
    drawn: dict[str, Tensor | None] = dict.fromkeys(shapes)
    for name, shape in shapes.items():
        if shape is not None:
            # weights scaled as in a layer, so that the state neither vanishes nor explodes
            factor = case.scale if name == "x" else shape[1] ** -0.5 if name.startswith("weight") else 1
            # an expanded tensor stays expanded after the multiplication
            value = random_tensor(shape, case.layout, case.dtype)
            value = value * factor if case.layout != "expanded" else (value[:1] * factor).expand(shape)
            drawn[name] = value.requires_grad_(name not in case.without)
    return tuple(drawn.values())  # type: ignore[return-value]


def run(arguments: Arguments, loop: Loop | None = None) -> LSTMState:
    """Return the states after every step, of this loop or of the selected one."""
    weights = {name: value for name, value in zip(NAMES, arguments, strict=True) if value is not None}
    x, state = weights.pop("x"), LSTMState(weights.pop("hidden"), weights.pop("cell"))
    stored = {"bias_ih" if name == "bias" else name: value for name, value in weights.items()}
    loop = loop or dispatch.select_loop(x, state, stored, STANDARD_CELL, False)
    return loop(x, state, weights, STANDARD_CELL, False)


def run_reference(arguments: Arguments) -> LSTMState:
    return run(arguments, reference_loop)


def outputs(case: Case, results: LSTMState) -> list[Tensor]:
    """Return the results with incoming gradients."""
    hidden, cell = results
    return {"both": [hidden, cell], "hidden": [hidden], "cell": [cell], "last": [hidden[-1], cell[-1]]}[case.loss_of]


def incoming_gradients(case: Case, results: LSTMState) -> list[Tensor]:
    """Return the incoming gradients, the same at every call."""
    torch.manual_seed(case.seed + 1)
    return [random_tensor(tuple(result.shape), case.layout, case.dtype) for result in outputs(case, results)]


def trainable(arguments: Arguments) -> dict[str, Tensor]:
    return {
        name: value for name, value in zip(NAMES, arguments, strict=True) if value is not None and value.requires_grad
    }


def gradients(
    case: Case, arguments: Arguments, results: LSTMState, incoming: list[Tensor] | None = None, **options: Any
) -> dict[str, Tensor]:
    """Return the gradients, by name, of all arguments that require one; zeros for unused ones."""
    inputs = trainable(arguments)
    incoming = incoming or incoming_gradients(case, results)
    values = torch.autograd.grad(
        outputs(case, results), list(inputs.values()), incoming, materialize_grads=True, **options
    )
    return dict(zip(inputs, values, strict=True))


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        largest = value.abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(
            actual[name],
            value,
            rtol=0,
            atol=CLOSE[value.dtype] * max(largest, 1.0),
            msg=lambda text, name=name: f"{name}: {text}",
        )


def of_tensors(loop: Callable[[Arguments], LSTMState], arguments: Arguments) -> tuple[Callable[..., LSTMState], Any]:
    """Return the loop as a function of tensors only, and these tensors: the arguments that are not None."""

    def function(*tensors: Tensor) -> LSTMState:
        remaining = iter(tensors)
        return loop(tuple(None if argument is None else next(remaining) for argument in arguments))  # type: ignore[arg-type]

    return function, tuple(argument for argument in arguments if argument is not None)


# ---- against the reference loop
@settings(max_examples=100)  # twelve options; an example takes milliseconds
@given(cases())
@example(Case(T=1))
@example(Case(T=1, P=2, loss_of="cell"))  # no gradient reaches the projection
@example(Case(B=0))
@example(Case(B=0, P=2))
@example(Case(T=1, B=1, D=1, H=1, P=1))
@example(Case(without=frozenset({"x"})))
@example(Case(without=frozenset(NAMES) - {"x"}))
@example(Case(T=65, B=33, D=17, H=40))  # uses the vectorized and the parallel code of each operation
@example(Case(T=65, B=33, D=17, H=40, P=9, layout="transposed"))
def test_results_and_gradients_match_the_reference_and_arguments_are_unchanged(case: Case) -> None:
    arguments = draw_arguments(case)
    present = [value for value in arguments if value is not None]
    before, versions = [value.detach().clone() for value in present], [value._version for value in present]
    results, expected = run(arguments), run_reference(arguments)
    assert_close(results._asdict(), expected._asdict())

    incoming = incoming_gradients(case, results)
    unchanged = [*results, *incoming]
    clones = [value.detach().clone() for value in unchanged]
    first = gradients(case, arguments, results, incoming, retain_graph=True)
    second = gradients(case, arguments, results, incoming)
    assert_close(first, gradients(case, arguments, expected, incoming))
    assert all(torch.equal(first[name], second[name]) for name in first)  # saved tensors are not modified
    assert [value._version for value in present] == versions
    assert all(map(torch.equal, [*present, *unchanged], [*before, *clones]))


@pytest.mark.parametrize("projected", [None, 2])
@pytest.mark.parametrize("loss_of", ["both", "hidden", "cell", "last"])
def test_second_derivatives_match_the_reference_loop(projected: int | None, loss_of: str) -> None:
    case = Case(P=projected, loss_of=loss_of, bias=loss_of != "last")

    def second(loop: Callable[[Arguments], LSTMState]) -> dict[str, Tensor]:
        arguments = draw_arguments(case)
        first = gradients(case, arguments, loop(arguments), create_graph=True)
        penalty = torch.stack([(value * value.detach().cos()).sum() for value in first.values()]).sum()
        inputs = trainable(arguments)
        return dict(zip(inputs, torch.autograd.grad(penalty, list(inputs.values())), strict=True))

    assert_close(second(run), second(run_reference))


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("changed", ["hidden", "cell", "weight_hh"])
def test_in_place_changes_of_saved_tensors_are_detected(changed: str, dtype: torch.dtype) -> None:
    arguments = draw_arguments(Case(dtype=dtype))
    results = run(arguments)
    tensor = arguments[NAMES.index(changed)] if changed.startswith("weight") else getattr(results, changed)
    with torch.no_grad():
        tensor.add_(1)
    with pytest.raises(RuntimeError, match=r"modified (by an )?inplace"):
        gradients(Case(dtype=dtype), arguments, results)


@pytest.mark.parametrize(("projected", "bias"), [(None, True), (2, False)])
def test_tensors_saved_for_backward(projected: int | None, bias: bool) -> None:
    """As documented in LSTMFunction; this memory limits the sequence length."""
    case = Case(T=5, P=projected, bias=bias)
    arguments = draw_arguments(case)
    saved: list[tuple[int, ...]] = []

    def record(value: Tensor) -> Tensor:
        saved.append(tuple(value.shape))
        return value

    with torch.autograd.graph.saved_tensors_hooks(record, lambda value: value):
        run(arguments)
    T, B, H, P = case.T, case.B, case.H, projected or case.H
    states_and_gates = [(T, B, P), (T, B, H), (T, B, 4 * H)]
    assert sorted(saved) == sorted([tuple(value.shape) for value in arguments if value is not None] + states_and_gates)


# ---- against finite differences
@pytest.mark.parametrize(("projected", "bias"), [(None, True), (2, False)])
def test_first_derivatives_match_finite_differences(projected: int | None, bias: bool) -> None:
    function, tensors = of_tensors(run, draw_arguments(Case(D=1, H=2, P=projected, bias=bias)))
    # gradcheck's default tolerances are chosen for differences of 1e-6 in float64
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_forward_grad=True)


@pytest.mark.parametrize(("projected", "bias"), [(None, True), (1, False)])
def test_second_derivatives_match_finite_differences(projected: int | None, bias: bool) -> None:
    function, tensors = of_tensors(run, draw_arguments(Case(D=1, H=2, P=projected, bias=bias)))
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("projected", [None, 2])
@pytest.mark.parametrize("loss_of", ["both", "hidden", "cell"])
def test_batched_gradients_match_single_gradients(loss_of: str, projected: int | None) -> None:
    """`is_grads_batched` runs backward under vmap, after a forward pass without vmap."""
    arguments = draw_arguments(Case(P=projected))
    inputs, results = trainable(arguments), outputs(Case(loss_of=loss_of), run(arguments))
    batched_incoming = [torch.randn(4, *result.shape, dtype=torch.float64) for result in results]
    batched = torch.autograd.grad(
        results, list(inputs.values()), batched_incoming, retain_graph=True, is_grads_batched=True
    )
    for index, incoming in enumerate(zip(*batched_incoming, strict=True)):
        single = torch.autograd.grad(results, list(inputs.values()), incoming, retain_graph=True)
        assert_close(
            {name: value[index] for name, value in zip(inputs, batched, strict=True)},
            dict(zip(inputs, single, strict=True)),
        )


# ---- selection of the loop
@given(cases())
@example(Case(T=1))
@example(Case(B=0, P=2))
def test_the_scan_loop_equals_the_reference_loop(case: Case) -> None:
    """Bitwise, because both run the same operations."""
    arguments = draw_arguments(case)
    with torch.no_grad():
        results, expected = run(arguments, scan_loop), run_reference(arguments)
    assert [tuple(part.shape) for part in results] == [tuple(part.shape) for part in expected]
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize("projected", [None, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_training_uses_the_hand_derived_gradient(
    projected: int | None, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("reference_loop", "scan_loop"):
        monkeypatch.delattr(dispatch, other)
    arguments = draw_arguments(Case(P=projected, bias=bias))
    results = run(arguments)
    assert {type(result.grad_fn).__name__ for result in results} == {"LSTMFunctionBackward"}
    assert results.hidden.grad_fn is results.cell.grad_fn
    gradients(Case(P=projected), arguments, results)  # backward needs no other loop
    with torch.no_grad():
        assert all(not result.requires_grad for result in run(arguments))
