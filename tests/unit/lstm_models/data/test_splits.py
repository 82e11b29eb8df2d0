"""Bounds of the training, validation and test parts, and rejected splits."""

from typing import Any

import numpy as np
import pytest
from helpers.errors import refused
from hypothesis import assume, given
from hypothesis import strategies as st

from lstm_models.config import ConfigError, Split
from lstm_models.data.splits import SplitBounds, split_bounds

DAYS = np.arange("2017-01-01", "2017-01-11", dtype="datetime64[D]").astype("datetime64[ns]")  # ten days


def split(*parts: Any) -> Split:
    return Split(**dict(zip(("train", "validation", "test"), parts, strict=False)))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), (7, 8, 10)),
        ((0.5, 0.2, 0.1), (5, 7, 8)),  # the remainder is in no part
        ((0.9, 0), (9, 9, 10)),
        ((0.1, 0.2, 0.7), (1, 3, 10)),  # their floating-point sum is below 1
        ((0.7, 0.2, 0.1), (7, 9, 10)),
        ((0.34, 0.33, 0.33), (3, 7, 10)),  # the totals are rounded, not the parts
        ((6, 1, 2), (6, 7, 9)),
        ((6, 0), (6, 6, 10)),
        ((1, 0, 9), (1, 1, 10)),  # 1 is a count, 1.0 a fraction
        (("2017-01-05", "2017-01-08"), (4, 7, 10)),  # a part ends before its date
        (("2017-01-05", "2017-01-08", "2017-01-10"), (4, 7, 9)),
        (("2017-01-05 00:00:01", "2017-01-05 12:00"), (5, 5, 10)),
        (("2017-01-05", "2017-01-05", "2030-01-01"), (4, 4, 10)),
        # the rows' times are UTC where the source has a zone
        (("2017-01-05T02:00+02:00", "2017-01-08T00:00Z"), (4, 7, 10)),
    ],
)
def test_split_bounds(parts: tuple[Any, ...], expected: tuple[int, int, int]) -> None:
    assert split_bounds(10, split(*parts), DAYS) == SplitBounds(*expected)


@pytest.mark.parametrize(
    ("parts", "texts"),
    [
        ((0.7, 2), ("[0.7, 2]", "fractions", "counts", "dates")),
        ((6, 2, "2017-01-09"), ("[6, 2, '2017-01-09']", "fractions", "counts", "dates")),
        ((0.7, 0.2, 0.2), ("[0.7, 0.2, 0.2]", "between 0 and 1", "at most 1")),
        ((1.2, -0.3), ("[1.2, -0.3]", "between 0 and 1")),
        ((8, 2, 1), ("8, 2, 1", "there are 10")),
        ((8, -1), ("8, -1", "there are 10")),
        ((0.0, 0.5), ("of 10", "training")),
        ((0.04, 0.5), ("of 10", "training")),
        ((0, 5), ("of 10", "training")),
        ((0.9, 0.1), ("of 10", "the test")),
        ((8, 2, 0), ("of 10", "the test")),
        (("2017-01-08", "2017-01-05"), ("train, validation and test",)),
        (("2017-01-03", "spring"), ("data.split.validation", "'spring'", "a date such as 2017-06-30")),
        (("2017-13-03", "2017-01-05"), ("data.split.train", "'2017-13-03'", "a date such as 2017-06-30")),
        (("", "2017-01-05"), ("data.split.train", "''", "a date such as 2017-06-30")),
    ],
)
def test_invalid_splits_are_rejected(parts: tuple[Any, ...], texts: tuple[str, ...]) -> None:
    with refused(ConfigError, "data.split", *texts):
        split_bounds(10, split(*parts), DAYS)


def test_a_split_by_date_requires_times_that_are_dates() -> None:
    by_date = split("2017-01-05", "2017-01-08")
    with refused(ConfigError, "data.split", "data.time"):
        split_bounds(10, by_date)
    with refused(ConfigError, "data.split"):
        split_bounds(10, by_date, np.arange(10))


@given(count=st.integers(2, 1000), parts=st.tuples(*[st.floats(0, 1)] * 3), rest=st.booleans())
def test_fractions_are_rounded_to_the_nearest_row(count: int, parts: tuple[float, float, float], rest: bool) -> None:
    total = max(sum(parts), 1e-9)
    train, validation, test = (part / total for part in parts)
    assume(round(train * count) > 0 and (1 - train - validation) * count > 1 and (rest or test * count > 1))
    bounds = split_bounds(count, Split(train=train, validation=validation, test=None if rest else test))
    assert 0 < bounds.train <= bounds.validation < bounds.test <= count
    assert abs(bounds.train - train * count) <= 0.5 + 1e-6  # the nearest row, of a product in floating point
    assert abs(bounds.validation - (train + validation) * count) <= 0.5 + 1e-6
    assert bounds.test == count if rest else abs(bounds.test - count * sum((train, validation, test))) <= 0.5 + 1e-6


@given(data=st.data(), count=st.integers(2, 40))
def test_counts_are_exact_and_dates_split_the_rows_by_time(data: st.DataObject, count: int) -> None:
    stops = sorted(data.draw(st.lists(st.integers(1, count), min_size=3, max_size=3)))
    if stops[1] == stops[2]:
        stops = [1, 1, count]
    expected = SplitBounds(*stops)
    assert split_bounds(count, split(stops[0], stops[1] - stops[0], stops[2] - stops[1])) == expected

    hours = data.draw(st.lists(st.integers(1, 50), min_size=count + 1, max_size=count + 1))  # between consecutive rows
    times = np.datetime64("2017-01-01", "ns") + np.cumsum(hours).astype("timedelta64[h]")
    moments = [str(times[stop]) for stop in stops]  # one more row, so that each bound has a time
    assert split_bounds(count, split(*moments), times[:count]) == expected
