"""All cells against a NumPy implementation of the equations in their papers, and the options that all cells share.

The reference is the LSTM of Greff et al. 2016 (section II A), one vector at a time: the complete cell with peepholes
and gate recurrence, from which the variants remove parts; and for layer normalization that of Ba, Kiros and Hinton
2016. It shares no code with the cells, which start from the standard cell and add parts.
"""

import copy
import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call, stack_module_state, vmap

from lstm_models import LSTM, record_gates
from lstm_models.nn.cell_variants import CELLS, Elman, Peephole
from lstm_models.nn.cells import GATE_LABELS, Cell, LSTMState, Step, Weights

T, B, D, H = 5, 3, 2, 4
# the gates with weights and biases according to Greff et al., in nn.LSTM's order
GATES_OF = {
    "lstm": "ifgo",
    "peephole": "ifgo",
    "no_input_gate": "fgo",
    "no_forget_gate": "igo",
    "no_output_gate": "ifg",
    "no_input_activation": "ifgo",
    "no_output_activation": "ifgo",
    "coupled_gates": "igo",
    "full_gate_recurrence": "ifgo",
    "layer_norm": "ifgo",
}
WITH_A_FORGET_GATE = [name for name, gates in GATES_OF.items() if "f" in gates]
# float64: the same products as in NumPy, in another order of sums. Layer normalization increases the differences, as it
# divides by a deviation that may be small: at most 3e-14 was observed. Another equation differs by at least 1e-3.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}

Array = Any  # a NumPy array in float64
Parameters = Mapping[str, Array]


# ---- the reference
def sigma(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def normalize(a: Array, gain: Array, shift: Array) -> Array:
    """LN of Ba et al., supplementary material, with an epsilon in the deviation as in nn.LayerNorm."""
    mu = a.sum() / a.size
    return (a - mu) / np.sqrt(((a - mu) ** 2).sum() / a.size + 1e-5) * gain + shift


class Layer:
    """One layer in one direction, with one matrix per gate and the letters of Greff et al."""

    def __init__(self, name: str, parameters: Parameters) -> None:
        gates, self.name, self.more = GATES_OF[name], name, parameters
        self.size = parameters["weight_ih"].shape[0] // len(gates)
        none = np.zeros(len(gates) * self.size)
        both = parameters.get("bias_ih", none) + parameters.get("bias_hh", none)
        self.W, self.R, self.b = (
            {gate: stored[self.size * k : self.size * (k + 1)] for k, gate in enumerate(gates)}
            for stored in (parameters["weight_ih"], parameters["weight_hh"], both)
        )
        self.projection = parameters.get("weight_hr", np.eye(self.size))

    def preactivations(self, x: Array, y: Array) -> dict[str, Array]:
        """Return W x_t + R y_{t-1} + b of each gate."""
        if self.name != "layer_norm":
            return {gate: self.W[gate] @ x + self.R[gate] @ y + self.b[gate] for gate in self.W}
        both = []
        for vectors, key in ((self.W, "ih"), (self.R, "hh")):
            stacked = np.concatenate([vectors[gate] @ (x if key == "ih" else y) for gate in "ifgo"])
            both.append(normalize(stacked, self.more[f"weight_norm_{key}"], self.more[f"bias_norm_{key}"]))
        parts = np.split(both[0] + both[1], 4)
        return {gate: part + self.b[gate] for gate, part in zip("ifgo", parts, strict=True)}

    def peephole(self, gate: str, c: Array) -> Array:
        """Return p * c, Gers and Schmidhuber 2000."""
        return self.more[f"weight_c{gate}"] * c if self.name == "peephole" else 0.0

    def recurrence(self, gate: str, previous: dict[str, Array]) -> Array:
        """Return R_i i_{t-1} + R_f f_{t-1} + R_o o_{t-1}, with the blocks of this gate's rows."""
        if self.name != "full_gate_recurrence":
            return 0.0
        rows = np.split(self.more["weight_gates"], 3, axis=0)["ifo".index(gate)]
        return sum(block @ previous[other] for block, other in zip(np.split(rows, 3, axis=1), "ifo", strict=True))

    def run(
        self, xs: Array, y: Array, c: Array, zoneout: float = 0.0, mask: Array | float = 1.0
    ) -> tuple[list[Array], list[Array]]:
        """Return y_t and c_t of every step of one sequence. The mask applies to y_{t-1}, the same at all steps."""
        ones = np.ones(self.size)
        gates = dict.fromkeys("ifo", np.zeros(self.size))
        ys, cs = [], []
        for x in xs:
            z = self.preactivations(x, mask * y)

            def gate(letter: str, c: Array, z: Any = z, previous: Any = gates) -> Array:
                if letter not in z:
                    return ones
                return sigma(z[letter] + self.peephole(letter, c) + self.recurrence(letter, previous))

            i = gate("i", c)
            f = ones - i if self.name == "coupled_gates" else gate("f", c)
            g = z["g"] if self.name == "no_input_activation" else np.tanh(z["g"])
            new_c = g * i + c * f
            o = gate("o", new_c)
            squashed = new_c
            if self.name == "layer_norm":
                squashed = normalize(new_c, self.more["weight_norm_c"], self.more["bias_norm_c"])
            if self.name != "no_output_activation":
                squashed = np.tanh(squashed)
            new_y = self.projection @ (squashed * o)
            # Krueger et al. 2017: the expected value of d * previous + (1 - d) * new; new_y depends on new_c only
            y, c = zoneout * y + (1 - zoneout) * new_y, zoneout * c + (1 - zoneout) * new_c
            gates = {"i": i, "f": f, "o": o}
            ys.append(y)
            cs.append(c)
        return ys, cs


def reference(
    name: str,
    module: LSTM,
    x: Tensor,
    hx: tuple[Tensor, Tensor],
    zoneout: float = 0.0,
    masks: list[Tensor] | None = None,
) -> tuple[Array, Array, Array]:
    """Run all layers and directions, time first, with masks (B, P) for each; return outputs and states."""
    stored = {key: value.numpy() for key, value in module.state_dict().items()}
    h_0, c_0 = (part.detach().numpy() for part in hx)
    below, last_y, last_c = x.numpy(), [], []
    for layer in range(module.num_layers):
        results = []
        for suffix in ("", "_reverse") if module.bidirectional else ("",):
            k, ending = len(last_y), f"_l{layer}{suffix}"
            one_layer = Layer(
                name, {key[: -len(ending)]: value for key, value in stored.items() if key.endswith(ending)}
            )
            of_batch: list[tuple[list[Array], list[Array]]] = []
            for n in range(below.shape[1]):
                xs = below[::-1, n] if suffix else below[:, n]
                mask = 1.0 if masks is None else masks[k][n].numpy()
                of_batch.append(one_layer.run(xs, h_0[k, n], c_0[k, n], zoneout, mask))
            ys = np.stack([np.stack(ys) for ys, _ in of_batch], axis=1)
            last_y.append(ys[-1])
            last_c.append(np.stack([cs[-1] for _, cs in of_batch]))
            results.append(ys[::-1] if suffix else ys)
        below = np.concatenate(results, axis=-1)
    return below, np.stack(last_y), np.stack(last_c)


# ---- modules that are compared with the reference
def randomize(module: LSTM) -> LSTM:
    """Draw all parameters, including the peepholes and the weights and biases of layer normalization."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.7)
    return module


def drawn(module: LSTM, T: int = T, B: int = B) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return a batch of sequences and an initial state."""
    K = module.num_layers * (1 + module.bidirectional)
    hidden = torch.randn(K, B, module.proj_size or module.hidden_size, dtype=torch.float64)
    cell = torch.randn(K, B, module.hidden_size, dtype=torch.float64)
    return torch.randn(T, B, module.input_size, dtype=torch.float64), (hidden, cell)


def make(name: str, seed: int = 0, sizes: tuple[int, int] = (D, H), **options: Any) -> LSTM:
    """Return a module with this cell; the options may include those of the cell."""
    torch.manual_seed(seed)
    of_cell = {key: options.pop(key) for key in ("forget_bias", "recurrent_dropout", "zoneout") if key in options}
    return randomize(LSTM(*sizes, cell=CELLS[name](**of_cell), dtype=torch.float64, **options))


def tensors(results: tuple[Tensor, LSTMState]) -> list[Tensor]:
    return [results[0], *results[1]]


def assert_close(found: tuple[Tensor, LSTMState], expected: tuple[Array, ...]) -> None:
    for value, other in zip(tensors(found), expected, strict=True):
        torch.testing.assert_close(value.detach(), torch.as_tensor(np.ascontiguousarray(other)), **CLOSE)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """Compare bitwise."""
    assert [value.shape for value in found] == [value.shape for value in expected]
    assert all(torch.equal(value, other) for value, other in zip(found, expected, strict=True))


def test_every_cell_is_tested_here() -> None:
    assert {name: cell.gates for name, cell in CELLS.items()} == GATES_OF


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((T, B, D, H), {}),
        ((T, B, D, H), {"double_bias": False, "proj_size": 2, "zoneout": 0.3}),
        ((T, B, D, H), {"bias": False, "num_layers": 3}),
        ((T, B, D, H), {"num_layers": 2, "bidirectional": True, "proj_size": 3, "zoneout": 0.3}),
        ((1, 1, 1, 1), {"bidirectional": True}),  # the deviation of one number is 0
        ((40, 2, 3, 5), {"zoneout": 0.4}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", CELLS)
def test_cell_computes_the_equations_of_its_paper(
    name: str, sizes: tuple[int, int, int, int], options: dict[str, Any]
) -> None:
    """In evaluation mode, zoneout averages the previous and the new state."""
    module = make(name, sizes=sizes[2:], **options).eval()
    x, hx = drawn(module, *sizes[:2])
    expected = reference(name, module, x, hx, zoneout := options.get("zoneout", 0.0))
    assert_close(module(x, hx), expected)
    if zoneout:
        assert np.abs(expected[0] - reference(name, module, x, hx)[0]).max() > 1e-2  # and zoneout has an effect


# ---- closed and open gates: exact, because sigmoid(40) is 1 and sigmoid(-800) is 0 in float64
def one_step(name: str, c: float, **sums: float) -> dict[str, float]:
    """Return a step of one unit with these pre-activations; all weights are 0."""
    cell = CELLS[name]()
    weights = {"weight_hh": torch.zeros(len(cell.gates), 1, dtype=torch.float64)}
    weights |= {kind: torch.zeros(shape, dtype=torch.float64) for kind, shape in cell.parameters(1).items()}
    zero = torch.zeros(1, 1, dtype=torch.float64)
    previous = Step(zero, zero, zero, zero, torch.full_like(zero, c), zero)
    step = cell.step(torch.tensor([[sums[gate] for gate in cell.gates]], dtype=torch.float64), previous, weights)
    return {letter: part.item() for letter, part in step._asdict().items()}


@pytest.mark.parametrize("name", CELLS)
def test_closed_and_open_gates_keep_forget_and_hide_the_cell_state(name: str) -> None:
    shown = {"no_output_activation": 0.625, "layer_norm": 0.0}  # its weight is 0 here
    if name != "no_input_gate":
        kept = {"i": 0, "f": 1, "o": 1, "c": 0.625, "h": shown.get(name, torch.tensor(0.625).double().tanh().item())}
        assert one_step(name, 0.625, i=-800, f=40, g=5, o=40) | kept == one_step(name, 0.625, i=-800, f=40, g=5, o=40)
    if name != "no_forget_gate":
        dropped = one_step(name, 0.625, i=40, f=-800, g=0, o=40)
        assert dropped == {"i": 1, "f": 0, "g": 0, "o": 1, "c": 0, "h": 0}
    if name != "no_output_gate":
        hidden = one_step(name, 0.625, i=40, f=40, g=0, o=-800)
        assert (hidden["c"], hidden["h"]) == (0 if name == "coupled_gates" else 0.625, 0)


def test_step_fields_follow_the_stored_order() -> None:
    assert tuple(GATE_LABELS) == Step._fields
    assert LSTMState._fields == ("hidden", "cell")
    assert Step._fields == ("i", "f", "g", "o", "c", "h")


# ---- gradients
def seeded_call(module: LSTM) -> tuple[Any, tuple[Tensor, ...]]:
    """Return the module as a function of its input, state and parameters with fixed draws, and the arguments."""
    x, hx = drawn(module, T=3, B=1)
    names = [name for name, _ in module.named_parameters()]
    given = [x, *hx, *(parameter.detach().clone() for parameter in module.parameters())]

    def function(x: Tensor, hidden: Tensor, cell: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        results = functional_call(module, dict(zip(names, parameters, strict=True)), (x, (hidden, cell)))
        return tuple(tensors(results))

    return function, tuple(value.requires_grad_() for value in given)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_equal_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](zoneout=0.3, recurrent_dropout=0.4)
    module = randomize(LSTM(1, 2, proj_size=1, double_bias=False, cell=cell, dtype=torch.float64))
    # gradcheck's default tolerances are meant for differences of 1e-6 in float64
    assert gradcheck(*seeded_call(module))


# ---- parameters
def more_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the additional weights of a cell, in the state dict's order."""
    norms = {"ih": 4 * H, "hh": 4 * H, "c": H}
    return {
        "peephole": dict.fromkeys(("weight_ci", "weight_cf", "weight_co"), (H,)),
        "full_gate_recurrence": {"weight_gates": (3 * H, 3 * H)},
        "layer_norm": {f"{kind}_norm_{norm}": (size,) for norm, size in norms.items() for kind in ("weight", "bias")},
    }.get(name, {})


SUFFIXES = {"l0": D, "l0_reverse": D, "l1": 2 * 3, "l1_reverse": 2 * 3}  # the number of input features by suffix


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_default_init_draws_uniformly_in_state_dict_order(name: str, biases: Any) -> None:
    module = {"num_layers": 2, "bidirectional": True, "proj_size": 3, "double_bias": biases, "cell": CELLS[name]()}
    torch.manual_seed(3)
    weights = LSTM(D, H, **module).state_dict()
    torch.manual_seed(3)
    gates, expected = len(GATES_OF[name]) * H, {}
    for suffix, size in SUFFIXES.items():
        shapes = {"weight_ih": (gates, size), "weight_hh": (gates, 3), "bias_ih": (gates,), "bias_hh": (gates,)}
        for kind, shape in (shapes | {"weight_hr": (3, H)} | more_shapes(name)).items():
            if kind != "bias_hh" or biases:
                drawn = torch.empty(shape).uniform_(-1 / math.sqrt(H), 1 / math.sqrt(H))
                # the draws for a normalization are overwritten: weights of 1, biases of 0
                norm = torch.full(shape, float(kind.startswith("weight")))
                expected[f"{kind}_{suffix}"] = norm if "_norm_" in kind else drawn
    assert list(weights) == list(expected)
    assert_same(list(weights.values()), list(expected.values()))


@pytest.mark.parametrize("name", CELLS)
def test_normal_init_draws_gate_by_gate_and_other_weights_last(name: str) -> None:
    torch.manual_seed(5)
    weights = LSTM(D, H, 2, bidirectional=True, proj_size=3, init="normal", cell=CELLS[name]()).state_dict()
    torch.manual_seed(5)
    for suffix, size in SUFFIXES.items():
        for gate in filter(GATES_OF[name].__contains__, "figo"):
            first = H * GATES_OF[name].index(gate)
            assert torch.equal(weights[f"weight_hh_{suffix}"][first : first + H], torch.randn(H, 3))
            assert torch.equal(weights[f"weight_ih_{suffix}"][first : first + H], torch.randn(H, size))
        assert torch.equal(weights[f"weight_hr_{suffix}"], torch.randn(3, H))
        for kind, shape in more_shapes(name).items():
            if kind.startswith("weight"):
                value = torch.randn(shape)
                assert torch.equal(weights[f"{kind}_{suffix}"], torch.ones(shape) if name == "layer_norm" else value)
        biases = [value for key, value in weights.items() if key.startswith("bias") and key.endswith(suffix)]
        assert not any(value.any() for value in biases)


@pytest.mark.parametrize("value", [1.0, 0.0])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("init", ["default", "normal"])
@pytest.mark.parametrize("name", WITH_A_FORGET_GATE)
def test_forget_bias_is_set_without_changing_other_draws(name: str, init: Any, biases: Any, value: float) -> None:
    """Jozefowicz et al. 2015. Only the sum of both biases matters: the second has rows of 0."""
    both = []
    for cell in (CELLS[name](forget_bias=value), CELLS[name]()):
        torch.manual_seed(7)
        both.append(LSTM(D, H, 2, bidirectional=True, init=init, double_bias=biases, cell=cell).state_dict())
    with_bias, without = both
    first = H * GATES_OF[name].index("f")
    for key, expected in without.items():
        if key.startswith(("bias_ih", "bias_hh")):
            expected[first : first + H] = value if key.startswith("bias_ih") else 0
        assert torch.equal(with_bias[key], expected), key


def test_reset_parameters_sets_the_forget_bias_again() -> None:
    module = make("lstm", forget_bias=1.0)
    assert not (module.bias_ih_l0[H : 2 * H] == 1).any()  # make() has drawn other values
    module.reset_parameters()
    assert [bias[H : 2 * H].tolist() for bias in (module.bias_ih_l0, module.bias_hh_l0)] == [[1] * H, [0] * H]


def test_to_builtin_accepts_a_forget_bias() -> None:
    module = LSTM(D, H, cell=Cell(forget_bias=1.0))
    assert_same(list(module.to_builtin().state_dict().values()), list(module.state_dict().values()))


# ---- recurrent dropout, Gal and Ghahramani 2016
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 3}], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_recurrent_dropout_equals_the_paper_with_the_same_masks(name: str, options: dict[str, Any]) -> None:
    """There is one mask per layer and direction, drawn in that order before the first step, of 0 and 1 / (1 - p)."""
    p = 0.4
    module = make(name, recurrent_dropout=p, **options)
    x, hx = drawn(module)
    torch.manual_seed(11)
    masks = [F.dropout(torch.ones_like(part), p) for part in hx[0]]
    assert {round(number, 12) for mask in masks for number in mask.flatten().tolist()} == {0, round(1 / (1 - p), 12)}
    assert all(not torch.equal(*masks[k : k + 2]) for k in range(len(masks) - 1))

    torch.manual_seed(11)
    assert_close(module(x, hx), reference(name, module, x, hx, masks=masks))


@pytest.mark.parametrize("option", ["recurrent_dropout", "zoneout"])
def test_each_call_in_training_mode_draws_new_values(option: str) -> None:
    module = make("lstm", **{option: 0.4})
    x, hx = drawn(module)
    assert not torch.equal(module(x, hx)[0], module(x, hx)[0])


@pytest.mark.parametrize("name", ["lstm", "peephole"])
def test_recurrent_dropout_is_off_in_evaluation_mode(name: str) -> None:
    """The results are equal bitwise, and nothing is drawn; the same holds for a probability of 0 in training mode."""
    found = []
    for options, training in [({}, True), ({"recurrent_dropout": 0.4}, False), ({"recurrent_dropout": 0.0}, True)]:
        module = make(name, num_layers=2, **options).train(training)
        x, hx = drawn(module)
        before = torch.get_rng_state()
        found.append(tensors(module(x, hx)))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


@pytest.mark.parametrize(
    ("cell", "training", "node"),
    [
        (Cell(), True, "LSTMFunctionBackward"),
        (Cell(forget_bias=1.0), True, "LSTMFunctionBackward"),
        (Cell(recurrent_dropout=0.4), False, "LSTMFunctionBackward"),
        (Cell(recurrent_dropout=0.4), True, "StackBackward0"),
        (Cell(zoneout=0.4), False, "StackBackward0"),
        (Cell(zoneout=0.4), True, "StackBackward0"),
        (Peephole(), False, "StackBackward0"),
    ],
    ids=str,
)
def test_standard_cell_uses_the_hand_derived_gradient(cell: Cell, training: bool, node: str) -> None:
    out, _ = LSTM(D, H, cell=cell).train(training)(torch.randn(T, B, D))
    assert type(out.grad_fn).__name__.removeprefix("Native") == node


# ---- zoneout in training, Krueger et al. 2017
@pytest.mark.parametrize("recurrent_dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", ["lstm", "coupled_gates"])
def test_zoneout_in_training_keeps_the_drawn_elements(name: str, recurrent_dropout: float) -> None:
    """The seed reproduces the draws: at every step one for each element of c, then of h. Zoneout also keeps elements
    that recurrent dropout hides from the gates."""
    module = make(name, zoneout=0.3, recurrent_dropout=recurrent_dropout)
    x, (hidden, cell) = drawn(module)
    torch.manual_seed(13)
    step = Step(*(part[0] for part in record_gates(module, x, (hidden, cell))))

    torch.manual_seed(13)
    if recurrent_dropout:
        F.dropout(torch.ones_like(hidden[0]), recurrent_dropout)
    c_before, h_before = torch.cat([cell, step.c[:-1]]), torch.cat([hidden, step.h[:-1]])
    new_c = step.f * c_before + step.i * step.g  # the same operations, hence bitwise
    kept_c, kept_h = (
        torch.stack(
            [
                torch.bernoulli(torch.full_like(part, 0.3)).bool()
                for each in zip(step.c, step.h, strict=True)
                for part in each
            ]
        )
        .unflatten(0, (T, 2))
        .unbind(1)
    )
    assert torch.equal(step.c, torch.where(kept_c, c_before, new_c))
    # tanh may differ in the last bit for another memory layout
    torch.testing.assert_close(step.h, torch.where(kept_h, h_before, step.o * new_c.tanh()), rtol=0, atol=1e-14)
    assert torch.equal(step.h == h_before, kept_h)
    assert 0 < kept_c.sum() < kept_c.numel()


# ---- features of all cells
@pytest.mark.parametrize("name", CELLS)
def test_padded_batch_equals_separate_sequences(name: str) -> None:
    module = make(name, num_layers=2, bidirectional=True, zoneout=0.2).eval()
    x, (hidden, cell) = drawn(module)
    lengths = torch.tensor([2, T, 1])
    out, after = module(x, (hidden, cell), lengths)
    for n, length in enumerate(lengths.tolist()):
        alone, alone_after = module(x[:length, n], (hidden[:, n], cell[:, n]))
        # the products of a batch and of one sequence are summed in different orders
        torch.testing.assert_close(out[:length, n], alone, **CLOSE)
        assert not out[length:, n].any()
        for part, other in zip(after, alone_after, strict=True):
            torch.testing.assert_close(part[:, n], other, **CLOSE)


@pytest.mark.parametrize("name", CELLS)
def test_vmapped_ensemble_equals_its_members(name: str) -> None:
    members = [make(name, seed, num_layers=2, bidirectional=True, proj_size=3, zoneout=0.2).eval() for seed in range(3)]
    x, hx = drawn(members[0])
    stacked, _ = stack_module_state(members)
    found = vmap(lambda weights: tuple(tensors(functional_call(members[0], weights, (x, hx)))))(stacked)
    for number, member in enumerate(members):
        for value, alone in zip(found, tensors(member(x, hx)), strict=True):
            torch.testing.assert_close(value[number], alone, **CLOSE)  # batched products are summed in another order


def test_copied_module_has_the_same_cell() -> None:
    module = make("layer_norm", recurrent_dropout=0.2, zoneout=0.2)
    x, hx = drawn(module)
    results = []
    for each in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert each.cell == module.cell
        torch.manual_seed(0)
        results.append(tensors(each(x, hx)))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


# ---- plain recurrent network
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}], ids=str
)
def test_elman_cell_equals_nn_rnn(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    builtin = nn.RNN(D, H, **options, dtype=torch.float64)
    ours = LSTM.from_builtin(builtin)
    assert_same(list(ours.state_dict().values()), list(builtin.state_dict().values()))
    x, (hidden, cell) = drawn(ours)
    x = x.transpose(0, 1) if ours.batch_first else x
    out, (last, shown) = ours(x, (hidden, cell))  # the cell state has no effect
    expected, expected_last = builtin(x, hidden)
    # the same products, summed in another order
    torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(last, expected_last, **CLOSE)
    assert torch.equal(shown, last)


def test_elman_cell_has_constant_gates() -> None:
    step = record_gates(LSTM(D, H, cell=Elman()), torch.randn(T, D))
    assert ((step.i == 1).all(), (step.f == 0).all(), (step.o == 1).all()) == (True, True, True)


# ---- custom cell
class Minimal(Cell):
    """Cell with one gate: c_t = (1 - i_t) * c_{t-1} + i_t * (g_t + shift), h_t = c_t."""

    gates = "ig"

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        return {"weight_shift": (hidden_size,)}

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        i, g = self.preactivations(z_BG, previous, weights)
        i, g = i.sigmoid(), g.tanh() + weights["weight_shift"]
        c = (1 - i) * previous.c + i * g
        return Step(i, 1 - i, g, torch.ones_like(i), c, c)


def test_custom_cell_overrides_step() -> None:
    torch.manual_seed(0)
    module = randomize(LSTM(D, H, cell=Minimal(zoneout=0.2), dtype=torch.float64)).eval()
    assert [(key, tuple(value.shape)) for key, value in module.state_dict().items()] == [
        ("weight_ih_l0", (2 * H, D)),
        ("weight_hh_l0", (2 * H, H)),
        ("bias_ih_l0", (2 * H,)),
        ("bias_hh_l0", (2 * H,)),
        ("weight_shift_l0", (H,)),
    ]
    x, hx = drawn(module)
    found = module(x, hx)

    W, R, b, d, shift = (value.numpy() for value in module.state_dict().values())
    h, c = (part[0].numpy() for part in hx)
    outputs = []
    for x_t in x.numpy():
        z = x_t @ W.T + h @ R.T + b + d
        i = sigma(z[:, :H])
        new_c = (1 - i) * c + i * (np.tanh(z[:, H:]) + shift)
        h, c = 0.2 * h + 0.8 * new_c, 0.2 * c + 0.8 * new_c
        outputs.append(h)
    assert_close(found, (np.stack(outputs), h[None], c[None]))

    assert str(module) == "LSTM(2, 4, cell=Minimal(forget_bias=None, recurrent_dropout=0.0, zoneout=0.2))"
