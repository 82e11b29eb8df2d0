"""From a network and sequences to an Evaluation."""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lstm_models.data.tables import Sequences
from lstm_models.metrics import errors
from lstm_models.module import NonFiniteLoss


class Evaluation(BaseModel):
    """What a network predicts for each sequence, and how far off it is.

    targets, predictions: one number a sequence, in the target's unit. metrics: as `metrics.errors` returns them.
    parameters: how many numbers the network has learnt.
    """

    model_config = ConfigDict(frozen=True)

    targets: list[float]
    predictions: list[float]
    metrics: dict[str, float]
    parameters: int


@torch.no_grad()
def predict(network: nn.Module, x_BTD: Tensor) -> Tensor:
    """Predictions (B) for the sequences x (B, T, D)."""
    predictions: Tensor = network(x_BTD)
    return predictions


def evaluate(network: nn.Module, sequences: Sequences) -> Evaluation:
    """Judge a network on sequences; dropout is off.

    Raises:
        NonFiniteLoss: if a prediction is NaN or infinite, as after a last step that threw the weights off.
    """
    predictions_B = predict(network.eval(), sequences.x_BTD)
    if not predictions_B.isfinite().all():
        raise NonFiniteLoss("the network predicts NaN or infinity; a lower learning_rate may help")
    return Evaluation(
        targets=sequences.y_B.tolist(),
        predictions=predictions_B.tolist(),
        metrics=errors(predictions_B, sequences.y_B),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )
