"""Selection of the columns to read, and validation of their names and types."""

import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from lstm_models.config import TableData
from lstm_models.utils.errors import TableError


def abbreviate(value: object) -> str:
    """Return a name or a value as text of at most 60 characters, for messages."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def requested_columns(config: TableData) -> tuple[str, ...] | None:
    """Return the configured features, targets, time and group; None if the features are all other columns."""
    if config.features is None and config.task != "forecast":
        return None
    extra = [column for column in (config.time, config.group) if column is not None]
    return tuple(dict.fromkeys([*(config.features or ()), *config.targets, *extra]))


def select_columns(available: Sequence[str], config: TableData) -> list[str]:
    """Return the columns to read: the requested ones, or else all that have a name.

    Raises:
        TableError: if a column is missing or occurs twice.
    """
    # pandas writes an unnamed index as '' to CSV and as __index_level_0__ to Parquet; it is no column of the user's
    roles = [column for column in (*config.targets, config.time, config.group) if column is not None]
    named = [column for column in available if column in roles or not re.fullmatch(r"(__index_level_\d+__)?", column)]
    requested, counts = requested_columns(config), Counter(available)
    for column in requested or roles:
        if not counts[column]:
            raise TableError(f"column {abbreviate(column)} is missing; {_list_columns(column, available)}")
    if duplicates := {column for column in (requested or named) if counts[column] > 1}:
        raise TableError(f"column {abbreviate(min(duplicates))} occurs twice; column names must be unique")
    return list(requested or named)


def _list_columns(column: str, available: Sequence[str]) -> str:
    """Return the available columns as text, with the one whose name is closest to a missing column's."""
    listed = ", ".join(map(abbreviate, available[:10])) or "none"
    more = f" and {len(available) - 10:,} more" if len(available) > 10 else ""
    lower = {name.lower(): name for name in available}
    close = get_close_matches(column.lower(), lower, n=1)
    return f"found: {listed}{more}" + (f"; did you mean {abbreviate(lower[close[0]])}?" if close else "")


def as_pandas_type(column: Any, name: str) -> Any:
    """Return a pyarrow column with a type that pandas can represent and compare; unchanged if it has one.

    Raises:
        TableError: if pandas can't represent a value.
    """
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.string() if pa.types.is_string_view(kind) else pa.binary())
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_nested(kind):  # UUIDs, JSON, lists: as text
        try:
            return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
        except (ValueError, OverflowError) as error:
            raise TableError(
                f"column {abbreviate(name)} has a {kind} value that can't be read: {error}; remove the column"
            ) from None
    _validate_time_range(column, name)
    return column


def _validate_time_range(column: Any, name: str) -> None:
    """Validate that pandas can represent all times, in their zone too, and all durations of a column."""
    kind = column.type
    zone, is_duration = getattr(kind, "tz", None), pa.types.is_duration(kind)
    unit = "D" if pa.types.is_date32(kind) else getattr(kind, "unit", "ms")
    is_time = is_duration or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    if not is_time or (unit == "ns" and zone is None):
        return
    limits = ("1677-09-23", "2262-04-09") if unit == "ns" else ("0001-01-01", "9999-12-31")
    # no zone's offset from UTC exceeds a day
    days = np.array(limits, "datetime64[D]") + ([0, 1] if zone is None else [1, 0])
    first, last = days.astype(f"datetime64[{unit}]").astype(np.int64).tolist()
    first, last = (first - last, last - first) if is_duration else (first, last)
    counts = column.cast(pa.int32() if unit == "D" else pa.int64())  # copies nothing
    lowest, highest = (bound.as_py() for bound in pa.compute.min_max(counts).values())
    if lowest is None or (first <= lowest and highest < last):
        return
    values = counts.fill_null(0).to_numpy()
    location = f"column {abbreviate(name)}, row {int(np.argmax((values < first) | (values >= last))) + 1}"
    fault = "a duration of more than 9,998 years" if is_duration else f"a time outside {limits[0]} to {limits[1]}"
    raise TableError(f"{location}: {fault}; correct the value in the source")
