"""From a network and sequences to an Evaluation."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from lstm_models import baselines
from lstm_models.data.dataset import Dataset
from lstm_models.data.examples import Examples
from lstm_models.data.loader import BatchLoader
from lstm_models.data.tables import Sequences
from lstm_models.metrics import errors
from lstm_models.module import NonFiniteLoss
from lstm_models.network import Network
from lstm_models.replicas import Replicas
from lstm_models.scores import ForecastScores, forecast_scores, mase_scale

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


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of W windows, S steps and K targets, in the targets' units; how far off each window's are, in scaled
    units, as training counts it; and their scores."""

    predictions_WSK: Tensor
    targets_WSK: Tensor
    losses_W: Tensor
    scores: ForecastScores


@torch.no_grad()
def judge_forecasts(forecast: Callable[[Tensor], Tensor], dataset: Dataset, season: int = 1) -> Forecasts:
    """Judge forecasts of the test's windows.

    Args:
        forecast: a network in evaluation mode, or any other function of x (B, T, D) that gives (B, S, K).
        dataset: of a table's rows, with a test of Windows.
        season: rows in a season, for MASE.

    Raises:
        NonFiniteLoss: if a forecast is NaN or infinite.
    """
    batches = list(BatchLoader(dataset.test, batch_size=AT_ONCE))
    predictions_WSK = torch.cat([forecast(batch.x_BTD) for batch in batches])
    targets_WSK = torch.cat([batch.y for batch in batches])
    if not predictions_WSK.isfinite().all():
        raise NonFiniteLoss("the network forecasts NaN or infinity; a lower learning_rate may help")
    places = dataset.output.places
    scale_K = torch.ones(len(places)) if dataset.spread_D is None else dataset.spread_D[places]
    losses_W = ((predictions_WSK - targets_WSK) / scale_K).double().square().mean(dim=(1, 2))
    trained_NK = dataset.trained_rows()[:, places]
    scores = forecast_scores(predictions_WSK, targets_WSK, scale_K, mase_scale(trained_NK, season))
    return Forecasts(predictions_WSK, targets_WSK, losses_W, scores)


def forecasting_baselines(dataset: Dataset, season: int | None = None) -> dict[str, Callable[[Tensor], Tensor]]:
    """What models have to be better than, by name: functions of x (B, T, D) that give (B, S, K), in raw units.

    The ridge regression learns from the training windows, scaled, and chooses its penalty by the validation ones; where
    there are none, it is left out, as the seasonal one is without a season or with one longer than the context.
    """
    places, steps = dataset.output.places, dataset.output.steps
    trained_NK = dataset.trained_rows()[:, places]
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "last_value": lambda x_BTD: baselines.last_value(x_BTD[..., places], steps),
        "mean": lambda x_BTD: baselines.mean(trained_NK, len(x_BTD), steps),
    }
    if season is not None and season <= dataset.test.take(torch.tensor([0])).x_BTD.size(1):
        found["seasonal_naive"] = lambda x_BTD: baselines.seasonal_naive(x_BTD[..., places], steps, season)
    if dataset.validation is not None:
        found["ridge"] = _ridge(dataset, dataset.validation)
    return found


def _ridge(dataset: Dataset, validation: Examples) -> Callable[[Tensor], Tensor]:
    places = dataset.output.places
    scaling = dataset.scaling() or nn.Identity()
    spread_K, center_K = (
        (torch.tensor(1.0), torch.tensor(0.0))
        if dataset.spread_D is None or dataset.center_D is None
        else (dataset.spread_D[places], dataset.center_D[places])
    )

    def scaled(examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
        return (
            (scaling(batch.x_BTD), (batch.y - center_K) / spread_K)
            for batch in BatchLoader(examples, batch_size=AT_ONCE)
        )

    ridge = baselines.Ridge.fit(scaled(dataset.train), scaled(validation))
    return lambda x_BTD: ridge.predict(scaling(x_BTD)) * spread_K + center_K
