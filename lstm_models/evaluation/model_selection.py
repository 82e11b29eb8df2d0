"""Selection of the best model, and the decision whether it becomes champion."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["better", "worse", "not significant"]


class Score(BaseModel):
    """Loss on a dataset's test part, by which models are compared.

    Attributes:
        low: The lower end of the 95 % interval of the loss on other data of the same kind; None in sample, or if there
            are too few examples.
        high: Its upper end.
        parameters: The number of trained parameters.
        block: The number of neighbouring losses that are resampled together for an interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: float = Field(description="the comparison's metric")
    low: float | None = None
    high: float | None = None
    parameters: int
    dataset: str = Field(description="its digest")
    losses_uri: str | None = Field(None, description="a Parquet table with each example's loss; none: in sample")
    block: int = 1


T = TypeVar("T", bound=Score)


def select_champion(
    candidates: Sequence[T],
    incumbent: T | None,
    verdict: Callable[[T, T, float], Verdict],
    min_improvement: float = 0.0,
) -> tuple[T, bool]:
    """Return the best candidate, and whether it becomes champion.

    The best candidate has the fewest parameters among those that the candidate with the lowest loss is not
    significantly better than. Ties are broken by the lower loss, then by the order of the candidates. It becomes
    champion if there is no incumbent, or if it is significantly better than the incumbent by `min_improvement`. The
    incumbent stays if the difference is not significant or the two were evaluated on different data.

    Args:
        candidates: At least one.
        incumbent: The champion; None if there is none.
        verdict: Compares its first argument with its second by their losses on the same examples. It returns "not
            significant" if the examples differ, or if the losses differ by less than the third argument's share of
            the second one's loss.
        min_improvement: The share of the incumbent's loss by which the best candidate must be better.
    """
    lowest = min(candidates, key=lambda candidate: candidate.loss)
    tied = [candidate for candidate in candidates if verdict(lowest, candidate, 0.0) != "better"]
    best = min(tied, key=lambda candidate: (candidate.parameters, candidate.loss))
    return best, incumbent is None or verdict(best, incumbent, min_improvement) == "better"


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion, from a number of successes in a number of trials.

    It lies within 0 and 1, and is valid for few trials and for proportions of 0 and 1 too. Source: Wilson 1927.
    """
    from scipy.stats import binomtest  # imported here because it takes half a second

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
