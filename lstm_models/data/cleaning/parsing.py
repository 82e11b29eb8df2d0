"""The cells of a table's columns as numbers, times and codes, whatever types hold them; refused by column and row.

In the shapes: R rows of the table.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.readers.schema import abbreviate
from lstm_models.utils.errors import TableError

FLOAT32_MAX = float(np.finfo(np.float32).max)
CHUNK_ROWS = 1_000_000  # rows

Array = NDArray[Any]
Mask = NDArray[np.bool_]


class Keys(NamedTuple):
    """What tells the table's rows apart."""

    time: Array | None  # (R)
    zone: Any  # of the time, where it has one
    codes: Array  # (R) of the groups, by the order of their values; -1 where missing
    names: list[str]  # of the groups, by code
    labels: Array | None  # (R) codes of the classes, or numbers (float64)
    classes: list[str]  # by code
    lacking: dict[str, tuple[str, Mask]]  # by role the column, and where (R) it misses what nothing can fill in


def parse_keys(table: pd.DataFrame, config: TableData) -> Keys:
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
    return dtype.kind != "c" and (pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype))


def write_numbers(column: "pd.Series[Any]", out_R: NDArray[np.float32]) -> None:
    """Write a column's numbers (R) as float32; piece by piece, for at once they would take twice the memory."""
    for first in range(0, len(column), CHUNK_ROWS):
        out_R[first : first + CHUNK_ROWS] = parse_numbers(column.iloc[first : first + CHUNK_ROWS], first)


def parse_numbers(column: "pd.Series[Any]", first: int = 0) -> NDArray[np.float64]:
    """A column's numbers (R), float64, each finite in float32, or NaN where missing; errors count rows from first."""
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
        what = "infinite" if np.isinf(numbers[row]) else "too large for float32"
        raise TableError(f"{_value_at(column, row, first)} is {what}; correct it in the source")
    return numbers


def _parse_text_numbers(column: "pd.Series[Any]", first: int) -> NDArray[np.float64]:
    if column.dtype.kind in "mMc":  # times, spans of time, complex numbers
        raise TableError(f"column {abbreviate(column.name)} holds {column.dtype}, no numbers; leave it out")
    try:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        raise TableError(f"column {abbreviate(column.name)} holds {column.dtype}, no numbers; leave it out") from None
    if len(wrong := np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy(dtype=bool))):
        raise TableError(f"{_value_at(column, int(wrong[0]), first)} is no number; correct it, or leave the column out")
    return numbers


def _value_at(column: "pd.Series[Any]", row: int, first: int = 0) -> str:
    value = column.iloc[row]
    shown = abbreviate(repr(value) if isinstance(value, str) else value)
    return f"column {abbreviate(column.name)}, row {first + row + 1}: {shown}"


def _missing(column: "pd.Series[Any]") -> Mask:
    missing = column.isna().to_numpy(dtype=bool)
    if column.dtype.kind == "f" and not isinstance(column.dtype, np.dtype):  # for Arrow NaN is a value like others
        missing = np.isnan(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return missing


def _encode(column: "pd.Series[Any]") -> tuple[Array, list[str]]:
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


def _parse_times(column: "pd.Series[Any]") -> tuple[Array, Mask, Any]:
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
    if is_number(dtype) and dtype.kind != "b":
        return _parse_integers(column), missing, None
    try:
        text = column.astype("string")
    except (TypeError, ValueError):
        text = column.map(str)
    dates = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None).to_numpy()
    if len(wrong := np.flatnonzero(np.isnat(dates) & ~missing)):
        raise TableError(
            f"{_value_at(column, int(wrong[0]))} is neither a whole number nor a date such as 2024-01-31T12:00"
        )
    return dates, missing, None


def _parse_integers(column: "pd.Series[Any]") -> NDArray[np.int64]:
    """Numbers (R) that are whole, 0 where missing."""
    dtype: Any = column.dtype
    if dtype.kind in "iu":
        filled = column if isinstance(dtype, np.dtype) else column.fillna(0)
        if filled.max() <= np.iinfo(np.int64).max:
            return filled.to_numpy(dtype=np.int64)
    numbers = np.nan_to_num(parse_numbers(column), nan=0.0)
    if len(wrong := np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) >= 2.0**63))):
        raise TableError(f"{_value_at(column, int(wrong[0]))} is no whole number of 64 bits; times are such, or dates")
    return numbers.astype(np.int64)
