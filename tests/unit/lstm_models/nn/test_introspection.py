"""record_gates: the gates and states are those of a call, and satisfy the equations."""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lstm_models import LSTM, record_gates
from lstm_models.nn.cell_variants import CELLS
from lstm_models.nn.cells import LSTMState, Step

# on the CPU, nn.LSTM warns that oneDNN does not support projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

# float64: in a call, the standard cell and nn.LSTM sum the same products in another order; 1e-15 was observed. Other
# cells run the same operations in both, and are compared bitwise.
CLOSE = {"rtol": 0, "atol": 1e-12}
T, B, D, H = 6, 4, 2, 3
LENGTHS = torch.tensor([2, 5, 1, 6])

SETTINGS: list[dict[str, Any]] = [
    {},
    {"bidirectional": True},
    {"num_layers": 3, "double_bias": False},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2, "bias": False},
]


def make(seed: int = 0, **options: Any) -> LSTM:
    """Return a module with random parameters; `name` is the cell's, and the options may include those of the cell."""
    torch.manual_seed(seed)
    of_cell = {key: options.pop(key) for key in ("recurrent_dropout", "zoneout") if key in options}
    module = LSTM(D, H, cell=CELLS[options.pop("name", "lstm")](**of_cell), dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.7)
    return module


def directions(module: LSTM | nn.LSTM) -> int:
    return 1 + module.bidirectional


def drawn(module: LSTM, T: int = T, B: int = B) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return a batch of sequences, time first, and an initial state."""
    K = module.num_layers * directions(module)
    hidden = torch.randn(K, B, module.proj_size or H, dtype=torch.float64)
    return torch.randn(T, B, D, dtype=torch.float64), (hidden, torch.randn(K, B, H, dtype=torch.float64))


def output(step: Step, module: LSTM | nn.LSTM) -> Tensor:
    """Return the hidden states of the last layer as a call does, with both directions concatenated."""
    return torch.cat(list(step.h[-directions(module) :]), dim=-1)


def assert_same(found: Step | list[Tensor], expected: Step | list[Tensor]) -> None:
    """Compare bitwise; NaN equals NaN."""
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=0, equal_nan=True)


# ---- the equations
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_each_layer_and_direction_satisfies_the_equations(options: dict[str, Any]) -> None:
    """Gates are computed from the input and the previous state; c is equal bitwise, by the same operations."""
    module = make(**options)
    x, (h_0, c_0) = drawn(module)
    recorded = record_gates(module, x, (h_0, c_0))
    below = x
    for layer in range(module.num_layers):
        of_layer = []
        for k in range(layer * directions(module), (layer + 1) * directions(module)):
            backwards = module.bidirectional and k % 2 == 1
            ending = f"l{layer}_reverse" if backwards else f"l{layer}"
            weights = {name.removesuffix(f"_{ending}"): value for name, value in module.named_parameters()}
            i, f, g, o, c, h = (part[k] for part in recorded)
            c_before, h_before = (
                torch.cat([part[1:], first[k : k + 1]]) if backwards else torch.cat([first[k : k + 1], part[:-1]])
                for part, first in ((c, c_0), (h, h_0))
            )

            assert torch.equal(c, f * c_before + i * g)
            sums = below @ weights["weight_ih"].T + h_before @ weights["weight_hh"].T
            sums = sums + sum(weights[name] for name in ("bias_ih", "bias_hh") if name in weights)
            z_i, z_f, z_g, z_o = sums.split(H, dim=-1)
            for gate, expected in ((i, z_i.sigmoid()), (f, z_f.sigmoid()), (g, z_g.tanh()), (o, z_o.sigmoid())):
                torch.testing.assert_close(gate, expected, **CLOSE)  # summed in another order
            shown = o * c.tanh()
            torch.testing.assert_close(h, shown @ weights["weight_hr"].T if module.proj_size else shown, **CLOSE)
            of_layer.append(h)
        below = torch.cat(of_layer, dim=-1)


@pytest.mark.parametrize("name", [name for name in CELLS if name != "lstm"])
def test_last_layer_equals_the_output_of_a_call_for_any_cell(name: str) -> None:
    """They are equal bitwise, because both run the reference loop."""
    module = make(name=name, num_layers=2, bidirectional=True, proj_size=2, zoneout=0.2).eval()
    x, hx = drawn(module)
    recorded = record_gates(module, x, hx)
    out, (hidden, cell) = module(x, hx)
    assert torch.equal(output(recorded, module), out)
    for part, last in ((recorded.h, hidden), (recorded.c, cell)):
        assert torch.equal(part[0::2, -1], last[0::2])
        assert torch.equal(part[1::2, 0], last[1::2])


@pytest.mark.parametrize("name", CELLS)
def test_missing_gates_are_one_and_others_between_zero_and_one(name: str) -> None:
    """Missing and coupled gates have exactly the values that the equations give them."""
    module = make(name=name)
    step = record_gates(module, *drawn(module))
    missing = {"no_input_gate": "i", "no_forget_gate": "f", "no_output_gate": "o"}.get(name)
    for gate in "ifo":
        value = getattr(step, gate)
        assert (value == 1).all() if gate == missing else ((value > 0) & (value < 1)).all()
    if name == "coupled_gates":
        assert torch.equal(step.f, 1 - step.i)


# ---- nn.LSTM
@pytest.mark.parametrize(
    ("options", "with_state"),
    [
        ({"bidirectional": True, "batch_first": True}, False),
        ({"num_layers": 2, "bidirectional": True, "proj_size": 2, "bias": False}, True),
    ],
    ids=str,
)
def test_record_gates_of_nn_lstm(options: dict[str, Any], with_state: bool) -> None:
    module = make(**options)
    builtin = module.to_builtin()
    x, state = drawn(module)
    x, hx = x.transpose(0, 1) if module.batch_first else x, state if with_state else None
    recorded = record_gates(builtin, x, hx)
    assert_same(recorded, record_gates(module, x, hx))
    torch.testing.assert_close(output(recorded, builtin), builtin(x, hx)[0], **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_nn_lstm_keeps_its_training_mode_and_draws(training: bool) -> None:
    builtin = nn.LSTM(D, H, 3, dropout=0.5, dtype=torch.float64).train(training)
    x = torch.randn(T, B, D, dtype=torch.float64)
    torch.manual_seed(1)
    expected, _ = builtin(x)
    torch.manual_seed(1)
    torch.testing.assert_close(output(record_gates(builtin, x), builtin), expected, **CLOSE)
    assert builtin.training is training


# ---- shapes
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_one_sequence_and_batch_first_give_the_same_values(options: dict[str, Any]) -> None:
    """Each part has the documented shape."""
    module, other = make(**options), make(batch_first=True, **options)
    x, (hidden, cell) = drawn(module)
    batch = record_gates(module, x, (hidden, cell))
    assert_same(record_gates(other, x.transpose(0, 1), (hidden, cell)), Step(*(part.transpose(1, 2) for part in batch)))
    K = module.num_layers * directions(module)
    assert [tuple(part.shape) for part in batch] == [(K, T, B, H)] * 5 + [(K, T, B, module.proj_size or H)]
    single = record_gates(module, x[:, 1], (hidden[:, 1], cell[:, 1]))
    for part, expected in zip(single, batch, strict=True):
        torch.testing.assert_close(part, expected[:, :, 1], **CLOSE)  # summed in another order


# ---- sequences of different lengths
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [*SETTINGS, {"name": "full_gate_recurrence", "bidirectional": True}], ids=str)
def test_padded_batch_equals_separate_sequences_followed_by_nan(options: dict[str, Any], batch_first: bool) -> None:
    module = make(batch_first=batch_first, **options)
    x, (hidden, cell) = drawn(module)
    padding_TB1 = (torch.arange(T).unsqueeze(1) >= LENGTHS).unsqueeze(-1)
    filled = x.masked_fill(padding_TB1, torch.inf)  # the padding is ignored
    recorded = record_gates(module, filled.transpose(0, 1) if batch_first else filled, (hidden, cell), LENGTHS)
    for n, length in enumerate(LENGTHS.tolist()):
        alone = record_gates(module, x[:length, n], (hidden[:, n], cell[:, n]))
        for part, expected in zip(recorded, alone, strict=True):
            of_sequence = part[:, n] if batch_first else part[:, :, n]
            # summed in another order
            torch.testing.assert_close(of_sequence[:, :length], expected, **CLOSE)
            assert of_sequence[:, length:].isnan().all()


@pytest.mark.parametrize(
    ("lengths", "batch_first", "with_state"),
    [
        ([2, 5, 1, 6], False, True),
        ([6, 5, 5, 1], True, True),
        ([3, 3, 3, 3], True, False),
        ([2, 1, 4, 3], False, False),
    ],
    ids=str,
)
def test_packed_batch_equals_padded_batch_with_lengths(lengths: list[int], batch_first: bool, with_state: bool) -> None:
    """They are equal bitwise, in the order before packing, with as many steps as the longest sequence."""
    module = make(num_layers=2, bidirectional=True, proj_size=2, batch_first=batch_first)
    x, state = drawn(module, max(lengths))
    x, hx = x.transpose(0, 1) if batch_first else x, state if with_state else None
    expected = record_gates(module, x, hx, torch.tensor(lengths))
    for enforce_sorted in {False, lengths == sorted(lengths, reverse=True)}:
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=enforce_sorted)
        assert_same(record_gates(module, packed, hx), expected)


# ---- gradients
def output_gradients(out: Tensor, of: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a sum with different factors for all elements; NaN after a sequence's end is skipped."""
    weights = torch.arange(1.0, out.numel() + 1, dtype=out.dtype).sin().view(out.shape)
    return list(torch.autograd.grad((out * weights).nansum(), of))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("options", [*SETTINGS, {"name": "layer_norm", "num_layers": 2}], ids=str)
def test_gradients_equal_those_of_a_call(options: dict[str, Any], lengths: Tensor | None) -> None:
    module = make(**options)
    x, hx = drawn(module)
    of = [x.requires_grad_(), *(part.requires_grad_() for part in hx), *module.parameters()]
    found = output_gradients(output(record_gates(module, x, hx, lengths), module), of)
    expected = output_gradients(module(x, hx, lengths)[0], of)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12)  # sums over all steps


def test_each_part_is_differentiable_unless_gradients_are_disabled() -> None:
    module = make()
    x, hx = drawn(module)
    for part in record_gates(module, x.requires_grad_(), hx):
        (gradient,) = torch.autograd.grad(part.sum(), x, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.any()
    with torch.no_grad():
        assert not any(part.requires_grad for part in record_gates(module, x, hx))


def test_gradients_reach_the_input_of_an_nn_lstm() -> None:
    builtin = make(num_layers=2).to_builtin()
    x = torch.randn(T, B, D, dtype=torch.float64, requires_grad=True)
    found = output_gradients(output(record_gates(builtin, x), builtin), [x])
    torch.testing.assert_close(found, output_gradients(builtin(x)[0], [x]), **CLOSE)


def test_record_gates_does_not_modify_its_arguments() -> None:
    module = make(num_layers=2, bidirectional=True).eval()
    x, hx = drawn(module)
    given = [x, *hx, LENGTHS, *module.parameters()]
    before = [value.detach().clone() for value in given]
    record_gates(module, x, hx, LENGTHS)
    assert all(torch.equal(value, other) for value, other in zip(given, before, strict=True))
    assert not module.training


# ---- random draws
DRAWS: list[dict[str, Any]] = [
    {"num_layers": 3, "dropout": 0.5, "bidirectional": True},
    {"num_layers": 2, "dropout": 0.5, "recurrent_dropout": 0.4, "zoneout": 0.3, "bidirectional": True},
    {"num_layers": 2, "zoneout": 0.3, "name": "peephole", "proj_size": 2},
]


@pytest.mark.parametrize("form", ["lengths", "packed", "packed unsorted"])
@pytest.mark.parametrize("options", DRAWS, ids=str)
def test_record_gates_draws_like_a_call_in_training_mode(options: dict[str, Any], form: str) -> None:
    """The same seed gives the same draws."""
    module = make(**options)
    x, hx = drawn(module)
    lengths = torch.tensor([6, 5, 2, 1]) if form == "packed" else LENGTHS
    packed = form.startswith("packed")
    given = pack_padded_sequence(x, lengths, enforce_sorted=form == "packed") if packed else x
    more = (lengths,) if form == "lengths" else ()

    torch.manual_seed(1)
    out, _ = module(given, hx, *more)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    recorded = record_gates(module, given, hx, *more)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(
        output(recorded, module).nan_to_num(0), pad_packed_sequence(out)[0] if packed else out, **CLOSE
    )


# ---- invalid arguments
def pack(features: int = D, sorted: bool = True) -> PackedSequence:
    lengths = torch.tensor([3, 2] if sorted else [2, 3])
    return pack_padded_sequence(torch.zeros(3, 2, features, dtype=torch.float64), lengths, enforce_sorted=sorted)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


# one case of each kind; the tests of a call cover the rest, because it validates for both
INVALID: dict[str, tuple[Any, ...]] = {
    "features": (zeros(T, B, D + 1),),
    "no tensor": ([[1.0]],),
    "no pair": (zeros(T, B, D), zeros(1, B, H)),
    "state of one sequence": (zeros(T, D), (zeros(1, 1, H), zeros(1, 1, H))),
    "lengths": (zeros(T, B, D), None, torch.tensor([1, 2, 3, T + 1])),
    "lengths of one sequence": (zeros(T, D), None, torch.tensor([T])),
    "packed, with lengths": (pack(), None, torch.tensor([3, 2])),
    "packed, features": (pack(D + 1),),
    "packed, dimensions": (PackedSequence(zeros(3, 2, D), torch.tensor([2, 1])),),
    "packed unsorted, no tensors": (pack(sorted=False), (None, None)),
}


@pytest.mark.parametrize("given", INVALID.values(), ids=list(INVALID))
def test_record_gates_raises_the_errors_of_a_call(given: tuple[Any, ...]) -> None:
    module, errors = make(), []
    for call in (module, lambda *given: record_gates(module, *given)):
        with pytest.raises((ValueError, RuntimeError, AttributeError, TypeError, IndexError)) as caught:
            call(*given)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[1] == errors[0]


# ---- combinations of options
class Case(NamedTuple):
    """A module and its arguments."""

    name: str = "lstm"
    T: int = 3
    B: int = 2
    H: int = 3
    P: int = 0
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    form: str = "batch"
    with_state: bool = True
    zoneout: float = 0.0
    recurrent_dropout: float = 0.0
    dropout: float = 0.0
    training: bool = False
    seed: int = 0


FORMS = ["one sequence", "batch", "lengths", "packed"]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    hidden, form, layers = draw(st.integers(1, 4)), draw(st.sampled_from(FORMS)), draw(st.integers(1, 3))
    return Case(
        name=draw(st.sampled_from(sorted(CELLS))),
        T=draw(st.integers(1, 6)),
        B=draw(st.integers(0 if form == "batch" else 1, 4)),
        H=hidden,
        P=draw(st.integers(0, hidden - 1)),
        layers=layers,
        bidirectional=draw(st.booleans()),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        form=form,
        with_state=draw(st.booleans()),
        zoneout=draw(st.sampled_from([0.0, 0.3])),
        recurrent_dropout=draw(st.sampled_from([0.0, 0.3])),
        dropout=draw(st.sampled_from([0.0, 0.5])) if layers > 1 else 0.0,  # one layer with dropout warns
        training=draw(st.booleans()) and form != "packed",  # the order of its draws is tested separately
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=60)  # many of the fifteen options matter only in combination
@given(cases())
@example(Case(T=1, B=1, H=1))
@example(Case(B=0, bidirectional=True, layers=2))
@example(Case(T=6, B=4, form="lengths", bidirectional=True, layers=3, dropout=0.5, training=True, zoneout=0.3))
@example(Case(T=6, B=4, form="packed", bidirectional=True, layers=2, batch_first=True, P=2))
def test_record_gates_matches_outputs_and_states_of_a_call(case: Case) -> None:
    torch.manual_seed(case.seed)
    module = LSTM(
        D,
        case.H,
        case.layers,
        case.bias,
        case.batch_first,
        case.dropout,
        case.bidirectional,
        case.P,
        dtype=torch.float64,
        cell=CELLS[case.name](zoneout=case.zoneout, recurrent_dropout=case.recurrent_dropout),
    ).train(case.training)
    K, unbatched = case.layers * (1 + case.bidirectional), case.form == "one sequence"
    lengths = torch.randint(1, case.T + 1, (1 if unbatched else case.B,))
    if case.form in ("one sequence", "batch"):
        lengths[:] = case.T
    x = torch.randn(case.T, len(lengths), D, dtype=torch.float64)
    state = [torch.randn(K, len(lengths), size, dtype=torch.float64) for size in (case.P or case.H, case.H)]
    given: Any = x.squeeze(1) if unbatched else x.transpose(0, 1) if case.batch_first else x
    if case.form == "packed":
        given = pack_padded_sequence(given, lengths, case.batch_first, enforce_sorted=False)
    hx = tuple(part.squeeze(1) if unbatched else part for part in state) if case.with_state else None
    more = (lengths,) if case.form == "lengths" else ()

    results: list[Any] = []
    for call in (module, lambda *given: record_gates(module, *given)):
        torch.manual_seed(case.seed)
        results.append(call(given, hx, *more))
    (out, last), recorded = results
    out = pad_packed_sequence(out, case.batch_first)[0] if case.form == "packed" else out
    torch.testing.assert_close(output(recorded, module).nan_to_num(0), out, **CLOSE)

    last = LSTMState(*(part.unsqueeze(1) if unbatched else part for part in last))
    for part, expected in ((recorded.h, last.hidden), (recorded.c, last.cell)):
        part_KTBH = part.unsqueeze(2) if unbatched else part.transpose(1, 2) if case.batch_first else part
        read_last = (0 if case.bidirectional and k % 2 == 1 else lengths - 1 for k in range(K))
        found = [part_KTBH[k, step, torch.arange(len(lengths))] for k, step in enumerate(read_last)]
        torch.testing.assert_close(torch.stack(found), expected, **CLOSE)
