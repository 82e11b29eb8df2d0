"""A table's rows as series: numbers in float32, in the order of time, one series after another.

What does not fit is handled as the settings say, or refused by column and row; no row goes without being counted.
In the shapes: R rows of the table, N rows that are used, C columns, G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.cleaning import frequency
from lstm_models.data.cleaning.parsing import Array, Keys, Mask, is_number, parse_keys, write_numbers
from lstm_models.data.readers.schema import abbreviate, select_columns
from lstm_models.utils.errors import TableError


class Segment(NamedTuple):
    """A contiguous range of rows: a series, or a piece of one that is cut at its gaps; pieces share the name."""

    name: str
    start: int
    stop: int


class RowCounts(NamedTuple):
    """What became of the table's rows: read == used + the sum of dropped, which counts them by reason."""

    read: int
    dropped: dict[str, int]
    used: int


@dataclass(frozen=True, eq=False)
class Series:
    """Numbers in the order of group and time; the groups, in the order of their values, tile the rows.

    `features` and `targets` are indices of columns. In classify and regress the target is no column: `targets` is
    empty, and `labels` has for each group the index of its class (int64), or its number (float32).
    """

    values: NDArray[np.float32]  # (N, C), C-contiguous, finite
    columns: tuple[str, ...]  # (C) the features, then the targets that are no features
    features: tuple[int, ...]
    targets: tuple[int, ...]
    time: Array | None  # (N) int64 or datetime64; UTC, where the source has a zone
    zone: Any  # of the time, where the source has one
    segments: tuple[Segment, ...]  # (G)
    labels: Array | None  # (G)
    classes: tuple[str, ...]  # sorted; of classify alone
    rows: RowCounts
    notes: tuple[str, ...]  # what nobody asked for, but one would want to know

    def segment_of(self, rows: Array) -> Array:
        """The group, by its index, in which each of these rows lies."""
        starts = np.array([group.start for group in self.segments])
        return np.searchsorted(starts, rows, side="right") - 1

    def segments_by_series(self) -> list[list[Segment]]:
        """The groups, those of one name together."""
        return [list(of_one) for _, of_one in groupby(self.segments, key=lambda group: group.name)]


def prepare_series(table: pd.DataFrame, config: TableData, source: str) -> Series:
    """The table's series, as the settings want them.

    At the peak this takes about 1.5 times the memory of the table's used columns, beside the table.

    Raises:
        TableError: if the table does not fit, naming `source`, the column and the row, counted from 1 in its order.
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
    features, columns, notes = _columns(table, config)
    keys = parse_keys(table, config)
    values = np.empty((len(table), len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        write_numbers(table[column], values[:, index])
    order = frequency.sort_rows(_complete_rows(values, columns, keys, config, dropped), keys, config)
    label_of = None if keys.labels is None else _labels(keys.labels, order, keys, config)
    order, runs = frequency.drop_duplicates(order, keys, config, dropped)
    values = frequency.gather_rows(values, order, runs)
    rows = order if runs is None else order[runs]
    codes, time = frequency.reorder(keys.codes, rows), None if keys.time is None else frequency.reorder(keys.time, rows)
    starts = frequency.segment_starts(codes, time, rows, keys, config)
    if config.missing in ("forward_fill", "interpolate"):
        before = np.isnan(values).sum()
        frequency.impute(values, time, starts, config.missing)
        if filled := int(before - np.isnan(values).sum()):
            notes = [*notes, f"missing values filled in ({config.missing.replace('_', ' ')}): {filled:,}"]
        empty = _missing_rows(values)
        if empty.any():  # its series has nothing before it, or nothing after it
            dropped["value missing at an end of a series"] = int(empty.sum())
            starts = frequency.remove_from_starts(starts, empty)
            values, codes, time = values[~empty], codes[~empty], None if time is None else time[~empty]
        if empty.all():
            raise _no_rows_left(len(table), dropped)
    stops = np.append(starts[1:], len(values))
    groups = tuple(Segment(keys.names[codes[a]], int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    labels, classes = _group_labels(label_of, codes[starts], keys, config)
    return Series(
        values=values,
        columns=columns,
        features=tuple(range(len(features))),
        targets=tuple(columns.index(name) for name in config.targets) if config.task == "forecast" else (),
        time=time,
        zone=keys.zone,
        segments=groups,
        labels=labels,
        classes=classes,
        rows=RowCounts(len(table), dropped, len(values)),
        notes=(*notes, *_notes(values, features, groups, keys)),
    )


def _columns(table: pd.DataFrame, config: TableData) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """The features, the columns of the values, and a note on those that are no numbers."""
    named = select_columns(list(table.columns), config)
    told, features = config.targets, config.features
    if config.task == "forecast":
        features = features or list(told)
        return tuple(features), tuple(dict.fromkeys([*features, *told])), []
    if features is not None:
        return tuple(features), tuple(features), []
    others = [name for name in named if name not in (*told, config.time, config.group)]
    numbers = tuple(name for name in others if is_number(table[name].dtype))
    if not numbers:
        raise TableError("no column holds numbers, beside the target, time and group; name the features")
    text = [abbreviate(name) for name in others if name not in numbers]
    more = f" and {len(text) - 10:,} more" if len(text) > 10 else ""
    return numbers, numbers, [f"no features, as they hold no numbers: {', '.join(text[:10])}{more}"] if text else []


def _complete_rows(
    values: NDArray[np.float32], columns: tuple[str, ...], keys: Keys, config: TableData, dropped: dict[str, int]
) -> Array:
    """The rows (indices into R) that miss nothing, or nothing but values that are filled in later."""
    keep = np.ones(len(values), dtype=bool)
    lacking = dict(keys.lacking)
    if config.missing in ("error", "drop"):
        lacking["value"] = "", _missing_rows(values)
    for role, (column, missing) in lacking.items():
        missing = missing & keep
        if not missing.any():
            continue
        if config.missing != "drop":
            row = int(np.argmax(missing))
            column = column or columns[int(np.argmax(np.isnan(values[row])))]
            ways = "drop, forward_fill or interpolate" if role == "value" else "drop"
            raise TableError(
                f"column {abbreviate(column)}, row {row + 1}: the {role} is missing; set missing to {ways}"
            )
        dropped[f"{role} missing"] = int(missing.sum())
        keep &= ~missing
    if not keep.any():
        raise _no_rows_left(len(values), dropped)
    rows = np.arange(len(keep), dtype=np.int32 if len(keep) < 2**31 else np.int64)
    return rows if keep.all() else rows[keep]


def _missing_rows(values: NDArray[np.float32]) -> Mask:
    return np.asarray(np.isnan(values).any(axis=1))


def _no_rows_left(read: int, dropped: dict[str, int]) -> TableError:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
    return TableError(f"none of the {read:,} rows is left ({reasons})")


def _labels(labels: Array, order: Array, keys: Keys, config: TableData) -> Array:
    """The label of each group, by its code; the same in all its rows."""
    codes, told = frequency.reorder(keys.codes, order), frequency.reorder(labels, order)
    heads = np.flatnonzero(frequency.value_changes(codes))
    other = told != np.repeat(told[heads], np.diff(heads, append=len(order)))
    if other.any():
        at = int(np.argmax(other))
        two = [told[heads[np.searchsorted(heads, at, side="right") - 1]], told[at]]
        first, second = (abbreviate(keys.classes[label] if keys.classes else label) for label in two)
        raise TableError(
            f"column {abbreviate(config.targets[0])}, row {order[at] + 1}: group "
            f"{abbreviate(keys.names[codes[at]])} has both {first} and {second}; a group must have one label"
        )
    by_code = np.zeros(len(keys.names), dtype=told.dtype)
    by_code[codes[heads]] = told[heads]
    return by_code


def _group_labels(
    label_of: Array | None, codes: Array, keys: Keys, config: TableData
) -> tuple[Array | None, tuple[str, ...]]:
    """The labels of these groups, and the classes that they have."""
    if label_of is None:
        return None, ()
    if config.task == "regress":
        return label_of[codes].astype(np.float32), ()
    used, labels = np.unique(label_of[codes], return_inverse=True)
    if len(used) < 2:
        only = abbreviate(keys.classes[used[0]])
        raise TableError(
            f"column {abbreviate(config.targets[0])}: each group's label is {only}; it takes two to classify"
        )
    return labels, tuple(keys.classes[code] for code in used)


def _notes(
    values: NDArray[np.float32], features: tuple[str, ...], groups: tuple[Segment, ...], keys: Keys
) -> Iterator[str]:
    for name, column in zip(features, values.T, strict=False):
        if column.min() == column.max():
            yield f"column {abbreviate(name)} is constant"
    if lost := len(keys.names) - len({group.name for group in groups}):
        yield f"groups without a row left: {lost:,} of {len(keys.names):,}"
