"""Parse the columns of a table, of any type, as numbers, times and codes; errors name the column and the row.

R is the number of rows of the table.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.readers.schema import abbreviate
from lstm_models.utils.errors import TableError

FLOAT32_MAX = float(np.finfo(np.float32).max)
CHUNK_ROWS = 1_000_000

Array = NDArray[Any]
Mask = NDArray[np.bool_]


class Keys(NamedTuple):
    """Time, group and label of each row of the table."""

    time: Array | None  # (R), int64, or datetime64 in UTC
    zone: Any  # time zone of the source; None if it has none
    codes: Array  # (R), codes of the groups, in the order of their values; -1 if missing
    names: list[str]  # names of the groups, by code
    labels: Array | None  # (R), codes of the classes, or numbers (float64)
    classes: list[str]  # names of the classes, by code
    missing: dict[str, tuple[str, Mask]]  # by role: the column, and a mask (R) of its missing values


def parse_keys(table: pd.DataFrame, config: TableData) -> Keys:
    """Parse the time, group and label columns.

    Raises:
        TableError: if a time or a numeric label can't be parsed; missing values raise nothing.
    """
    lacking: dict[str, tuple[str, Mask]] = {}
    time, zone, labels, classes = None, None, None, list[str]()
    codes, names = np.zeros(len(table), dtype=np.int8), [""]
    if config.time is not None:
        time, missing, zone = _parse_times(table[config.time])
        lacking["time"] = config.time, missing
    if config.group is not None:
        codes, names = _encode(table[config.group])
        lacking["group"] = config.group, codes < 0
    if config.task != "forecast":
        target = config.targets[0]
        if config.task == "classify":
            labels, classes = _encode(table[target])
            lacking["label"] = target, labels < 0
        else:
            labels = parse_numbers(table[target])
            lacking["label"] = target, np.isnan(labels)
    return Keys(time, zone, codes, names, labels, classes, lacking)


def is_number(dtype: Any) -> bool:
    """Return whether a dtype is numeric and real, or boolean."""
    return dtype.kind != "c" and (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype))


def write_numbers(column: "pd.Series[Any]", out_R: NDArray[np.float32]) -> None:
    """Write a column's numbers to out_R as float32, chunk by chunk: all at once would take twice the memory."""
    for first in range(0, len(column), CHUNK_ROWS):
        out_R[first : first + CHUNK_ROWS] = parse_numbers(column.iloc[first : first + CHUNK_ROWS], first)


def parse_numbers(column: "pd.Series[Any]", first: int = 0) -> NDArray[np.float64]:
    """Return a column's numbers, (R), float64: finite in float32, or NaN if missing.

    Args:
        column: the column, or a chunk of it.
        first: the row of the table at which the chunk starts, for messages.

    Raises:
        TableError: if a value is not a number, infinite, or too large for float32.
    """
    dtype: Any = column.dtype
    if not is_number(dtype):
        numbers = _parse_text_numbers(column, first)
    elif isinstance(dtype, np.dtype):
        numbers = column.to_numpy(dtype=np.float64)
    else:
        if dtype.kind == "O":  # decimals: numpy would make a Python object of each
            column = column.astype("double[pyarrow]")
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.fmax.reduce(numbers) > FLOAT32_MAX or np.fmin.reduce(numbers) < -FLOAT32_MAX:
        row = int(np.argmax(np.abs(numbers) > FLOAT32_MAX))
        fault = "infinite" if np.isinf(numbers[row]) else "too large for float32"
        raise TableError(f"{_value_at(column, row, first)} is {fault}; correct it in the source")
    return numbers


def _parse_text_numbers(column: "pd.Series[Any]", first: int) -> NDArray[np.float64]:
    if column.dtype.kind in "mMc":  # times, durations, complex numbers
        raise TableError(f"column {abbreviate(column.name)} has type {column.dtype}, not numbers; remove the column")
    try:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        raise TableError(
            f"column {abbreviate(column.name)} has type {column.dtype}, not numbers; remove the column"
        ) from None
    if len(invalid := np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy(dtype=bool))):
        raise TableError(
            f"{_value_at(column, int(invalid[0]), first)} is not a number; correct it or remove the column"
        )
    return numbers


def _value_at(column: "pd.Series[Any]", row: int, first: int = 0) -> str:
    """Return the location of a value and the value, for messages."""
    value = column.iloc[row]
    shown = abbreviate(repr(value) if isinstance(value, str) else value)
    return f"column {abbreviate(column.name)}, row {first + row + 1}: {shown}"


def _missing(column: "pd.Series[Any]") -> Mask:
    missing = column.isna().to_numpy(dtype=bool)
    if column.dtype.kind == "f" and not isinstance(column.dtype, np.dtype):  # Arrow does not treat NaN as missing
        missing = np.isnan(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return missing


def _encode(column: "pd.Series[Any]") -> tuple[Array, list[str]]:
    """Return for each row the index of its value among the sorted values, -1 if missing; and these values as text."""
    missing = _missing(column)
    if column.dtype == object or isinstance(column.dtype, pd.CategoricalDtype):  # values that may not be comparable
        column = column.astype("string")
    try:
        codes, values = pd.factorize(column.mask(missing) if missing.any() else column, sort=True)
    except (TypeError, NotImplementedError):  # lists
        codes, values = pd.factorize(column.map(str), sort=True)
    codes[missing] = -1
    return codes.astype(np.int32), [str(value) for value in values]


def _parse_times(column: "pd.Series[Any]") -> tuple[Array, Mask, Any]:
    """Return the times (R), int64 or datetime64 in UTC, a mask (R) of the missing ones, and the time zone."""
    dtype: Any = column.dtype
    missing = _missing(column)
    if pd.api.types.is_datetime64_any_dtype(dtype):
        zone = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
        if zone is not None:
            column = column.dt.tz_convert("UTC").dt.tz_localize(None)
        elif "date" in str(dtype) and not isinstance(dtype, np.dtype):  # Arrow's date types, without a time of day
            column = column.astype("timestamp[s][pyarrow]")
        return column.to_numpy(), missing, zone
    if is_number(dtype) and dtype.kind != "b":
        return _parse_integers(column), missing, None
    try:
        text = column.astype("string")
    except (TypeError, ValueError):
        text = column.map(str)
    dates = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None).to_numpy()
    if len(invalid := np.flatnonzero(np.isnat(dates) & ~missing)):
        raise TableError(
            f"{_value_at(column, int(invalid[0]))} is neither a whole number nor a date such as 2024-01-31T12:00; "
            "correct it in the source"
        )
    return dates, missing, None


def _parse_integers(column: "pd.Series[Any]") -> NDArray[np.int64]:
    """Return whole numbers (R), 0 if missing."""
    dtype: Any = column.dtype
    if dtype.kind in "iu":
        filled = column if isinstance(dtype, np.dtype) else column.fillna(0)
        if filled.max() <= np.iinfo(np.int64).max:
            return filled.to_numpy(dtype=np.int64)
    numbers = np.nan_to_num(parse_numbers(column), nan=0.0)
    if len(invalid := np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) >= 2.0**63))):
        raise TableError(
            f"{_value_at(column, int(invalid[0]))} is not a whole number of 64 bits; use such numbers, or dates"
        )
    return numbers.astype(np.int64)
