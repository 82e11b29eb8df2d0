"""What a network has to beat: forecasts and labels that need little or no learning.

W windows or sequences, T steps of context, F features, S horizon steps, K targets, C classes, N rows. Arguments are
torch tensors or numpy arrays. Forecasts come in the floating type of what they are made of, log-probabilities in
float64. Those that need no learning are views where they can be: don't write into them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

FORECASTS = {  # what each does, in the order of a report
    "last_value": "the last value, for every step",
    "seasonal_naive": "the values of the last season, over again",
    "mean": "the mean of the training part",
    "ridge": "a ridge regression from the whole window to every step",
}
LABELS = {
    "majority_class": "the most frequent class of the training part",
    "logistic_regression": "a logistic regression on each feature's mean, spread, ends and extremes",
}

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
MAX_NUMBERS = 250_000_000  # numbers, 2 GB in float64, that a ridge regression may hold
CHUNK_SIZE = 4096  # windows that are turned to float64 together

Array = Tensor | npt.NDArray[Any]
Batch = tuple[Array, Array]  # x (W, T, F), y (W, S, K)


def last_value(x_WTK: Array, horizon: int) -> Tensor:
    """Every step is as the last one of the context: (W, S, K)."""
    return _tensor(x_WTK[:, -1:]).expand(-1, horizon, -1)


def seasonal_naive(x_WTK: Array, horizon: int, season_length: int) -> Tensor:
    """Every step is as the one a whole number of seasons before it, the last in the context: (W, S, K).

    Raises:
        ValueError: if season is below 1, or the context is shorter than a season.
    """
    if not 1 <= season_length <= x_WTK.shape[1]:
        raise ValueError(
            f"season_length is {season_length}: with {x_WTK.shape[1]} steps of context it must be one of 1 to that"
        )
    return _tensor(x_WTK[:, -season_length:])[:, torch.arange(horizon) % season_length]


def mean(train_NK: Array, windows: int, horizon: int) -> Tensor:
    """Every step is as the training part's mean, summed in float64: (W, S, K)."""
    rows_NK = _tensor(train_NK)
    return rows_NK.double().mean(0).to(rows_NK.dtype).expand(windows, horizon, -1)


@dataclass(frozen=True)
class Ridge:
    """A linear map from all numbers of a window, P = T F, to all those to be forecast, Q = S K, with penalised weights.

    Of alpha the one with the lowest mean squared error on the validation windows is taken. As in scikit-learn, alpha
    weighs the sum of the squared weights against the sum of the squared errors, and the bias is free.

    The weights solve (X'X + alpha 1) B = X'Y of centred data. X'X and X'Y are summed batch by batch in float64, so that
    all training windows count, however many, and each is seen once. scikit-learn's Ridge solves the same equations, but
    wants all windows at once. Forming X'X squares the condition number, which of overlapping windows is large; but the
    eigenvalues are at most P times the number of windows, 10^9 or so, and an alpha of 0.1 or more holds the others up,
    so that six of float64's sixteen digits are left at worst.
    """

    alpha: float
    weight_PQ: Tensor
    bias_Q: Tensor
    targets: int

    @classmethod
    def fit(cls, training: Iterable[Batch], validation: Iterable[Batch], alphas: tuple[float, ...] = ALPHAS) -> Self:
        """Learn from batches (x, y). Features must be scaled to be alike, for the penalty is the same for all.

        Args:
            training: batches of windows; gone through once.
            validation: batches of other windows, which choose alpha; gone through once.
            alphas: what to choose from, above 0; of equals the first is taken.

        Raises:
            ValueError: if there are no windows, a number in them is not finite, an alpha is not above 0, or the
                windows are so large that more than LARGEST numbers would be held.
        """
        if not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas are {', '.join(map(str, alphas)) or 'none'}: one or more above 0 are needed")
        moments = _moments(training, len(alphas))
        candidates = [cls(alpha, *moments.solve(alpha), moments.targets) for alpha in alphas]
        squares = torch.zeros(len(alphas), dtype=torch.float64)
        seen = 0
        for x, y in validation:
            for x_WTF, y_WSK in _split(x, y):
                for index, candidate in enumerate(candidates):
                    squares[index] += (candidate.predict(x_WTF) - y_WSK).double().square().sum().cpu()
                seen += len(x_WTF)
        if not seen or not squares.isfinite().all():
            raise ValueError(
                "ridge: " + ("the validation windows hold NaN or infinity" if seen else "no validation windows")
            )
        return candidates[int(squares.argmin())]

    def predict(self, x_WTF: Array) -> Tensor:
        """Forecasts (W, S, K), in the units of the y learnt from."""
        windows = _tensor(x_WTF)
        parts = [part.flatten(1).double() @ self.weight_PQ + self.bias_Q for part in torch.split(windows, CHUNK_SIZE)]
        return torch.cat(parts).view(len(windows), -1, self.targets).to(windows.dtype)


def ridge_is_feasible(x_WTF: Array, y_WSK: Array) -> bool:
    """Whether windows like these are small enough for `Ridge`."""
    return _memory_needed(x_WTF, y_WSK, len(ALPHAS)) <= MAX_NUMBERS


@dataclass(frozen=True)
class SummaryRidge:
    """scikit-learn's ridge regression of a number on the scaled `sequence_features`; alpha by leave-one-out."""

    weight_P: Tensor
    bias: float

    @classmethod
    def fit(cls, sequences: Iterable[Array], y_W: Array) -> Self:
        """Learn from sequences (T, F), each of its own length, and their numbers; errors as `sequence_features`."""
        from sklearn.linear_model import RidgeCV  # seconds; no types
        from sklearn.preprocessing import StandardScaler

        features_WP = sequence_features(sequences).numpy()
        scaler = StandardScaler().fit(features_WP)
        fitted = RidgeCV(ALPHAS).fit(scaler.transform(features_WP), _tensor(y_W).double().numpy())
        weight_P = torch.from_numpy(fitted.coef_ / scaler.scale_)
        return cls(weight_P, float(fitted.intercept_) - float(torch.from_numpy(scaler.mean_) @ weight_P))

    def predict(self, sequences: Iterable[Array]) -> Tensor:
        """Numbers, (W)."""
        return (sequence_features(sequences) @ self.weight_P + self.bias).float()


def majority_class(train_labels: Array, windows: int, classes: int) -> Tensor:
    """The same log-probabilities (W, C) for all: the classes' shares in the training part, each counted once more than
    it occurs (Laplace's rule), for one that is missing there may come later. A label not in 0 to C - 1: ValueError.
    """
    counts_C = _counts(_tensor(train_labels), classes) + 1
    return (counts_C / counts_C.sum()).log().expand(windows, -1)


@dataclass(frozen=True)
class LogisticRegression:
    """scikit-learn's logistic regression (L2, C = 1) on the scaled `sequence_features`, P of them, for M classes.

    A class that does not occur in the training part gets the probability it would have had it occurred once.
    """

    weight_PM: Tensor
    bias_M: Tensor
    counts_C: Tensor

    @classmethod
    def fit(cls, sequences: Iterable[Array], labels_W: Array, classes: int) -> Self:
        """Learn from sequences (T, F), each of its own length, and their classes.

        Raises:
            ValueError: if a label is not one of 0 to C - 1, all are the same, or there are not as many as sequences;
                or as `sequence_features`.
        """
        from sklearn.linear_model import LogisticRegression as Fitted  # seconds; no types
        from sklearn.preprocessing import StandardScaler

        labels = _tensor(labels_W)
        counts_C = _counts(labels, classes)
        if (counts_C > 0).sum() < 2:
            raise ValueError("the training sequences are all of one class: a logistic regression needs two or more")
        features_WP = sequence_features(sequences).numpy()
        if len(features_WP) != len(labels):
            raise ValueError(f"{len(features_WP)} sequences and {len(labels)} labels: each sequence needs one")
        scaler = StandardScaler().fit(features_WP)
        fitted = Fitted(max_iter=10_000).fit(scaler.transform(features_WP), labels.numpy())
        weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
        if len(weight) == 1:  # of two classes scikit-learn has the odds of the second only
            weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
        weight_PM = (weight / torch.from_numpy(scaler.scale_)).T
        return cls(weight_PM, bias - torch.from_numpy(scaler.mean_) @ weight_PM, counts_C)

    def predict(self, sequences: Iterable[Array]) -> Tensor:
        """Log-probabilities (W, C)."""
        known_WM = functional.log_softmax(sequence_features(sequences) @ self.weight_PM + self.bias_M, dim=1)
        occurs_C = self.counts_C > 0
        total = self.counts_C.sum() + (~occurs_C).sum()
        result_WC = (1 / total).log().repeat(len(known_WM), len(occurs_C))
        result_WC[:, occurs_C] = known_WM + (self.counts_C.sum() / total).log()
        return result_WC


def sequence_features(sequences: Iterable[Array]) -> Tensor:
    """Of each sequence (T, F) the mean, standard deviation (of all T), first, last, least and greatest value of every
    feature, (W, 6 F), float64: what does not depend on its length.

    Raises:
        ValueError: if there are no sequences, or one has no steps or holds NaN or infinity.
    """
    rows = []
    for index, sequence in enumerate(sequences):
        x_TF = _tensor(sequence).double()
        if not len(x_TF) or not x_TF.isfinite().all():
            raise ValueError(f"sequence {index} " + ("holds NaN or infinity" if len(x_TF) else "has no steps"))
        spread_F = x_TF.std(0, correction=0)
        rows.append(torch.cat([x_TF.mean(0), spread_F, x_TF[0], x_TF[-1], x_TF.amin(0), x_TF.amax(0)]))
    if not rows:
        raise ValueError("no sequences")
    return torch.stack(rows)


class _Moments(NamedTuple):
    """Means, and sums of products of what is left without them, of all the windows seen."""

    x_P: Tensor
    y_Q: Tensor
    xx_PP: Tensor
    xy_PQ: Tensor
    targets: int

    def solve(self, alpha: float) -> tuple[Tensor, Tensor]:
        penalty_PP = torch.diag_embed(self.x_P.new_full(self.x_P.shape, alpha))
        weight_PQ = torch.cholesky_solve(self.xy_PQ, torch.linalg.cholesky(self.xx_PP + penalty_PP))
        return weight_PQ, self.y_Q - self.x_P @ weight_PQ


def _moments(batches: Iterable[Batch], candidates: int) -> _Moments:
    """Sum up, each part about its own mean, which keeps the digits. Source: Chan, Golub and LeVeque 1983."""
    found: _Moments | None = None
    seen = 0
    for x, y in batches:
        for x_WTF, y_WSK in _split(x, y):
            found = found or _empty_moments(x_WTF, y_WSK, candidates)
            x_WP, y_WQ = x_WTF.flatten(1).double(), y_WSK.flatten(1).double()
            away_P, away_Q = x_WP.mean(0) - found.x_P, y_WQ.mean(0) - found.y_Q
            share, seen = len(x_WP) / (seen + len(x_WP)), seen + len(x_WP)
            between = share * (seen - len(x_WP))
            x_WP, y_WQ = x_WP - x_WP.mean(0), y_WQ - y_WQ.mean(0)
            found.xx_PP.addmm_(x_WP.T, x_WP).addr_(away_P, away_P, alpha=between)
            found.xy_PQ.addmm_(x_WP.T, y_WQ).addr_(away_P, away_Q, alpha=between)
            found.x_P.add_(away_P, alpha=share)
            found.y_Q.add_(away_Q, alpha=share)
    if found is None:
        raise ValueError("ridge: no training windows")
    if not found.x_P.isfinite().all() or not found.y_Q.isfinite().all():
        raise ValueError("ridge: the training windows hold NaN or infinity")
    return found


def _memory_needed(x_WTF: Array, y_WSK: Array, candidates: int) -> int:
    """How many numbers the sums and the weights of so many candidates are."""
    P, Q = x_WTF.shape[1] * x_WTF.shape[2], y_WSK.shape[1] * y_WSK.shape[2]
    return int(P * (P + (candidates + 1) * Q))


def _empty_moments(x_WTF: Tensor, y_WSK: Tensor, candidates: int) -> _Moments:
    """Of no windows, if moments and weights of this size may be held."""
    (_, T, F), (_, S, K) = x_WTF.shape, y_WSK.shape
    if (numbers := _memory_needed(x_WTF, y_WSK, candidates)) > MAX_NUMBERS:
        raise ValueError(
            f"ridge: from {T} steps of {F} features to {S} steps of {K} targets it holds {numbers:,} numbers, and "
            f"{MAX_NUMBERS:,} is the most: a shorter context or horizon, or fewer features, may do"
        )
    zeros = x_WTF.new_zeros(T * F, T * F + S * K + 1, dtype=torch.float64)
    xx_PP, xy_PQ = zeros[:, : T * F].clone(), zeros[:, T * F : -1].clone()
    return _Moments(zeros[:, -1].clone(), xy_PQ[0].clone(), xx_PP, xy_PQ, K)


def _split(x: Array, y: Array) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(_tensor(x), CHUNK_SIZE), torch.split(_tensor(y), CHUNK_SIZE), strict=True)


def _counts(labels: Tensor, classes: int) -> Tensor:
    """How often each class occurs, (C), float64."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise ValueError(
            f"label {labels[wrong][0].item()}: with {classes} classes it must be one of 0 to {classes - 1}"
        )
    return torch.bincount(labels.long(), minlength=classes).double()


def _tensor(array: Array) -> Tensor:
    """As it is, or sharing the array's memory; one that is read-only or not contiguous is copied, as torch wants it."""
    return array.detach() if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements=["C", "W"]))
