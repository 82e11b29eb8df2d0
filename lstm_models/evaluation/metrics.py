"""How good forecasts and labels are: tensors in, figures out. W windows or sequences, S horizon steps, K targets,
C classes.

All is computed in float64. The figures of several models can be compared where they come from the same windows.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class ForecastMetrics(BaseModel):
    """How far off forecasts are, over all windows, horizon steps and targets.

    mse, mae, rmse: the mean squared error, the mean absolute error, and the root of the first, in the targets' units.
    scaled_mse, scaled_mae, scaled_rmse: the same of errors that are divided by each target's standard deviation in the
        training part, as benchmarks state them.
    mase: mean absolute scaled error: the mean absolute error over that of the naive forecast in the training part
        (Hyndman and Koehler 2006); below 1 is better than that one. The mean over the targets; one that is constant
        in the training part has none and is left out, and None says that all are.
    smape: symmetric mean absolute percentage error, 0 to 200, as in the M4 competition (Makridakis, Spiliotis and
        Assimakopoulos 2020); 0/0 counts as 0.
    r2: the coefficient of determination of each target, over all its windows and steps, and of these the mean. A
        target that is constant there has none and is left out, and None says that all are.

    by_step: under the same names the figures of each horizon step alone, a list of S. Of a step's r2 the spread is
    that step's own, so that their mean is not the overall one.
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
        """The overall figures by name, without those that are None, NaN or infinite."""
        figures: dict[str, float | None] = self.model_dump(exclude={"by_step"})
        return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}


class _Means(NamedTuple):
    """Over the windows: the mean squared, absolute and percentage error, and the targets' mean, variance and ends."""

    square_SK: Tensor
    absolute_SK: Tensor
    percentage_SK: Tensor
    center_SK: Tensor
    variance_SK: Tensor
    lowest_SK: Tensor
    highest_SK: Tensor

    def step(self, step: int) -> Self:
        return type(self)(*(values_SK[step : step + 1] for values_SK in self))


def forecast_metrics(
    predictions_WSK: Tensor, targets_WSK: Tensor, scale_K: Tensor, mase_scale_K: Tensor
) -> ForecastMetrics:
    """Judge forecasts. A prediction that is NaN shows in the figures as NaN.

    Own code rather than torchmetrics: that works in float32, gives no figures by step, and its sMAPE is another where
    values are near 0.

    Args:
        predictions_WSK: the forecasts, in the targets' units.
        targets_WSK: what came.
        scale_K: each target's standard deviation in the training part.
        mase_scale_K: as `mase_scale` returns it.

    Raises:
        ValueError: if shapes don't fit, or a scale is not above 0 (of mase_scale_K: below 0), or not finite.
    """
    if predictions_WSK.shape != targets_WSK.shape or targets_WSK.dim() != 3 or not targets_WSK.numel():
        raise ValueError(
            f"predictions {tuple(predictions_WSK.shape)} and targets {tuple(targets_WSK.shape)} must both be "
            "(windows, horizon steps, targets), none of them 0"
        )
    scale_K = _scale("scale_K", scale_K, targets_WSK.size(2))
    if not scale_K.all():
        raise ValueError(f"scale_K is {scale_K.tolist()}: a scale must be above 0")
    mase_scale_K = _scale("mase_scale_K", mase_scale_K, targets_WSK.size(2))
    means = _means(predictions_WSK.detach(), targets_WSK.detach())
    steps = [_metrics_of(means.step(step), scale_K, mase_scale_K) for step in range(targets_WSK.size(1))]
    overall = _metrics_of(means, scale_K, mase_scale_K)
    by_step = {name: [one[name] for one in steps] for name in overall}
    return ForecastMetrics.model_validate({**overall, "by_step": by_step})


def mase_scale(trained: Sequence[Tensor], season_length: int = 1) -> Tensor:
    """What MASE divides by (K), float64: the mean absolute error, within the training part, of the forecast that each
    value is the one a season before.

    Source: Hyndman and Koehler 2006 with a season of 1; for seasonal series Hyndman and Athanasopoulos 2021, 5.8. Of
    several series the mean is over the errors of all.

    Args:
        trained: of each series the training part's rows, (N, K), in the order of time.
        season_length: rows in a season; 1 for the naive forecast without one.

    Raises:
        ValueError: if no series has two rows a season apart.
    """
    longest = max((len(rows_NK) for rows_NK in trained), default=0)
    if not 1 <= season_length < longest:
        raise ValueError(
            f"season_length is {season_length}: with {longest} rows it must be at least 1 and less than that"
        )
    errors = [(rows_NK[season_length:].double() - rows_NK[:-season_length].double()).abs() for rows_NK in trained]
    return torch.cat(errors).mean(0)


def _means(predictions_WSK: Tensor, targets_WSK: Tensor) -> _Means:
    """One step at a time: all windows at once, in float64, could be gigabytes."""
    steps = []
    for prediction_WK, target_WK in zip(predictions_WSK.unbind(1), targets_WSK.unbind(1), strict=True):
        prediction_WK, target_WK = prediction_WK.double(), target_WK.double()
        error_WK = (prediction_WK - target_WK).abs()
        size_WK = prediction_WK.abs() + target_WK.abs()
        center_K = target_WK.mean(0)
        percentage_K = torch.where(size_WK == 0, 0.0, 200 * error_WK / size_WK).mean(0)
        variance_K = (target_WK - center_K).square().mean(0)
        ends = target_WK.amin(0), target_WK.amax(0)
        steps.append(_Means(error_WK.square().mean(0), error_WK.mean(0), percentage_K, center_K, variance_K, *ends))
    return _Means(*(torch.stack(of_steps) for of_steps in zip(*steps, strict=True)))


def _metrics_of(means: _Means, scale_K: Tensor, mase_scale_K: Tensor) -> dict[str, float | None]:
    """The figures over these steps, by their names."""
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
    # The variance over all steps is that within the steps and that between them. The ends say what is constant: of
    # equal numbers a variance can come out above 0.
    between_SK = (means.center_SK - means.center_SK.mean(0)).square()
    variance_K = (means.variance_SK + between_SK).mean(0)
    varies_K = means.lowest_SK.amin(0) != means.highest_SK.amax(0)
    return _mean_where(varies_K, 1 - means.square_SK.mean(0) / variance_K)


def _mean_where(kept_K: Tensor, values_K: Tensor) -> float | None:
    return values_K[kept_K].mean().item() if kept_K.any() else None


def _scale(name: str, scale_K: Tensor, targets: int) -> Tensor:
    if scale_K.shape != (targets,):
        raise ValueError(
            f"{name} is of shape {tuple(scale_K.shape)}: it must hold one number for each of {targets} targets"
        )
    scale_K = scale_K.detach().double()
    if not (scale_K.isfinite() & (scale_K >= 0)).all():
        raise ValueError(f"{name} is {scale_K.tolist()}: a scale must be finite and not below 0")
    return scale_K
