"""How a series' time goes on after its last row: on its grid, exactly."""

import numpy as np
import pandas as pd
import pytest

from lstm_models.data.grid import following

BERLIN = "Europe/Berlin"


def utc(times: pd.DatetimeIndex) -> np.ndarray:
    """As a series keeps its time."""
    return (times if times.tz is None else times.tz_convert("UTC").tz_localize(None)).to_numpy()


def goes_on(times: pd.DatetimeIndex, expected: list[str]) -> None:
    zone = None if times.tz is None else str(times.tz)
    found = following(utc(times), len(expected), zone)
    assert found.dtype == utc(times).dtype
    local = pd.DatetimeIndex(found) if zone is None else pd.DatetimeIndex(found, tz="UTC").tz_convert(zone)
    assert [str(time) for time in local] == [str(pd.Timestamp(time)) for time in expected]


@pytest.mark.parametrize(
    ("freq", "start", "count"),
    [
        ("h", "2024-01-01", 30),
        ("15min", "2024-01-01 10:00", 3),
        ("D", "2024-01-01", 10),
        ("36h", "2024-01-01", 10),
        ("W", "2024-01-01", 10),
        ("MS", "2024-01-01", 2),
        ("MS", "2024-07-01", 3),  # as long as each other
        ("ME", "2024-07-31", 2),  # as far from the month's start as from its end
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
@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_every_grid_goes_on_as_it_was(freq: str, start: str, count: int, zone: str | None, unit: str) -> None:
    whole = pd.date_range(start, periods=count + 20, freq=freq, tz=zone).as_unit(unit)
    found = following(utc(whole[:count]), 20, zone)
    assert found.dtype == f"datetime64[{unit}]"
    assert found.tolist() == utc(whole[count:]).tolist()


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ([1, 2], [3, 4, 5]),
        ([0, 10, 20], [30, 40, 50]),
        ([-6, -4, -2], [0, 2, 4]),
        ([1, 2, 3, 4, 9], [10, 11, 12]),  # the most frequent step, though the last was another
        ([1, 4, 6, 11], [13, 15, 17]),  # of steps that are as frequent the shortest
    ],
)
@pytest.mark.parametrize("zone", [None, BERLIN])
def test_whole_numbers(time: list[int], expected: list[int], zone: str | None) -> None:
    found = following(np.array(time), 3, zone)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_gaps_do_not_change_the_grid() -> None:
    hours = pd.date_range("2024-01-01", periods=20, freq="h").delete([5, 17, 18])
    goes_on(hours, ["2024-01-01 20:00", "2024-01-01 21:00"])
    days = pd.date_range("2024-03-20", periods=20, freq="D", tz=BERLIN).delete([5, 18])  # across the change of clock
    goes_on(days, ["2024-04-09 00:00+02:00", "2024-04-10 00:00+02:00"])
    goes_on(pd.DatetimeIndex(["2024-01-01", "2024-02-01", "2024-03-01", "2024-12-01"]), ["2025-01-01", "2025-02-01"])
    goes_on(pd.DatetimeIndex(["2024-05-31", "2024-06-30", "2024-07-31", "2024-12-31"]), ["2025-01-31", "2025-02-28"])


def test_without_a_grid_the_most_frequent_step_is_taken() -> None:
    goes_on(pd.DatetimeIndex(["2024-01-01", "2024-01-04", "2024-01-06", "2024-01-09"]), ["2024-01-12", "2024-01-15"])
    holiday = pd.date_range("2024-01-01", periods=10, freq="B").delete(7)
    goes_on(holiday, ["2024-01-13", "2024-01-14"])


def test_a_day_of_the_month_that_february_lacks() -> None:
    time = pd.DatetimeIndex(["2024-08-30 06:30", "2024-09-30 06:30", "2024-10-30 06:30", "2024-11-30 06:30"])
    goes_on(time, ["2024-12-30 06:30", "2025-01-30 06:30", "2025-02-28 06:30", "2025-03-30 06:30"])


def test_days_before_a_months_end() -> None:
    goes_on(pd.DatetimeIndex(["2024-01-29", "2024-02-27", "2024-03-29"]), ["2024-04-28", "2024-05-29"])


def test_a_calendar_that_is_not_what_the_times_lie_on() -> None:
    time = pd.DatetimeIndex(["2021-11-12", "2022-11-11", "2023-11-10", "2024-11-08", "2025-11-14"])
    goes_on(time, ["2026-11-13"])  # for pandas these are the second Fridays of months that follow one another


@pytest.mark.parametrize("start", ["2024-03-25", "2024-03-20"])  # the change of clock is the 31st
def test_days_go_by_the_clock_on_the_wall(start: str) -> None:
    days = pd.date_range(start, "2024-03-30", freq="D", tz=BERLIN)
    goes_on(days, ["2024-03-31 00:00+01:00", "2024-04-01 00:00+02:00", "2024-04-02 00:00+02:00"])
    goes_on(pd.date_range(start, "2024-04-05", freq="D", tz=BERLIN), ["2024-04-06 00:00+02:00"])
    autumn = pd.date_range("2024-10-20", "2024-10-26", freq="D", tz=BERLIN)
    goes_on(autumn, ["2024-10-27 00:00+02:00", "2024-10-28 00:00+01:00"])


def test_days_that_are_so_by_utc_stay_so() -> None:
    days = pd.date_range("2024-03-25", "2024-04-05", freq="24h", tz=BERLIN)
    goes_on(days, ["2024-04-05 01:00+02:00", "2024-04-06 01:00+02:00"])


def test_a_time_of_the_wall_that_is_skipped_or_there_twice() -> None:
    spring = pd.date_range("2024-03-25 02:30", "2024-03-30 02:30", freq="D", tz=BERLIN)
    goes_on(spring, ["2024-03-31 03:00+02:00", "2024-04-01 02:30+02:00"])
    autumn = pd.date_range("2024-10-20 02:30", "2024-10-26 02:30", freq="D", tz=BERLIN)
    goes_on(autumn, ["2024-10-27 02:30+02:00", "2024-10-28 02:30+01:00"])


def test_hours_go_by_utc() -> None:
    spring = pd.date_range("2024-03-30 20:00", "2024-03-31 01:00", freq="h", tz=BERLIN)
    goes_on(spring, ["2024-03-31 03:00+02:00", "2024-03-31 04:00+02:00"])
    autumn = pd.date_range("2024-10-26 20:00", "2024-10-27 01:00", freq="h", tz=BERLIN)
    goes_on(autumn, ["2024-10-27 02:00+02:00", "2024-10-27 02:00+01:00", "2024-10-27 03:00+01:00"])


def test_hours_of_the_wall_where_a_source_has_each_once() -> None:
    wall = pd.date_range("2023-10-28", "2024-03-31 01:00", freq="h")
    times = wall.tz_localize(BERLIN, ambiguous=np.ones(len(wall), dtype=bool))
    goes_on(times[:49], ["2023-10-30 01:00+01:00"])
    goes_on(times[:26], ["2023-10-29 02:00+02:00", "2023-10-29 02:00+01:00"])  # before there was a change to see
    goes_on(times, ["2024-03-31 03:00+02:00", "2024-03-31 04:00+02:00"])  # no hour that is skipped, and none twice


def test_no_steps_are_no_times() -> None:
    assert following(np.array([1, 2]), 0, None).tolist() == []


@pytest.mark.parametrize("time", [np.array([], dtype=np.int64), np.array([5]), np.array(["2024-01-01"], "M8[s]")])
def test_one_time_tells_no_step(time: np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf"^the times after {len(time)} can't be told; it takes at least 2 to tell"):
        following(time, 1, None)


def test_times_that_the_type_does_not_reach() -> None:
    with pytest.raises(ValueError, match=r"^the 3 times after 9\d+6 can't be told: int64 does not reach as far$"):
        following(np.array([0, 2**62, 2**63 - 2]), 3, None)
    years = utc(pd.date_range("2200-01-01", periods=30, freq="YS", unit="ns"))
    with pytest.raises(
        ValueError, match=r"^the 100 times after 2229-.* can't be told: datetime64\[ns\] does not reach"
    ):
        following(years, 100, BERLIN)
