"""The hand-built LSTM against nn.LSTM, in numbers: outputs, states and every gradient, for whatever nn.LSTM takes."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
from hypothesis import example, given, strategies
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_models import LSTM

# nn.LSTM says on the CPU that a faster library than its own does not know projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

# Of the tensor's largest value. Both sum the same products in another order; FACTS measures 3e-16 in float64 and 3e-6
# in float32. A wrong gate is off by 1e-3 at least.
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5}

Results = dict[str, Tensor | None]


def pair(input_size: int, hidden_size: int, **settings: Any) -> tuple[LSTM, nn.LSTM]:
    """Both kinds with the same weights."""
    reference = nn.LSTM(input_size, hidden_size, **settings)
    ours = LSTM(input_size, hidden_size, **settings)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def states(module: nn.LSTM, batch: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A drawn state; batch is (B,), or () for one sequence."""
    K = module.num_layers * (2 if module.bidirectional else 1)
    hidden = torch.randn(K, *batch, module.proj_size or module.hidden_size, dtype=dtype)
    cell = torch.randn(K, *batch, module.hidden_size, dtype=dtype)
    return hidden.requires_grad_(), cell.requires_grad_()


def results(
    module: nn.Module,
    x: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    pack: Callable[[Tensor], PackedSequence] | None = None,
) -> Results:
    """Outputs, states and all gradients of a loss that weighs every output by a number of its own."""
    x, *given_state = (part.detach().requires_grad_(part.requires_grad) for part in (x, *(state or ())))
    state = tuple(given_state) or None
    out, (hidden, cell) = module(x if pack is None else pack(x), state)
    found: Results = {}
    if isinstance(out, PackedSequence):
        found |= out._asdict()
        out = out.data
    found |= {"out": out.detach(), "hidden": hidden.detach(), "cell": cell.detach()}
    weighed = [
        (result * torch.arange(1.0, result.numel() + 1).sin().reshape(result.shape).to(result.dtype)).sum()
        for result in (out, hidden, cell)
    ]
    torch.stack(weighed).sum().backward()
    given = {"x": x} if state is None else {"x": x, "h_0": state[0], "c_0": state[1]}
    return found | {f"d{name}": value.grad for name, value in [*given.items(), *module.named_parameters()]}


def assert_same(ours: Results, reference: Results) -> None:
    assert list(ours) == list(reference)
    for name, expected in reference.items():
        if expected is None:
            assert ours[name] is None, name
            continue
        if expected.is_floating_point():
            largest = expected.abs().max().item() if expected.numel() else 0
            # or one rounding of 1, where summands of that size cancel out
            atol = max(CLOSE[expected.dtype] * largest, torch.finfo(expected.dtype).eps)
        else:
            atol = 0  # batch sizes and the order of sequences
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


# ---- PyTorch's own inputs
@pytest.fixture(scope="module")
def database() -> ModuleType:
    """What PyTorch tests its modules with. To import it changes hypothesis and torch.backends for the whole process."""
    profile = hypothesis.settings.get_current_profile_name()
    with pytest.MonkeyPatch.context() as patch:
        # whether flags may be set: as it is, and so again at the end
        patch.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", not torch.backends.flags_frozen())
        from torch.testing._internal import common_modules

    hypothesis.settings.load_profile(profile)
    return common_modules


def inputs_of(database: ModuleType, errors: bool, **wanted: Any) -> list[Any]:
    (info,) = (info for info in database.module_db if info.module_cls is nn.LSTM)
    make = info.module_error_inputs_func if errors else info.module_inputs_func
    return list(make(info, device="cpu", **wanted))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inputs_of_pytorchs_own_tests(
    database: ModuleType, dtype: torch.dtype, training: bool, requires_grad: bool
) -> None:
    torch.manual_seed(0)
    samples = inputs_of(database, errors=False, dtype=dtype, requires_grad=requires_grad, training=training)
    assert len(samples) == 32  # bias, batch_first, bidirectional, proj_size, with and without a state
    for sample in samples:
        constructor, forward = sample.constructor_input, sample.forward_input
        ours, reference = (
            module.train(training) for module in pair(*constructor.args, **constructor.kwargs, dtype=dtype)
        )
        assert forward.args[0].requires_grad == requires_grad
        assert_same(results(ours, *forward.args), results(reference, *forward.args))
        # and the database's own check: one sequence is a batch of one
        out, (hidden, cell) = ours(*forward.args)
        as_a_batch, (hidden_1, cell_1) = sample.reference_fn(ours, *forward.args)
        for one, other in ((out, as_a_batch), (hidden, hidden_1), (cell, cell_1)):
            torch.testing.assert_close(one, other, rtol=0, atol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_pytorchs_own_tests_see_refused(database: ModuleType, dtype: torch.dtype) -> None:
    samples = inputs_of(database, errors=True, dtype=dtype, requires_grad=False, training=True)
    assert len(samples) == 14
    for sample in samples:
        constructor, forward = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises(sample.error_type) as caught:  # noqa: PT012
            module = LSTM(*constructor.args, **constructor.kwargs)
            assert sample.error_on is database.ModuleErrorEnum.FORWARD_ERROR
            module(*forward.args, **forward.kwargs)
        assert caught.type is sample.error_type


# ---- all options
class Options(NamedTuple):
    sizes: tuple[int, int]  # input_size, hidden_size
    settings: dict[str, Any]
    dtype: torch.dtype
    training: bool
    batch: tuple[int, ...]  # () for one sequence
    steps: int
    lengths: list[int] | None  # packed
    enforce_sorted: bool
    with_state: bool
    requires_grad: bool
    seed: int


@strategies.composite
def all_options(draw: strategies.DrawFn) -> Options:
    integers, switch = strategies.integers, strategies.booleans()
    hidden_size, num_layers, training = draw(integers(1, 5)), draw(integers(1, 3)), draw(switch)
    form = draw(strategies.sampled_from(["one sequence", "dense", "packed", "packed, unsorted"]))
    batch, steps = draw(integers(1, 5)), draw(integers(1, 6))
    lengths = None
    if form.startswith("packed"):
        lengths = draw(strategies.lists(integers(1, steps), min_size=batch, max_size=batch))
        lengths = sorted(lengths, reverse=True) if form == "packed" else lengths
    # with one layer it is a warning; of packed sequences each kind drops others
    may_drop = num_layers > 1 and not (lengths and training)
    settings = {
        "num_layers": num_layers,
        "bias": draw(switch),
        "batch_first": draw(switch),
        "dropout": draw(strategies.sampled_from([0.0, 0.4])) if may_drop else 0.0,
        "bidirectional": draw(switch),
        "proj_size": draw(integers(0, hidden_size - 1)),
    }
    return Options(
        sizes=(draw(integers(1, 4)), hidden_size),
        settings=settings,
        dtype=draw(strategies.sampled_from([torch.float64, torch.float32])),
        training=training,
        batch=() if form == "one sequence" else (batch,),
        steps=steps,
        lengths=lengths,
        enforce_sorted=form == "packed",
        with_state=draw(switch),
        requires_grad=draw(switch),
        seed=draw(integers(0, 2**31)),
    )


LARGER = Options((12, 48), {"num_layers": 2}, torch.float32, True, (24,), 60, None, False, True, True, 1)


@hypothesis.settings(max_examples=250, derandomize=True, deadline=None)
@example(LARGER)
@example(LARGER._replace(settings={"bidirectional": True, "proj_size": 7}, lengths=[60, 3] * 12))
@given(all_options())
def test_outputs_states_and_gradients_equal_nn_lstms(options: Options) -> None:
    torch.manual_seed(options.seed)
    ours, reference = (
        module.train(options.training) for module in pair(*options.sizes, **options.settings, dtype=options.dtype)
    )
    x = torch.randn(options.steps, *options.batch, options.sizes[0], dtype=options.dtype)
    x.requires_grad_(options.requires_grad)
    if options.batch and reference.batch_first:
        x = x.transpose(0, 1)
    state = states(reference, options.batch, options.dtype) if options.with_state else None

    def pack(x: Tensor) -> PackedSequence:
        assert options.lengths is not None
        return pack_padded_sequence(x, torch.tensor(options.lengths), reference.batch_first, options.enforce_sorted)

    of_both = []
    for module in (ours, reference):
        with torch.random.fork_rng(devices=[]):  # the same draws for both
            of_both.append(results(module, x, state, None if options.lengths is None else pack))
    assert_same(*of_both)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        ({}, None),
        ({"bias": False, "proj_size": 1}, None),
        ({"num_layers": 2, "bidirectional": True, "proj_size": 1}, None),
        ({"bidirectional": True}, [1, 3]),
        ({"num_layers": 2, "proj_size": 1}, [3, 2]),
    ],
)
def test_first_and_second_derivatives_are_those_of_finite_differences(
    settings: dict[str, Any], lengths: list[int] | None, check: Callable[..., bool]
) -> None:
    torch.manual_seed(0)
    module = LSTM(2, 2, **settings, dtype=torch.float64)
    names = [name for name, _ in module.named_parameters()]
    inputs = [torch.randn(3, 2, 2, dtype=torch.float64), *states(module.to_builtin(), (2,), torch.float64)]

    def run(x: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        given = x if lengths is None else pack_padded_sequence(x, lengths, enforce_sorted=False)
        parameters = dict(zip(names, weights, strict=True))
        out, state = torch.func.functional_call(module, parameters, (given, (hidden, cell)))
        return (out.data if isinstance(out, PackedSequence) else out), *state

    # fast: the derivative along a drawn direction, rather than along each axis in turn
    fast = check is torch.autograd.gradgradcheck
    assert check(run, [value.detach().requires_grad_() for value in (*inputs, *module.parameters())], fast_mode=fast)


# ---- the ends of the range
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 1, "bias": False}])
def test_an_empty_batch(settings: dict[str, Any], batch_first: bool) -> None:
    ours, reference = pair(2, 3, **settings, batch_first=batch_first)
    for state in (None, states(reference, (0,), torch.float32)):
        x = torch.zeros((0, 5, 2) if batch_first else (5, 0, 2), requires_grad=True)
        found = results(ours, x, state)
        assert_same(found, results(reference, x, state))
        for name, parameter in ours.named_parameters():
            assert torch.equal(found[f"d{name}"], torch.zeros_like(parameter))
            parameter.grad = None
        reference.zero_grad()


# ---- dropout
@pytest.mark.filterwarnings("ignore:dropout=1.0 has no effect:UserWarning")
def test_dropout_is_never_on_what_leaves_the_last_layer() -> None:
    module = LSTM(1, 4, dropout=1.0)
    x = torch.randn(3, 2, 1)
    assert torch.equal(module.train()(x)[0], module.eval()(x)[0])


def packed_out(module: nn.Module, lengths: list[int], seed: int) -> Tensor:
    x = torch.arange(30, dtype=next(module.parameters()).dtype).sin().view(5, 3, 2)
    torch.manual_seed(seed)
    return module(pack_padded_sequence(x, lengths, enforce_sorted=False))[0].data


@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_of_everything_between_packed_layers(bidirectional: bool) -> None:
    ours, reference = pair(2, 3, num_layers=2, dropout=1.0, bidirectional=bidirectional, dtype=torch.float64)
    dropped = packed_out(ours, [2, 5, 3], seed=0)
    torch.testing.assert_close(dropped, packed_out(reference, [2, 5, 3], seed=1), rtol=0, atol=1e-12)  # as CLOSE
    assert not torch.allclose(dropped, packed_out(ours.eval(), [2, 5, 3], seed=0))


# float64 runs in PyTorch's operations, float32 in native code where it is there; a mask of another draw is off by 0.1
DRAWN = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])


@DRAWN
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_drop_what_nn_lstm_drops(bidirectional: bool, dtype: torch.dtype, tolerance: float) -> None:
    ours, reference = pair(2, 3, num_layers=3, dropout=0.5, bidirectional=bidirectional, dtype=dtype)
    dropped = packed_out(ours, [2, 5, 3], seed=0)
    torch.testing.assert_close(dropped, packed_out(reference, [2, 5, 3], seed=0), rtol=0, atol=tolerance)


@DRAWN
@pytest.mark.parametrize("by_sequence", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_batch_drops_what_nn_lstm_drops_however_it_lies_in_memory(
    bidirectional: bool, batch_first: bool, by_sequence: bool, dtype: torch.dtype, tolerance: float
) -> None:
    ours, reference = pair(
        2, 3, num_layers=3, dropout=0.5, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype
    )
    x = torch.randn(7, 5, 2, dtype=dtype)
    if by_sequence:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    results = []
    for module in (ours, reference):
        torch.manual_seed(0)
        results.append(module(x)[0])
    torch.testing.assert_close(*results, rtol=0, atol=tolerance)


def test_the_seed_decides_what_packed_sequences_drop() -> None:
    module = LSTM(2, 3, num_layers=2, dropout=0.5, dtype=torch.float64)
    first = packed_out(module, [2, 5, 3], seed=0)
    assert torch.equal(packed_out(module, [2, 5, 3], seed=0), first)
    assert not torch.equal(packed_out(module, [2, 5, 3], seed=1), first)
