"""From a network and a dataset to an Evaluation; the baselines are judged the same way.

W examples of the test part, S horizon steps, K targets, C classes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from lstm_models.data.dataset import Dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.data.windows import Batch, Examples
from lstm_models.evaluation import baselines
from lstm_models.evaluation.bootstrap import block_length
from lstm_models.evaluation.classification_metrics import classification_metrics, confusion_matrix
from lstm_models.evaluation.metrics import forecast_metrics, mase_scale
from lstm_models.evaluation.regression_metrics import regression_metrics
from lstm_models.nn.network import Network
from lstm_models.nn.replicas import Replicas
from lstm_models.training.module import NonFiniteLoss

BATCH_SIZE = 4096  # sequences: what the loop over time keeps of them is many times their size

PRIMARY_METRIC = {
    "regression": "mse",
    "forecast": "scaled_mse",
    "classification": "log_loss",
}  # what is compared, by kind of output

Predictor = Callable[[Batch], Tensor]  # a network, or a baseline


@dataclass(frozen=True)
class Evaluation:
    """What was told of each example, and how far off it is.

    told, y: (W) numbers or (W, S, K) forecasts, in the targets' units; or (W, C) log-odds and (W) the classes' numbers.
    losses_W: float64; their mean is the metric that models are compared by: see HEADLINES.
    metrics: by name. by_step: of forecasts, the same for each horizon step. confusion: of classes, how often one (row)
    was taken for another (column).
    """

    predictions: Tensor
    targets: Tensor
    losses_W: Tensor
    metrics: dict[str, float]
    by_step: dict[str, list[float | None]] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class NetworkEvaluation:
    """A network judged. parameters: how many numbers it has learnt.

    Of copies the judgement is the median copy's, by mse, the better of two in the middle; copy_index is its number,
    from 0; copies has the metrics of each, None for one that predicts NaN or infinity.
    """

    evaluation: Evaluation
    parameters: int
    replica: int
    replica_metrics: list[dict[str, float] | None]


@torch.no_grad()
def evaluate(network: nn.Module, dataset: Dataset) -> NetworkEvaluation:
    """Judge a network, or copies of one, on the test part of a dataset; dropout is off.

    Raises:
        NonFiniteLoss: if what it tells is NaN or infinite, as after a last step that threw the weights off; of copies,
            if the median copy's is.
    """
    network.eval()
    copied = isinstance(network, Replicas)
    told, y = _collect_predictions(lambda batch: _call(network, batch), dataset, dim=-1 if copied else 0)
    found = [
        _score_predictions(one, y, dataset) if one.isfinite().all() else None for one in (told if copied else (told,))
    ]
    order = sorted(range(len(found)), key=lambda index: math.inf if (own := found[index]) is None else _mean(own))
    median = order[(len(order) - 1) // 2]
    judgement = found[median]
    if judgement is None:
        raise NonFiniteLoss("the network predicts NaN or infinity; a lower learning_rate may help")
    parameters = sum(parameter.numel() for parameter in network.parameters()) // len(found)
    return NetworkEvaluation(judgement, parameters, median, [None if own is None else own.metrics for own in found])


@torch.no_grad()
def predict(network: nn.Module, x_BTD: Tensor) -> Tensor:
    """What a network tells of the sequences x (B, T, D): (B, ...)."""
    return torch.cat([network(part_BTD) for part_BTD in torch.split(x_BTD, BATCH_SIZE)])


def evaluate_predictor(predictor: Predictor, dataset: Dataset) -> Evaluation:
    """Judge what a function tells of the test part's batches."""
    return _score_predictions(*_collect_predictions(predictor, dataset), dataset)


def select_replica(network: Network | Replicas, index: int) -> Network:
    """The copy of this number, or the network itself where there is one only."""
    return network.member(index).eval() if isinstance(network, Replicas) else network


def bootstrap_block(dataset: Dataset) -> int:
    """How many neighbouring losses are drawn together for an interval: see `intervals`.

    Two horizons: blocks of one are rather short. Labelled sequences have nothing to do with each other.
    """
    if dataset.output.kind != "forecast" or dataset.config is None:
        return 1
    windows_in_two_horizons = -(-2 * dataset.output.horizon // dataset.config.evaluation_stride)
    return block_length(dataset.test.count, windows_in_two_horizons)


def _season(dataset: Dataset) -> int | None:
    return dataset.config.season_length if dataset.config else None


def _call(network: nn.Module, batch: Batch) -> Tensor:
    told: Tensor = network(batch.x_BTD) if batch.lengths_B is None else network(batch.x_BTD, batch.lengths_B)
    return told


def _mean(judgement: Evaluation) -> float:
    return judgement.losses_W.mean().item()


def _collect_predictions(predictor: Predictor, dataset: Dataset, dim: int = 0) -> tuple[Tensor, Tensor]:
    told, y = zip(
        *((predictor(batch), batch.y) for batch in BatchLoader(dataset.test, batch_size=BATCH_SIZE)), strict=True
    )
    return torch.cat(told, dim), torch.cat(y)


def _score_predictions(told: Tensor, y: Tensor, dataset: Dataset) -> Evaluation:
    match dataset.output.kind:
        case "classification":
            losses_W = functional.cross_entropy(told.double(), y, reduction="none")
            return Evaluation(told, y, losses_W, classification_metrics(told, y), confusion=confusion_matrix(told, y))
        case "forecast":
            scale_K = dataset.scales()
            scores = forecast_metrics(told, y, scale_K, mase_scale(dataset.training_targets(), _season(dataset) or 1))
            losses_W = ((told.double() - y) / scale_K).square().mean(dim=(1, 2))
            return Evaluation(told, y, losses_W, scores.flat(), by_step=scores.by_step)
    metrics = regression_metrics(told, y)
    if not dataset.in_sample:
        scores = forecast_metrics(told.view(-1, 1, 1), y.view(-1, 1, 1), dataset.scales(), torch.zeros(1))
        metrics |= scores.flat()
    return Evaluation(told, y, (told.double() - y).square(), metrics)


def fit_baselines(dataset: Dataset) -> dict[str, Predictor]:
    """The baselines for what the dataset wants told, by name: what models have to be better than.

    Forecasts: the last value; the last season's values, where there is a season no longer than the context; the
    training part's mean; a ridge regression on the window, which chooses its penalty by the validation part and is left
    out where there is none, or where its window is too large. Labels: the most frequent class, and a logistic
    regression on each feature's mean, spread, ends and extremes; of numbers the mean, and a ridge regression on those,
    if there are two or more.
    """
    match dataset.output.kind:
        case "forecast":
            return _forecast_baselines(dataset)
        case "classification":
            return _classification_baselines(dataset)
    return _regression_baselines(dataset)


def _forecast_baselines(dataset: Dataset) -> dict[str, Predictor]:
    places, steps, season = dataset.output.target_indices, dataset.output.horizon, _season(dataset)
    trained_NK = torch.cat(dataset.training_targets())
    found: dict[str, Predictor] = {
        "last_value": lambda batch: baselines.last_value(batch.x_BTD[..., places], steps),
        "mean": lambda batch: baselines.mean(trained_NK, len(batch.x_BTD), steps),
    }
    if season is not None and season <= dataset.test.get_batch(torch.tensor([0])).x_BTD.size(1):
        found["seasonal_naive"] = lambda batch: baselines.seasonal_naive(batch.x_BTD[..., places], steps, season)
    if dataset.validation is not None and baselines.ridge_is_feasible(*dataset.train.get_batch(torch.tensor([0]))[:2]):
        found["ridge"] = _fit_ridge(dataset, dataset.validation)
    return found


def _fit_ridge(dataset: Dataset, validation: Examples) -> Predictor:
    scaling = dataset.scaler() or nn.Identity()
    scale_K = dataset.scales().float()

    def scaled(examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
        return ((scaling(batch.x_BTD), batch.y / scale_K) for batch in BatchLoader(examples, batch_size=BATCH_SIZE))

    ridge = baselines.Ridge.fit(scaled(dataset.train), scaled(validation))
    return lambda batch: ridge.predict(scaling(batch.x_BTD)) * scale_K


def _classification_baselines(dataset: Dataset) -> dict[str, Predictor]:
    batch = _all_batches(dataset.train)
    classes = len(dataset.output.classes)
    logistic = baselines.LogisticRegression.fit(_sequences(batch), batch.y, classes)
    return {
        "majority_class": lambda test: baselines.majority_class(batch.y, len(test.y), classes),
        "logistic_regression": lambda test: logistic.predict(_sequences(test)),
    }


def _regression_baselines(dataset: Dataset) -> dict[str, Predictor]:
    batch = _all_batches(dataset.train)
    found: dict[str, Predictor] = {"mean": lambda test: batch.y.double().mean().float().expand(len(test.y))}
    if len(batch.y) > 1:
        ridge = baselines.SummaryRidge.fit(_sequences(batch), batch.y)
        found["ridge"] = lambda test: ridge.predict(_sequences(test))
    return found


def _all_batches(examples: Examples) -> Batch:
    return examples.get_batch(torch.arange(examples.count))


def _sequences(batch: Batch) -> Iterator[Tensor]:
    """Each sequence by itself, (T, D), without its padding."""
    if batch.lengths_B is None:
        return iter(batch.x_BTD)
    return (x_TD[:length] for x_TD, length in zip(batch.x_BTD, batch.lengths_B.tolist(), strict=True))
