"""Who is best, and who takes over."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import pytest

from lstm_models.comparison import best, takes_over, wilson_interval


@dataclass(frozen=True)
class Judged:
    name: str
    metrics: dict[str, float]


def judged(name: str, mse: float, mae: float = 0.0) -> Judged:
    return Judged(name, {"mse": mse, "mae": mae})


def test_the_lowest_mean_squared_error_is_best_wherever_it_stands() -> None:
    low, middle, high = judged("low", 0.1, mae=9.0), judged("middle", 0.2, mae=1.0), judged("high", 0.3, mae=0.5)
    for order in ([low, middle, high], [high, low, middle], [middle, high, low]):
        assert best(order) is low


def test_of_equals_the_first_is_best() -> None:
    a, b = judged("a", 0.1), judged("b", 0.1)
    assert best([a, b]) is a
    assert best([b, a]) is b
    assert best([judged("c", 0.2), b, a]) is b


def test_the_only_one_is_best() -> None:
    only = judged("only", float("inf"))
    assert best([only]) is only


@pytest.mark.parametrize(
    ("candidate", "incumbent", "same_data", "expected"),
    [
        (0.5, None, True, True),
        (0.5, None, False, True),
        (0.5, 0.6, True, True),
        (0.5, 0.5, True, False),
        (0.5, 0.4, True, False),
        (0.5, 0.6, False, False),
        (0.5, 0.5, False, False),
        (0.5, 0.4, False, False),
        (0.5, 0.0, True, False),  # an error of 0 is an incumbent, not the lack of one
        (0.0, 0.0, True, False),
        (float("nan"), 0.5, True, False),
        (float("inf"), 0.5, True, False),
    ],
)
def test_a_candidate_takes_over_where_there_is_no_incumbent_or_where_it_is_better_on_the_same_data(
    candidate: float, incumbent: float | None, same_data: bool, expected: bool
) -> None:
    assert takes_over(candidate, incumbent, same_data=same_data) is expected


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [  # as printed, to four digits, in the first table of Newcombe 1998, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_an_interval_of_a_share_is_the_published_one(
    successes: int, trials: int, interval: tuple[float, float]
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(interval, rel=0, abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "trials"),
    [(0, 1), (1, 1), (0, 8), (8, 8), (1, 2), (5, 8), (63, 64), (37, 64), (1, 1000), (500, 1000)],
)
def test_an_interval_of_a_share_is_wilsons(successes: int, trials: int) -> None:
    """(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), with z = 1.96 or so."""
    z, p = NormalDist().inv_cdf(0.975), successes / trials
    middle = p + z**2 / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    expected = [(middle + side * half) / (1 + z**2 / trials) for side in (-1, 1)]
    low, high = wilson_interval(successes, trials)
    assert [low, high] == pytest.approx(expected, rel=0, abs=1e-12)
    assert type(low) is type(high) is float
    assert 0 <= low <= p <= high <= 1


@pytest.mark.parametrize("trials", [1, 8, 64])
def test_an_interval_reaches_0_where_nothing_and_1_where_all_was_seen(trials: int) -> None:
    assert wilson_interval(0, trials)[0] == 0
    assert wilson_interval(trials, trials)[1] == 1


def test_intervals_of_a_share_and_of_the_rest_mirror_each_other() -> None:
    low, high = wilson_interval(5, 8)
    assert wilson_interval(3, 8) == pytest.approx((1 - high, 1 - low), rel=0, abs=1e-15)
