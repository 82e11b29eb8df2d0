"""Evaluation of networks and baselines on a dataset's test part.

Shapes: W examples of the test part, B examples of a batch, T steps, D inputs, S horizon steps, K targets, C classes.
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
from lstm_models.evaluation.metrics import forecast_metrics, mase_scale, regression_metrics
from lstm_models.evaluation.ridge import Ridge, ridge_is_feasible
from lstm_models.nn.network import Network
from lstm_models.nn.replicas import Replicas
from lstm_models.training.module import NonFiniteLoss

BATCH_SIZE = 4096  # sequences; the loop over time needs many times their size in memory

PRIMARY_METRIC = {
    "regression": "mse",
    "forecast": "scaled_mse",
    "classification": "log_loss",
}  # the metric that models are compared by, by kind of output

Predictor = Callable[[Batch], Tensor]  # a network or a baseline


@dataclass(frozen=True)
class Evaluation:
    """Predictions for each test example, and their metrics.

    Attributes:
        predictions: Numbers, (W), or forecasts, (W, S, K), in the targets' units; or logits, (W, C).
        targets: Numbers or forecasts of the same shape; or the indices of the true classes, (W).
        losses_W: The loss of each example, float64; their mean is the metric in PRIMARY_METRIC.
        metrics: The metrics by name.
        by_step: For forecasts, the same metrics for each horizon step.
        confusion: For classification, the counts by actual class (row) and predicted class (column).
    """

    predictions: Tensor
    targets: Tensor
    losses_W: Tensor
    metrics: dict[str, float]
    by_step: dict[str, list[float | None]] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class NetworkEvaluation:
    """Evaluation of a network, or of the median one of its replicas.

    Attributes:
        evaluation: Of the network; with replicas, of the median replica by mean loss, the better one of the two in the
            middle.
        parameters: The number of trained parameters of one replica.
        replica: The index of the evaluated replica, from 0.
        replica_metrics: The metrics of each replica; None for one that predicts NaN or infinity.
    """

    evaluation: Evaluation
    parameters: int
    replica: int
    replica_metrics: list[dict[str, float] | None]


@torch.no_grad()
def evaluate(network: nn.Module, dataset: Dataset) -> NetworkEvaluation:
    """Evaluate a network, or replicas of one, on the test part of a dataset; dropout is off.

    Raises:
        NonFiniteLoss: If the predictions contain NaN or infinity, as after a last step that made the weights diverge;
            with replicas, if those of the median replica do.
    """
    network.eval()
    replicated = isinstance(network, Replicas)
    predictions, y = _collect_predictions(lambda batch: _call(network, batch), dataset, dim=-1 if replicated else 0)
    evaluations = [
        _score_predictions(replica, y, dataset) if replica.isfinite().all() else None
        for replica in (predictions if replicated else (predictions,))
    ]
    losses = [math.inf if evaluation is None else _mean_loss(evaluation) for evaluation in evaluations]
    order = sorted(range(len(evaluations)), key=losses.__getitem__)
    median = order[(len(order) - 1) // 2]
    evaluation = evaluations[median]
    if evaluation is None:
        raise NonFiniteLoss("the network predicts NaN or infinity; a lower learning_rate may help")
    parameters = sum(parameter.numel() for parameter in network.parameters()) // len(evaluations)
    metrics = [None if replica is None else replica.metrics for replica in evaluations]
    return NetworkEvaluation(evaluation, parameters, median, metrics)


@torch.no_grad()
def predict(network: nn.Module, x_BTD: Tensor) -> Tensor:
    """Return a network's predictions for the sequences, (B, ...), computed in chunks."""
    return torch.cat([network(part_BTD) for part_BTD in torch.split(x_BTD, BATCH_SIZE)])


def evaluate_predictor(predictor: Predictor, dataset: Dataset) -> Evaluation:
    """Evaluate a function's predictions for the batches of the test part."""
    return _score_predictions(*_collect_predictions(predictor, dataset), dataset)


def select_replica(network: Network | Replicas, index: int) -> Network:
    """Return the replica with this index, or the network itself if it has no replicas."""
    return network.member(index).eval() if isinstance(network, Replicas) else network


def bootstrap_block(dataset: Dataset) -> int:
    """Return the block length for bootstrap intervals of the mean loss; see `lstm_models.evaluation.bootstrap`.

    It is at least two horizons, because blocks of one are rather short. Labelled sequences are independent: 1.
    """
    if dataset.output.kind != "forecast" or dataset.config is None:
        return 1
    windows_in_two_horizons = -(-2 * dataset.output.horizon // dataset.config.evaluation_stride)
    return block_length(dataset.test.count, windows_in_two_horizons)


def _season(dataset: Dataset) -> int | None:
    return dataset.config.season_length if dataset.config else None


def _call(network: nn.Module, batch: Batch) -> Tensor:
    predictions: Tensor = network(batch.x_BTD) if batch.lengths_B is None else network(batch.x_BTD, batch.lengths_B)
    return predictions


def _mean_loss(evaluation: Evaluation) -> float:
    return evaluation.losses_W.mean().item()


def _collect_predictions(predictor: Predictor, dataset: Dataset, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Return the predictions and the targets of all test examples; the predictions' batch dimension is `dim`."""
    predictions, y = zip(
        *((predictor(batch), batch.y) for batch in BatchLoader(dataset.test, batch_size=BATCH_SIZE)), strict=True
    )
    return torch.cat(predictions, dim), torch.cat(y)


def _score_predictions(predictions: Tensor, y: Tensor, dataset: Dataset) -> Evaluation:
    match dataset.output.kind:
        case "classification":
            losses_W = functional.cross_entropy(predictions.double(), y, reduction="none")
            metrics = classification_metrics(predictions, y)
            return Evaluation(predictions, y, losses_W, metrics, confusion=confusion_matrix(predictions, y))
        case "forecast":
            scale_K = dataset.scales()
            mase_scale_K = mase_scale(dataset.training_targets(), _season(dataset) or 1)
            scores = forecast_metrics(predictions, y, scale_K, mase_scale_K)
            losses_W = ((predictions.double() - y) / scale_K).square().mean(dim=(1, 2))
            return Evaluation(predictions, y, losses_W, scores.flat(), by_step=scores.by_step)
    metrics = regression_metrics(predictions, y)
    if not dataset.in_sample:
        predictions_W11, y_W11 = predictions.view(-1, 1, 1), y.view(-1, 1, 1)
        metrics |= forecast_metrics(predictions_W11, y_W11, dataset.scales(), torch.zeros(1)).flat()
    return Evaluation(predictions, y, (predictions.double() - y).square(), metrics)


def fit_baselines(dataset: Dataset) -> dict[str, Predictor]:
    """Fit the baselines for the dataset's kind of output, and return them by name.

    Forecasts: the last value; the last season's values, if there is a season no longer than the context; the training
    part's mean; and a ridge regression on the window, which selects its penalty on the validation part, unless there is
    none or the window is too large.

    Classification: the most frequent class, and a logistic regression on each feature's mean, spread, first and last
    value and extremes.

    Regression: the mean, and a ridge regression on the same features if there are two or more training examples.
    """
    match dataset.output.kind:
        case "forecast":
            return _forecast_baselines(dataset)
        case "classification":
            return _classification_baselines(dataset)
    return _regression_baselines(dataset)


def _forecast_baselines(dataset: Dataset) -> dict[str, Predictor]:
    indices, steps, season = dataset.output.target_indices, dataset.output.horizon, _season(dataset)
    trained_NK = torch.cat(dataset.training_targets())
    predictors: dict[str, Predictor] = {
        "last_value": lambda batch: baselines.last_value(batch.x_BTD[..., indices], steps),
        "mean": lambda batch: baselines.mean(trained_NK, len(batch.x_BTD), steps),
    }
    if season is not None and season <= dataset.test.get_batch(torch.tensor([0])).x_BTD.size(1):
        predictors["seasonal_naive"] = lambda batch: baselines.seasonal_naive(batch.x_BTD[..., indices], steps, season)
    if dataset.validation is not None and ridge_is_feasible(*dataset.train.get_batch(torch.tensor([0]))[:2]):
        predictors["ridge"] = _fit_ridge(dataset, dataset.validation)
    return predictors


def _fit_ridge(dataset: Dataset, validation: Examples) -> Predictor:
    scaler = dataset.scaler() or nn.Identity()
    scale_K = dataset.scales().float()

    def scaled(examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
        return ((scaler(batch.x_BTD), batch.y / scale_K) for batch in BatchLoader(examples, batch_size=BATCH_SIZE))

    ridge = Ridge.fit(scaled(dataset.train), scaled(validation))
    return lambda batch: ridge.predict(scaler(batch.x_BTD)) * scale_K


def _classification_baselines(dataset: Dataset) -> dict[str, Predictor]:
    batch = _full_batch(dataset.train)
    classes = len(dataset.output.classes)
    logistic = baselines.LogisticRegression.fit(_sequences(batch), batch.y, classes)
    return {
        "majority_class": lambda test: baselines.majority_class(batch.y, len(test.y), classes),
        "logistic_regression": lambda test: logistic.predict(_sequences(test)),
    }


def _regression_baselines(dataset: Dataset) -> dict[str, Predictor]:
    batch = _full_batch(dataset.train)
    predictors: dict[str, Predictor] = {"mean": lambda test: batch.y.double().mean().float().expand(len(test.y))}
    if len(batch.y) > 1:
        ridge = baselines.SummaryRidge.fit(_sequences(batch), batch.y)
        predictors["ridge"] = lambda test: ridge.predict(_sequences(test))
    return predictors


def _full_batch(examples: Examples) -> Batch:
    return examples.get_batch(torch.arange(examples.count))


def _sequences(batch: Batch) -> Iterator[Tensor]:
    """Return each sequence, (T, D), without its padding."""
    if batch.lengths_B is None:
        return iter(batch.x_BTD)
    return (x_TD[:length] for x_TD, length in zip(batch.x_BTD, batch.lengths_B.tolist(), strict=True))
