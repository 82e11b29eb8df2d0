"""From a network and sequences to an Evaluation."""

import math

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lstm_models.data.tables import Sequences
from lstm_models.metrics import errors
from lstm_models.module import NonFiniteLoss
from lstm_models.network import Network
from lstm_models.replicas import Replicas

AT_ONCE = 4096  # sequences: what the loop over time keeps of them is many times their size


class Evaluation(BaseModel):
    """What a network predicts for each sequence, and how far off it is.

    targets, predictions: one number a sequence, in the target's unit. metrics: as `metrics.errors` returns them.
    parameters: how many numbers the network has learnt.

    Of copies all these are the median copy's, by mse, the better of two in the middle; copy_index is its number, from
    0; copies has the metrics of each, None for one that predicts NaN or infinity.
    """

    model_config = ConfigDict(frozen=True)

    targets: list[float]
    predictions: list[float]
    metrics: dict[str, float]
    parameters: int
    copy_index: int
    copies: list[dict[str, float] | None]


@torch.no_grad()
def predict(network: nn.Module, x_BTD: Tensor) -> Tensor:
    """Predictions (B) for the sequences x (B, T, D), or (R, B) of R copies."""
    return torch.cat([network(part_BTD) for part_BTD in torch.split(x_BTD, AT_ONCE)], dim=-1)


def evaluate(network: nn.Module, sequences: Sequences) -> Evaluation:
    """Judge a network, or copies of one, on sequences; dropout is off.

    Raises:
        NonFiniteLoss: if a prediction is NaN or infinite, as after a last step that threw the weights off; of copies,
            if the median copy's is.
    """
    predictions = predict(network.eval(), sequences.x_BTD).reshape(-1, len(sequences.y_B))
    copies = [errors(of_one, sequences.y_B) if of_one.isfinite().all() else None for of_one in predictions]
    order = sorted(range(len(copies)), key=lambda index: math.inf if (own := copies[index]) is None else own["mse"])
    median = order[(len(order) - 1) // 2]
    metrics = copies[median]
    if metrics is None:
        raise NonFiniteLoss("the network predicts NaN or infinity; a lower learning_rate may help")
    return Evaluation(
        targets=sequences.y_B.tolist(),
        predictions=predictions[median].tolist(),
        metrics=metrics,
        parameters=sum(parameter.numel() for parameter in network.parameters()) // len(copies),
        copy_index=median,
        copies=copies,
    )


def one_of(network: Network | Replicas, index: int) -> Network:
    """The copy of this number, or the network itself where there is one only."""
    return network.member(index).eval() if isinstance(network, Replicas) else network
