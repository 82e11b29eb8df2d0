"""Gaps in the times of series, and missing values within segments. R rows of the table, N rows that are used.

A segment is a contiguous range of rows: a series, or a piece of a series that is cut at its gaps.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.cleaning.frequency import irregular_steps
from lstm_models.data.cleaning.ordering import row_location, value_changes
from lstm_models.data.cleaning.parsing import CHUNK_ROWS, Array, Keys, Mask
from lstm_models.utils.errors import TableError


def segment_starts(codes: Array, time: Array | None, rows: Array, keys: Keys, config: TableData) -> Array:
    """Return the rows at which segments start: each group's first row, and with `gaps: split` each row after a gap.

    Args:
        codes: (N), the group of each row.
        time: (N), ascending in each group.
        rows: (N), the index of each row in the table, for messages.
        keys: the keys of the table.
        config: the settings of the data.

    Raises:
        TableError: if there is a gap and `gaps` is error.
    """
    starts = np.flatnonzero(value_changes(codes))
    if time is None or config.gaps == "allow":
        return starts
    gaps = _gaps(time, starts, keys.zone)
    if len(gaps) and config.gaps == "error":
        at = int(gaps[0])
        location = row_location(at, rows, keys, config)
        also = f", the first of {len(gaps):,} gaps" if len(gaps) > 1 else ""
        raise TableError(
            f"{location}: a gap in time, from {time[at - 1]} to {time[at]}{also}; set gaps to split or allow"
        )
    return np.union1d(starts, gaps)


def remove_from_starts(starts: Array, is_removed: Mask) -> Array:
    """Return the starts of the segments after these rows (N) are removed; segments without a row are removed too."""
    retained = np.concatenate([[0], np.cumsum(~is_removed)])
    return np.unique(retained[starts][retained[starts] < retained[-1]])


def impute(values: NDArray[np.float32], time: Array | None, starts: Array, method: str) -> None:
    """Replace missing values (NaN) in place, from other rows of the same segment.

    Args:
        values: (N, C).
        time: (N), for interpolation; without it, rows are equally spaced.
        starts: the rows at which segments start.
        method: forward_fill (the previous value) or interpolate (linearly between the previous and the next value).
    """
    stops = np.append(starts[1:], len(values))
    for column in values.T:
        is_missing = np.isnan(column)
        missing, present = np.flatnonzero(is_missing), np.flatnonzero(~is_missing)
        if len(missing) == 0 or len(present) == 0:
            continue
        following = np.searchsorted(present, missing)
        previous_row = present[np.maximum(following - 1, 0)]
        next_row = present[np.minimum(following, len(present) - 1)]
        segment = np.searchsorted(starts, missing, side="right") - 1
        can_fill = (previous_row < missing) & (previous_row >= starts[segment])
        if method == "forward_fill":
            column[missing[can_fill]] = column[previous_row[can_fill]]
            continue
        can_fill &= (next_row > missing) & (next_row < stops[segment])
        missing, previous_row, next_row = missing[can_fill], previous_row[can_fill], next_row[can_fill]
        a, x, b = (rows if time is None else time.view(np.int64)[rows] for rows in (previous_row, missing, next_row))
        share = (x - a) / (b - a)
        column[missing] = (1 - share) * column[previous_row] + share * column[next_row]


def _gaps(time: Array, starts: Array, zone: Any) -> Array:
    """Return the rows (indices into N) whose step from the previous row is irregular."""
    ends = np.append(starts[1:], len(time)) - 1
    has_steps = ends - starts > 1  # the single step of two rows is regular
    starts, ends = starts[has_steps], ends[has_steps]
    if len(starts) == 0:
        return starts
    is_uneven = _has_uneven_steps(time.view(np.int64), starts, ends)
    gaps: list[Array] = []
    previous, irregular = time[:0], time[:0]
    for start, end in zip(starts[is_uneven], ends[is_uneven], strict=True):
        if not np.array_equal(previous, time[start : end + 1]):  # often the groups of a panel have the same times
            previous = time[start : end + 1]
            irregular = np.flatnonzero(irregular_steps(previous, zone))
        gaps.append(start + 1 + irregular)
    return np.concatenate([starts[:0], *gaps])


def _has_uneven_steps(time: Array, starts: Array, ends: Array) -> Mask:
    """Return a mask of the series, from start to end, that have steps of more than one size.

    It works chunk by chunk, because all steps at once would take as much memory as the times.
    """
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
