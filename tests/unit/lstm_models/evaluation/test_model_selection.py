"""Which model to use, and whether it becomes champion: exactly, and within the noise."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_models.evaluation.model_selection import Verdict, select_champion, wilson_interval


@dataclass(frozen=True)
class Judged:
    name: str
    loss: float
    parameters: int = 1
    data: str = "this"


class Within:
    """By how much a loss must differ to be told from another, on the same data; keeps what was asked."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.asked: list[tuple[Judged, Judged]] = []
        self.margins: list[float] = []

    def __call__(self, one: Judged, other: Judged, margin: float) -> Verdict:
        self.asked.append((one, other))
        self.margins.append(margin)
        noise = self.noise + margin * other.loss
        if one.data != other.data:
            return "not significant"
        return (
            "better"
            if one.loss < other.loss - noise
            else "worse"
            if one.loss > other.loss + noise
            else "not significant"
        )


def best(candidates: list[Judged], noise: float = 0.0) -> Judged:
    return select_champion(candidates, None, Within(noise))[0]


def takes_over(candidates: list[Judged], incumbent: Judged | None, noise: float = 0.0) -> bool:
    return select_champion(candidates, incumbent, Within(noise))[1]


# ---- which to use
def test_the_lowest_loss_is_best_of_equals_the_first() -> None:
    low, middle, high = Judged("low", 0.1, 9), Judged("middle", 0.2, 5), Judged("high", 0.3, 1)
    for order in ([low, middle, high], [high, low, middle], [middle, high, low]):
        assert best(order) is low
    a, b = Judged("a", 0.1), Judged("b", 0.1)
    assert [best([a, b]), best([b, a]), best([high, b, a])] == [a, b, b]
    only = Judged("only", float("inf"))
    assert select_champion([only], None, Within()) == (only, True)


def test_of_those_that_can_not_be_told_apart_from_the_lowest_the_smallest_is_best() -> None:
    large, medium, small = Judged("large", 0.10, 300), Judged("medium", 0.11, 200), Judged("small", 0.12, 100)
    for order in ([large, medium, small], [small, medium, large]):
        assert best(order, noise=0.05) is small
        assert best(order, noise=0.015) is medium  # small is worse than the lowest, if not than medium
        assert best(order, noise=0.005) is large
    # a chain of neighbours that can't be told apart does not lead away from the lowest
    chain = [Judged(str(n), n / 10, parameters=10 - n) for n in range(10)]
    assert best(chain, noise=0.15).name == "1"


# ---- whether it takes over
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
    champion = None if incumbent is None else Judged("champion", incumbent, data="this" if same_data else "other")
    assert takes_over([Judged("new", candidate)], champion) is expected


def test_within_the_noise_the_incumbent_stays() -> None:
    for noise, expected in ((0.0, True), (0.09, True), (0.11, False)):
        assert takes_over([Judged("new", 0.5)], Judged("champion", 0.6), noise) is expected
    small = Judged("small", 0.5, 1)  # even against one that is smaller
    assert select_champion([small], Judged("champion", 0.5, 1000), Within(0.1)) == (small, False)


def test_it_is_the_one_to_use_that_is_held_against_the_incumbent() -> None:
    """The lowest would be told to be better than the champion, the smaller one, level with the lowest, is not."""
    lowest, small, champion = Judged("lowest", 0.10, 300), Judged("small", 0.18, 100), Judged("champion", 0.25)
    assert select_champion([lowest, small], champion, Within(0.1)) == (small, False)
    assert select_champion([lowest], champion, Within(0.1)) == (lowest, True)


# ---- by how much it has to be better
@pytest.mark.parametrize(
    ("candidate", "margin", "expected"),
    [
        (7.0, 0.0, True),
        (7.0, 0.0625, True),
        (7.0, 0.125, False),  # by that share and no more
        (7.0, 0.25, False),
        (4.5, 0.5, False),  # half of the incumbent's 8 is 4, whatever half of the newcomer's is
        (3.5, 0.5, True),
        (8.0, 0.0, False),
        (0.0, 0.875, True),
    ],
)
def test_the_incumbent_stays_unless_the_newcomer_is_better_by_a_share_of_the_incumbents_loss(
    candidate: float, margin: float, expected: bool
) -> None:
    found = select_champion([Judged("new", candidate)], Judged("champion", 8.0), Within(), margin)
    assert found == (Judged("new", candidate), expected)


def test_the_margin_comes_on_top_of_the_noise_and_is_no_help_on_other_data() -> None:
    new, champion = Judged("new", 6.0), Judged("champion", 8.0)
    assert select_champion([new], champion, Within(0.5), 0.125) == (new, True)
    assert select_champion([new], champion, Within(1.0), 0.125) == (new, False)
    assert select_champion([new], None, Within(), 0.5) == (new, True)
    assert select_champion([new], Judged("champion", 8.0, data="other"), Within(), 0.0) == (new, False)


def test_the_margin_is_asked_of_the_incumbent_alone() -> None:
    """Among candidates a hair's breadth counts, as ever."""
    verdict = Within()
    a, b, champion = Judged("a", 0.5, 300), Judged("b", 0.625, 100), Judged("champion", 8.0)
    assert select_champion([a, b], champion, verdict, 0.5) == (a, True)
    assert list(zip(verdict.asked, verdict.margins, strict=True)) == [((a, a), 0), ((a, b), 0), ((a, champion), 0.5)]
    alone = Within()
    select_champion([a, b], None, alone)
    assert alone.asked == [(a, a), (a, b)]


judged = st.builds(
    Judged, st.sampled_from("abc"), st.integers(0, 8).map(lambda n: n / 8), st.integers(1, 4), st.just("this")
)


@given(
    candidates=st.lists(judged, min_size=1, max_size=6),
    champion=st.none() | judged,
    noise=st.integers(0, 4).map(lambda n: n / 8),
    margin=st.integers(0, 7).map(lambda n: n / 8),
)
@settings(max_examples=100)  # cheap, and of many combinations
def test_the_rule_for_any_candidates(
    candidates: list[Judged], champion: Judged | None, noise: float, margin: float
) -> None:
    found, takes = select_champion(candidates, champion, Within(noise), margin)
    assert found is select_champion(candidates, None, Within(noise))[0]
    least = min(one.loss for one in candidates)
    level = [one for one in candidates if one.loss - least <= noise]
    smallest = [one for one in level if one.parameters == min(each.parameters for each in level)]
    lowest = min(one.loss for one in smallest)
    assert found is next(one for one in smallest if one.loss == lowest)  # of equals the first
    assert takes == (champion is None or champion.loss - found.loss > noise + margin * champion.loss)
    assert select_champion(candidates, champion, Within(noise), 0.0) == select_champion(
        candidates, champion, Within(noise)
    )


# ---- the interval of a share
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


def test_an_interval_of_a_share_reaches_0_and_1_and_mirrors_that_of_the_rest() -> None:
    for trials in (1, 8, 64):
        assert (wilson_interval(0, trials)[0], wilson_interval(trials, trials)[1]) == (0, 1)
    low, high = wilson_interval(5, 8)
    assert wilson_interval(3, 8) == pytest.approx((1 - high, 1 - low), rel=0, abs=1e-15)
