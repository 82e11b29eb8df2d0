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
from lstm_models.data import grid
from lstm_models.data.columns import choose, shown
from lstm_models.data.tables import TableError
from lstm_models.data.values import Array, Keys, Mask, is_number, keys_of, write_numbers


class Group(NamedTuple):
    """A contiguous range of rows: a series, or a piece of one that is cut at its gaps; pieces share the name."""

    name: str
    start: int
    stop: int


class Rows(NamedTuple):
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
    groups: tuple[Group, ...]  # (G)
    labels: Array | None  # (G)
    classes: tuple[str, ...]  # sorted; of classify alone
    rows: Rows
    notes: tuple[str, ...]  # what nobody asked for, but one would want to know

    def group_of(self, rows: Array) -> Array:
        """The group, by its index, in which each of these rows lies."""
        starts = np.array([group.start for group in self.groups])
        return np.searchsorted(starts, rows, side="right") - 1

    def pieces(self) -> list[list[Group]]:
        """The groups, those of one name together."""
        return [list(of_one) for _, of_one in groupby(self.groups, key=lambda group: group.name)]


def prepare(table: pd.DataFrame, config: TableData, source: str) -> Series:
    """The table's series, as the settings want them.

    At the peak this takes about 1.5 times the memory of the table's used columns, beside the table.

    Raises:
        TableError: if the table does not fit, naming `source`, the column and the row, counted from 1 in its order.
    """
    try:
        return _prepare(table, config)
    except TableError as error:
        raise TableError(f"{source}: {error}") from None


def _prepare(table: pd.DataFrame, config: TableData) -> Series:
    if len(table) == 0:
        raise TableError("the table has no rows")
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    dropped: dict[str, int] = {}
    features, columns, notes = _columns(table, config)
    keys = keys_of(table, config)
    values = np.empty((len(table), len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        write_numbers(table[column], values[:, index])
    order = grid.in_order(_complete(values, columns, keys, config, dropped), keys, config)
    label_of = None if keys.labels is None else _labels(keys.labels, order, keys, config)
    order, runs = grid.unique(order, keys, config, dropped)
    values = grid.gathered(values, order, runs)
    rows = order if runs is None else order[runs]
    codes, time = grid.taken(keys.codes, rows), None if keys.time is None else grid.taken(keys.time, rows)
    starts = grid.starts_of(codes, time, rows, keys, config)
    if config.missing in ("forward_fill", "interpolate"):
        before = np.isnan(values).sum()
        grid.fill(values, time, starts, config.missing)
        if filled := int(before - np.isnan(values).sum()):
            notes = [*notes, f"missing values filled in ({config.missing.replace('_', ' ')}): {filled:,}"]
        empty = _incomplete(values)
        if empty.any():  # its series has nothing before it, or nothing after it
            dropped["value missing at an end of a series"] = int(empty.sum())
            starts = grid.starts_without(starts, empty)
            values, codes, time = values[~empty], codes[~empty], None if time is None else time[~empty]
        if empty.all():
            raise _none_left(len(table), dropped)
    stops = np.append(starts[1:], len(values))
    groups = tuple(Group(keys.names[codes[a]], int(a), int(b)) for a, b in zip(starts, stops, strict=True))
    labels, classes = _told(label_of, codes[starts], keys, config)
    return Series(
        values=values,
        columns=columns,
        features=tuple(range(len(features))),
        targets=tuple(columns.index(name) for name in config.targets) if config.task == "forecast" else (),
        time=time,
        zone=keys.zone,
        groups=groups,
        labels=labels,
        classes=classes,
        rows=Rows(len(table), dropped, len(values)),
        notes=(*notes, *_notes(values, features, groups, keys)),
    )


def _columns(table: pd.DataFrame, config: TableData) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """The features, the columns of the values, and a note on those that are no numbers."""
    named = choose(list(table.columns), config)
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
    text = [shown(name) for name in others if name not in numbers]
    more = f" and {len(text) - 10:,} more" if len(text) > 10 else ""
    return numbers, numbers, [f"no features, as they hold no numbers: {', '.join(text[:10])}{more}"] if text else []


def _complete(
    values: NDArray[np.float32], columns: tuple[str, ...], keys: Keys, config: TableData, dropped: dict[str, int]
) -> Array:
    """The rows (indices into R) that miss nothing, or nothing but values that are filled in later."""
    keep = np.ones(len(values), dtype=bool)
    lacking = dict(keys.lacking)
    if config.missing in ("refuse", "drop"):
        lacking["value"] = "", _incomplete(values)
    for role, (column, missing) in lacking.items():
        missing = missing & keep
        if not missing.any():
            continue
        if config.missing != "drop":
            row = int(np.argmax(missing))
            column = column or columns[int(np.argmax(np.isnan(values[row])))]
            ways = "drop, forward_fill or interpolate" if role == "value" else "drop"
            raise TableError(f"column {shown(column)}, row {row + 1}: the {role} is missing; set missing to {ways}")
        dropped[f"{role} missing"] = int(missing.sum())
        keep &= ~missing
    if not keep.any():
        raise _none_left(len(values), dropped)
    rows = np.arange(len(keep), dtype=np.int32 if len(keep) < 2**31 else np.int64)
    return rows if keep.all() else rows[keep]


def _incomplete(values: NDArray[np.float32]) -> Mask:
    return np.asarray(np.isnan(values).any(axis=1))


def _none_left(read: int, dropped: dict[str, int]) -> TableError:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
    return TableError(f"none of the {read:,} rows is left ({reasons})")


def _labels(labels: Array, order: Array, keys: Keys, config: TableData) -> Array:
    """The label of each group, by its code; the same in all its rows."""
    codes, told = grid.taken(keys.codes, order), grid.taken(labels, order)
    heads = np.flatnonzero(grid.changes(codes))
    other = told != np.repeat(told[heads], np.diff(heads, append=len(order)))
    if other.any():
        at = int(np.argmax(other))
        two = [told[heads[np.searchsorted(heads, at, side="right") - 1]], told[at]]
        first, second = (shown(keys.classes[label] if keys.classes else label) for label in two)
        raise TableError(
            f"column {shown(config.targets[0])}, row {order[at] + 1}: group {shown(keys.names[codes[at]])} has both "
            f"{first} and {second}; the rows of a group must have one label"
        )
    by_code = np.zeros(len(keys.names), dtype=told.dtype)
    by_code[codes[heads]] = told[heads]
    return by_code


def _told(label_of: Array | None, codes: Array, keys: Keys, config: TableData) -> tuple[Array | None, tuple[str, ...]]:
    """The labels of these groups, and the classes that they have."""
    if label_of is None:
        return None, ()
    if config.task == "regress":
        return label_of[codes].astype(np.float32), ()
    used, labels = np.unique(label_of[codes], return_inverse=True)
    if len(used) < 2:
        only = shown(keys.classes[used[0]])
        raise TableError(f"column {shown(config.targets[0])}: each group's label is {only}; it takes two to classify")
    return labels, tuple(keys.classes[code] for code in used)


def _notes(
    values: NDArray[np.float32], features: tuple[str, ...], groups: tuple[Group, ...], keys: Keys
) -> Iterator[str]:
    for name, column in zip(features, values.T, strict=False):
        if column.min() == column.max():
            yield f"column {shown(name)} is constant"
    if lost := len(keys.names) - len({group.name for group in groups}):
        yield f"groups without a row left: {lost:,} of {len(keys.names):,}"
