"""Which rows a model has seen, so that it is never judged on them.

Of forecasts the targets count, series by series; what a window sees may reach back. Of labelled sequences the groups.
"""

from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from lstm_models.config import UserError
from lstm_models.data.dataset import Dataset
from lstm_models.data.examples import Examples, Labelled, Windows

PARTS = ("train", "validation", "test")


class NotHeldOut(UserError):
    """Rows to judge by are among those that were learnt from; the message names them."""


class Span(BaseModel):
    """From which to which time a series' rows were told, both included; row numbers, from 1, where there is no time.

    The number is that within the series: it means the same row in another table only if rows came at the end alone.
    """

    model_config = ConfigDict(frozen=True)

    first: int | str
    last: int | str


class Parts(BaseModel):
    """By part, and by series ("" where there is one only), the rows that are told; of labelled sequences each group has
    a span of 0 to 0.

    by: what the rows are called by: the group, or the row, number or time (in UTC, where the source has a zone), or
    the group and one of these. Rows that are called by different things can't be told apart.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    train: dict[str, Span]
    validation: dict[str, Span]
    test: dict[str, Span]


def parts(dataset: Dataset) -> Parts:
    """The rows of a dataset from a table with a time step a row."""
    examples = {part: getattr(dataset, part) for part in PARTS}
    spans = {part: _spans(dataset, some) if some else {} for part, some in examples.items()}
    return Parts.model_validate({"by": _by(dataset), **spans})


def joined(before: Parts, now: Parts) -> Parts:
    """What a model that continues another one has learnt from: the rows of both. The test is the later one's.

    Raises:
        NotHeldOut: if they are called by different things.
    """
    if before.by != now.by:
        raise NotHeldOut(f"the rows are called by {now.by}, but those before by {before.by}; compare anew")
    both = {part: _both(getattr(before, part), getattr(now, part)) for part in ("train", "validation")}
    return now.model_copy(update=both)


def _both(one: dict[str, Span], other: dict[str, Span]) -> dict[str, Span]:
    spans = dict(one)
    for name, span in other.items():
        own = spans.get(name, span)
        first = own.first if _later(span.first, own.first) else span.first
        spans[name] = Span(first=first, last=span.last if _later(span.last, own.last) else own.last)
    return spans


def _by(dataset: Dataset) -> str:
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


def _spans(dataset: Dataset, examples: Examples) -> dict[str, dict[str, Any]]:
    assert dataset.series
    series = dataset.series
    assert isinstance(examples, Windows | Labelled)
    found: dict[str, dict[str, Any]] = {}
    spans = examples.spans()
    for place, (begin, end) in zip(series.group_of(np.array(spans)[:, 0]), spans, strict=True):
        group = series.groups[place]
        if isinstance(examples, Labelled):
            found[group.name] = {"first": 0, "last": 0}
            continue
        own = found.setdefault(group.name, {"first": _called(dataset, begin, group.start)})
        own["last"] = _called(dataset, end - 1, group.start)
    return found


def _called(dataset: Dataset, row: int, start: int) -> int | str:
    """A row's time, as text that sorts like it; or its number within its series."""
    assert dataset.series
    time, zone = dataset.series.time, dataset.series.zone
    if time is None:
        return row - start + 1
    return int(time[row]) if time.dtype.kind in "iu" else pd.Timestamp(time[row], tz=zone and "UTC").isoformat()


def check_held_out(seen: Parts, judged: Parts, who: str) -> None:
    """See to it that a model is judged on what came after all that it has learnt from, or chosen its epoch by.

    Series that it has not learnt from are held out as they are. Of a model that continues another one the rows of both
    count: see `joined`.

    Raises:
        NotHeldOut: naming a series and the rows.
    """
    if seen.by != judged.by:
        raise NotHeldOut(
            f"the rows to judge by are called by {judged.by}, but those that {who} has learnt from by {seen.by}: "
            f"they can't be told apart; compare anew"
        )
    for part in ("validation", "train"):  # the later one first
        before: dict[str, Span] = getattr(seen, part)
        for name, span in judged.test.items():
            own = before.get(name)
            if own is None:
                continue
            if seen.by == "group":
                raise NotHeldOut(
                    f"group {name} is to judge by, but {who} has learnt from it ({part}); "
                    f"split by date, or compare anew"
                )
            if not _later(span.first, own.last):
                series = f"group {name}: " if "group" in seen.by else ""
                raise NotHeldOut(
                    f"{series}the rows to judge by begin at {span.first}, but {who} has learnt from rows up to "
                    f"{own.last} ({part}); move the split, or compare anew"
                )


def _later(one: int | str, other: int | str) -> bool:
    """Of two rows that are called by the same thing."""
    if isinstance(one, int) and isinstance(other, int):
        return one > other
    return pd.Timestamp(one) > pd.Timestamp(other)
