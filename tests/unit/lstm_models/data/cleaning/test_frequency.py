"""Timestamps after a series' last row: exact, for every frequency."""

import numpy as np
import pandas as pd
import pytest
from helpers.errors import refused

from lstm_models.data.cleaning.frequency import future_timestamps

BERLIN = "Europe/Berlin"


def utc(times: pd.DatetimeIndex) -> np.ndarray:
    """Return times as a Series stores them."""
    return (times if times.tz is None else times.tz_convert("UTC").tz_localize(None)).to_numpy()


@pytest.mark.parametrize(
    ("freq", "start", "count"),
    [
        ("h", "2024-01-01", 30),
        ("15min", "2024-01-01 10:00", 3),
        ("D", "2024-01-01", 10),
        ("36h", "2024-01-01", 10),
        ("W", "2024-01-01", 10),
        ("MS", "2024-01-01", 2),
        ("MS", "2024-07-01", 3),  # months of the same length
        ("ME", "2024-07-31", 2),  # as far from the start of the month as from its end
        ("ME", "2024-01-31", 12),
        ("QS", "2024-01-01", 5),
        ("QE", "2024-01-01", 5),
        ("YS", "2021-01-01", 3),
        ("YE", "2021-01-01", 3),
        ("B", "2024-01-01", 10),
        ("BME", "2024-01-01", 10),
        ("WOM-2FRI", "2024-01-01", 10),
    ],
)
@pytest.mark.parametrize("zone", [None, BERLIN])
def test_every_frequency_is_continued(freq: str, start: str, count: int, zone: str | None) -> None:
    for unit in ("s", "us", "ns"):
        whole = pd.date_range(start, periods=count + 20, freq=freq, tz=zone).as_unit(unit)
        future = future_timestamps(utc(whole[:count]), 20, zone)
        assert future.dtype == f"datetime64[{unit}]"
        assert future.tolist() == utc(whole[count:]).tolist()


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ([1, 2], [3, 4, 5]),
        ([0, 10, 20], [30, 40, 50]),
        ([-6, -4, -2], [0, 2, 4]),
        ([1, 2, 3, 4, 9], [10, 11, 12]),  # the most frequent step, not the last one
        ([1, 4, 6, 11], [13, 15, 17]),  # the shortest of equally frequent steps
        ([1, 2], []),
    ],
)
@pytest.mark.parametrize("zone", [None, BERLIN])
def test_whole_numbers(time: list[int], expected: list[int], zone: str | None) -> None:
    future = future_timestamps(np.array(time), len(expected), zone)
    assert future.dtype == np.int64
    assert future.tolist() == expected


def listed(*times: str) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(times)


def span(start: str, end: str, freq: str = "D", zone: str | None = BERLIN) -> pd.DatetimeIndex:
    return pd.date_range(start, end, freq=freq, tz=zone)


# each local hour once, although one occurs twice in autumn
WALL = span("2023-10-28", "2024-03-31 01:00", "h", None)
WALL = WALL.tz_localize(BERLIN, ambiguous=np.ones(len(WALL), dtype=bool))
HOURS = span("2024-01-01", "2024-01-01 19:00", "h", None)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # gaps do not change the frequency
        (HOURS.delete([5, 17, 18]), "2024-01-01 20:00, 2024-01-01 21:00"),
        (span("2024-03-20", "2024-04-08").delete([5, 18]), "2024-04-09 00:00+02:00, 2024-04-10 00:00+02:00"),
        (listed("2024-01-01", "2024-02-01", "2024-03-01", "2024-12-01"), "2025-01-01, 2025-02-01"),
        (listed("2024-05-31", "2024-06-30", "2024-07-31", "2024-12-31"), "2025-01-31, 2025-02-28"),
        # without a frequency, the most frequent step
        (listed("2024-01-01", "2024-01-04", "2024-01-06", "2024-01-09"), "2024-01-12, 2024-01-15"),
        (span("2024-01-01", "2024-01-12", "B", None).delete(7), "2024-01-13, 2024-01-14"),
        # a day of the month that February lacks; days before the end of the month
        (
            listed("2024-09-30 06:30", "2024-10-30 06:30", "2024-11-30 06:30"),
            "2024-12-30 06:30, 2025-01-30 06:30, 2025-02-28 06:30, 2025-03-30 06:30",
        ),
        (listed("2024-01-29", "2024-02-27", "2024-03-29"), "2024-04-28, 2024-05-29"),
        # pandas infers the second Friday of every month, which these dates do not follow
        (listed("2021-11-12", "2022-11-11", "2023-11-10", "2024-11-08", "2025-11-14"), "2026-11-13"),
        # days in local time, which changes on March 31 and October 27
        (span("2024-03-25", "2024-03-30"), "2024-03-31 00:00+01:00, 2024-04-01 00:00+02:00, 2024-04-02 00:00+02:00"),
        (span("2024-03-20", "2024-03-30"), "2024-03-31 00:00+01:00, 2024-04-01 00:00+02:00, 2024-04-02 00:00+02:00"),
        (span("2024-03-25", "2024-04-05"), "2024-04-06 00:00+02:00"),
        (span("2024-03-20", "2024-04-05"), "2024-04-06 00:00+02:00"),
        (span("2024-10-20", "2024-10-26"), "2024-10-27 00:00+02:00, 2024-10-28 00:00+01:00"),
        # days in UTC
        (span("2024-03-25", "2024-04-05", "24h"), "2024-04-05 01:00+02:00, 2024-04-06 01:00+02:00"),
        # a local time that is skipped, and one that occurs twice
        (span("2024-03-25 02:30", "2024-03-30 02:30"), "2024-03-31 03:00+02:00, 2024-04-01 02:30+02:00"),
        (span("2024-10-20 02:30", "2024-10-26 02:30"), "2024-10-27 02:30+02:00, 2024-10-28 02:30+01:00"),
        # hours in UTC
        (span("2024-03-30 20:00", "2024-03-31 01:00", "h"), "2024-03-31 03:00+02:00, 2024-03-31 04:00+02:00"),
        (
            span("2024-10-26 20:00", "2024-10-27 01:00", "h"),
            "2024-10-27 02:00+02:00, 2024-10-27 02:00+01:00, 2024-10-27 03:00+01:00",
        ),
        # hours in local time, before and after a change of the clock; none is skipped, and none occurs twice
        (WALL[:49], "2023-10-30 01:00+01:00"),
        (WALL[:26], "2023-10-29 02:00+02:00, 2023-10-29 02:00+01:00"),
        (WALL, "2024-03-31 03:00+02:00, 2024-03-31 04:00+02:00"),
    ],
)
def test_dates(times: pd.DatetimeIndex, expected: str) -> None:
    zone = None if times.tz is None else str(times.tz)
    wanted = [str(pd.Timestamp(time)) for time in expected.split(", ")]
    future = future_timestamps(utc(times), len(wanted), zone)
    assert future.dtype == utc(times).dtype
    local = pd.DatetimeIndex(future) if zone is None else pd.DatetimeIndex(future, tz="UTC").tz_convert(zone)
    assert [str(time) for time in local] == wanted


@pytest.mark.parametrize("time", [np.array([], dtype=np.int64), np.array([5]), np.array(["2024-01-01"], "M8[s]")])
def test_fewer_than_two_times_are_rejected(time: np.ndarray) -> None:
    with refused(ValueError, f"of {len(time)} timestamps", "at least 2"):
        future_timestamps(time, 1, None)


def test_times_beyond_the_range_of_the_type_are_rejected() -> None:
    with refused(ValueError, f"3 timestamps after {2**63 - 2}", "int64"):
        future_timestamps(np.array([0, 2**62, 2**63 - 2]), 3, None)
    years = utc(pd.date_range("2200-01-01", periods=30, freq="YS", unit="ns"))
    with refused(ValueError, "100 timestamps after 2229-", "datetime64[ns]"):
        future_timestamps(years, 100, BERLIN)
