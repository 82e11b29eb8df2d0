"""Which of several judged models to use, and whether it is to be champion: the one place that decides."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

Verdict = Literal["better", "worse", "not significant"]


class Score(Protocol):
    """Anything with an error and a size."""

    @property
    def loss(self) -> float: ...
    @property
    def parameters(self) -> int: ...


T = TypeVar("T", bound=Score)


def select_champion(
    candidates: Sequence[T],
    incumbent: T | None,
    verdict: Callable[[T, T, float], Verdict],
    min_improvement: float = 0.0,
) -> tuple[T, bool]:
    """The candidate to use, and whether it becomes champion.

    To use is the one with the lowest loss; or a smaller one, if it can't be told that the lowest is better than it; of
    equally small ones the lowest, of equals the first. It becomes champion where there is no incumbent, or where it is
    better than the incumbent by the margin: inside it, inside the noise, and where both were judged on different data,
    the incumbent stays.

    Args:
        candidates: at least one.
        incumbent: the champion, or None where there is none.
        verdict: what its first argument is compared with its second, by their losses on the same examples; "can't
            tell" where the examples differ, or where the losses differ by less than the third argument's share of the
            second one's.
        min_improvement: the share of the incumbent's loss by which a newcomer must be better.
    """
    lowest = min(candidates, key=lambda one: one.loss)
    level = [one for one in candidates if verdict(lowest, one, 0.0) != "better"]
    best = min(level, key=lambda one: (one.parameters, one.loss))
    return best, incumbent is None or verdict(best, incumbent, min_improvement) == "better"


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, from how often something was seen in so many trials.

    Source: Wilson 1927. It stays within 0 and 1, and is of use for few trials and for shares of 0 and 1 too.
    """
    from scipy.stats import binomtest  # half a second, for those who have copies

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
