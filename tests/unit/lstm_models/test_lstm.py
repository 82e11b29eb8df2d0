"""What the hand-built LSTM has without nn.LSTM: the equations, and the tutorial's draws."""

import copy
import math
from typing import Any

import lightning as L
import pytest
import torch

from lstm_models import LSTM

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
    weights = LSTM(2, 3, num_layers=2, bidirectional=True, proj_size=1, init="normal").state_dict()
    torch.manual_seed(5)
    for suffix, size in {"l0": 2, "l0_reverse": 2, "l1": 2 * 1, "l1_reverse": 2 * 1}.items():
        for gate in (1, 0, 2, 3):  # f, i, g, o
            rows = slice(3 * gate, 3 * gate + 3)
            assert torch.equal(weights[f"weight_hh_{suffix}"][rows], torch.randn(3, 1))
            assert torch.equal(weights[f"weight_ih_{suffix}"][rows], torch.randn(3, size))
        assert torch.equal(weights[f"weight_hr_{suffix}"], torch.randn(1, 3))
        assert not weights[f"bias_ih_{suffix}"].any()
        assert not weights[f"bias_hh_{suffix}"].any()


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


def test_the_library_offers_the_lstm_and_nothing_that_is_not_there() -> None:
    import lstm_models

    assert lstm_models.LSTM is LSTM
    with pytest.raises(AttributeError, match=r"^module 'lstm_models' has no attribute 'GRU'$"):
        _ = lstm_models.GRU
