"""Baselines that a network has to beat: forecasts and labels that need little or no learning.

Shapes: W windows or sequences, T steps of context, F features, S horizon steps, K targets, C classes, N rows.

Arguments are torch tensors or numpy arrays. Forecasts have the floating type of their inputs, log-probabilities are
float64. The forecasts that need no learning are views where possible, so don't write into them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from lstm_models.evaluation.ridge import ALPHAS, Array, as_tensor

FORECASTS = {  # descriptions, in the order of a report
    "last_value": "the last value, for every step",
    "seasonal_naive": "the values of the last season, repeated",
    "mean": "the mean of the training part",
    "ridge": "a ridge regression from the whole window to every step",
}
LABELS = {
    "majority_class": "the most frequent class of the training part",
    "logistic_regression": "a logistic regression on each feature's mean, spread, first and last value and extremes",
}


def last_value(x_WTK: Array, horizon: int) -> Tensor:
    """Forecast the last step of the context for every step: (W, S, K)."""
    return as_tensor(x_WTK[:, -1:]).expand(-1, horizon, -1)


def seasonal_naive(x_WTK: Array, horizon: int, season_length: int) -> Tensor:
    """Forecast, for every step, the latest context step that lies a whole number of seasons before it: (W, S, K).

    Raises:
        ValueError: If season_length is below 1, or the context is shorter than a season.
    """
    if not 1 <= season_length <= x_WTK.shape[1]:
        raise ValueError(
            f"season_length is {season_length}: with {x_WTK.shape[1]} steps of context it must be from 1 to "
            f"{x_WTK.shape[1]}"
        )
    return as_tensor(x_WTK[:, -season_length:])[:, torch.arange(horizon) % season_length]


def mean(train_NK: Array, windows: int, horizon: int) -> Tensor:
    """Forecast the training part's mean, summed in float64, for every step: (W, S, K)."""
    rows_NK = as_tensor(train_NK)
    return rows_NK.double().mean(0).to(rows_NK.dtype).expand(windows, horizon, -1)


@dataclass(frozen=True)
class SummaryRidge:
    """scikit-learn's ridge regression of a number on the scaled `sequence_features`; alpha by leave-one-out."""

    weight_P: Tensor
    bias: float

    @classmethod
    def fit(cls, sequences: Iterable[Array], y_W: Array) -> Self:
        """Fit to sequences (T, F) of any lengths and their numbers.

        Raises:
            ValueError: As `sequence_features`.
        """
        from sklearn.linear_model import RidgeCV  # imported here because it takes seconds; no types
        from sklearn.preprocessing import StandardScaler

        features_WP = sequence_features(sequences).numpy()
        scaler = StandardScaler().fit(features_WP)
        fitted = RidgeCV(ALPHAS).fit(scaler.transform(features_WP), as_tensor(y_W).double().numpy())
        weight_P = torch.from_numpy(fitted.coef_ / scaler.scale_)
        return cls(weight_P, float(fitted.intercept_) - float(torch.from_numpy(scaler.mean_) @ weight_P))

    def predict(self, sequences: Iterable[Array]) -> Tensor:
        """Return the predicted numbers, (W)."""
        return (sequence_features(sequences) @ self.weight_P + self.bias).float()


def majority_class(train_labels: Array, windows: int, classes: int) -> Tensor:
    """Return the same log-probabilities for each sequence, (W, C): the shares of the classes in the training part.

    Each class counts once more than it occurs (Laplace's rule), because a class that is missing from the training part
    may occur later.

    Raises:
        ValueError: If a label is not one of 0 to C - 1.
    """
    counts_C = _class_counts(as_tensor(train_labels), classes) + 1
    return (counts_C / counts_C.sum()).log().expand(windows, -1)


@dataclass(frozen=True)
class LogisticRegression:
    """scikit-learn's logistic regression (L2, C = 1) on the P scaled `sequence_features`, for the M classes that occur.

    A class that does not occur in the training part gets the probability of a class that occurs once.
    """

    weight_PM: Tensor
    bias_M: Tensor
    counts_C: Tensor

    @classmethod
    def fit(cls, sequences: Iterable[Array], labels_W: Array, classes: int) -> Self:
        """Fit to sequences (T, F) of any lengths and their classes.

        Raises:
            ValueError: If a label is not one of 0 to C - 1, all labels are the same, or their number is not that of the
                sequences; or as `sequence_features`.
        """
        from sklearn.linear_model import LogisticRegression as SklearnLogistic  # it takes seconds; no types
        from sklearn.preprocessing import StandardScaler

        labels = as_tensor(labels_W)
        counts_C = _class_counts(labels, classes)
        if (counts_C > 0).sum() < 2:
            raise ValueError("the training sequences are all of one class: a logistic regression needs two or more")
        features_WP = sequence_features(sequences).numpy()
        if len(features_WP) != len(labels):
            raise ValueError(f"{len(features_WP)} sequences and {len(labels)} labels: each sequence needs one label")
        scaler = StandardScaler().fit(features_WP)
        fitted = SklearnLogistic(max_iter=10_000).fit(scaler.transform(features_WP), labels.numpy())
        weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
        if len(weight) == 1:  # for two classes scikit-learn has only the log-odds of the second one
            weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
        weight_PM = (weight / torch.from_numpy(scaler.scale_)).T
        return cls(weight_PM, bias - torch.from_numpy(scaler.mean_) @ weight_PM, counts_C)

    def predict(self, sequences: Iterable[Array]) -> Tensor:
        """Return the log-probabilities, (W, C)."""
        fitted_WM = functional.log_softmax(sequence_features(sequences) @ self.weight_PM + self.bias_M, dim=1)
        occurs_C = self.counts_C > 0
        total = self.counts_C.sum() + (~occurs_C).sum()
        result_WC = (1 / total).log().repeat(len(fitted_WM), len(occurs_C))
        result_WC[:, occurs_C] = fitted_WM + (self.counts_C.sum() / total).log()
        return result_WC


def sequence_features(sequences: Iterable[Array]) -> Tensor:
    """Return a summary of each sequence (T, F) that does not depend on its length: (W, 6 F), float64.

    It has the mean, the standard deviation (without Bessel's correction) and the first, last, lowest and highest value
    of each feature.

    Raises:
        ValueError: If there are no sequences, or one has no steps or contains NaN or infinity.
    """
    rows = []
    for index, sequence in enumerate(sequences):
        x_TF = as_tensor(sequence).double()
        if not len(x_TF) or not x_TF.isfinite().all():
            raise ValueError(f"sequence {index} " + ("contains NaN or infinity" if len(x_TF) else "has no steps"))
        deviation_F = x_TF.std(0, correction=0)
        rows.append(torch.cat([x_TF.mean(0), deviation_F, x_TF[0], x_TF[-1], x_TF.amin(0), x_TF.amax(0)]))
    if not rows:
        raise ValueError("no sequences: at least one is needed")
    return torch.stack(rows)


def _class_counts(labels: Tensor, classes: int) -> Tensor:
    """Return how often each class occurs, (C), float64."""
    invalid = (labels < 0) | (labels >= classes)
    if invalid.any():
        raise ValueError(
            f"label {labels[invalid][0].item()}: with {classes} classes it must be one of 0 to {classes - 1}"
        )
    return torch.bincount(labels.long(), minlength=classes).double()
