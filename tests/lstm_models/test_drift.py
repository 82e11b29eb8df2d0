"""The two figures of a feature's drift: against SciPy, a plain loop and what can be reckoned by hand."""

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from lstm_models import drift as module
from lstm_models.drift import Drift, drift

few = settings(derandomize=True, deadline=None, max_examples=60)  # a shared machine may pause for longer
values = st.lists(st.integers(-20, 20), min_size=1, max_size=60)  # with many ties; exact in float32


def of(trained: object, new: object) -> Drift:
    return drift(np.array(trained, dtype=float), np.array(new, dtype=float))


def psi(trained: list[int], new: list[int]) -> float:
    """Bin by bin; a bin is called by the number of deciles that are not above it, and of frequent ones below it."""
    ordered = sorted(trained)
    times = Counter(ordered[len(ordered) * tenth // 10] for tenth in range(1, 10))
    deciles, often = sorted(times), sorted(value for value in times if times[value] > 1)
    shares = [
        Counter((bisect_right(deciles, value), bisect_left(often, value)) for value in some) for some in (trained, new)
    ]
    total = 0.0
    for place in set(shares[0]) | set(shares[1]):
        p, q = (max(share[place], 0.5) / share.total() for share in shares)
        total += (q - p) * math.log(q / p)
    return total


# ---- the population stability index
def test_the_index_by_hand() -> None:
    """A tenth of 0 to 99 in each bin; of the new rows 6 in the first, 2 in the second, 2 in the last."""
    new = [0, 1, 2, 3, 9, -7, 10, 19, 90, 500]
    expected = (0.6 - 0.1) * math.log(6) + 2 * (0.2 - 0.1) * math.log(2) + 7 * (0.05 - 0.1) * math.log(0.5)
    assert of(range(100), new).psi == pytest.approx(expected, rel=1e-12)


def test_shares_of_two_values_by_hand() -> None:
    """Three in four are 0, then one in four."""
    expected = 2 * (0.75 - 0.25) * math.log(3)
    assert of([0, 0, 0, 1] * 10, [0, 1, 1, 1] * 5).psi == pytest.approx(expected, rel=1e-12)


@given(trained=values, new=values)
@few
def test_the_index_is_a_plain_loops(trained: list[int], new: list[int]) -> None:
    found = of(trained, new).psi
    assert found == pytest.approx(psi(trained, new), rel=1e-9, abs=1e-12)
    assert math.isfinite(found)
    assert found >= 0


@pytest.mark.parametrize("rare", [0.0, 1.0])
def test_what_was_rare_is_noticed_once_it_is_frequent(rare: float) -> None:
    """One row in twenty: all deciles are the other value."""
    trained = np.where(np.arange(100) % 20 == 0, rare, 1 - rare)
    expected = (1 - 0.05) * math.log(1 / 0.05) + (0.05 - 0.95) * math.log(0.05 / 0.95)
    assert of(trained, [rare] * 10) == Drift(pytest.approx(expected, rel=1e-12), pytest.approx(0.95))


# ---- the Kolmogorov-Smirnov statistic
@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful")  # of the p-value
@given(trained=values, new=values)
@few
def test_the_statistic_is_scipys(trained: list[int], new: list[int]) -> None:
    expected = ks_2samp(trained, new, method="exact").statistic
    assert of(trained, new).ks == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("trained", "new", "expected"),
    [
        ([1, 2, 3], [4, 5], 1),
        ([4, 5], [1, 2, 3], 1),
        ([1], [1], 0),
        ([2, 1], [1, 1, 2, 2], 0),
        ([1, 2, 3, 4], [2, 3, 4, 5], 0.25),
    ],
)
def test_the_statistic_by_hand(trained: list[int], new: list[int], expected: float) -> None:
    assert of(trained, new).ks == expected


# ---- both
@given(some=values, times=st.integers(1, 4))
@few
def test_nothing_has_moved(some: list[int], times: int) -> None:
    """The same shares of more rows are the same shares, also where none is in a bin."""
    assert of(some, some) == Drift(0, 0)
    found = of(some, some * times)
    assert found.psi == pytest.approx(0, abs=1e-12)
    assert found.ks == pytest.approx(0, abs=1e-12)


@given(trained=values, new=values, factor=st.sampled_from([0.25, 1, 3, 1000]), shift=st.integers(-1000, 1000))
@few
def test_another_unit_changes_nothing(trained: list[int], new: list[int], factor: float, shift: int) -> None:
    assert of(np.array(trained) * factor + shift, np.array(new) * factor + shift) == of(trained, new)


@pytest.mark.parametrize("value", [0.0, -3.5, 0.1, 3e38])
def test_a_constant_stays_or_goes(value: float) -> None:
    assert of([value] * 100_000, [value] * 24) == Drift(0, 0)
    for other in (value / 2 - 1, value / 4 + 1):
        assert of([value] * 10, [other] * 5) == Drift(pytest.approx(0.95 * math.log(20) + 0.9 * math.log(10)), 1)
    half = of([value] * 10, [value, value - abs(value) / 2 - 1] * 5)
    assert half == Drift(pytest.approx(0.5 * math.log(2) + 0.45 * math.log(10)), 0.5)


def test_it_is_the_numbers_that_a_model_sees() -> None:
    """0.1 of a file and 0.1 of float32 are one number."""
    assert drift(np.full(20, 0.1, dtype=np.float32), np.full(10, 0.1)) == Drift(0, 0)
    assert drift(np.arange(20), np.arange(20.0)) == Drift(0, 0)


def test_of_many_rows_some_are_looked_at_whatever_the_season(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row in two would be the nights alone."""
    monkeypatch.setattr(module, "MOST", 1000)
    by_day = np.resize([0.0, 1.0], 2000)
    found = drift(by_day, np.array([0.0, 1.0] * 50))
    assert found.psi < 0.05
    assert found.ks < 0.1
    assert found == drift(by_day, np.array([0.0, 1.0] * 50))
    assert drift(by_day, by_day) == Drift(0, 0)


def test_the_values_are_left_as_they_are() -> None:
    trained, new = np.array([3, 1, 2], dtype=np.float32), np.array([2, 1], dtype=np.float32)
    drift(trained, new)
    assert (trained.tolist(), new.tolist()) == ([3, 1, 2], [2, 1])


@pytest.mark.parametrize(
    ("trained", "new", "text"),
    [
        ([], [1, 2], "0 training values and 2 new ones given: it takes some of both, all finite"),
        ([1, 2, 3], [], "3 training values and 0 new ones given: it takes some of both, all finite"),
        ([1, math.nan], [1], "2 training values and 1 new ones given: it takes some of both, all finite"),
        ([1], [1, math.nan], "1 training values and 2 new ones given: it takes some of both, all finite"),
        ([1], [1, -math.inf], "1 training values and 2 new ones given: it takes some of both, all finite"),
        ([1e39], [1], "1 training values and 1 new ones given: it takes some of both, all finite"),
    ],
)
def test_refusals(trained: list[float], new: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        of(trained, new)
