"""Frequency of a series' times, its irregular steps, and the timestamps after its last row. N rows of a series."""

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lstm_models.data.cleaning.parsing import Array, Mask

DAY = np.timedelta64(1, "D")


class Frequency(NamedTuple):
    """Frequency that a series' times may follow; the kinds are listed from the general to the specific."""

    kind: Literal["moment", "clock", "month", "calendar"]
    points: Array  # (N), the times; in local time, except for kind moment
    step: Any  # the most frequent step, for kind month in months; for kind calendar the name of pandas' frequency
    irregular: Mask  # (N - 1), the other steps


def irregular_steps(time: Array, zone: Any) -> Mask:
    """Return a mask (N - 1) of the steps that differ from the step of the best-fitting frequency."""
    return min(_candidate_frequencies(time, zone), key=lambda frequency: int(frequency.irregular.sum())).irregular


def future_timestamps(time: Array, steps: int, zone: Any) -> Array:
    """Return the next timestamps of a series, (steps), in the best-fitting frequency.

    If several frequencies fit equally well, months take precedence over days, and days in local time over days in UTC,
    but hours in UTC over hours in local time. A local time that daylight saving time skips becomes the first one after
    it; of a local time that occurs twice, the first is used. If this makes the timestamps of a short step repeat or
    decrease, the next candidate is used.

    Args:
        time: (N), int64, or datetime64 in UTC; ascending.
        steps: number of timestamps.
        zone: time zone of local time; None: UTC.

    Raises:
        ValueError: if N < 2, or the timestamps exceed the range of the type.
    """
    if len(time) < 2:
        raise ValueError(f"can't determine the frequency of {len(time)} timestamps; at least 2 are needed")
    candidates = _candidate_frequencies(time, zone)[::-1]
    for frequency in sorted(candidates, key=lambda f: (f.irregular.sum(), f.kind == "clock" and f.step % DAY != 0)):
        future = _next_points(frequency, steps)
        if frequency.kind != "moment" and zone is not None:
            use_first = np.ones(len(future), dtype=bool)
            local = pd.DatetimeIndex(future).tz_localize(zone, ambiguous=use_first, nonexistent="shift_forward")
            future = local.tz_convert("UTC").tz_localize(None).to_numpy()
        line = np.append(time[-1:], future.astype(time.dtype))
        if len(future) == steps and (line[1:] > line[:-1]).all():
            return line[1:]
    raise ValueError(f"the {steps:,} timestamps after {time[-1]} exceed the range of {time.dtype}; reduce the horizon")


def _candidate_frequencies(time: Array, zone: Any) -> list[Frequency]:
    """Return the frequencies that a series may have: a step of constant size, and for dates also others.

    These are a step of constant size in local time, a number of months, or one of pandas' calendar frequencies.
    """
    if time.dtype.kind != "M":
        return [_regular("moment", time, time)]
    candidates, wall = [_regular("moment", time, time)], time
    if zone is not None:
        wall = pd.DatetimeIndex(time, tz="UTC").tz_convert(zone).tz_localize(None).to_numpy()
        candidates.append(_regular("clock", wall, wall))
    months = wall.astype("datetime64[M]")
    # a constant distance from the start, or to the end, of the month
    if any(np.ptp(rest) == 0 for rest in (wall - months, months + 1 - wall)):
        candidates.append(_regular("month", wall, months))
    if all(candidate.irregular.any() for candidate in candidates):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas 3.1 warns that pandas 4 returns another type
            calendar = pd.infer_freq(pd.DatetimeIndex(wall))
        if calendar is not None:
            candidates.append(Frequency("calendar", wall, calendar, np.zeros(len(time) - 1, dtype=bool)))
    return candidates


def _regular(kind: Literal["moment", "clock", "month"], points: Array, counted: Array) -> Frequency:
    """Return the frequency whose step is the most frequent difference of the counted times."""
    steps = np.diff(counted)
    sizes, counts = np.unique(steps, return_counts=True)
    step = sizes[np.argmax(counts)]
    return Frequency(kind, points, step, steps != step)


def _next_points(frequency: Frequency, steps: int) -> Array:
    """Return the frequency's next points; none if the points do not follow the calendar that pandas inferred."""
    points, count = frequency.points, np.arange(1, steps + 1)
    if frequency.kind == "calendar":
        days = pd.date_range(points[0], periods=len(points) + steps, freq=frequency.step).to_numpy()
        return days[len(points) :] if np.array_equal(days[: len(points)], points) else days[:0]
    if frequency.kind != "month":
        return np.asarray(points[-1] + frequency.step * count)
    months = points.astype("datetime64[M]")
    since_start, until_end = points - months, months + 1 - points  # of the month
    future = months[-1] + frequency.step * count
    starts, ends = future.astype(points.dtype), (future + 1).astype(points.dtype)
    if np.ptp(until_end) == 0 and (until_end[-1] <= DAY or np.ptp(since_start) > 0):
        return np.asarray(ends - until_end[-1])
    # a day that the month lacks, such as February 30, becomes its last day
    return np.asarray(np.minimum(starts + since_start[-1], ends - DAY + since_start[-1] % DAY))
