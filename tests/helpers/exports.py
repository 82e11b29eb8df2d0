"""Networks of every kind to export, and a check of predictions for padded sequences."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lstm_models.config import RNN, AnyModel, BuiltIn, HandBuilt
from lstm_models.data.output import OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.nn.network import Network, build_network

D = 3
SIZES: dict[str, Any] = {"hidden_size": 4, "num_layers": 2, "head": "linear"}
MODELS: dict[str, AnyModel] = {
    "hand_built": HandBuilt(kind="hand_built", **SIZES),
    "built_in": BuiltIn(kind="built_in", **SIZES),
    "rnn": RNN(kind="rnn", **SIZES),
}
FORECAST: dict[str, Any] = {"kind": "forecast", "targets": ["c", "a"], "horizon": 2, "target_indices": [2, 0]}
OUTPUTS = {
    "number": OutputSpec(),
    "number with mean and scale": OutputSpec(mean=-3.0, scale=2.5),
    "forecast": OutputSpec(**FORECAST),
    "residual forecast": OutputSpec(**FORECAST, residual=True),
    "classes": OutputSpec(kind="classification", targets=["y"], classes=["low", "mid", "top"]),
}
# float32 sums in another order; predictions are between 1 and 10 in size
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-6, "equal_nan": True}


def build(name: str, kind: str) -> Network:
    """Return a network by the names of its model and output."""
    torch.manual_seed(1)
    scaler = Scaler(torch.tensor([1.0, -3.0, 0.5]), torch.tensor([2.0, 5.0, 0.25]))
    return build_network(MODELS[name], D, OUTPUTS[kind], scaler).eval()


def predict_as_served(network: Network, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
    """Return the predictions of a served model: probabilities for classifications."""
    predictions = network(x_BTD, lengths_B)
    return predictions.softmax(-1) if network.output.kind == "classification" else predictions


def check_padding(program: Callable[[Tensor], Tensor], network: Network) -> None:
    """Assert that NaN at the end is padding, and that the prediction for nothing but padding is NaN."""
    x_BTD, lengths = 3 * torch.randn(5, 6, D), [4, 6, 1, 0, 5]
    padded_BTD = x_BTD.clone()
    for b, length in enumerate(lengths):
        padded_BTD[b, length:] = torch.nan
    predictions = program(padded_BTD)
    for b, length in enumerate(lengths):
        if length == 0:
            assert predictions[b].isnan().all()
        else:
            alone = predict_as_served(network, x_BTD[b : b + 1, :length])
            torch.testing.assert_close(predictions[b : b + 1], alone, **CLOSE)
    real = [b for b, length in enumerate(lengths) if length]
    with_lengths = predict_as_served(network, x_BTD[real], torch.tensor(lengths)[real])
    torch.testing.assert_close(predictions[real], with_lengths, **CLOSE)
