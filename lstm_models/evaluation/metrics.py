"""Metrics of predicted numbers and forecasts: tensors in, floats out, computed in float64.

Shapes: B sequences, W windows, S horizon steps, K targets.

Metrics of several models are comparable if they are computed on the same examples.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class ForecastMetrics(BaseModel):
    """Metrics of forecasts over all windows, horizon steps and targets.

    Attributes:
        mse: The mean squared error, in the targets' units squared.
        mae: The mean absolute error, in the targets' units.
        rmse: The root of the mean squared error, in the targets' units.
        scaled_mse: The mean squared error after division of the errors by each target's standard deviation in the
            training part, as benchmarks report it.
        scaled_mae: The mean absolute error of the same scaled errors.
        scaled_rmse: The root of scaled_mse.
        mase: The mean absolute scaled error: the mean absolute error divided by that of the naive forecast in the
            training part (Hyndman and Koehler 2006); below 1 is better than the naive forecast. It is the mean over the
            targets that are not constant in the training part; None if all are.
        smape: The symmetric mean absolute percentage error, 0 to 200, as in the M4 competition (Makridakis, Spiliotis
            and Assimakopoulos 2020); 0/0 counts as 0.
        r2: The coefficient of determination of each target over all its windows and steps, averaged over the targets
            that are not constant there; None if all are.
        by_step: The metrics of each horizon step, lists of S values by the names above. r2 of a step uses the variance
            within that step, so the mean over the steps is not the overall r2.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    mse: float
    mae: float
    rmse: float
    scaled_mse: float
    scaled_mae: float
    scaled_rmse: float
    mase: float | None
    smape: float
    r2: float | None
    by_step: dict[str, list[float | None]]

    def flat(self) -> dict[str, float]:
        """Return the overall metrics by name, without those that are None, NaN or infinite."""
        metrics: dict[str, float | None] = self.model_dump(exclude={"by_step"})
        return {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}


class _Means(NamedTuple):
    """Mean squared, absolute and percentage error over the windows, and mean, variance and extremes of the targets."""

    square_SK: Tensor
    absolute_SK: Tensor
    percentage_SK: Tensor
    mean_SK: Tensor
    variance_SK: Tensor
    lowest_SK: Tensor
    highest_SK: Tensor

    def step(self, step: int) -> Self:
        """Return those of one horizon step, (1, K) each."""
        return type(self)(*(values_SK[step : step + 1] for values_SK in self))


def regression_metrics(predictions_B: Tensor, targets_B: Tensor) -> dict[str, float]:
    """Compute the metrics of predicted numbers.

    Returns:
        mse: mean squared error, in the target's unit squared.
        mae: mean absolute error, in the target's unit.
        max_error: the largest absolute error, in the target's unit.
    """
    difference_B = predictions_B.double() - targets_B.double()
    return {
        "mse": difference_B.square().mean().item(),
        "mae": difference_B.abs().mean().item(),
        "max_error": difference_B.abs().max().item(),
    }


def forecast_metrics(
    predictions_WSK: Tensor, targets_WSK: Tensor, scale_K: Tensor, mase_scale_K: Tensor
) -> ForecastMetrics:
    """Compute the metrics of forecasts; a prediction that is NaN makes them NaN.

    torchmetrics is not used because it computes in float32, has no metrics by step, and defines sMAPE differently for
    values near 0.

    Args:
        predictions_WSK: The forecasts, in the targets' units.
        targets_WSK: The actual values.
        scale_K: Each target's standard deviation in the training part.
        mase_scale_K: As returned by `mase_scale`.

    Raises:
        ValueError: If the shapes don't match, a scale is not finite, or a scale is not above 0 (mase_scale_K: below 0).
    """
    if predictions_WSK.shape != targets_WSK.shape or targets_WSK.dim() != 3 or not targets_WSK.numel():
        raise ValueError(
            f"predictions {tuple(predictions_WSK.shape)} and targets {tuple(targets_WSK.shape)} must both be "
            "(windows, horizon steps, targets), none of them 0"
        )
    scale_K = _validate_scale("scale_K", scale_K, targets_WSK.size(2))
    if not scale_K.all():
        raise ValueError(f"scale_K is {scale_K.tolist()}: a scale must be above 0")
    mase_scale_K = _validate_scale("mase_scale_K", mase_scale_K, targets_WSK.size(2))
    means = _means(predictions_WSK.detach(), targets_WSK.detach())
    steps = [_metrics_of(means.step(step), scale_K, mase_scale_K) for step in range(targets_WSK.size(1))]
    overall = _metrics_of(means, scale_K, mase_scale_K)
    by_step = {name: [metrics[name] for metrics in steps] for name in overall}
    return ForecastMetrics.model_validate({**overall, "by_step": by_step})


def mase_scale(trained: Sequence[Tensor], season_length: int = 1) -> Tensor:
    """Return the denominator of MASE, (K), float64: the naive forecast's mean absolute error in the training part.

    The naive forecast of a value is the value one season before. The mean is over the errors of all series.

    Source: Hyndman and Koehler 2006 for a season of 1; for seasonal series Hyndman and Athanasopoulos 2021, 5.8.

    Args:
        trained: The training part's rows of each series, (N, K), in the order of time.
        season_length: The number of rows in a season; 1 for the naive forecast without a season.

    Raises:
        ValueError: If no series has two rows a season apart.
    """
    longest = max((len(rows_NK) for rows_NK in trained), default=0)
    if not 1 <= season_length < longest:
        raise ValueError(
            f"season_length is {season_length}: with {longest} rows it must be at least 1 and less than that"
        )
    errors = [(rows_NK[season_length:].double() - rows_NK[:-season_length].double()).abs() for rows_NK in trained]
    return torch.cat(errors).mean(0)


def _means(predictions_WSK: Tensor, targets_WSK: Tensor) -> _Means:
    """Compute the means step by step, because all windows at once, in float64, could take gigabytes."""
    steps = []
    for prediction_WK, target_WK in zip(predictions_WSK.unbind(1), targets_WSK.unbind(1), strict=True):
        prediction_WK, target_WK = prediction_WK.double(), target_WK.double()
        error_WK = (prediction_WK - target_WK).abs()
        size_WK = prediction_WK.abs() + target_WK.abs()
        mean_K = target_WK.mean(0)
        percentage_K = torch.where(size_WK == 0, 0.0, 200 * error_WK / size_WK).mean(0)
        variance_K = (target_WK - mean_K).square().mean(0)
        extremes = target_WK.amin(0), target_WK.amax(0)
        steps.append(_Means(error_WK.square().mean(0), error_WK.mean(0), percentage_K, mean_K, variance_K, *extremes))
    return _Means(*(torch.stack(values) for values in zip(*steps, strict=True)))


def _metrics_of(means: _Means, scale_K: Tensor, mase_scale_K: Tensor) -> dict[str, float | None]:
    """Return the metrics over these steps, by name."""
    square, scaled_square = means.square_SK.mean(), (means.square_SK / scale_K.square()).mean()
    return {
        "mse": square.item(),
        "mae": means.absolute_SK.mean().item(),
        "rmse": square.sqrt().item(),
        "scaled_mse": scaled_square.item(),
        "scaled_mae": (means.absolute_SK / scale_K).mean().item(),
        "scaled_rmse": scaled_square.sqrt().item(),
        "mase": _mean_where(mase_scale_K > 0, means.absolute_SK.mean(0) / mase_scale_K),
        "smape": means.percentage_SK.mean().item(),
        "r2": _r2(means),
    }


def _r2(means: _Means) -> float | None:
    # The total variance is that within the steps plus that between them. Minimum and maximum show which targets are
    # constant, because rounding can make the variance of equal numbers positive.
    between_SK = (means.mean_SK - means.mean_SK.mean(0)).square()
    variance_K = (means.variance_SK + between_SK).mean(0)
    varies_K = means.lowest_SK.amin(0) != means.highest_SK.amax(0)
    return _mean_where(varies_K, 1 - means.square_SK.mean(0) / variance_K)


def _mean_where(mask_K: Tensor, values_K: Tensor) -> float | None:
    return values_K[mask_K].mean().item() if mask_K.any() else None


def _validate_scale(name: str, scale_K: Tensor, targets: int) -> Tensor:
    if scale_K.shape != (targets,):
        raise ValueError(
            f"{name} has shape {tuple(scale_K.shape)}: it must have one number for each of {targets} targets"
        )
    scale_K = scale_K.detach().double()
    if not (scale_K.isfinite() & (scale_K >= 0)).all():
        raise ValueError(f"{name} is {scale_K.tolist()}: a scale must be finite and not below 0")
    return scale_K
