"""Which rows a model has seen, so that it is never judged on them.

Of forecasts the targets count, series by series; what a window sees may reach back. Of labelled sequences the groups.
"""

from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from lstm_models.data.dataset import Dataset
from lstm_models.data.windows import Examples, LabelledSequences, Windows
from lstm_models.utils.errors import UserError

SPLITS = ("train", "validation", "test")


class DataLeakageError(UserError):
    """Rows to judge by are among those that were learnt from; the message names them."""


class RowRange(BaseModel):
    """From which to which time a series' rows were told, both included; row numbers, from 1, where there is no time.

    The number is that within the series: it means the same row in another table only if rows came at the end alone.
    """

    model_config = ConfigDict(frozen=True)

    first: int | str
    last: int | str


class RowRanges(BaseModel):
    """By part, and by series ("" where there is one only), the rows that are told; of labelled sequences each group has
    a span of 0 to 0.

    by: what the rows are called by: the group, or the row, number or time (in UTC, where the source has a zone), or
    the group and one of these. Rows that are called by different things can't be told apart.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    train: dict[str, RowRange]
    validation: dict[str, RowRange]
    test: dict[str, RowRange]


def row_ranges(dataset: Dataset) -> RowRanges:
    """The rows of a dataset from a table with a time step a row."""
    examples = {part: getattr(dataset, part) for part in SPLITS}
    spans = {part: _ranges_by_series(dataset, some) if some else {} for part, some in examples.items()}
    return RowRanges.model_validate({"by": _ordering(dataset), **spans})


def merge_row_ranges(before: RowRanges, now: RowRanges) -> RowRanges:
    """What a model that continues another one has learnt from: the rows of both. The test is the later one's.

    Raises:
        NotHeldOut: if they are called by different things.
    """
    if before.by != now.by:
        raise DataLeakageError(f"the rows are called by {now.by}, but those before by {before.by}; compare anew")
    both = {part: _merge(getattr(before, part), getattr(now, part)) for part in ("train", "validation")}
    return now.model_copy(update=both)


def _merge(one: dict[str, RowRange], other: dict[str, RowRange]) -> dict[str, RowRange]:
    spans = dict(one)
    for name, span in other.items():
        own = spans.get(name, span)
        first = own.first if _latest(span.first, own.first) else span.first
        spans[name] = RowRange(first=first, last=span.last if _latest(span.last, own.last) else own.last)
    return spans


def _ordering(dataset: Dataset) -> str:
    assert dataset.config
    assert dataset.series
    if dataset.config.task != "forecast":
        return "group"
    time = dataset.series.time
    if time is None:
        clock = "row"
    elif time.dtype.kind in "iu":
        clock = "number"
    else:
        clock = "time" if dataset.series.zone is None else "time in UTC"
    return clock if dataset.config.group is None else f"group and {clock}"


def _ranges_by_series(dataset: Dataset, examples: Examples) -> dict[str, dict[str, Any]]:
    assert dataset.series
    series = dataset.series
    assert isinstance(examples, Windows | LabelledSequences)
    found: dict[str, dict[str, Any]] = {}
    spans = examples.spans()
    for place, (begin, end) in zip(series.segment_of(np.array(spans)[:, 0]), spans, strict=True):
        group = series.segments[place]
        if isinstance(examples, LabelledSequences):
            found[group.name] = {"first": 0, "last": 0}
            continue
        own = found.setdefault(group.name, {"first": _row_label(dataset, begin, group.start)})
        own["last"] = _row_label(dataset, end - 1, group.start)
    return found


def _row_label(dataset: Dataset, row: int, start: int) -> int | str:
    """A row's time, as text that sorts like it; or its number within its series."""
    assert dataset.series
    time, zone = dataset.series.time, dataset.series.zone
    if time is None:
        return row - start + 1
    return int(time[row]) if time.dtype.kind in "iu" else pd.Timestamp(time[row], tz=zone and "UTC").isoformat()


def validate_holdout(seen: RowRanges, judged: RowRanges, who: str) -> None:
    """See to it that a model is judged on what came after all that it has learnt from, or chosen its epoch by.

    Series that it has not learnt from are held out as they are. Of a model that continues another one the rows of both
    count: see `joined`.

    Raises:
        NotHeldOut: naming a series and the rows.
    """
    if seen.by != judged.by:
        raise DataLeakageError(
            f"the rows to judge by are called by {judged.by}, but those that {who} has learnt from by {seen.by}: "
            f"they can't be told apart; compare anew"
        )
    for part in ("validation", "train"):  # the later one first
        before: dict[str, RowRange] = getattr(seen, part)
        for name, span in judged.test.items():
            own = before.get(name)
            if own is None:
                continue
            if seen.by == "group":
                raise DataLeakageError(
                    f"group {name} is to judge by, but {who} has learnt from it ({part}); "
                    f"split by date, or compare anew"
                )
            if not _latest(span.first, own.last):
                series = f"group {name}: " if "group" in seen.by else ""
                raise DataLeakageError(
                    f"{series}the rows to judge by begin at {span.first}, but {who} has learnt from rows up to "
                    f"{own.last} ({part}); move the split, or compare anew"
                )


def _latest(one: int | str, other: int | str) -> bool:
    """Of two rows that are called by the same thing."""
    if isinstance(one, int) and isinstance(other, int):
        return one > other
    return pd.Timestamp(one) > pd.Timestamp(other)
