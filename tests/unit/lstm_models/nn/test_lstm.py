"""Features of the hand-built LSTM without a counterpart in nn.LSTM: the tutorial's draws, the public import."""

import copy
from typing import Any

import lightning as L
import pytest
import torch

import lstm_models
from lstm_models import LSTM

# The draws after seed 42 by the tutorial's names. Forget gate: lr (long, remember); input gate: pr (potential,
# remember); candidate: p; output gate: o. 1 is the recurrent weight, 2 the input weight.
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


def test_normal_init_draws_the_tutorials_numbers() -> None:
    L.seed_everything(42, verbose=False)
    weights = LSTM(1, 1, double_bias=False, init="normal").state_dict()
    stored = [TUTORIAL[name] for name in ("wpr1", "wlr1", "wp1", "wo1", "wpr2", "wlr2", "wp2", "wo2")]
    assert (
        {name: value.flatten().tolist() for name, value in weights.items()}
        == {
            "weight_ih_l0": stored[4:],  # i, f, g, o
            "weight_hh_l0": stored[:4],
            "bias_ih_l0": [0, 0, 0, 0],
        }
    )


@pytest.mark.parametrize("init", ["default", "normal"])
def test_reset_parameters_draws_like_the_constructor(init: Any) -> None:
    torch.manual_seed(9)
    module = LSTM(2, 3, init=init)
    first = copy.deepcopy(module.state_dict())
    module.reset_parameters()
    assert not torch.equal(module.weight_ih_l0, first["weight_ih_l0"])
    torch.manual_seed(9)
    module.reset_parameters()
    assert all(torch.equal(value, first[name]) for name, value in module.state_dict().items())


def test_package_exports_lstm_and_rejects_unknown_names() -> None:
    assert lstm_models.LSTM is LSTM
    with pytest.raises(AttributeError, match="'GRU'"):
        _ = lstm_models.GRU
