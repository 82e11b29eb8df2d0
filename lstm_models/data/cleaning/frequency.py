"""The order of a table's rows, and the grid that their times lie on: where it has gaps, and how it goes on.

In the shapes: R rows of the table, N rows that are used.
"""

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.cleaning.parsing import CHUNK_ROWS, Array, Keys, Mask
from lstm_models.data.readers.schema import abbreviate
from lstm_models.utils.errors import TableError

DAY = np.timedelta64(1, "D")


def reorder(array: Array, order: Array) -> Array:
    """array[order]; without a copy, where the order is the array's own."""
    return array if len(order) == len(array) and (order[1:] > order[:-1]).all() else array[order]


def value_changes(array: Array) -> Mask:
    """Where (N) a value differs from the one before it; the first does."""
    return np.concatenate([[True], array[1:] != array[:-1]])


def _row_location(position: int, order: Array, keys: Keys, config: TableData) -> str:
    """The place of a row in the source, of the one that is at this position of the order."""
    row = int(order[position])
    group = f" (group {abbreviate(keys.names[keys.codes[row]])})" if config.group else ""
    return f"column {abbreviate(config.time)}, row {row + 1}{group}"


def sort_rows(order: Array, keys: Keys, config: TableData) -> Array:
    """The rows by group, and by time in each; rows of one time stay in the source's order."""
    codes = reorder(keys.codes, order)
    if (codes[1:] < codes[:-1]).any():
        order = order[np.argsort(codes, kind="stable")]
        codes = reorder(keys.codes, order)
    if keys.time is None:
        return order
    time = reorder(keys.time, order)
    back = (time[1:] < time[:-1]) & (codes[1:] == codes[:-1])
    if not back.any():
        return order
    if config.unsorted == "error":
        at = int(np.argmax(back)) + 1
        where = _row_location(at, order, keys, config)
        raise TableError(f"{where}: {time[at]} comes after {time[at - 1]}; set unsorted to sort")
    return order[np.lexsort((time, codes))]


def drop_duplicates(order: Array, keys: Keys, config: TableData, dropped: dict[str, int]) -> tuple[Array, Array | None]:
    """One row for each time of a group; or, for their mean, all rows and where each run of one time starts."""
    if keys.time is None:
        return order, None
    time = reorder(keys.time, order)
    new = value_changes(time) | value_changes(reorder(keys.codes, order))
    if new.all():
        return order, None
    if config.duplicates == "error":
        at = int(np.argmin(new))
        where = _row_location(at, order, keys, config)
        raise TableError(
            f"{where}: {time[at]} is in row {order[at - 1] + 1} already; set duplicates to first, last or mean"
        )
    dropped["time there already"] = int(len(new) - new.sum())
    if config.duplicates == "mean":
        return order, np.flatnonzero(new)
    return order[new if config.duplicates == "first" else np.append(new[1:], True)], None


def gather_rows(values: NDArray[np.float32], order: Array, runs: Array | None) -> NDArray[np.float32]:
    """The values in this order, each run as its mean: in place, a column at a time, as a copy would double them."""
    count = len(order if runs is None else runs)
    if runs is None and (order[1:] > order[:-1]).all() and count == len(values):
        return values
    for column in values.T:
        picked = column[order]
        if runs is not None:
            there = ~np.isnan(picked)
            number = np.add.reduceat(there, runs, dtype=np.int64)
            total = np.add.reduceat(np.where(there, picked, 0), runs, dtype=np.float64)
            picked = np.divide(total, number, out=np.full(count, np.nan), where=number > 0)
        column[:count] = picked
    return values[:count]


def segment_starts(codes: Array, time: Array | None, rows: Array, keys: Keys, config: TableData) -> Array:
    """Where groups start, and their pieces if gaps split them."""
    starts = np.flatnonzero(value_changes(codes))
    if time is None or config.gaps == "allow":
        return starts
    gaps = _gaps(time, starts, keys.zone)
    if len(gaps) and config.gaps == "error":
        at = int(gaps[0])
        where = _row_location(at, rows, keys, config)
        also = f", the first of {len(gaps):,} gaps" if len(gaps) > 1 else ""
        raise TableError(f"{where}: a gap in time, from {time[at - 1]} to {time[at]}{also}; set gaps to split or allow")
    return np.union1d(starts, gaps)


def remove_from_starts(starts: Array, gone: Mask) -> Array:
    """Where pieces start once these rows are gone; a piece with none left goes too."""
    before = np.concatenate([[0], np.cumsum(~gone)])
    return np.unique(before[starts][before[starts] < before[-1]])


def _gaps(time: Array, starts: Array, zone: Any) -> Array:
    """The rows (indices into N) that are not the grid's step after the row before them."""
    ends = np.append(starts[1:], len(time)) - 1
    several = ends - starts > 1  # two rows are a grid of any step
    starts, ends = starts[several], ends[several]
    if len(starts) == 0:
        return starts
    uneven = _irregular_series(time.view(np.int64), starts, ends)
    found: list[Array] = []
    before, off = time[:0], time[:0]
    for start, end in zip(starts[uneven], ends[uneven], strict=True):
        if not np.array_equal(before, time[start : end + 1]):  # the groups of a panel have the same times
            before = time[start : end + 1]
            off = np.flatnonzero(_irregular_steps(before, zone))
        found.append(start + 1 + off)
    return np.concatenate([starts[:0], *found])


def _irregular_series(time: Array, starts: Array, ends: Array) -> Mask:
    """Which series, from start to end, have steps of more than one size; piece by piece, as all steps at once would
    take the memory of the times again."""
    lowest, highest = np.full(len(starts), np.iinfo(np.int64).max), np.full(len(starts), np.iinfo(np.int64).min)
    for first in range(0, len(time) - 1, CHUNK_ROWS):
        steps = np.diff(time[first : first + CHUNK_ROWS + 1])
        within = slice(np.searchsorted(ends, first, side="right"), np.searchsorted(starts, first + len(steps)))
        begins = np.maximum(starts[within] - first, 0)
        if len(begins) == 0:
            continue
        stops = np.minimum(ends[within] - first, len(steps))
        bounds = np.stack([begins, stops], axis=1).ravel()
        bounds = bounds[:-1] if bounds[-1] == len(steps) else bounds
        lowest[within] = np.minimum(lowest[within], np.minimum.reduceat(steps, bounds)[::2])
        highest[within] = np.maximum(highest[within], np.maximum.reduceat(steps, bounds)[::2])
    return np.asarray(lowest < highest)


class Frequency(NamedTuple):
    """What a series' times may lie on. The kinds, as they come, are ever more particular."""

    kind: Literal["moment", "clock", "month", "calendar"]
    points: Array  # (N) the times; of all kinds but the first by the clock on the wall
    step: Any  # the most frequent one, for a month in months; or pandas' name of the calendar
    off: Mask  # (N - 1) which steps are others


def _candidate_frequencies(time: Array, zone: Any) -> list[Frequency]:
    """The grids that may fit a series, and how they do.

    A grid is of seconds; or, for dates, of seconds by the clock on the wall, of months, or of one of pandas' calendars.
    """
    if time.dtype.kind != "M":
        return [_regular("moment", time, time)]
    grids, wall = [_regular("moment", time, time)], time
    if zone is not None:
        wall = pd.DatetimeIndex(time, tz="UTC").tz_convert(zone).tz_localize(None).to_numpy()
        grids.append(_regular("clock", wall, wall))
    months = wall.astype("datetime64[M]")
    if any(np.ptp(rest) == 0 for rest in (wall - months, months + 1 - wall)):  # from a month's start, or to its end
        grids.append(_regular("month", wall, months))
    if all(grid.off.any() for grid in grids):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas 3.1 tells what its answer will be in pandas 4
            calendar = pd.infer_freq(pd.DatetimeIndex(wall))
        if calendar is not None:
            grids.append(Frequency("calendar", wall, calendar, np.zeros(len(time) - 1, dtype=bool)))
    return grids


def _regular(kind: Literal["moment", "clock", "month"], points: Array, counted: Array) -> Frequency:
    steps = np.diff(counted)
    found, counts = np.unique(steps, return_counts=True)
    step = found[np.argmax(counts)]
    return Frequency(kind, points, step, steps != step)


def _irregular_steps(time: Array, zone: Any) -> Mask:
    """Which steps of a series are not its most frequent one, on the grid that fits it best."""
    return min(_candidate_frequencies(time, zone), key=lambda grid: int(grid.off.sum())).off


def future_timestamps(time: Array, steps: int, zone: Any) -> Array:
    """The next times of a series, (steps) of its type: on the grid that fits it best, by that one's most frequent step.

    Where several fit alike, it is months rather than days, and days by the clock on the wall rather than by UTC, but
    hours by UTC. A time that the clock skips becomes the first one after it; of one that it shows twice, the first is
    meant. Where that would let short steps stand still or go back, they go by UTC.

    Args:
        time: (N) int64, or datetime64 in UTC; rising.
        steps: how many.
        zone: of the clock on the wall; none: UTC.

    Raises:
        ValueError: if N < 2, or the type does not reach as far.
    """
    if len(time) < 2:
        raise ValueError(f"the times after {len(time)} can't be told; it takes at least 2 to tell the step")
    grids = _candidate_frequencies(time, zone)[::-1]
    for grid in sorted(grids, key=lambda grid: (grid.off.sum(), grid.kind == "clock" and grid.step % DAY != 0)):
        later = _next_points(grid, steps)
        if grid.kind != "moment" and zone is not None:
            twice = np.ones(len(later), dtype=bool)
            local = pd.DatetimeIndex(later).tz_localize(zone, ambiguous=twice, nonexistent="shift_forward")
            later = local.tz_convert("UTC").tz_localize(None).to_numpy()
        line = np.append(time[-1:], later.astype(time.dtype))
        if len(later) == steps and (line[1:] > line[:-1]).all():
            return line[1:]
    raise ValueError(f"the {steps:,} times after {time[-1]} can't be told: {time.dtype} does not reach as far")


def _next_points(grid: Frequency, steps: int) -> Array:
    """The grid's next points; none, if pandas' calendar is not what the points lie on after all."""
    points, count = grid.points, np.arange(1, steps + 1)
    if grid.kind == "calendar":
        days = pd.date_range(points[0], periods=len(points) + steps, freq=grid.step).to_numpy()
        return days[len(points) :] if np.array_equal(days[: len(points)], points) else days[:0]
    if grid.kind != "month":
        return np.asarray(points[-1] + grid.step * count)
    months = points.astype("datetime64[M]")
    since, left = points - months, months + 1 - points  # of each one's month
    coming = months[-1] + grid.step * count
    starts, ends = coming.astype(points.dtype), (coming + 1).astype(points.dtype)
    if np.ptp(left) == 0 and (left[-1] <= DAY or np.ptp(since) > 0):
        return np.asarray(ends - left[-1])
    # the 30th of February is its last day
    return np.asarray(np.minimum(starts + since[-1], ends - DAY + since[-1] % DAY))


def impute(values: NDArray[np.float32], time: Array | None, starts: Array, how: str) -> None:
    """Fill in what is missing (NaN), in place: from the row before, or on the line between two; within a piece."""
    stops = np.append(starts[1:], len(values))
    for column in values.T:
        missing = np.isnan(column)
        holes, there = np.flatnonzero(missing), np.flatnonzero(~missing)
        if len(holes) == 0 or len(there) == 0:
            continue
        after = np.searchsorted(there, holes)
        left, right = there[np.maximum(after - 1, 0)], there[np.minimum(after, len(there) - 1)]
        piece = np.searchsorted(starts, holes, side="right") - 1
        held = (left < holes) & (left >= starts[piece])
        if how == "forward_fill":
            column[holes[held]] = column[left[held]]
            continue
        held &= (right > holes) & (right < stops[piece])
        holes, left, right = holes[held], left[held], right[held]
        a, x, b = (rows if time is None else time.view(np.int64)[rows] for rows in (left, holes, right))
        share = (x - a) / (b - a)
        column[holes] = (1 - share) * column[left] + share * column[right]
