"""Parity with nn.LSTM: outputs, states and all gradients, for all options and inputs of nn.LSTM."""

from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
from helpers.lstm_parity import CLOSE, assert_close, draw_state, pair, results
from hypothesis import example, given, strategies
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_models import LSTM

# on the CPU, nn.LSTM warns that oneDNN does not support projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")


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
    # one layer with dropout warns; for packed sequences the two kinds drop different elements
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


@hypothesis.settings(max_examples=100)  # with twelve options, 30 examples contain too few combinations of three
@example(LARGER)
@example(LARGER._replace(settings={"bidirectional": True, "proj_size": 7}, lengths=[60, 3] * 12))
@given(all_options())
def test_outputs_states_and_gradients_equal_nn_lstm(options: Options) -> None:
    torch.manual_seed(options.seed)
    ours, reference = pair(*options.sizes, **options.settings, dtype=options.dtype)
    x = torch.randn(options.steps, *options.batch, options.sizes[0], dtype=options.dtype)
    x.requires_grad_(options.requires_grad)
    if options.batch and reference.batch_first:
        x = x.transpose(0, 1)
    state = draw_state(reference, *options.batch) if options.with_state else None

    def pack(x: Tensor) -> Tensor | PackedSequence:
        lengths = options.lengths
        return x if lengths is None else pack_padded_sequence(x, lengths, reference.batch_first, options.enforce_sorted)

    of_both = []
    for module in (ours, reference):
        with torch.random.fork_rng(devices=[]):  # the same draws for both
            of_both.append(results(module.train(options.training), x, state, pack=pack))
    assert_close(*of_both)


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [({"num_layers": 2, "bidirectional": True, "proj_size": 1}, None), ({"bidirectional": True}, [1, 3])],
)
def test_second_derivatives_equal_finite_differences(settings: dict[str, Any], lengths: Any) -> None:
    torch.manual_seed(0)
    module = LSTM(2, 2, **settings, dtype=torch.float64)
    names = [name for name, _ in module.named_parameters()]
    inputs = [torch.randn(3, 2, 2, dtype=torch.float64), *draw_state(module, 2)]

    def run(x: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        given = x if lengths is None else pack_padded_sequence(x, lengths, enforce_sorted=False)
        parameters = dict(zip(names, weights, strict=True))
        out, state = torch.func.functional_call(module, parameters, (given, (hidden, cell)))
        return (out.data if isinstance(out, PackedSequence) else out), *state

    # fast mode: the derivative along a random direction instead of each axis
    given = [value.detach().requires_grad_() for value in (*inputs, *module.parameters())]
    assert torch.autograd.gradgradcheck(run, given, fast_mode=True)


# ---- edge cases
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 1, "bias": False}])
def test_empty_batch(settings: dict[str, Any], batch_first: bool) -> None:
    ours, reference = pair(**settings, batch_first=batch_first, dtype=torch.float32)
    for state in (None, draw_state(reference, 0)):
        x = torch.zeros((0, 5, 2) if batch_first else (5, 0, 2), requires_grad=True)
        found = results(ours, x, state)
        assert_close(found, results(reference, x, state))
        assert all(torch.equal(found[f"d{name}"], torch.zeros_like(each)) for name, each in ours.named_parameters())


# ---- dropout
@pytest.mark.filterwarnings("ignore:dropout=1.0 has no effect:UserWarning")
def test_dropout_does_not_apply_to_the_last_layer() -> None:
    module = LSTM(1, 4, dropout=1.0)
    x = torch.randn(3, 2, 1)
    assert torch.equal(module.train()(x)[0], module.eval()(x)[0])


# float64 runs in PyTorch operations, float32 in native code if available; a different mask differs by 0.1
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", ["dense", "by sequence", "batch first", "batch first, by sequence", "packed"])
def test_dropout_masks_equal_nn_lstm_for_any_memory_layout(form: str, bidirectional: bool, dtype: torch.dtype) -> None:
    options = {"bidirectional": bidirectional, "batch_first": form.startswith("batch first")}
    kinds: tuple[nn.Module, ...] = pair(num_layers=3, dropout=0.5, dtype=dtype, **options)
    x = torch.randn(7, 5, 2, dtype=dtype)
    if form.endswith("by sequence"):
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    given = pack_padded_sequence(x, [2, 5, 3, 7, 1], enforce_sorted=False) if form == "packed" else x
    dropped = []
    for module in kinds:
        torch.manual_seed(0)
        out, _ = module(given)
        dropped.append({"out": out.data if isinstance(out, PackedSequence) else out})
    assert_close(*dropped)
