"""Row ranges that a model was trained on, and validation that it is evaluated on held-out rows only.

For forecasts, the targets of each series count; a window's inputs may be earlier rows. For labelled sequences, the
groups count.
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
    """A model would be evaluated on rows that it was trained on; the message names them."""


class RowRange(BaseModel):
    """Times of the first and the last target of a series, both included; row numbers from 1 if there is no time.

    A row number counts within its series. It means the same row in another table only if all new rows are at the end.
    """

    model_config = ConfigDict(frozen=True)

    first: int | str
    last: int | str


class RowRanges(BaseModel):
    """Target rows by part and series; the name of a single series is "".

    For labelled sequences, each group has the range 0 to 0.

    by: what identifies the rows: "group"; or "row", "number", "time" or "time in UTC" (if the source has a time zone);
    or "group and" one of these. Ranges with different values of `by` can't be compared.
    """

    model_config = ConfigDict(frozen=True)

    by: str
    train: dict[str, RowRange]
    validation: dict[str, RowRange]
    test: dict[str, RowRange]


def row_ranges(dataset: Dataset) -> RowRanges:
    """Return the row ranges of a dataset from a table with one time step per row."""
    parts = {part: getattr(dataset, part) for part in SPLITS}
    ranges = {part: _ranges_by_series(dataset, examples) if examples else {} for part, examples in parts.items()}
    return RowRanges.model_validate({"by": _identified_by(dataset), **ranges})


def merge_row_ranges(previous: RowRanges, current: RowRanges) -> RowRanges:
    """Return what a fine-tuned model was trained on: the rows of both trainings, with the test part of the current one.

    Raises:
        DataLeakageError: if different things identify the rows.
    """
    if previous.by != current.by:
        raise DataLeakageError(
            f"the rows are identified by {current.by}, but those of the previous training by {previous.by}; run "
            "lstm-flows compare again"
        )
    merged = {part: _merge(getattr(previous, part), getattr(current, part)) for part in ("train", "validation")}
    return current.model_copy(update=merged)


def _merge(previous: dict[str, RowRange], current: dict[str, RowRange]) -> dict[str, RowRange]:
    """Return for each series the smallest range that contains both ranges."""
    ranges = dict(previous)
    for name, new in current.items():
        old = ranges.get(name, new)
        first = old.first if _is_later(new.first, old.first) else new.first
        ranges[name] = RowRange(first=first, last=new.last if _is_later(new.last, old.last) else old.last)
    return ranges


def _identified_by(dataset: Dataset) -> str:
    """Return what identifies the rows; see `RowRanges`."""
    assert dataset.config
    assert dataset.series
    if dataset.config.task != "forecast":
        return "group"
    time = dataset.series.time
    if time is None:
        label = "row"
    elif time.dtype.kind in "iu":
        label = "number"
    else:
        label = "time" if dataset.series.zone is None else "time in UTC"
    return label if dataset.config.group is None else f"group and {label}"


def _ranges_by_series(dataset: Dataset, examples: Examples) -> dict[str, dict[str, Any]]:
    assert dataset.series
    series = dataset.series
    assert isinstance(examples, Windows | LabelledSequences)
    ranges: dict[str, dict[str, Any]] = {}
    spans = examples.row_spans()
    for index, (begin, end) in zip(series.segment_of(np.array(spans)[:, 0]), spans, strict=True):
        segment = series.segments[index]
        if isinstance(examples, LabelledSequences):
            ranges[segment.name] = {"first": 0, "last": 0}
            continue
        row_range = ranges.setdefault(segment.name, {"first": _row_label(dataset, begin, segment.start)})
        row_range["last"] = _row_label(dataset, end - 1, segment.start)
    return ranges


def _row_label(dataset: Dataset, row: int, start: int) -> int | str:
    """Return a row's time, as a number or in ISO format; without times, its number within the series, from 1."""
    assert dataset.series
    time, zone = dataset.series.time, dataset.series.zone
    if time is None:
        return row - start + 1
    return int(time[row]) if time.dtype.kind in "iu" else pd.Timestamp(time[row], tz=zone and "UTC").isoformat()


def validate_holdout(trained_on: RowRanges, evaluation: RowRanges, model_name: str) -> None:
    """Validate that test rows are later than all rows of a model's training and validation parts.

    A series that the model was not trained on is held out at any time. For a fine-tuned model the rows of all its
    trainings count; see `merge_row_ranges`.

    Args:
        trained_on: the rows of the model's trainings.
        evaluation: the rows of the dataset whose test part the model is to be evaluated on.
        model_name: the name of the model in messages.

    Raises:
        DataLeakageError: if a test row is not held out; the message names the series and the rows.
    """
    if trained_on.by != evaluation.by:
        raise DataLeakageError(
            f"the test rows are identified by {evaluation.by}, but the rows that {model_name} was trained on by "
            f"{trained_on.by}, so they can't be compared; run lstm-flows compare again"
        )
    for part in ("validation", "train"):  # the later part first
        ranges: dict[str, RowRange] = getattr(trained_on, part)
        for name, test in evaluation.test.items():
            trained = ranges.get(name)
            if trained is None:
                continue
            if trained_on.by == "group":
                raise DataLeakageError(
                    f"group {name} is in the test part, but {model_name} was trained on it ({part}); split by date, or "
                    "run lstm-flows compare again"
                )
            if not _is_later(test.first, trained.last):
                series = f"group {name}: " if "group" in trained_on.by else ""
                raise DataLeakageError(
                    f"{series}the test rows begin at {test.first}, but {model_name} was trained on rows up to "
                    f"{trained.last} ({part}); move the split, or run lstm-flows compare again"
                )


def _is_later(a: int | str, b: int | str) -> bool:
    """Return whether row a is later than row b, both identified by the same thing."""
    if isinstance(a, int) and isinstance(b, int):
        return a > b
    return pd.Timestamp(a) > pd.Timestamp(b)
