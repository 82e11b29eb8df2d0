"""Ridge regression from a window to its forecast, fitted batch by batch.

Shapes: W windows, T steps of context, F features, S horizon steps, K targets; P = T F inputs, Q = S K outputs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
MAX_NUMBERS = 250_000_000  # numbers, 2 GB in float64, that a ridge regression may hold
CHUNK_SIZE = 4096  # windows that are converted to float64 at once

Array = Tensor | npt.NDArray[Any]
Batch = tuple[Array, Array]  # x (W, T, F), y (W, S, K)


@dataclass(frozen=True)
class Ridge:
    """Linear map with an L2 penalty from all P numbers of a window to all Q numbers of its forecast.

    alpha is the candidate with the lowest mean squared error on the validation windows. As in scikit-learn, alpha
    weighs the sum of the squared weights against the sum of the squared errors, and the bias is not penalised.

    The weights solve (X'X + alpha 1) B = X'Y for centred data. X'X and X'Y are summed batch by batch in float64, so
    that all training windows are used, whatever their number, in a single pass. scikit-learn's Ridge solves the same
    equations, but needs all windows at once. X'X squares the condition number, which is large for overlapping windows;
    but the eigenvalues are at most P times the number of windows, about 10^9, and an alpha of 0.1 or more bounds them
    from below, so that at worst six of float64's sixteen digits remain.
    """

    alpha: float
    weight_PQ: Tensor
    bias_Q: Tensor
    targets: int

    @classmethod
    def fit(cls, training: Iterable[Batch], validation: Iterable[Batch], alphas: tuple[float, ...] = ALPHAS) -> Self:
        """Fit to batches (x, y), whose features must have similar scales because they share one penalty.

        Args:
            training: Batches of windows, iterated over once.
            validation: Batches of other windows, which select alpha, iterated over once.
            alphas: The candidates, above 0; the first one of a tie is selected.

        Raises:
            ValueError: If there are no windows, a number in them is not finite, an alpha is not above 0, or the windows
                are so large that more than MAX_NUMBERS numbers would be held.
        """
        if not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas are {', '.join(map(str, alphas)) or 'none'}: one or more above 0 are needed")
        moments = _moments(training, len(alphas))
        candidates = [cls(alpha, *moments.solve(alpha), moments.targets) for alpha in alphas]
        squares = torch.zeros(len(alphas), dtype=torch.float64)
        count = 0
        for x, y in validation:
            for x_WTF, y_WSK in _split(x, y):
                for index, candidate in enumerate(candidates):
                    squares[index] += (candidate.predict(x_WTF) - y_WSK).double().square().sum().cpu()
                count += len(x_WTF)
        if not count or not squares.isfinite().all():
            raise ValueError(
                "ridge: " + ("the validation windows contain NaN or infinity" if count else "no validation windows")
            )
        return candidates[int(squares.argmin())]

    def predict(self, x_WTF: Array) -> Tensor:
        """Return the forecasts, (W, S, K), in the units of the y that it was fitted to."""
        windows = as_tensor(x_WTF)
        parts = [part.flatten(1).double() @ self.weight_PQ + self.bias_Q for part in torch.split(windows, CHUNK_SIZE)]
        return torch.cat(parts).view(len(windows), -1, self.targets).to(windows.dtype)


def ridge_is_feasible(x_WTF: Array, y_WSK: Array) -> bool:
    """Return whether windows of these shapes are small enough for `Ridge`."""
    return _memory_needed(x_WTF, y_WSK, len(ALPHAS)) <= MAX_NUMBERS


def as_tensor(array: Array) -> Tensor:
    """Return the array as a tensor that shares its memory, or a copy if it is read-only or not contiguous."""
    return array.detach() if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements=["C", "W"]))


class _Moments(NamedTuple):
    """Means of all windows, and sums of products of their deviations from these means."""

    x_P: Tensor
    y_Q: Tensor
    xx_PP: Tensor
    xy_PQ: Tensor
    targets: int

    def solve(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Return the weights and the bias for this penalty."""
        penalty_PP = torch.diag_embed(self.x_P.new_full(self.x_P.shape, alpha))
        weight_PQ = torch.cholesky_solve(self.xy_PQ, torch.linalg.cholesky(self.xx_PP + penalty_PP))
        return weight_PQ, self.y_Q - self.x_P @ weight_PQ


def _moments(batches: Iterable[Batch], candidates: int) -> _Moments:
    """Accumulate the moments, each chunk about its mean for precision. Source: Chan, Golub and LeVeque 1983."""
    moments: _Moments | None = None
    count = 0
    for x, y in batches:
        for x_WTF, y_WSK in _split(x, y):
            moments = moments or _empty_moments(x_WTF, y_WSK, candidates)
            x_WP, y_WQ = x_WTF.flatten(1).double(), y_WSK.flatten(1).double()
            delta_P, delta_Q = x_WP.mean(0) - moments.x_P, y_WQ.mean(0) - moments.y_Q
            share, count = len(x_WP) / (count + len(x_WP)), count + len(x_WP)
            between = share * (count - len(x_WP))
            x_WP, y_WQ = x_WP - x_WP.mean(0), y_WQ - y_WQ.mean(0)
            moments.xx_PP.addmm_(x_WP.T, x_WP).addr_(delta_P, delta_P, alpha=between)
            moments.xy_PQ.addmm_(x_WP.T, y_WQ).addr_(delta_P, delta_Q, alpha=between)
            moments.x_P.add_(delta_P, alpha=share)
            moments.y_Q.add_(delta_Q, alpha=share)
    if moments is None:
        raise ValueError("ridge: no training windows")
    if not moments.x_P.isfinite().all() or not moments.y_Q.isfinite().all():
        raise ValueError("ridge: the training windows contain NaN or infinity")
    return moments


def _memory_needed(x_WTF: Array, y_WSK: Array, candidates: int) -> int:
    """Return how many numbers the sums and the weights of all candidates have."""
    P, Q = x_WTF.shape[1] * x_WTF.shape[2], y_WSK.shape[1] * y_WSK.shape[2]
    return int(P * (P + (candidates + 1) * Q))


def _empty_moments(x_WTF: Tensor, y_WSK: Tensor, candidates: int) -> _Moments:
    """Return the moments of no windows, if these sizes are feasible."""
    (_, T, F), (_, S, K) = x_WTF.shape, y_WSK.shape
    if (numbers := _memory_needed(x_WTF, y_WSK, candidates)) > MAX_NUMBERS:
        raise ValueError(
            f"ridge: from {T} steps of {F} features to {S} steps of {K} targets it holds {numbers:,} numbers, more "
            f"than the maximum of {MAX_NUMBERS:,}; use a shorter context or horizon, or fewer features"
        )
    zeros = x_WTF.new_zeros(T * F, T * F + S * K + 1, dtype=torch.float64)
    xx_PP, xy_PQ = zeros[:, : T * F].clone(), zeros[:, T * F : -1].clone()
    return _Moments(zeros[:, -1].clone(), xy_PQ[0].clone(), xx_PP, xy_PQ, K)


def _split(x: Array, y: Array) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(as_tensor(x), CHUNK_SIZE), torch.split(as_tensor(y), CHUNK_SIZE), strict=True)
