"""Row ranges of each part, and rejected evaluations that are not held out, against an enumeration of all windows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st

from lstm_models.config import TableData
from lstm_models.data.builders import build_dataset
from lstm_models.data.dataset import Dataset
from lstm_models.data.holdout import (
    SPLITS,
    DataLeakageError,
    RowRange,
    RowRanges,
    merge_row_ranges,
    row_ranges,
    validate_holdout,
)
from lstm_models.utils.errors import UserError

Bounds = dict[str, tuple[int | str, int | str]]
SPLIT = {"train": 12, "validation": 3}
FRACTIONS: dict[str, Any] = {"split": {"train": 0.7, "validation": 0.1}}


def dataset(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    config = TableData(kind="table", path="a.csv", **{"target": "y", "context_length": 2, "split": SPLIT, **values})
    return build_dataset(table, config, seed)


def ranges_of(table: pd.DataFrame, seed: int = 0, **values: Any) -> RowRanges:
    """Return the row ranges of a dataset, after a round trip through JSON."""
    ranges = row_ranges(dataset(table, seed, **values))
    assert RowRanges.model_validate_json(ranges.model_dump_json()) == ranges
    return ranges


def rows(count: int, first: int = 0, **more: Any) -> pd.DataFrame:
    """Return rows whose time is a whole number; y equals the time."""
    t = np.arange(first, first + count)
    return pd.DataFrame({"t": t, "y": t.astype(float)}).assign(**more)


def bounds_of(some: RowRanges) -> dict[str, Bounds]:
    """Return the first and the last row, by part and series."""
    return {
        part: {name: (row_range.first, row_range.last) for name, row_range in getattr(some, part).items()}
        for part in SPLITS
    }


def single_series(train: tuple[Any, Any], validation: tuple[Any, Any], test: tuple[Any, Any]) -> dict[str, Bounds]:
    """Return the bounds of one series without a name."""
    return {"train": {"": train}, "validation": {"": validation}, "test": {"": test}}


def refuse(trained_on: RowRanges, evaluation: RowRanges, *texts: str, model_name: str = "it") -> None:
    with refused(DataLeakageError, model_name, "run lstm-flows compare again", *texts):
        validate_holdout(trained_on, evaluation, model_name)


# ---- row ranges
def test_rows_without_time_are_numbered_from_1_in_each_series() -> None:
    some = ranges_of(rows(20))
    assert (some.by, bounds_of(some)) == ("row", single_series((3, 12), (13, 15), (16, 20)))
    some = ranges_of(pd.concat([rows(20, g="a"), rows(18, g="b")]), group="g")
    assert some.by == "group and row"
    assert bounds_of(some) == {
        "train": {"a": (3, 12), "b": (3, 12)},
        "validation": {"a": (13, 15), "b": (13, 15)},
        "test": {"a": (16, 20), "b": (16, 18)},
    }


@pytest.mark.parametrize("dtype", ["int64", "int16", "uint64", "Int64", "float64"])
def test_whole_numbers_as_time(dtype: str) -> None:
    some = ranges_of(rows(20, first=100).astype({"t": dtype}), time="t")
    assert (some.by, bounds_of(some)) == ("number", single_series((102, 111), (112, 114), (115, 119)))
    assert type(RowRanges.model_validate_json(some.model_dump_json()).test[""].first) is int


@pytest.mark.parametrize("kind", ["datetime64[ns]", "datetime64[s]", "string", "date32[pyarrow]"])
def test_dates_as_time(kind: str) -> None:
    days = pd.Series(pd.date_range("2024-02-20", periods=20))
    times = days.dt.date.astype(kind) if kind.startswith("date32") else days.astype(kind)
    some = ranges_of(rows(20, t=times), time="t")
    dates = [day.isoformat() for day in days]
    assert dates[2] == "2024-02-22T00:00:00"
    assert bounds_of(some) == single_series((dates[2], dates[11]), (dates[12], dates[14]), (dates[15], dates[19]))
    assert some.by == "time"


def test_times_with_a_zone_are_in_utc_and_a_fraction_of_a_second_counts() -> None:
    """In Berlin the hour from 2 to 3 occurs twice: two rows with different times."""
    times = pd.date_range("2024-10-26 15:00", periods=20, freq="h", tz="Europe/Berlin")
    some = ranges_of(rows(20, t=times), time="t", split={"train": 12, "validation": 1})
    assert some.by == "time in UTC"
    assert some.train[""].last == times[11].tz_convert("UTC").isoformat() == "2024-10-27T00:00:00+00:00"
    assert some.validation[""].first == times[12].tz_convert("UTC").isoformat() == "2024-10-27T01:00:00+00:00"
    assert [times[row].hour for row in (11, 12)] == [2, 2]
    validate_holdout(some, some, "it")
    some = ranges_of(rows(20, t=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(20) * 250, unit="ns")), time="t")
    assert some.validation[""].last == "2024-01-01T00:00:00.000003500"
    assert some.test[""].first == "2024-01-01T00:00:00.000003750"
    validate_holdout(some, some, "it")


@given(
    sizes=st.lists(st.integers(23, 33), min_size=1, max_size=3),  # enough for one window per part, wherever the gap is
    gap=st.integers(0, 19),
    context=st.integers(1, 3),
    horizon=st.integers(1, 3),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_row_ranges_equal_the_targets_of_all_windows(
    sizes: list[int], gap: int, context: int, horizon: int, strides: tuple[int, int]
) -> None:
    """A window's targets are its times; the times of two groups differ by 1000."""
    tables = []
    for number, size in enumerate(sizes):
        t = np.arange(size) + 1000 * number
        t[gap:] += 7
        tables.append(pd.DataFrame({"g": f"g{number}", "t": t, "y": t.astype(float)}))
    some = dataset(
        pd.concat(tables), time="t", group="g", gaps="split", context_length=context, horizon=horizon,
        stride=strides[0], evaluation_stride=strides[1], split={"train": 11, "validation": 4},
    )  # fmt: skip
    for part, ranges in bounds_of(row_ranges(some)).items():
        times_by_group: dict[str, set[int]] = {}
        if (windows := getattr(some, part)) is not None:
            for time in windows.get_batch(torch.arange(windows.count)).y.flatten().int().tolist():
                times_by_group.setdefault(f"g{time // 1000}", set()).add(time)
        assert ranges == {name: (min(times), max(times)) for name, times in times_by_group.items()}


# ---- labelled groups
def labelled(count: int, *split: Any, seed: int = 0) -> Dataset:
    """Return groups of two rows each; group g starts on day g."""
    days = [pd.Timestamp("2024-01-01") + pd.Timedelta(days=g + row) for g in range(count) for row in range(2)]
    g = np.repeat(np.arange(count), 2)
    table = pd.DataFrame({"g": g, "t": days, "x": g * 1.0, "y": np.where(g % 2, "high", "low")})
    parts = {"train": split[0], "validation": split[1]}
    return dataset(table, seed, task="classify", group="g", time="t", split=parts)


JAN = "2024-01-{:02}".format


def test_each_labelled_group_is_in_one_part() -> None:
    some = labelled(12, 6, 2)
    assert row_ranges(some).by == "group"
    for part, ranges in bounds_of(row_ranges(some)).items():
        examples = getattr(some, part)
        x_BTD = examples.get_batch(torch.arange(examples.count)).x_BTD
        assert ranges == {str(int(g)): (0, 0) for g in x_BTD[:, 0, 0]}
    assert row_ranges(labelled(12, 6, 0)).validation == {}


def test_later_groups_are_held_out_by_date_and_randomly_ordered_groups_are_not() -> None:
    early, late = row_ranges(labelled(10, JAN(7), JAN(9))), row_ranges(labelled(14, JAN(10), JAN(12)))
    validate_holdout(early, late, "the champion")
    # in the training part, and in the validation part, which selected the epoch
    without = row_ranges(labelled(10, JAN(7), JAN(7)))
    refuse(
        without, row_ranges(labelled(10, JAN(3), JAN(5))), "group 4 ", "(train)", "split by date",
        model_name="the champion",
    )  # fmt: skip
    refuse(early, row_ranges(labelled(10, JAN(5), JAN(7))), "group 6 ", "(validation)", "split by date")
    first, second = (row_ranges(labelled(12, 6, 2, seed=seed)) for seed in (0, 1))
    validate_holdout(first, first, "it")
    refuse(first, second, "group ", "split by date")
    merged = merge_row_ranges(early, late)
    assert merged.by == "group"
    validate_holdout(merged, row_ranges(labelled(20, JAN(12), JAN(15))), "it")
    refuse(merged, early, "group 9 ", "(validation)")  # not 8: validation is checked first


# ---- held-out rows
@pytest.mark.parametrize("values", [{}, {"time": "t"}, {"time": "t", "horizon": 3, "evaluation_stride": 2}])
@pytest.mark.parametrize("more", [0, 1, 30])
def test_a_table_with_new_rows_is_held_out(values: dict[str, Any], more: int) -> None:
    trained_on, evaluation = (ranges_of(rows(count), **FRACTIONS, **values) for count in (100, 100 + more))
    validate_holdout(trained_on, evaluation, "the champion")


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_sliding_window_of_rows_is_held_out_and_an_earlier_one_is_not(zone: str | None) -> None:
    """The last 100 hours, and the same one day later."""
    hours = pd.date_range("2024-03-08", periods=124, freq="h", tz=zone)
    first, second = (ranges_of(rows(100, t=hours[begin : begin + 100]), time="t", **FRACTIONS) for begin in (0, 24))
    validate_holdout(first, second, "the champion")
    refuse(
        second, first, first.test[""].first, second.validation[""].last, "(validation)", "move the split",
        model_name="models:/demand/3",
    )  # fmt: skip


def test_a_table_with_fewer_rows_is_rejected() -> None:
    trained_on, evaluation = (ranges_of(rows(count), **FRACTIONS) for count in (100, 90))
    refuse(trained_on, evaluation, "begin at 73,", "rows up to 80 (validation)", "move the split")
    assert issubclass(DataLeakageError, UserError)
    # without validation the training rows count; one common row is too many
    split = {"train": 0.8, "validation": 0.0}
    trained_on, same, evaluation = (ranges_of(rows(100, first), time="t", split=split) for first in (1, 0, 0))
    refuse(trained_on, evaluation, "begin at 80,", "rows up to 80 (train)", "move the split")
    validate_holdout(same, evaluation, "it")


def test_the_group_that_is_not_held_out_is_named() -> None:
    trained_on = ranges_of(pd.concat([rows(50, g="a"), rows(50, g="b")]), time="t", group="g", **FRACTIONS)
    table = pd.concat([rows(60, g="a"), rows(40, g="b"), rows(30, g="new")])
    evaluation = ranges_of(table, time="t", group="g", **FRACTIONS)
    refuse(trained_on, evaluation, "group b: ", "begin at 32,", "rows up to 39 (validation)")
    validate_holdout(trained_on, ranges_of(table.query("g != 'b'"), time="t", group="g", **FRACTIONS), "it")


@pytest.mark.parametrize(
    ("previous", "current", "texts"),
    [
        ({}, {"time": "t"}, ("by number,", "by row")),  # both are whole numbers, but with different meanings
        ({"time": "t"}, {"time": "z"}, ("by time in UTC,", "by number")),
        ({"time": "z"}, {"time": "d"}, ("by time,", "by time in UTC")),
        ({"time": "t"}, {"time": "t", "group": "g"}, ("by group and number,", "by number")),
        ({"time": "t", "group": "g"}, {"time": "t"}, ("by number,", "by group and number")),
    ],
)
def test_rows_identified_by_different_things_are_rejected(
    previous: dict[str, Any], current: dict[str, Any], texts: tuple[str, str]
) -> None:
    days = pd.date_range("2024-01-01", periods=20)
    table = rows(20, first=1000, g="a", d=days, z=days.tz_localize("UTC"))
    trained_on, evaluation = (ranges_of(table, **values) for values in (previous, current))
    refuse(trained_on, evaluation, *texts)
    validate_holdout(evaluation, evaluation, "it")
    with refused(DataLeakageError, *texts, "run lstm-flows compare again"):
        merge_row_ranges(trained_on, evaluation)


# ---- rows of a model and of the one that it was fine-tuned from
@pytest.mark.parametrize("values", [{}, {"time": "t"}])
def test_the_rows_of_both_trainings_are_merged(values: dict[str, Any]) -> None:
    previous, current = (ranges_of(rows(count), **FRACTIONS, **values) for count in (100, 120))
    texts = [some.model_dump_json() for some in (previous, current)]
    merged, first = merge_row_ranges(previous, current), 2 if values else 3
    # the validation range is from the first row of the previous one to the last row of the current one
    assert bounds_of(merged) == single_series((first, first + 81), (first + 68, first + 93), (first + 94, first + 117))
    assert merged.by == current.by == ("number" if values else "row")
    assert RowRanges.model_validate_json(merged.model_dump_json()) == merged
    assert [some.model_dump_json() for some in (previous, current)] == texts  # neither changes


def test_the_rows_of_the_larger_table_count_in_any_order() -> None:
    wide, narrow = (ranges_of(rows(count, first), time="t", **FRACTIONS) for count, first in ((100, 0), (60, 10)))
    assert bounds_of(narrow)["train"] == {"": (12, 51)}
    for pair in ((wide, narrow), (narrow, wide)):
        assert bounds_of(merge_row_ranges(*pair)) == single_series((2, 69), (52, 79), bounds_of(pair[1])["test"][""])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_times_are_merged_by_value_and_not_as_text(zone: str | None) -> None:
    """Steps of 250 ns: ISO format omits the fraction of a whole second."""
    times = pd.Timestamp("2024-03-31", tz=zone) + pd.to_timedelta(np.arange(140) * 250, unit="ns")
    previous, current = (ranges_of(rows(100, t=times[begin : begin + 100]), time="t", **FRACTIONS) for begin in (0, 40))
    utc = [time.isoformat() for time in (times if zone is None else times.tz_convert("UTC"))]
    merged = merge_row_ranges(previous, current)
    assert merged.by == ("time" if zone is None else "time in UTC")
    assert bounds_of(merged) == single_series((utc[2], utc[109]), (utc[70], utc[119]), (utc[120], utc[139]))


@st.composite
def any_ranges(draw: st.DrawFn, by: str) -> RowRanges:
    """Draw any row ranges of up to three series per part."""

    def label(number: int) -> int | str:  # times in ns, with or without a fraction of a second
        return pd.Timestamp(number * 250).isoformat() if "time" in by else number

    def row_range() -> RowRange:
        if by == "group":
            return RowRange(first=0, last=0)
        first, last = sorted(draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
        return RowRange(first=label(first), last=label(last))

    return RowRanges(
        by=by, **{part: {name: row_range() for name in draw(st.sets(st.sampled_from("abc")))} for part in SPLITS}
    )


def is_held_out(trained_on: RowRanges, evaluation: RowRanges) -> bool:
    try:
        validate_holdout(trained_on, evaluation, "it")
    except DataLeakageError:
        return False
    return True


@given(st.data(), st.sampled_from(["row", "number", "time", "time in UTC", "group", "group and time"]))
def test_merged_ranges_reject_what_either_range_rejects_and_nothing_else(data: st.DataObject, by: str) -> None:
    previous, current, evaluation, third = (data.draw(any_ranges(by)) for _ in range(4))
    merged = merge_row_ranges(previous, current)
    assert is_held_out(merged, evaluation) == (is_held_out(previous, evaluation) and is_held_out(current, evaluation))
    other = evaluation.model_copy(update={"by": "something else"})
    assert not any(is_held_out(trained_on, other) for trained_on in (previous, current, merged))
    assert merged.test == current.test
    for part in ("train", "validation"):  # a series in only one of both has that one's range
        a, b, result = (getattr(ranges, part) for ranges in (previous, current, merged))
        assert result.keys() == a.keys() | b.keys()
        assert all(result[name] == (a | b)[name] for name in a.keys() ^ b.keys())
    # in any order and any number of times
    mirrored = merge_row_ranges(current, previous)
    assert (merged.train, merged.validation) == (mirrored.train, mirrored.validation)
    assert merge_row_ranges(previous, previous) == previous
    assert merge_row_ranges(merge_row_ranges(previous, current), current) == merged
    assert merge_row_ranges(merge_row_ranges(previous, current), third) == merge_row_ranges(
        previous, merge_row_ranges(current, third)
    )
