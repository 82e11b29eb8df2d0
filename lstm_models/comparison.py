"""Which of several evaluated models is best, and who is to be champion."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Judged(Protocol):
    """Anything with metrics."""

    @property
    def metrics(self) -> dict[str, float]: ...


T = TypeVar("T", bound=Judged)


def best(judged: Sequence[T]) -> T:
    """The one with the lowest mean squared error; of equals, the first."""
    return min(judged, key=lambda one: one.metrics["mse"])


def takes_over(candidate_mse: float, incumbent_mse: float | None, *, same_data: bool) -> bool:
    """Whether a candidate becomes champion in place of the incumbent.

    Errors can be compared only where they were measured on the same data. So the candidate takes over where there is
    no incumbent, and where, on the same data, its error is lower; a tie changes nothing.

    Args:
        candidate_mse: the candidate's mean squared error.
        incumbent_mse: the champion's, or None where there is no champion.
        same_data: whether both were judged on data with the same digest.
    """
    return incumbent_mse is None or (same_data and candidate_mse < incumbent_mse)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, from how often something was seen in so many trials.

    Source: Wilson 1927. It stays within 0 and 1, and is of use for few trials and for shares of 0 and 1 too.
    """
    from scipy.stats import binomtest  # half a second, for those who have copies

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
