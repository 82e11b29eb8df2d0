"""The loop over time: that the hand-derived gradient is the plain loop's, and which loop runs where."""

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

# PyTorch says so of its own forward mode when that is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

# Of the tensor's largest value, or of 1 where that is smaller. Both loops sum the same products, one in another order;
# the largest difference in 20,000 drawn cases was 7e-15 in float64 and 3e-6 in float32. A wrong factor, or a step
# forgotten, is off by 1e-3 at least.
CLOSE = {torch.float64: 1e-13, torch.float32: 3e-5}
NAMES = ("x", "hidden", "cell", "weight_ih", "weight_hh", "bias", "weight_hr")

Arguments = tuple[Any, ...]  # a tensor, or None, for each of NAMES


class Case(NamedTuple):
    """What is given to the loop, and what is asked of it."""

    T: int = 3
    B: int = 2
    D: int = 2
    H: int = 3
    P: int | None = None  # None: no projection
    bias: bool = True
    scale: float = 1.0  # of the input: at 10 most gates are shut or open
    layout: str = "contiguous"  # of the input, the state, the weights and the gradients that come from outside
    into: str = "both"  # which results the gradient comes from
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
        into=draw(st.sampled_from(["both", "hidden", "cell", "last"])),
        without=draw(st.frozensets(st.sampled_from(NAMES)).filter(lambda names: not names.issuperset(NAMES[:5]))),
        dtype=draw(st.sampled_from([torch.float64, torch.float32])),
        seed=draw(st.integers(0, 2**31)),
    )


def number(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    """Drawn numbers in a tensor of this layout."""
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
            # weights of the size that a layer has: the state neither dies out nor runs away
            factor = case.scale if name == "x" else shape[1] ** -0.5 if name.startswith("weight") else 1
            # times the factor, in place where no two elements share their memory
            value = number(shape, case.layout, case.dtype)
            value = value * factor if case.layout != "expanded" else (value[:1] * factor).expand(shape)
            drawn[name] = value.requires_grad_(name not in case.without)
    return tuple(drawn.values())  # type: ignore[return-value]


def run(arguments: Arguments, loop: Loop | None = None) -> LSTMState:
    """The states after every step, of this loop or of the one that is chosen."""
    given = {name: value for name, value in zip(NAMES, arguments, strict=True) if value is not None}
    x, state = given.pop("x"), LSTMState(given.pop("hidden"), given.pop("cell"))
    stored = {"bias_ih" if name == "bias" else name: value for name, value in given.items()}
    return (loop or dispatch.select_loop(x, state, stored, STANDARD_CELL, False))(x, state, given, STANDARD_CELL, False)


def run_plainly(arguments: Arguments) -> LSTMState:
    return run(arguments, reference_loop)


def asked(case: Case, results: LSTMState) -> list[Tensor]:
    """The results that a gradient goes into."""
    hidden, cell = results
    return {"both": [hidden, cell], "hidden": [hidden], "cell": [cell], "last": [hidden[-1], cell[-1]]}[case.into]


def from_outside(case: Case, results: LSTMState) -> list[Tensor]:
    """The gradients that come from outside, the same at every call."""
    torch.manual_seed(case.seed + 1)
    return [number(tuple(result.shape), case.layout, case.dtype) for result in asked(case, results)]


def wanted(arguments: Arguments) -> dict[str, Tensor]:
    return {
        name: value for name, value in zip(NAMES, arguments, strict=True) if value is not None and value.requires_grad
    }


def gradients(
    case: Case, arguments: Arguments, results: LSTMState, incoming: list[Tensor] | None = None, **options: Any
) -> dict[str, Tensor]:
    """By name, for all arguments that require one; 0 where there is none."""
    of = wanted(arguments)
    incoming = incoming or from_outside(case, results)
    found = torch.autograd.grad(asked(case, results), list(of.values()), incoming, materialize_grads=True, **options)
    return dict(zip(of, found, strict=True))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        largest = value.abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(
            found[name],
            value,
            rtol=0,
            atol=CLOSE[value.dtype] * max(largest, 1.0),
            msg=lambda text, name=name: f"{name}: {text}",
        )


def of_tensors(loop: Callable[[Arguments], LSTMState], arguments: Arguments) -> tuple[Callable[..., LSTMState], Any]:
    """The loop as a function of tensors alone, and those: without the bias or projection that is None."""

    def function(*given: Tensor) -> LSTMState:
        remaining = iter(given)
        return loop(tuple(None if argument is None else next(remaining) for argument in arguments))  # type: ignore[arg-type]

    return function, tuple(argument for argument in arguments if argument is not None)


# ---- against the plain loop
@settings(max_examples=100)  # twelve options; an example takes milliseconds
@given(cases())
@example(Case(T=1))
@example(Case(T=1, P=2, into="cell"))  # nothing reaches the projection
@example(Case(B=0))
@example(Case(B=0, P=2))
@example(Case(T=1, B=1, D=1, H=1, P=1))
@example(Case(without=frozenset({"x"})))
@example(Case(without=frozenset(NAMES) - {"x"}))
@example(Case(T=65, B=33, D=17, H=40))  # through the vectorised and the parallel code of each operation
@example(Case(T=65, B=33, D=17, H=40, P=9, layout="transposed"))
def test_results_and_gradients_are_the_plain_loops_and_nothing_given_is_changed(case: Case) -> None:
    arguments = draw_arguments(case)
    present = [value for value in arguments if value is not None]
    before, versions = [value.detach().clone() for value in present], [value._version for value in present]
    found, expected = run(arguments), run_plainly(arguments)
    assert_close(found._asdict(), expected._asdict())

    incoming = from_outside(case, found)
    unchanged = [*found, *incoming]
    copies = [value.detach().clone() for value in unchanged]
    first = gradients(case, arguments, found, incoming, retain_graph=True)
    second = gradients(case, arguments, found, incoming)
    assert_close(first, gradients(case, arguments, expected, incoming))
    assert all(torch.equal(first[name], second[name]) for name in first)  # what was saved is read, never written
    assert [value._version for value in present] == versions
    assert all(map(torch.equal, [*present, *unchanged], [*before, *copies]))


@pytest.mark.parametrize("projected", [None, 2])
@pytest.mark.parametrize("into", ["both", "hidden", "cell", "last"])
def test_second_derivatives_are_the_plain_loops(projected: int | None, into: str) -> None:
    case = Case(P=projected, into=into, bias=into != "last")

    def second(loop: Callable[[Arguments], LSTMState]) -> dict[str, Tensor]:
        arguments = draw_arguments(case)
        first = gradients(case, arguments, loop(arguments), create_graph=True)
        penalty = torch.stack([(value * value.detach().cos()).sum() for value in first.values()]).sum()
        of = wanted(arguments)
        return dict(zip(of, torch.autograd.grad(penalty, list(of.values())), strict=True))

    assert_close(second(run), second(run_plainly))


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("changed", ["hidden", "cell", "weight_hh"])
def test_what_backward_needs_cannot_be_changed_unnoticed(changed: str, dtype: torch.dtype) -> None:
    arguments = draw_arguments(Case(dtype=dtype))
    results = run(arguments)
    victim = arguments[NAMES.index(changed)] if changed.startswith("weight") else getattr(results, changed)
    with torch.no_grad():
        victim.add_(1)
    with pytest.raises(RuntimeError, match=r"modified (by an )?inplace"):
        gradients(Case(dtype=dtype), arguments, results)


@pytest.mark.parametrize(("projected", "bias"), [(None, True), (2, False)])
def test_what_is_saved_between_the_two(projected: int | None, bias: bool) -> None:
    """As the docstring of ThroughTime says: it decides how long a sequence fits into the memory."""
    case = Case(T=5, P=projected, bias=bias)
    arguments = draw_arguments(case)
    saved: list[tuple[int, ...]] = []

    def note(value: Tensor) -> Tensor:
        saved.append(tuple(value.shape))
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        run(arguments)
    T, B, H, P = case.T, case.B, case.H, projected or case.H
    of_the_loop = [(T, B, P), (T, B, H), (T, B, 4 * H)]
    assert sorted(saved) == sorted([tuple(value.shape) for value in arguments if value is not None] + of_the_loop)


# ---- the derivation, against finite differences
@pytest.mark.parametrize(("projected", "bias"), [(None, True), (2, False)])
def test_the_derivatives_are_those_of_finite_differences(projected: int | None, bias: bool) -> None:
    function, tensors = of_tensors(run, draw_arguments(Case(D=1, H=2, P=projected, bias=bias)))
    # gradcheck's own tolerances, made for differences of 1e-6 in float64
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_forward_grad=True)


@pytest.mark.parametrize(("projected", "bias"), [(None, True), (1, False)])
def test_the_second_derivatives_are_those_of_finite_differences(projected: int | None, bias: bool) -> None:
    function, tensors = of_tensors(run, draw_arguments(Case(D=1, H=2, P=projected, bias=bias)))
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("projected", [None, 2])
@pytest.mark.parametrize("into", ["both", "hidden", "cell"])
def test_many_gradients_at_once_are_those_one_by_one(into: str, projected: int | None) -> None:
    """`is_grads_batched`: a vmap over backward, after a forward pass that knew of none."""
    arguments = draw_arguments(Case(P=projected))
    of, results = wanted(arguments), asked(Case(into=into), run(arguments))
    many = [torch.randn(4, *result.shape, dtype=torch.float64) for result in results]
    at_once = torch.autograd.grad(results, list(of.values()), many, retain_graph=True, is_grads_batched=True)
    for number, one in enumerate(zip(*many, strict=True)):
        alone = torch.autograd.grad(results, list(of.values()), one, retain_graph=True)
        assert_close(
            {name: value[number] for name, value in zip(of, at_once, strict=True)}, dict(zip(of, alone, strict=True))
        )


# ---- which loop runs
@given(cases())
@example(Case(T=1))
@example(Case(B=0, P=2))
def test_the_scan_computes_what_the_plain_loop_computes(case: Case) -> None:
    """Bitwise: the same operations on the same numbers."""
    arguments = draw_arguments(case)
    with torch.no_grad():
        found, expected = run(arguments, scan_loop), run_plainly(arguments)
    assert [tuple(part.shape) for part in found] == [tuple(part.shape) for part in expected]
    assert all(torch.equal(ours, plain) for ours, plain in zip(found, expected, strict=True))


@pytest.mark.parametrize("projected", [None, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_training_runs_the_hand_derived_gradient(
    projected: int | None, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("reference_loop", "scan_loop"):
        monkeypatch.delattr(dispatch, other)
    arguments = draw_arguments(Case(P=projected, bias=bias))
    results = run(arguments)
    assert {type(result.grad_fn).__name__ for result in results} == {"LSTMFunctionBackward"}
    assert results.hidden.grad_fn is results.cell.grad_fn
    gradients(Case(P=projected), arguments, results)  # it needs none of the other loops either
    with torch.no_grad():
        assert all(not result.requires_grad for result in run(arguments))
