"""Gradients through time: |dLoss/dh_t| and |dLoss/dc_t|, against an independent implementation of the equations.

The reference adds a zero perturbation to every h and c. The derivative with respect to it is dLoss/dh_t or
dLoss/dc_t along all paths: of c_t also through h_t, of h_t also through the next layer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lstm_models import LSTM
from lstm_models.config import RNN, AnyModel, BuiltIn, HandBuilt
from lstm_models.data.output import OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.data.windows import Batch
from lstm_models.nn.introspection import StateGradientNorms, gradients_through_time
from lstm_models.nn.network import Network, build_network

# float64, sums in another order; the largest observed difference is 4e-16
CLOSE = {"rtol": 1e-10, "atol": 1e-14}
D = 2
CELLS = ("lstm", "coupled_gates", "peephole", "no_output_activation")
MODELS: dict[str, Callable[..., AnyModel]] = {
    **{cell: lambda cell=cell, **sizes: HandBuilt(kind="hand_built", cell=cell, **sizes) for cell in CELLS},
    "one bias": lambda **sizes: HandBuilt(kind="hand_built", double_bias=False, **sizes),
    "built_in": lambda **sizes: BuiltIn(kind="built_in", **sizes),
    "rnn": lambda **sizes: RNN(kind="rnn", **sizes),
}


def make(name: str, seed: int = 0, **sizes: Any) -> Network:
    """Return a float64 network whose parameters are all different."""
    torch.manual_seed(seed)
    network = build_network(MODELS[name](**{"hidden_size": 3, "head": "linear"} | sizes), D).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.7)
    return network


def random_batch(B: int = 4, T: int = 5, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(*(torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((B, T, D), (B,))))


# ---- the equations
HiddenState = Callable[[Tensor], Tensor]  # c_t -> h_t


def lstm(z: Tensor, c: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, HiddenState]:
    i, f, g, o = z.chunk(4, -1)
    return f.sigmoid() * c + i.sigmoid() * g.tanh(), lambda c: o.sigmoid() * c.tanh()


def no_output_activation(z: Tensor, c: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, HiddenState]:
    i, f, g, o = z.chunk(4, -1)
    return f.sigmoid() * c + i.sigmoid() * g.tanh(), lambda c: o.sigmoid() * c


def coupled_gates(z: Tensor, c: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, HiddenState]:
    i, g, o = z.chunk(3, -1)
    return c + i.sigmoid() * (g.tanh() - c), lambda c: o.sigmoid() * c.tanh()


def peephole(z: Tensor, c: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, HiddenState]:
    i, f, g, o = z.chunk(4, -1)
    i, f = (i + weights["weight_ci"] * c).sigmoid(), (f + weights["weight_cf"] * c).sigmoid()
    return f * c + i * g.tanh(), lambda c: (o + weights["weight_co"] * c).sigmoid() * c.tanh()


def rnn(z: Tensor, c: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, HiddenState]:
    return c, lambda c: z.tanh()


STEPS: dict[str, Any] = {step.__name__: step for step in (lstm, no_output_activation, coupled_gates, peephole, rnn)} | {
    "built_in": lstm,
    "one bias": lstm,
}


class Perturbations(NamedTuple):
    """Tensors added to the states, (L, T, B, H) each."""

    hidden: Tensor
    cell: Tensor


def zero_perturbations(network: Network, sequences: Batch) -> Perturbations:
    core, (B, T, _) = network.recurrent, sequences.x_BTD.shape
    shape = (core.num_layers, T, B, core.hidden_size)
    return Perturbations(*(torch.zeros(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)))


def losses(name: str, network: Network, sequences: Batch, perturbations: Perturbations) -> Tensor:
    """Return the squared error of each sequence, (B), with perturbed states."""
    input_TBD = sequences.x_BTD.transpose(0, 1)
    for layer in range(network.recurrent.num_layers):
        suffix = f"_l{layer}"
        weights = {
            key.removesuffix(suffix): value
            for key, value in network.recurrent.named_parameters()
            if key.endswith(suffix)
        }
        h = c = torch.zeros_like(perturbations.hidden[layer, 0])
        hidden = []
        for t, x_BD in enumerate(input_TBD):
            z = x_BD @ weights["weight_ih"].T + h @ weights["weight_hh"].T
            z = z + sum(value for key, value in weights.items() if key.startswith("bias"))
            c, hidden_state = STEPS[name](z, c, weights)
            c = c + perturbations.cell[layer, t]
            h = hidden_state(c) + perturbations.hidden[layer, t]
            hidden.append(h)
        input_TBD = torch.stack(hidden)
    return (network.head(input_TBD[-1]).squeeze(-1) - sequences.y) ** 2


def norms(gradient_LTBH: Tensor) -> Tensor:
    """Return the norm over layers and units, then the mean over sequences, (T)."""
    return gradient_LTBH.pow(2).sum(dim=(0, 3)).sqrt().mean(1)


def reference(name: str, network: Network, sequences: Batch) -> StateGradientNorms:
    perturbations = zero_perturbations(network, sequences)
    gradients = torch.autograd.grad(
        losses(name, network, sequences, perturbations).sum(), perturbations, materialize_grads=True
    )
    hidden_T, cell_T = map(norms, gradients)
    return StateGradientNorms(hidden_T, None if name == "rnn" else cell_T)


def assert_close(actual: StateGradientNorms, expected: StateGradientNorms, **tolerance: float) -> None:
    for part, reference in zip(actual, expected, strict=True):
        assert (part is None) == (reference is None)
        if part is not None:
            torch.testing.assert_close(part, reference, **(tolerance or CLOSE))


@pytest.mark.parametrize(
    ("B", "T", "sizes"),
    [
        (4, 5, {}),
        (1, 8, {"num_layers": 3, "hidden_size": 4}),
        (2, 4, {"num_layers": 2, "hidden_size": 1, "head": "none"}),  # the tutorial's network, with two layers
        (1, 1, {"hidden_size": 1}),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_they_match_the_derivatives_of_the_equations(name: str, B: int, T: int, sizes: dict[str, Any]) -> None:
    network, sequences = make(name, **sizes), random_batch(B, T)
    norms_T = gradients_through_time(network, sequences)
    assert_close(norms_T, reference(name, network, sequences))
    assert norms_T.hidden_T.unique().numel() == T  # so that the comparison also checks the order


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", ["built_in", "rnn"])
def test_they_match_pytorchs_cells_run_step_by_step(name: str, num_layers: int) -> None:
    network, (x_BTD, y_B, _) = make(name, num_layers=num_layers), random_batch()
    retained: dict[str, list[list[Tensor]]] = {"h": [], "c": []}
    inputs = list(x_BTD.unbind(1))
    for layer in range(num_layers):
        cell = (nn.LSTMCell if name == "built_in" else nn.RNNCell)(inputs[0].size(-1), 3, dtype=torch.float64)
        weights = {key: getattr(network.recurrent, f"{key}_l{layer}") for key in cell.state_dict()}
        cell.load_state_dict(weights)
        state = None
        states = []
        for x_BD in inputs:
            state = cell(x_BD, state)
            states.append((state,) if isinstance(state, Tensor) else state)
        for key, parts in zip(retained, zip(*states, strict=True), strict=False):
            for part in parts:
                part.retain_grad()
            retained[key].append(list(parts))
        inputs = retained["h"][-1]
    ((network.head(inputs[-1]).squeeze(-1) - y_B) ** 2).sum().backward()
    hidden_T, *cell_T = (
        norms(torch.stack([torch.stack([part.grad for part in parts]) for parts in layers]))
        for layers in retained.values()
        if layers
    )
    network.zero_grad()
    actual = gradients_through_time(network, Batch(x_BTD, y_B))
    assert_close(actual, StateGradientNorms(hidden_T, cell_T[0] if cell_T else None))


# ---- properties that need no reference
@pytest.mark.parametrize("name", ["lstm", "built_in", "rnn"])
def test_the_network_and_the_batch_are_unchanged(name: str) -> None:
    """Neither gradients nor values change, and the result does not depend on the grad mode of the caller."""
    network, sequences = make(name), random_batch()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first = gradients_through_time(network, sequences)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(part.requires_grad for part in first if part is not None)

    network(sequences.x_BTD).sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    with torch.no_grad():
        second = gradients_through_time(network, sequences)
        assert not torch.is_grad_enabled()
    assert_close(second, first, rtol=0, atol=0)
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(network.parameters(), gradients, strict=True))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    assert sequences.x_BTD.grad is None
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["lstm", "built_in", "rnn"])
def test_dropout_is_inactive_in_evaluation_mode(name: str) -> None:
    network, sequences = make(name, num_layers=2, dropout=0.5), random_batch()
    expected = reference(name, network, sequences)
    for _ in range(2):
        assert_close(gradients_through_time(network, sequences), expected)


def test_an_nn_rnn_matches_the_hand_built_rnn_with_equal_weights() -> None:
    """The hand-built RNN has a cell state that nothing depends on."""
    network, sequences = make("rnn", num_layers=2), random_batch()
    by_hand = Network(LSTM.from_builtin(network.recurrent), network.head)
    hidden_T, cell_T = gradients_through_time(by_hand, sequences)
    assert torch.equal(hidden_T, gradients_through_time(network, sequences).hidden_T)
    assert cell_T.tolist() == [0.0] * 5


# ---- padded sequences, forecasts and classes
OUTPUTS = {
    "number": OutputSpec(mean=2.0, scale=3.0),
    "forecast": OutputSpec(kind="forecast", targets=["b", "a"], target_indices=[1, 0], horizon=2),
    "residual forecast": OutputSpec(kind="forecast", targets=["b"], target_indices=[1], horizon=3, residual=True),
    "classes": OutputSpec(kind="classification", targets=["y"], classes=["low", "mid", "top"]),
}
# with classes, and with numbers that have a scale, the loss is computed in float32
SINGLE = {"rtol": 1e-5, "atol": 1e-6}


def make_with_output(name: str, kind: str, num_layers: int = 2) -> Network:
    """Return a float64 network with this output and scaled input columns."""
    torch.manual_seed(0)
    scaler = Scaler(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5]))
    config = MODELS[name](hidden_size=3, num_layers=num_layers, head="linear")
    network = build_network(config, D, OUTPUTS[kind], scaler).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.7)
    return network


def random_targets(kind: str, B: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    output = OUTPUTS[kind]
    if output.kind == "classification":
        return torch.randint(0, 3, (B,), generator=generator)
    shape = (B, output.horizon, len(output.target_indices)) if output.kind == "forecast" else (B,)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", ["lstm", "peephole", "built_in", "rnn"])
def test_padding_changes_no_gradient_and_has_gradient_zero(name: str, kind: str) -> None:
    network, x_BTD, y = make_with_output(name, kind), random_batch().x_BTD, random_targets(kind)
    lengths = [3, 5, 1, 4]
    for b, length in enumerate(lengths):
        x_BTD[b, length:] = 1e3
    hidden_BT, cell_BT = torch.zeros(2, 4, 5, dtype=torch.float64)
    for b, length in enumerate(lengths):
        alone = gradients_through_time(network, Batch(x_BTD[b : b + 1, :length], y[b : b + 1]))
        hidden_BT[b, :length] = alone.hidden_T
        if alone.cell_T is not None:
            cell_BT[b, :length] = alone.cell_T
    actual = gradients_through_time(network, Batch(x_BTD, y, torch.tensor(lengths)))
    expected = StateGradientNorms(hidden_BT.mean(0), None if name == "rnn" else cell_BT.mean(0))
    assert_close(actual, expected, **SINGLE)
    assert hidden_BT[2, 1:].tolist() == [0.0] * 4


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", ["lstm", "built_in", "rnn"])
def test_the_gradient_at_the_last_step_matches_the_derivative_of_the_loss(name: str, kind: str) -> None:
    """dLoss/dh_T of the only layer is dLoss/d(output of the head), multiplied by the head's weight."""
    network, (x_BTD, _, _), y = make_with_output(name, kind, num_layers=1), random_batch(), random_targets(kind)
    output, scaler = network.output, network.scaler
    z_BTD = (x_BTD - scaler.mean_D) / scaler.scale_D
    last_BK = z_BTD[:, -1, output.target_indices]
    if output.residual:
        for k, index in enumerate(output.target_indices):
            z_BTD[..., index] -= last_BK[:, [k]]
    head = network.head(network.recurrent(z_BTD)[0][:, -1])
    match output.kind:
        case "classification":
            slope = head.softmax(1) - torch.nn.functional.one_hot(y, 3)
        case "regression":
            slope = 2 * (head - (y.unsqueeze(1) - output.mean) / output.scale)
        case "forecast":
            z_y = (y - scaler.mean_D[output.target_indices]) / scaler.scale_D[output.target_indices]
            change = z_y - last_BK.unsqueeze(1) if output.residual else z_y
            slope = 2 * (head - change.flatten(1)) / output.size
    expected = (slope @ network.head.weight).norm(dim=1).mean()
    last_norm = gradients_through_time(network, Batch(x_BTD, y)).hidden_T[-1]
    torch.testing.assert_close(last_norm, expected, **SINGLE)
