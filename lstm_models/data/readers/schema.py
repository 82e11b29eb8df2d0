"""Which columns of a table are read, and of which types; and what is said where one is missing, or there twice."""

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
    """A name or a value in a message: short, whatever it is."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def requested_columns(config: TableData) -> tuple[str, ...] | None:
    """The columns that the settings name: features, targets, time and group; None where features are all the others."""
    if config.features is None and config.task != "forecast":
        return None
    extra = [column for column in (config.time, config.group) if column is not None]
    return tuple(dict.fromkeys([*(config.features or ()), *config.targets, *extra]))


def select_columns(found: Sequence[str], config: TableData) -> list[str]:
    """Which of the columns found are read: `columns`, or all that have a name.

    Raises:
        TableError: if a column is missing, or there twice.
    """
    # pandas writes an index without a name as '' to CSV and as __index_level_0__ to Parquet: no column of the user's
    roles = [column for column in (*config.targets, config.time, config.group) if column is not None]
    named = [column for column in found if column in roles or not re.fullmatch(r"(__index_level_\d+__)?", column)]
    used, times = requested_columns(config), Counter(found)
    for column in used or roles:
        if not times[column]:
            raise TableError(f"column {abbreviate(column)} is missing; {_find_column(column, found)}")
    if twice := {column for column in (used or named) if times[column] > 1}:
        raise TableError(f"column {abbreviate(min(twice))} is there twice; give each column a name of its own")
    return list(used or named)


def _find_column(column: str, found: Sequence[str]) -> str:
    listed = ", ".join(map(abbreviate, found[:10])) or "none"
    more = f" and {len(found) - 10:,} more" if len(found) > 10 else ""
    lower = {other.lower(): other for other in found}
    close = get_close_matches(column.lower(), lower, n=1)
    return f"found: {listed}{more}" + (f"; did you mean {abbreviate(lower[close[0]])}?" if close else "")


def as_pandas_type(column: Any, called: str) -> Any:
    """A column of a type that pandas knows, and can tell the values of apart; as it is, where that is so.

    Raises:
        TableError: if it holds what pandas can't tell.
    """
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.string() if pa.types.is_string_view(kind) else pa.binary())
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_nested(kind):  # UUIDs, JSON, lists: as text
        try:
            return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
        except (ValueError, OverflowError) as error:
            raise TableError(
                f"column {abbreviate(called)} holds {kind} that can't be read: {error}; leave it out"
            ) from None
    _validate_time_range(column, called)
    return column


def _validate_time_range(column: Any, called: str) -> None:
    """See to it that pandas can tell each time, in its zone as well, and each span of time."""
    kind = column.type
    zone, is_span = getattr(kind, "tz", None), pa.types.is_duration(kind)
    unit = "D" if pa.types.is_date32(kind) else getattr(kind, "unit", "ms")
    is_time = is_span or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    if not is_time or (unit == "ns" and zone is None):
        return
    reach = ("1677-09-23", "2262-04-09") if unit == "ns" else ("0001-01-01", "9999-12-31")
    # no zone is a day from UTC
    days = np.array(reach, "datetime64[D]") + ([0, 1] if zone is None else [1, 0])
    first, last = days.astype(f"datetime64[{unit}]").astype(np.int64).tolist()
    first, last = (first - last, last - first) if is_span else (first, last)
    counts = column.cast(pa.int32() if unit == "D" else pa.int64())  # which copies nothing
    lowest, highest = (bound.as_py() for bound in pa.compute.min_max(counts).values())
    if lowest is None or (first <= lowest and highest < last):
        return
    there = counts.fill_null(0).to_numpy()
    where = f"column {abbreviate(called)}, row {int(np.argmax((there < first) | (there >= last))) + 1}"
    what = "a span of more than 9,998 years" if is_span else f"a time that is not from {reach[0]} to {reach[1]}"
    raise TableError(f"{where}: {what}; correct it in the source")
