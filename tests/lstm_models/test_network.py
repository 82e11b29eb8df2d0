"""From a sequence to one number."""

import pytest
import torch
from torch import nn

from lstm_models.config import BuiltIn, HandBuilt
from lstm_models.lstm import LSTM
from lstm_models.network import build_network

X_BTD = torch.tensor([[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0], [-1.0, 2.0, 0.0, 0.5]]).unsqueeze(-1)


@pytest.mark.parametrize("head", ["none", "linear"])
@pytest.mark.parametrize("kind", [HandBuilt, BuiltIn])
def test_without_a_head_the_prediction_is_the_last_hidden_state_and_with_one_what_it_makes_of_it(
    kind: type[HandBuilt] | type[BuiltIn], head: str
) -> None:
    size = 1 if head == "none" else 3
    config = kind(kind="hand_built" if kind is HandBuilt else "built_in", hidden_size=size, num_layers=2, head=head)
    torch.manual_seed(3)
    network = build_network(config, input_size=1).double()

    reference = nn.LSTM(1, size, 2, batch_first=True).double()
    reference.load_state_dict(network.recurrent.state_dict())
    last_BH = reference(X_BTD.double())[0][:, -1]
    expected_B = last_BH[:, 0] if head == "none" else last_BH @ network.head.weight[0] + network.head.bias
    predictions_B = network(X_BTD.double())

    assert predictions_B.shape == (3,)
    # float64, sums in another order
    torch.testing.assert_close(predictions_B, expected_B, rtol=1e-12, atol=1e-12)


def test_both_kinds_draw_the_same_network_from_the_same_seed() -> None:
    torch.manual_seed(1)
    ours = build_network(HandBuilt(kind="hand_built", hidden_size=4, num_layers=2, head="linear"), input_size=3)
    torch.manual_seed(1)
    theirs = build_network(BuiltIn(kind="built_in", hidden_size=4, num_layers=2, head="linear"), input_size=3)

    assert isinstance(ours.recurrent, LSTM)
    assert isinstance(theirs.recurrent, nn.LSTM)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_every_setting_reaches_the_hand_built_lstm() -> None:
    config = HandBuilt(
        kind="hand_built", hidden_size=4, num_layers=2, dropout=0.25, head="linear", biases="one", init="normal"
    )
    recurrent = build_network(config, input_size=3).recurrent
    assert isinstance(recurrent, LSTM)
    assert repr(recurrent) == "LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.25, biases=one, init=normal)"


def test_every_setting_reaches_the_built_in_lstm() -> None:
    config = BuiltIn(kind="built_in", hidden_size=4, num_layers=2, dropout=0.25, head="linear")
    recurrent = build_network(config, input_size=3).recurrent
    assert repr(recurrent) == "LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.25)"
