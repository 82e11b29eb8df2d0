"""The hand-built LSTM against nn.LSTM: results, gradients, parameters and random draws."""

import copy
import math
import re
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lstm_models import LSTM

# Both sum the same products in float64 in another order: FACTS measures 3e-16. A wrong gate is off by 1e-3 at least.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}

# By the tutorial's names, the draws after seed 42: l(ong), r(emember): forget; p(otential), r: input; p: candidate;
# o: output; 1 from the hidden state, 2 from the input.
TUTORIAL = {
    "wlr1": 0.33669036626815796,
    "wlr2": 0.12880940735340118,
    "wpr1": 0.23446236550807953,
    "wpr2": 0.23033303022384644,
    "wp1": -1.1228563785552979,
    "wp2": -0.18632829189300537,
    "wo1": 2.2082014083862305,
    "wo2": -0.637997031211853,
}


def pair(input_size: int, hidden_size: int, **settings: Any) -> tuple[LSTM, nn.LSTM]:
    """Both kinds with the same weights, in float64."""
    reference = nn.LSTM(input_size, hidden_size, **settings).double()
    ours = LSTM(input_size, hidden_size, **settings).double()
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def run(module: nn.Module, x: Tensor, state: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """Outputs, states and all gradients of a loss that weighs every output by a number of its own."""
    x = x.clone().requires_grad_()
    given = None if state is None else tuple(part.clone().requires_grad_() for part in state)
    out, (hidden, cell) = module(x, given)
    loss = sum(
        (result * torch.arange(1.0, result.numel() + 1).reshape(result.shape).sin()).sum()
        for result in (out, hidden, cell)
    )
    loss.backward()
    results = {"out": out.detach(), "hidden": hidden.detach(), "cell": cell.detach(), "dx": x.grad}
    if given is not None:
        results |= {"dh0": given[0].grad, "dc0": given[1].grad}
    return results | {f"d{name}": parameter.grad for name, parameter in module.named_parameters()}


def assert_same(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert list(ours) == list(reference)
    for name, expected in reference.items():
        torch.testing.assert_close(ours[name], expected, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize(("B", "T", "D", "H"), [(1, 1, 1, 1), (2, 4, 1, 1), (3, 5, 2, 4), (1, 7, 3, 2), (4, 1, 5, 3)])
def test_batches_equal_nn_lstm(
    B: int, T: int, D: int, H: int, num_layers: int, batch_first: bool, with_state: bool
) -> None:
    torch.manual_seed(B + 10 * T + 100 * D)
    ours, reference = pair(D, H, num_layers=num_layers, batch_first=batch_first)
    x = torch.randn((B, T, D) if batch_first else (T, B, D), dtype=torch.float64)
    state = tuple(torch.randn(2, num_layers, B, H, dtype=torch.float64)) if with_state else None
    assert_same(run(ours, x, state), run(reference, x, state))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_one_sequence_equals_nn_lstm(num_layers: int, batch_first: bool, with_state: bool) -> None:
    torch.manual_seed(0)
    ours, reference = pair(2, 3, num_layers=num_layers, batch_first=batch_first)
    x = torch.randn(5, 2, dtype=torch.float64)
    state = tuple(torch.randn(2, num_layers, 3, dtype=torch.float64)) if with_state else None
    assert_same(run(ours, x, state), run(reference, x, state))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_state_dicts_load_both_ways(num_layers: int) -> None:
    ours, reference = LSTM(2, 3, num_layers), nn.LSTM(2, 3, num_layers)
    assert list(ours.state_dict()) == list(reference.state_dict())

    into_ours = copy.deepcopy(ours)
    into_ours.load_state_dict(reference.state_dict(), strict=True)
    into_reference = copy.deepcopy(reference)
    into_reference.load_state_dict(ours.state_dict(), strict=True)

    for name in reference.state_dict():
        assert torch.equal(into_ours.state_dict()[name], reference.state_dict()[name])
        assert torch.equal(into_reference.state_dict()[name], ours.state_dict()[name])


def test_one_bias_is_nn_lstm_with_the_other_at_zero() -> None:
    torch.manual_seed(0)
    ours = LSTM(2, 3, num_layers=2, biases="one").double()
    reference = nn.LSTM(2, 3, num_layers=2).double()
    zeros = {f"bias_hh_l{layer}": torch.zeros(12) for layer in range(2)}
    assert not zeros.keys() & ours.state_dict().keys()
    reference.load_state_dict(ours.state_dict() | zeros, strict=True)

    x = torch.randn(4, 2, 2, dtype=torch.float64)
    expected = run(reference, x, None)
    assert_same(run(ours, x, None), {name: value for name, value in expected.items() if "bias_hh" not in name})


def test_two_unrolled_steps_are_what_the_equations_say() -> None:
    """The whole module against plain Python: H = 2, D = 1, every weight another number."""
    ours = LSTM(1, 2, biases="one").double()
    W = {
        name: torch.arange(1.0, value.numel() + 1).cos().reshape(value.shape)
        for name, value in ours.state_dict().items()
    }
    ours.load_state_dict(W)
    W_ih, W_hh, b = (ours.state_dict()[name].tolist() for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))

    def sigmoid(number: float) -> float:
        return 1 / (1 + math.exp(-number))

    h, c = [0.0, 0.0], [0.0, 0.0]
    for x in (0.5, -1.5):
        sums = [W_ih[row][0] * x + W_hh[row][0] * h[0] + W_hh[row][1] * h[1] + b[row] for row in range(8)]
        i, f, g, o = sums[0:2], sums[2:4], sums[4:6], sums[6:8]
        c = [sigmoid(f[unit]) * c[unit] + sigmoid(i[unit]) * math.tanh(g[unit]) for unit in range(2)]
        h = [sigmoid(o[unit]) * math.tanh(c[unit]) for unit in range(2)]

    out, (hidden, cell) = ours(torch.tensor([[0.5], [-1.5]], dtype=torch.float64))
    # 1e-14: another order of sums, two steps of rounding
    assert hidden[0].tolist() == pytest.approx(h, rel=1e-14)
    assert cell[0].tolist() == pytest.approx(c, rel=1e-14)
    assert torch.equal(out[-1], hidden[0])


@pytest.mark.parametrize(("D", "H", "num_layers"), [(1, 1, 1), (3, 4, 1), (2, 5, 3)])
def test_the_default_init_draws_what_nn_lstm_draws(D: int, H: int, num_layers: int) -> None:
    torch.manual_seed(123)
    ours = LSTM(D, H, num_layers).state_dict()
    torch.manual_seed(123)
    reference = nn.LSTM(D, H, num_layers).state_dict()
    assert all(torch.equal(ours[name], reference[name]) for name in reference)


def test_the_normal_init_draws_the_tutorials_numbers() -> None:
    L.seed_everything(42, verbose=False)
    weights = LSTM(1, 1, biases="one", init="normal").state_dict()
    stored = [TUTORIAL[name] for name in ("wpr1", "wlr1", "wp1", "wo1", "wpr2", "wlr2", "wp2", "wo2")]
    assert weights["weight_hh_l0"].flatten().tolist() == stored[:4]  # i, f, g, o
    assert weights["weight_ih_l0"].flatten().tolist() == stored[4:]
    assert weights["bias_ih_l0"].tolist() == [0, 0, 0, 0]
    assert list(weights) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]


def test_the_normal_init_draws_layer_by_layer_and_gate_by_gate() -> None:
    torch.manual_seed(5)
    weights = LSTM(2, 3, num_layers=2, init="normal").state_dict()
    torch.manual_seed(5)
    for layer, size in enumerate((2, 3)):
        for gate in (1, 0, 2, 3):  # f, i, g, o
            rows = slice(3 * gate, 3 * gate + 3)
            assert torch.equal(weights[f"weight_hh_l{layer}"][rows], torch.randn(3, 3))
            assert torch.equal(weights[f"weight_ih_l{layer}"][rows], torch.randn(3, size))
        assert not weights[f"bias_ih_l{layer}"].any()
        assert not weights[f"bias_hh_l{layer}"].any()


@pytest.mark.parametrize("init", ["default", "normal"])
def test_reset_draws_anew_as_the_first_time(init: Any) -> None:
    torch.manual_seed(9)
    module = LSTM(2, 3, init=init)
    first = copy.deepcopy(module.state_dict())
    module.reset_parameters()
    assert not torch.equal(module.weight_ih_l0, first["weight_ih_l0"])
    torch.manual_seed(9)
    module.reset_parameters()
    assert all(torch.equal(value, first[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_draws_what_nn_lstm_draws(batch_first: bool) -> None:
    ours, reference = pair(2, 6, num_layers=3, dropout=0.5, batch_first=batch_first)
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    torch.manual_seed(7)
    dropped = run(ours, x, None)
    torch.manual_seed(7)
    assert_same(dropped, run(reference, x, None))

    kept = run(ours.eval(), x, None)
    assert not torch.allclose(kept["out"], dropped["out"])
    torch.testing.assert_close(kept["out"], reference.eval()(x)[0].detach(), **CLOSE)


def test_dropout_is_never_on_what_leaves_the_last_layer() -> None:
    module = LSTM(1, 4, num_layers=1, dropout=1.0).double()
    x = torch.randn(3, 2, 1, dtype=torch.float64)
    assert torch.equal(module.train()(x)[0], module.eval()(x)[0])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"input_size": 0}, "input_size must be at least 1, got 0"),
        ({"hidden_size": -3}, "hidden_size must be at least 1, got -3"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.5}, "dropout must be a probability from 0 to 1, got 1.5"),
        ({"dropout": -0.1}, "dropout must be a probability from 0 to 1, got -0.1"),
        ({"dropout": math.nan}, "dropout must be a probability from 0 to 1, got nan"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        LSTM(**({"input_size": 1, "hidden_size": 1} | settings))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((3,), "x must have 2 dimensions (one sequence) or 3 (a batch), got 1"),
        ((1, 2, 3, 2), "x must have 2 dimensions (one sequence) or 3 (a batch), got 4"),
        ((4, 3), "x must have input_size=2 features in its last dimension, got 3"),
        ((5, 4, 1), "x must have input_size=2 features in its last dimension, got 1"),
        ((0, 2), "x must have at least one time step"),
        ((3, 0, 2), "x must have at least one time step"),
    ],
)
def test_impossible_sequences_are_refused(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        LSTM(2, 3, batch_first=True)(torch.zeros(shape))


def test_the_library_offers_the_lstm_and_nothing_that_is_not_there() -> None:
    import lstm_models

    assert lstm_models.LSTM is LSTM
    with pytest.raises(AttributeError, match=r"^module 'lstm_models' has no attribute 'GRU'$"):
        _ = lstm_models.GRU
