"""Training, validation and test: where each ends, and the texts of what is refused."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lstm_models.config import ConfigError, Split
from lstm_models.data.splits import Ends, ends

DAYS = np.arange("2017-01-01", "2017-01-11", dtype="datetime64[D]").astype("datetime64[ns]")  # ten


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({}, (7, 8, 10)),
        ({"train": 0.5, "validation": 0.2, "test": 0.1}, (5, 7, 8)),  # what is over is in none
        ({"train": 0.9, "validation": 0}, (9, 9, 10)),
        ({"train": 0.9, "validation": 0.0}, (9, 9, 10)),
        ({"train": 0.1, "validation": 0.2, "test": 0.7}, (1, 3, 10)),  # in floating point these sum to below 1
        ({"train": 0.7, "validation": 0.2, "test": 0.1}, (7, 9, 10)),
        ({"train": 0.34, "validation": 0.33, "test": 0.33}, (3, 7, 10)),  # the totals are rounded, not the parts
        ({"train": 6, "validation": 1, "test": 2}, (6, 7, 9)),
        ({"train": 6, "validation": 0}, (6, 6, 10)),
        ({"train": 1, "validation": 0, "test": 9}, (1, 1, 10)),  # 1 is a count, 1.0 a fraction
    ],
)
def test_fractions_and_counts(split: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert ends(10, Split(**split)) == Ends(*expected)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"train": "2017-01-05", "validation": "2017-01-08"}, (4, 7, 10)),  # a part ends before its moment
        ({"train": "2017-01-05", "validation": "2017-01-08", "test": "2017-01-10"}, (4, 7, 9)),
        ({"train": "2017-01-05 00:00:01", "validation": "2017-01-05 12:00"}, (5, 5, 10)),
        ({"train": "2017-01-05", "validation": "2017-01-05", "test": "2030-01-01"}, (4, 4, 10)),
    ],
)
def test_dates(split: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert ends(10, Split(**split), DAYS) == Ends(*expected)


def test_a_date_may_lie_between_two_rows() -> None:
    times = np.array(["2017-01-01", "2017-02-01", "2017-03-01"], dtype="datetime64[ns]")
    assert ends(3, Split(train="2017-01-15", validation="2017-02-15"), times) == Ends(1, 2, 3)


def test_a_date_may_have_a_zone() -> None:
    """The rows' times are UTC where the source has a zone."""
    split = Split(train="2017-01-05T02:00+02:00", validation="2017-01-08T00:00Z")
    assert ends(10, split, DAYS) == Ends(4, 7, 10)


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (
            {"train": 0.7, "validation": 2},
            "data.split: [0.7, 2] given; write fractions such as 0.7, or counts, or dates, not several",
        ),
        (
            {"train": 6, "validation": 2, "test": "2017-01-09"},
            "data.split: [6, 2, '2017-01-09'] given; write fractions such as 0.7, or counts, or dates, not several",
        ),
        (
            {"train": 0.7, "validation": 0.2, "test": 0.2},
            "data.split: the fractions [0.7, 0.2, 0.2] must lie between 0 and 1 and sum to at most 1",
        ),
        (
            {"train": 1.2, "validation": -0.3},
            "data.split: the fractions [1.2, -0.3] must lie between 0 and 1 and sum to at most 1",
        ),
        ({"train": 8, "validation": 2, "test": 1}, "data.split: 8, 2, 1 given, but there are 10"),
        ({"train": 8, "validation": -1}, "data.split: 8, -1 given, but there are 10"),
        ({"train": 0.0, "validation": 0.5}, "data.split: of 10 nothing is left for training"),
        ({"train": 0.04, "validation": 0.5}, "data.split: of 10 nothing is left for training"),
        ({"train": 0, "validation": 5}, "data.split: of 10 nothing is left for training"),
        ({"train": 0.9, "validation": 0.1}, "data.split: of 10 nothing is left for the test"),
        ({"train": 8, "validation": 2, "test": 0}, "data.split: of 10 nothing is left for the test"),
        (
            {"train": "2017-01-08", "validation": "2017-01-05"},
            "data.split: the dates of train, validation and test must follow one another",
        ),
        (
            {"train": "2017-01-03", "validation": "spring"},
            "data.split.validation: 'spring' given, must be a date such as 2017-06-30",
        ),
        (
            {"train": "2017-13-03", "validation": "2017-01-05"},
            "data.split.train: '2017-13-03' given, must be a date such as 2017-06-30",
        ),
        (
            {"train": "", "validation": "2017-01-05"},
            "data.split.train: '' given, must be a date such as 2017-06-30",
        ),
    ],
)
def test_what_is_refused(split: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}"):
        ends(10, Split(**split), DAYS)


def test_dates_need_times() -> None:
    text = "data.split: dates need data.time, the column that holds the rows' times"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        ends(10, Split(train="2017-01-05", validation="2017-01-08"))


def test_dates_are_for_times_that_are_dates() -> None:
    with pytest.raises(ConfigError, match=r"^data\.split"):
        ends(10, Split(train="2017-01-05", validation="2017-01-08"), np.arange(10))


@given(
    count=st.integers(2, 1000),
    parts=st.tuples(*[st.floats(0, 1)] * 3),
    rest=st.booleans(),
)
@settings(derandomize=True, deadline=None)  # a shared machine may pause for longer than the default allows
def test_fractions_follow_one_another_and_cover_what_is_asked_for(
    count: int, parts: tuple[float, float, float], rest: bool
) -> None:
    total = max(sum(parts), 1e-9)
    train, validation, test = (part / total for part in parts)
    assume(round(train * count) > 0 and (1 - train - validation) * count > 1 and (rest or test * count > 1))
    found = ends(count, Split(train=train, validation=validation, test=None if rest else test))
    assert 0 < found.train <= found.validation < found.test <= count
    assert abs(found.train - train * count) <= 0.5 + 1e-6  # the nearest row, of a product in floating point
    assert abs(found.validation - (train + validation) * count) <= 0.5 + 1e-6
    assert found.test == count if rest else abs(found.test - count * sum((train, validation, test))) <= 0.5 + 1e-6


@given(data=st.data(), count=st.integers(2, 40))
@settings(derandomize=True, deadline=None)  # as above
def test_counts_are_kept_and_dates_part_the_rows_as_their_times_say(data: st.DataObject, count: int) -> None:
    stops = sorted(data.draw(st.lists(st.integers(1, count), min_size=3, max_size=3)))
    if stops[1] == stops[2]:
        stops = [1, 1, count]
    expected = Ends(*stops)
    assert ends(count, Split(train=stops[0], validation=stops[1] - stops[0], test=stops[2] - stops[1])) == expected

    hours = data.draw(st.lists(st.integers(1, 50), min_size=count + 1, max_size=count + 1))  # between two rows
    times = np.datetime64("2017-01-01", "ns") + np.cumsum(hours).astype("timedelta64[h]")
    moments = [str(times[stop]) for stop in stops]  # one row more, so that each end has one
    assert ends(count, Split(train=moments[0], validation=moments[1], test=moments[2]), times[:count]) == expected
