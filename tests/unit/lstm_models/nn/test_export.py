"""ExportableNetwork predicts like the network in eager mode.

tests/integration/lstm_models/nn/test_export.py tests its export.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.exports import CLOSE, MODELS, OUTPUTS, build, check_padding, predict_as_served
from torch import nn

from lstm_models.nn.export import ExportableNetwork
from lstm_models.nn.lstm import LSTM


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """Disable gradients, as a model server does."""
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", MODELS)
def test_exportable_network_predicts_like_its_network(name: str, kind: str) -> None:
    network = build(name, kind)
    exportable = ExportableNetwork(network).eval()
    recurrent: Any = exportable.network.recurrent
    assert isinstance(recurrent, LSTM)
    assert isinstance(network.recurrent, {"hand_built": LSTM, "built_in": nn.LSTM, "rnn": nn.RNN}[name])
    state = {key.removeprefix("network."): value for key, value in exportable.state_dict().items()}
    torch.testing.assert_close(state, dict(network.state_dict()), rtol=0, atol=0)
    for B, T in ((1, 1), (2, 3), (5, 50)):
        x_BTD = 3 * torch.randn(B, T, 3)
        torch.testing.assert_close(exportable(x_BTD), predict_as_served(network, x_BTD), **CLOSE)
    check_padding(exportable, network)


def test_missing_value_makes_only_its_sequence_nan() -> None:
    network = build("hand_built", "residual forecast")
    x_BTD = torch.randn(3, 4, 3)
    x_BTD[1, 2, 0] = torch.nan  # a missing value of one feature is no padding
    predictions = ExportableNetwork(network).eval()(x_BTD)
    assert predictions[1].isnan().all()
    torch.testing.assert_close(predictions[[0, 2]], predict_as_served(network, x_BTD[[0, 2]]), **CLOSE)


def test_classification_outputs_are_probabilities() -> None:
    network = build("hand_built", "classes")
    x_BTD = 3 * torch.randn(7, 5, 3)
    probabilities_BC, log_odds_BC = ExportableNetwork(network).eval()(x_BTD), network(x_BTD)
    assert (probabilities_BC >= 0).all()
    torch.testing.assert_close(probabilities_BC.sum(1), torch.ones(7), rtol=0, atol=1e-6)  # float32
    assert torch.equal(probabilities_BC.argmax(1), log_odds_BC.argmax(1))
    differences_BC = probabilities_BC.log() - log_odds_BC  # the same for all classes of a sequence
    torch.testing.assert_close(differences_BC, differences_BC[:, :1].expand(-1, 3), rtol=0, atol=1e-5)
