"""Numeric series from a table's rows: float32, in chronological order, one series after another.

Faulty rows are handled as configured, or raise an error that names the column and the row. Dropped rows are counted.
R rows of the table, N rows that are used, C columns, G segments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.cleaning import gaps, ordering
from lstm_models.data.cleaning.labels import labels_by_group, segment_labels
from lstm_models.data.cleaning.parsing import Array, Keys, Mask, is_number, parse_keys, write_numbers
from lstm_models.data.readers.schema import abbreviate, select_columns
from lstm_models.utils.errors import TableError


class Segment(NamedTuple):
    """Contiguous range of rows: a series, or a piece of a series that is cut at its gaps; pieces have its name."""

    name: str
    start: int
    stop: int


class RowCounts(NamedTuple):
    """Numbers of rows; read == used + the sum of dropped, which is by reason."""

    read: int
    dropped: dict[str, int]
    used: int


@dataclass(frozen=True, eq=False)
class Series:
    """Rows sorted by group and time; the segments, sorted by name, cover all rows.

    `features` and `targets` are indices of columns. For classify and regress the target is not a column: `targets` is
    empty, and `labels` has for each segment the index of its class (int64), or its number (float32).
    """

    values: NDArray[np.float32]  # (N, C), C-contiguous, finite
    columns: tuple[str, ...]  # (C), the features, then the targets that are not features
    features: tuple[int, ...]
    targets: tuple[int, ...]
    time: Array | None  # (N), int64, or datetime64; in UTC if the source has a time zone
    zone: Any  # time zone of the source; None if it has none
    segments: tuple[Segment, ...]  # (G)
    labels: Array | None  # (G)
    classes: tuple[str, ...]  # sorted; empty unless the task is classify
    rows: RowCounts
    notes: tuple[str, ...]  # observations to report to the user

    def segment_of(self, rows: Array) -> Array:
        """Return for each of these rows the index of its segment."""
        starts = np.array([segment.start for segment in self.segments])
        return np.searchsorted(starts, rows, side="right") - 1

    def segments_by_series(self) -> list[list[Segment]]:
        """Return the segments of each series."""
        return [list(segments) for _, segments in groupby(self.segments, key=lambda segment: segment.name)]


def prepare_series(table: pd.DataFrame, config: TableData, source: str) -> Series:
    """Return the table's series, cleaned as configured.

    Peak memory, in addition to the table, is about 1.5 times the memory of the table's used columns.

    Raises:
        TableError: if the table does not match the settings; the message names `source`, the column and the row, which
            counts from 1 in the table's order.
    """
    try:
        return _build_series(table, config)
    except TableError as error:
        raise TableError(f"{source}: {error}") from None


def _build_series(table: pd.DataFrame, config: TableData) -> Series:
    if len(table) == 0:
        raise TableError("the table has no rows")
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    dropped: dict[str, int] = {}
    features, columns, notes = _select_features(table, config)
    keys = parse_keys(table, config)
    values = _read_values(table, columns)
    order = ordering.sort_rows(_complete_rows(values, columns, keys, config, dropped), keys, config)
    by_code = labels_by_group(order, keys, config)
    order, runs = ordering.drop_duplicates(order, keys, config, dropped)
    values = ordering.gather_rows(values, order, runs)
    rows = order if runs is None else order[runs]
    codes, time = ordering.reorder(keys.codes, rows), None if keys.time is None else ordering.reorder(keys.time, rows)
    starts = gaps.segment_starts(codes, time, rows, keys, config)
    if config.missing in ("forward_fill", "interpolate"):
        notes += _fill_missing(values, time, starts, config.missing)
        empty = _missing_rows(values)
        if empty.any():  # no earlier value in its segment, or no later one
            dropped["value missing at an end of a series"] = int(empty.sum())
            starts = gaps.remove_from_starts(starts, empty)
            values, codes, time = values[~empty], codes[~empty], None if time is None else time[~empty]
        if empty.all():
            raise _no_rows_left(len(table), dropped)
    stops = np.append(starts[1:], len(values))
    segments = tuple(Segment(keys.names[codes[a]], int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    labels, classes = segment_labels(by_code, codes[starts], keys, config)
    return Series(
        values=values,
        columns=columns,
        features=tuple(range(len(features))),
        targets=tuple(columns.index(name) for name in config.targets) if config.task == "forecast" else (),
        time=time,
        zone=keys.zone,
        segments=segments,
        labels=labels,
        classes=classes,
        rows=RowCounts(len(table), dropped, len(values)),
        notes=(*notes, *_notes(values, features, segments, keys)),
    )


def _select_features(table: pd.DataFrame, config: TableData) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Return the features, the columns of the values, and a note on the columns that are not numeric."""
    named = select_columns(list(table.columns), config)
    targets, features = config.targets, config.features
    if config.task == "forecast":
        features = features or list(targets)
        return tuple(features), tuple(dict.fromkeys([*features, *targets])), []
    if features is not None:
        return tuple(features), tuple(features), []
    others = [name for name in named if name not in (*targets, config.time, config.group)]
    numeric = tuple(name for name in others if is_number(table[name].dtype))
    if not numeric:
        raise TableError("no numeric column besides target, time and group; set features to the input columns")
    text = [abbreviate(name) for name in others if name not in numeric]
    more = f" and {len(text) - 10:,} more" if len(text) > 10 else ""
    return (
        numeric,
        numeric,
        [f"columns not used, because they are not numeric: {', '.join(text[:10])}{more}"] * bool(text),
    )


def _read_values(table: pd.DataFrame, columns: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the numbers of these columns, (R, C)."""
    values = np.empty((len(table), len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        write_numbers(table[column], values[:, index])
    return values


def _complete_rows(
    values: NDArray[np.float32], columns: tuple[str, ...], keys: Keys, config: TableData, dropped: dict[str, int]
) -> Array:
    """Return the rows (indices into R) without missing values, except for values that are imputed later."""
    is_complete = np.ones(len(values), dtype=bool)
    lacking = dict(keys.missing)
    if config.missing in ("error", "drop"):
        lacking["value"] = "", _missing_rows(values)
    for role, (column, missing) in lacking.items():
        missing = missing & is_complete
        if not missing.any():
            continue
        if config.missing != "drop":
            row = int(np.argmax(missing))
            column = column or columns[int(np.argmax(np.isnan(values[row])))]
            settings = "drop, forward_fill or interpolate" if role == "value" else "drop"
            raise TableError(
                f"column {abbreviate(column)}, row {row + 1}: the {role} is missing; set missing to {settings}"
            )
        dropped[f"{role} missing"] = int(missing.sum())
        is_complete &= ~missing
    if not is_complete.any():
        raise _no_rows_left(len(values), dropped)
    rows = np.arange(len(is_complete), dtype=np.int32 if len(is_complete) < 2**31 else np.int64)
    return rows if is_complete.all() else rows[is_complete]


def _fill_missing(values: NDArray[np.float32], time: Array | None, starts: Array, method: str) -> list[str]:
    """Impute missing values in place, and return a note on their number."""
    missing = np.isnan(values).sum()
    gaps.impute(values, time, starts, method)
    filled = int(missing - np.isnan(values).sum())
    return [f"missing values filled in ({method.replace('_', ' ')}): {filled:,}"] if filled else []


def _missing_rows(values: NDArray[np.float32]) -> Mask:
    """Return a mask (N) of the rows with a missing value."""
    return np.asarray(np.isnan(values).any(axis=1))


def _no_rows_left(read: int, dropped: dict[str, int]) -> TableError:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
    return TableError(f"all {read:,} rows were dropped ({reasons}); correct the table, or change the setting missing")


def _notes(
    values: NDArray[np.float32], features: tuple[str, ...], segments: tuple[Segment, ...], keys: Keys
) -> Iterator[str]:
    """Yield notes on constant features and on groups without a row."""
    for name, column in zip(features, values.T, strict=False):
        if column.min() == column.max():
            yield f"column {abbreviate(name)} is constant"
    if lost := len(keys.names) - len({segment.name for segment in segments}):
        yield f"groups without a remaining row: {lost:,} of {len(keys.names):,}"
