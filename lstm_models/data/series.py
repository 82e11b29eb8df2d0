"""A table's rows as series: numbers in float32, in the order of time, one series after another.

What does not fit is handled as the settings say, or refused by column and row; no row goes without being counted.
In the shapes: R rows of the table, N rows that are used, C columns, G groups.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.source import choose, shown, targets
from lstm_models.data.tables import TableError

LARGEST = float(np.finfo(np.float32).max)

Array = NDArray[Any]
Mask = NDArray[np.bool_]


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
    groups: tuple[Group, ...]  # (G)
    labels: Array | None  # (G)
    classes: tuple[str, ...]  # sorted; of classify alone
    rows: Rows
    notes: tuple[str, ...]  # what nobody asked for, but one would want to know


class _Keys(NamedTuple):
    """What tells the table's rows apart."""

    time: Array | None  # (R)
    zone: Any  # of the time, where it has one
    codes: Array  # (R) of the groups, by the order of their values; -1 where missing
    names: list[str]  # of the groups, by code
    labels: Array | None  # (R) codes of the classes, or numbers (float64)
    classes: list[str]  # by code
    lacking: dict[str, tuple[str, Mask]]  # by role the column, and where (R) it misses what nothing can fill in


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
    keys = _keys(table, config)
    values = np.empty((len(table), len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        values[:, index] = _numbers(table[column])
    order = _sorted(_complete(values, columns, keys, config, dropped), keys, config)
    label_of = None if keys.labels is None else _labels(keys.labels, order, keys, config)
    order, runs = _unique(order, keys, config, dropped)
    values = _gathered(values, order, runs)
    rows = order if runs is None else order[runs]
    codes, time = _taken(keys.codes, rows), None if keys.time is None else _taken(keys.time, rows)
    starts = _starts(codes, time, rows, keys, config)
    if config.missing in ("forward_fill", "interpolate"):
        _fill(values, time, starts, config.missing)
        empty = _incomplete(values)
        if empty.any():  # its series has nothing before it, or nothing after it
            dropped["value missing at an end of a series"] = int(empty.sum())
            starts = _starts_without(starts, empty)
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
        targets=tuple(columns.index(name) for name in targets(config)) if config.task == "forecast" else (),
        time=time,
        groups=groups,
        labels=labels,
        classes=classes,
        rows=Rows(len(table), dropped, len(values)),
        notes=(*notes, *_notes(values, features, groups, keys)),
    )


def _columns(table: pd.DataFrame, config: TableData) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """The features, the columns of the values, and a note on those that are no numbers."""
    named = choose(list(table.columns), config)
    told, features = targets(config), config.features
    if config.task == "forecast":
        features = features or list(told)
        return tuple(features), tuple(dict.fromkeys([*features, *told])), []
    if features is not None:
        return tuple(features), tuple(features), []
    others = [name for name in named if name not in (*told, config.time, config.group)]
    numbers = tuple(name for name in others if _is_number(table[name].dtype))
    if not numbers:
        raise TableError("no column holds numbers, beside the target, time and group; name the features")
    text = [shown(name) for name in others if name not in numbers]
    more = f" and {len(text) - 10:,} more" if len(text) > 10 else ""
    return numbers, numbers, [f"no features, as they hold no numbers: {', '.join(text[:10])}{more}"] if text else []


def _is_number(dtype: Any) -> bool:
    return dtype.kind != "c" and (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype))


def _numbers(column: "pd.Series[Any]") -> NDArray[np.float64]:
    """A column's numbers (R), float64, each finite in float32, or NaN where missing."""
    dtype: Any = column.dtype
    if not _is_number(dtype):
        numbers = _numbers_in_text(column)
    elif isinstance(dtype, np.dtype):
        numbers = column.to_numpy(dtype=np.float64)
    else:
        if dtype.kind == "O":  # decimals: numpy would make a Python object of each
            column = column.astype("double[pyarrow]")
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.fmax.reduce(numbers) > LARGEST or np.fmin.reduce(numbers) < -LARGEST:
        row = int(np.argmax(np.abs(numbers) > LARGEST))
        what = "infinite" if np.isinf(numbers[row]) else "too large for float32"
        raise TableError(f"{_at(column, row)} is {what}; correct it in the source")
    return numbers


def _numbers_in_text(column: "pd.Series[Any]") -> NDArray[np.float64]:
    if column.dtype.kind in "mMc":  # times, spans of time, complex numbers
        raise TableError(f"column {shown(column.name)} holds {column.dtype}, no numbers; leave it out")
    try:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        raise TableError(f"column {shown(column.name)} holds {column.dtype}, no numbers; leave it out") from None
    if len(wrong := np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy(dtype=bool))):
        raise TableError(f"{_at(column, int(wrong[0]))} is no number; correct it, or leave the column out")
    return numbers


def _at(column: "pd.Series[Any]", row: int) -> str:
    value = column.iloc[row]
    return f"column {shown(column.name)}, row {row + 1}: {shown(repr(value) if isinstance(value, str) else value)}"


def _keys(table: pd.DataFrame, config: TableData) -> _Keys:
    lacking: dict[str, tuple[str, Mask]] = {}
    time, zone, labels, classes = None, None, None, list[str]()
    codes, names = np.zeros(len(table), dtype=np.int8), [""]
    if config.time is not None:
        time, missing, zone = _times(table[config.time])
        lacking["time"] = config.time, missing
    if config.group is not None:
        codes, names = _codes(table[config.group])
        lacking["group"] = config.group, codes < 0
    if config.task != "forecast":
        target = targets(config)[0]
        if config.task == "classify":
            labels, classes = _codes(table[target])
            lacking["label"] = target, labels < 0
        else:
            labels = _numbers(table[target])
            lacking["label"] = target, np.isnan(labels)
    return _Keys(time, zone, codes, names, labels, classes, lacking)


def _missing(column: "pd.Series[Any]") -> Mask:
    missing = column.isna().to_numpy(dtype=bool)
    if column.dtype.kind == "f" and not isinstance(column.dtype, np.dtype):  # for Arrow NaN is a value like others
        missing = np.isnan(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return missing


def _codes(column: "pd.Series[Any]") -> tuple[Array, list[str]]:
    """For each row the index of its value among the sorted ones, -1 where missing; and these as text."""
    missing = _missing(column)
    if column.dtype == object or isinstance(column.dtype, pd.CategoricalDtype):  # what can't be sorted as it is
        column = column.astype("string")
    try:
        codes, found = pd.factorize(column.mask(missing) if missing.any() else column, sort=True)
    except (TypeError, NotImplementedError):  # lists
        codes, found = pd.factorize(column.map(str), sort=True)
    codes[missing] = -1
    return codes.astype(np.int32), [str(value) for value in found]


def _times(column: "pd.Series[Any]") -> tuple[Array, Mask, Any]:
    """The time (R), int64 or datetime64, where it is missing, and its zone."""
    dtype: Any = column.dtype
    missing = _missing(column)
    if pd.api.types.is_datetime64_any_dtype(dtype):
        zone = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
        if zone is not None:
            column = column.dt.tz_convert("UTC").dt.tz_localize(None)
        elif "date" in str(dtype) and not isinstance(dtype, np.dtype):  # Arrow's dates without a time of day
            column = column.astype("timestamp[s][pyarrow]")
        return column.to_numpy(), missing, zone
    if _is_number(dtype) and dtype.kind != "b":
        return _whole(column), missing, None
    try:
        text = column.astype("string")
    except (TypeError, ValueError):
        text = column.map(str)
    dates = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None).to_numpy()
    if len(wrong := np.flatnonzero(np.isnat(dates) & ~missing)):
        raise TableError(f"{_at(column, int(wrong[0]))} is neither a whole number nor a date such as 2024-01-31T12:00")
    return dates, missing, None


def _whole(column: "pd.Series[Any]") -> NDArray[np.int64]:
    """Numbers (R) that are whole, 0 where missing."""
    dtype: Any = column.dtype
    if dtype.kind in "iu":
        filled = column if isinstance(dtype, np.dtype) else column.fillna(0)
        if filled.max() <= np.iinfo(np.int64).max:
            return filled.to_numpy(dtype=np.int64)
    numbers = np.nan_to_num(_numbers(column), nan=0.0)
    if len(wrong := np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) >= 2.0**63))):
        raise TableError(f"{_at(column, int(wrong[0]))} is no whole number of 64 bits; times are such, or dates")
    return numbers.astype(np.int64)


def _complete(
    values: NDArray[np.float32], columns: tuple[str, ...], keys: _Keys, config: TableData, dropped: dict[str, int]
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
    return np.flatnonzero(keep)


def _incomplete(values: NDArray[np.float32]) -> Mask:
    return np.asarray(np.isnan(values).any(axis=1))


def _none_left(read: int, dropped: dict[str, int]) -> TableError:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.items())
    return TableError(f"none of the {read:,} rows is left ({reasons})")


def _taken(array: Array, order: Array) -> Array:
    """array[order]; without a copy, where the order is the array's own."""
    return array if len(order) == len(array) and (order[1:] > order[:-1]).all() else array[order]


def _changes(array: Array) -> Mask:
    """Where (N) a value differs from the one before it; the first does."""
    return np.concatenate([[True], array[1:] != array[:-1]])


def _where(position: int, order: Array, keys: _Keys, config: TableData) -> str:
    """The place of a row in the source, of the one that is at this position of the order."""
    row = int(order[position])
    group = f" (group {shown(keys.names[keys.codes[row]])})" if config.group else ""
    return f"column {shown(config.time)}, row {row + 1}{group}"


def _sorted(order: Array, keys: _Keys, config: TableData) -> Array:
    """The rows by group, and by time in each; rows of one time stay in the source's order."""
    codes = _taken(keys.codes, order)
    if (codes[1:] < codes[:-1]).any():
        order = order[np.argsort(codes, kind="stable")]
        codes = _taken(keys.codes, order)
    if keys.time is None:
        return order
    time = _taken(keys.time, order)
    back = (time[1:] < time[:-1]) & (codes[1:] == codes[:-1])
    if not back.any():
        return order
    if config.unsorted == "refuse":
        at = int(np.argmax(back)) + 1
        where = _where(at, order, keys, config)
        raise TableError(f"{where}: {time[at]} comes after {time[at - 1]}; set unsorted to sort")
    return order[np.lexsort((time, codes))]


def _labels(labels: Array, order: Array, keys: _Keys, config: TableData) -> Array:
    """The label of each group, by its code; the same in all its rows."""
    codes, told = _taken(keys.codes, order), _taken(labels, order)
    heads = np.flatnonzero(_changes(codes))
    other = told != np.repeat(told[heads], np.diff(heads, append=len(order)))
    if other.any():
        at = int(np.argmax(other))
        two = [told[heads[np.searchsorted(heads, at, side="right") - 1]], told[at]]
        first, second = (shown(keys.classes[label] if keys.classes else label) for label in two)
        raise TableError(
            f"column {shown(targets(config)[0])}, row {order[at] + 1}: group {shown(keys.names[codes[at]])} has both "
            f"{first} and {second}; the rows of a group must have one label"
        )
    by_code = np.zeros(len(keys.names), dtype=told.dtype)
    by_code[codes[heads]] = told[heads]
    return by_code


def _unique(order: Array, keys: _Keys, config: TableData, dropped: dict[str, int]) -> tuple[Array, Array | None]:
    """One row for each time of a group; or, for their mean, all rows and where each run of one time starts."""
    if keys.time is None:
        return order, None
    time = _taken(keys.time, order)
    new = _changes(time) | _changes(_taken(keys.codes, order))
    if new.all():
        return order, None
    if config.duplicates == "refuse":
        at = int(np.argmin(new))
        where = _where(at, order, keys, config)
        raise TableError(
            f"{where}: {time[at]} is in row {order[at - 1] + 1} already; set duplicates to first, last or mean"
        )
    dropped["time there already"] = int(len(new) - new.sum())
    if config.duplicates == "mean":
        return order, np.flatnonzero(new)
    return order[new if config.duplicates == "first" else np.append(new[1:], True)], None


def _gathered(values: NDArray[np.float32], order: Array, runs: Array | None) -> NDArray[np.float32]:
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


def _starts(codes: Array, time: Array | None, rows: Array, keys: _Keys, config: TableData) -> Array:
    """Where groups start, and their pieces if gaps split them."""
    starts = np.flatnonzero(_changes(codes))
    if time is None or config.gaps == "allow":
        return starts
    gaps = _gaps(time, starts, keys.zone)
    if len(gaps) and config.gaps == "refuse":
        at = int(gaps[0])
        where = _where(at, rows, keys, config)
        also = f", the first of {len(gaps):,} gaps" if len(gaps) > 1 else ""
        raise TableError(f"{where}: a gap in time, from {time[at - 1]} to {time[at]}{also}; set gaps to split or allow")
    return np.union1d(starts, gaps)


def _gaps(time: Array, starts: Array, zone: Any) -> Array:
    """The rows (indices into N) that are not the grid's step after the row before them."""
    ends = np.append(starts[1:], len(time)) - 1
    several = ends - starts > 1  # two rows are a grid of any step
    starts, ends = starts[several], ends[several]
    if len(starts) == 0:
        return starts
    steps = np.diff(time.view(np.int64))
    bounds = np.stack([starts, ends], axis=1).ravel()
    bounds = bounds[:-1] if bounds[-1] == len(steps) else bounds
    uneven = np.minimum.reduceat(steps, bounds)[::2] < np.maximum.reduceat(steps, bounds)[::2]
    found: list[Array] = []
    before, off = time[:0], time[:0]
    for start, end in zip(starts[uneven], ends[uneven], strict=True):
        if not np.array_equal(before, time[start : end + 1]):  # the groups of a panel have the same times
            before = time[start : end + 1]
            off = np.flatnonzero(_off_grid(before, zone))
        found.append(start + 1 + off)
    return np.concatenate([starts[:0], *found])


def _off_grid(time: Array, zone: Any) -> Mask:
    """Which steps of a series are not its most frequent one, on the grid that fits it best.

    A grid is of seconds; or, for dates, of seconds by the clock on the wall, of months, or of one of pandas' calendars.
    """
    grids = [time]
    if time.dtype.kind == "M":
        if zone is not None:
            time = pd.DatetimeIndex(time, tz="UTC").tz_convert(zone).tz_localize(None).to_numpy()
            grids.append(time)
        months = time.astype("datetime64[M]")
        if any(np.ptp(rest) == 0 for rest in (time - months, months + 1 - time)):  # from a month's start, or to its end
            grids.append(months)
    masks: list[Mask] = []
    for grid in grids:
        steps = np.diff(grid.astype(np.int64))
        found, counts = np.unique(steps, return_counts=True)
        masks.append(steps != found[np.argmax(counts)])
    best = min(masks, key=np.sum)
    if time.dtype.kind == "M" and best.any():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas 3.1 tells what its answer will be in pandas 4
            if pd.infer_freq(pd.DatetimeIndex(time)) is not None:
                return np.zeros(len(time) - 1, dtype=bool)
    return best


def _fill(values: NDArray[np.float32], time: Array | None, starts: Array, how: str) -> None:
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


def _starts_without(starts: Array, gone: Mask) -> Array:
    """Where pieces start once these rows are gone; a piece with none left goes too."""
    before = np.concatenate([[0], np.cumsum(~gone)])
    return np.unique(before[starts][before[starts] < before[-1]])


def _told(label_of: Array | None, codes: Array, keys: _Keys, config: TableData) -> tuple[Array | None, tuple[str, ...]]:
    """The labels of these groups, and the classes that they have."""
    if label_of is None:
        return None, ()
    if config.task == "regress":
        return label_of[codes].astype(np.float32), ()
    used, labels = np.unique(label_of[codes], return_inverse=True)
    if len(used) < 2:
        only = shown(keys.classes[used[0]])
        raise TableError(f"column {shown(targets(config)[0])}: each group's label is {only}; it takes two to classify")
    return labels, tuple(keys.classes[code] for code in used)


def _notes(
    values: NDArray[np.float32], features: tuple[str, ...], groups: tuple[Group, ...], keys: _Keys
) -> Iterator[str]:
    for name, column in zip(features, values.T, strict=False):
        if column.min() == column.max():
            yield f"column {shown(name)} is constant"
    if lost := len(keys.names) - len({group.name for group in groups}):
        yield f"groups without a row left: {lost:,} of {len(keys.names):,}"
