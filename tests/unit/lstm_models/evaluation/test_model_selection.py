"""Selection of the best model and of the champion, for exact differences and for differences with noise."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lstm_models.evaluation.model_selection import Score, Verdict, select_champion, wilson_interval


class NamedScore(Score):
    """A score with a name, which makes it distinct."""

    name: str


def score(name: str, loss: float, parameters: int = 1, dataset: str = "this") -> NamedScore:
    return NamedScore(name=name, loss=loss, parameters=parameters, dataset=dataset)


class Comparison:
    """Verdicts for losses on the same data, significant beyond a noise level; records the arguments of each call."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.pairs: list[tuple[NamedScore, NamedScore]] = []
        self.margins: list[float] = []

    def __call__(self, a: NamedScore, b: NamedScore, margin: float) -> Verdict:
        self.pairs.append((a, b))
        self.margins.append(margin)
        noise = self.noise + margin * b.loss
        if a.dataset != b.dataset:
            return "not significant"
        return "better" if a.loss < b.loss - noise else "worse" if a.loss > b.loss + noise else "not significant"


def best(candidates: list[NamedScore], noise: float = 0.0) -> NamedScore:
    return select_champion(candidates, None, Comparison(noise))[0]


def is_promoted(candidates: list[NamedScore], incumbent: NamedScore | None, noise: float = 0.0) -> bool:
    return select_champion(candidates, incumbent, Comparison(noise))[1]


def test_a_score_is_frozen_rejects_other_fields_and_survives_a_json_round_trip() -> None:
    found = Score(loss=0.1, parameters=3, dataset="d")
    with pytest.raises(ValidationError, match="frozen"):
        found.loss = 0.2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Score.model_validate({"loss": 0.1, "parameters": 3, "dataset": "d", "extra": 1})
    assert Score.model_validate_json(found.model_dump_json()) == found


# ---- the best candidate
def test_the_lowest_loss_is_best_and_of_a_tie_the_first() -> None:
    low, middle, high = score("low", 0.1, 9), score("middle", 0.2, 5), score("high", 0.3, 1)
    for order in ([low, middle, high], [high, low, middle], [middle, high, low]):
        assert best(order) is low
    a, b = score("a", 0.1), score("b", 0.1)
    assert [best([a, b]), best([b, a]), best([high, b, a])] == [a, b, b]
    only = score("only", float("inf"))
    assert select_champion([only], None, Comparison()) == (only, True)


def test_of_those_not_significantly_worse_than_the_lowest_the_smallest_is_best() -> None:
    large, medium, small = score("large", 0.10, 300), score("medium", 0.11, 200), score("small", 0.12, 100)
    for order in ([large, medium, small], [small, medium, large]):
        assert best(order, noise=0.05) is small
        assert best(order, noise=0.015) is medium  # small is worse than the lowest, though not than medium
        assert best(order, noise=0.005) is large
    # a chain of neighbours without significant differences does not lead away from the lowest
    chain = [score(str(n), n / 10, parameters=10 - n) for n in range(10)]
    assert best(chain, noise=0.15).name == "1"


# ---- the promotion
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
        (0.5, 0.0, True, False),  # a loss of 0 is not a missing incumbent
        (0.0, 0.0, True, False),
        (float("nan"), 0.5, True, False),
        (float("inf"), 0.5, True, False),
    ],
)
def test_a_candidate_is_promoted_without_an_incumbent_or_if_it_is_better_on_the_same_data(
    candidate: float, incumbent: float | None, same_data: bool, expected: bool
) -> None:
    champion = None if incumbent is None else score("champion", incumbent, dataset="this" if same_data else "other")
    assert is_promoted([score("new", candidate)], champion) is expected


def test_the_incumbent_stays_if_the_difference_is_not_significant() -> None:
    for noise, expected in ((0.0, True), (0.09, True), (0.11, False)):
        assert is_promoted([score("new", 0.5)], score("champion", 0.6), noise) is expected
    small = score("small", 0.5, 1)  # although it is smaller than the incumbent
    assert select_champion([small], score("champion", 0.5, 1000), Comparison(0.1)) == (small, False)


def test_the_best_candidate_is_compared_with_the_incumbent() -> None:
    """The lowest loss is significantly better than the champion's, that of the smaller model tied with it is not."""
    lowest, small, champion = score("lowest", 0.10, 300), score("small", 0.18, 100), score("champion", 0.25)
    assert select_champion([lowest, small], champion, Comparison(0.1)) == (small, False)
    assert select_champion([lowest], champion, Comparison(0.1)) == (lowest, True)


# ---- min_improvement
@pytest.mark.parametrize(
    ("candidate", "margin", "expected"),
    [
        (7.0, 0.0, True),
        (7.0, 0.0625, True),
        (7.0, 0.125, False),  # exactly by that share
        (7.0, 0.25, False),
        (4.5, 0.5, False),  # half of the incumbent's 8 is 4, not half of the candidate's
        (3.5, 0.5, True),
        (8.0, 0.0, False),
        (0.0, 0.875, True),
    ],
)
def test_the_incumbent_stays_unless_the_candidate_is_better_by_a_share_of_the_incumbents_loss(
    candidate: float, margin: float, expected: bool
) -> None:
    found = select_champion([score("new", candidate)], score("champion", 8.0), Comparison(), margin)
    assert found == (score("new", candidate), expected)


def test_min_improvement_adds_to_the_noise_and_does_not_apply_to_other_data() -> None:
    new, champion = score("new", 6.0), score("champion", 8.0)
    assert select_champion([new], champion, Comparison(0.5), 0.125) == (new, True)
    assert select_champion([new], champion, Comparison(1.0), 0.125) == (new, False)
    assert select_champion([new], None, Comparison(), 0.5) == (new, True)
    assert select_champion([new], score("champion", 8.0, dataset="other"), Comparison(), 0.0) == (new, False)


def test_min_improvement_applies_to_the_incumbent_only() -> None:
    """Among candidates, any significant difference counts."""
    verdict = Comparison()
    a, b, champion = score("a", 0.5, 300), score("b", 0.625, 100), score("champion", 8.0)
    assert select_champion([a, b], champion, verdict, 0.5) == (a, True)
    assert list(zip(verdict.pairs, verdict.margins, strict=True)) == [((a, a), 0), ((a, b), 0), ((a, champion), 0.5)]
    alone = Comparison()
    select_champion([a, b], None, alone)
    assert alone.pairs == [(a, a), (a, b)]


scores = st.builds(
    score, st.sampled_from("abc"), st.integers(0, 8).map(lambda n: n / 8), st.integers(1, 4), st.just("this")
)


@given(
    candidates=st.lists(scores, min_size=1, max_size=6),
    champion=st.none() | scores,
    noise=st.integers(0, 4).map(lambda n: n / 8),
    margin=st.integers(0, 7).map(lambda n: n / 8),
)
@settings(max_examples=100)  # fast, with many combinations
def test_the_rule_for_any_candidates(
    candidates: list[NamedScore], champion: NamedScore | None, noise: float, margin: float
) -> None:
    found, promoted = select_champion(candidates, champion, Comparison(noise), margin)
    assert found is select_champion(candidates, None, Comparison(noise))[0]
    least = min(candidate.loss for candidate in candidates)
    tied = [candidate for candidate in candidates if candidate.loss - least <= noise]
    size = min(candidate.parameters for candidate in tied)
    smallest = [candidate for candidate in tied if candidate.parameters == size]
    lowest = min(candidate.loss for candidate in smallest)
    assert found is next(candidate for candidate in smallest if candidate.loss == lowest)  # of a tie the first
    assert promoted == (champion is None or champion.loss - found.loss > noise + margin * champion.loss)
    assert select_champion(candidates, champion, Comparison(noise), 0.0) == select_champion(
        candidates, champion, Comparison(noise)
    )


# ---- the interval of a proportion
@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [  # Newcombe 1998, table 1, method 3, to four digits
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_intervals_equal_the_published_ones(successes: int, trials: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(interval, rel=0, abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "trials"),
    [(0, 1), (1, 1), (0, 8), (8, 8), (1, 2), (5, 8), (63, 64), (37, 64), (1, 1000), (500, 1000)],
)
def test_wilson_intervals_equal_the_formula(successes: int, trials: int) -> None:
    """(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), where z is about 1.96."""
    z, p = NormalDist().inv_cdf(0.975), successes / trials
    middle = p + z**2 / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    expected = [(middle + side * half) / (1 + z**2 / trials) for side in (-1, 1)]
    low, high = wilson_interval(successes, trials)
    assert [low, high] == pytest.approx(expected, rel=0, abs=1e-12)
    assert type(low) is type(high) is float
    assert 0 <= low <= p <= high <= 1


def test_wilson_intervals_reach_0_and_1_and_are_symmetric() -> None:
    for trials in (1, 8, 64):
        assert (wilson_interval(0, trials)[0], wilson_interval(trials, trials)[1]) == (0, 1)
    low, high = wilson_interval(5, 8)
    assert wilson_interval(3, 8) == pytest.approx((1 - high, 1 - low), rel=0, abs=1e-15)
