"""Which columns of a table are read, and what is said where one is missing, or is there twice."""

import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from lstm_models.config import TableData
from lstm_models.data.tables import TableError


def shown(value: object) -> str:
    """A name or a value in a message: short, whatever it is."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def columns(config: TableData) -> tuple[str, ...] | None:
    """The columns that the settings name: features, targets, time and group; None where features are all the others."""
    if config.features is None and config.task != "forecast":
        return None
    extra = [column for column in (config.time, config.group) if column is not None]
    return tuple(dict.fromkeys([*(config.features or ()), *config.targets, *extra]))


def choose(found: Sequence[str], config: TableData) -> list[str]:
    """Which of the columns found are read: `columns`, or all that have a name.

    Raises:
        TableError: if a column is missing, or there twice.
    """
    # pandas writes an index without a name as '' to CSV and as __index_level_0__ to Parquet: no column of the user's
    named = [column for column in found if column and not re.fullmatch(r"__index_level_\d+__", column)]
    used, times = columns(config), Counter(found)
    for column in used or [*config.targets, *filter(None, (config.time, config.group))]:
        if not times[column]:
            raise TableError(f"column {shown(column)} is missing; {_found(column, found)}")
    if twice := {column for column in (used or named) if times[column] > 1}:
        raise TableError(f"column {shown(min(twice))} is there twice; give each column a name of its own")
    return list(used or named)


def _found(column: str, found: Sequence[str]) -> str:
    listed = ", ".join(map(shown, found[:10])) or "none"
    more = f" and {len(found) - 10:,} more" if len(found) > 10 else ""
    lower = {other.lower(): other for other in found}
    close = get_close_matches(column.lower(), lower, n=1)
    return f"found: {listed}{more}" + (f"; did you mean {shown(lower[close[0]])}?" if close else "")
