"""Who is best, and who takes over."""

from dataclasses import dataclass

import pytest

from lstm_models.comparison import best, takes_over


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
