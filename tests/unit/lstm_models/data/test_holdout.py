"""The rows of each part, and which evaluations are refused as not held out: against windows taken one by one."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st

from lstm_models.config import TableData
from lstm_models.data.dataset import Dataset, build_dataset
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

Ends = dict[str, tuple[int | str, int | str]]
SPLIT = {"train": 12, "validation": 3}
FRACTIONS: dict[str, Any] = {"split": {"train": 0.7, "validation": 0.1}}


def dataset(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    config = TableData(kind="table", path="a.csv", **{"target": "y", "context_length": 2, "split": SPLIT, **values})
    return build_dataset(table, config, seed)


def parts_of(table: pd.DataFrame, seed: int = 0, **values: Any) -> RowRanges:
    """They survive being written and read."""
    some = row_ranges(dataset(table, seed, **values))
    assert RowRanges.model_validate_json(some.model_dump_json()) == some
    return some


def rows(count: int, first: int = 0, **more: Any) -> pd.DataFrame:
    """Whole numbers as time; y is the time as well."""
    t = np.arange(first, first + count)
    return pd.DataFrame({"t": t, "y": t.astype(float)}).assign(**more)


def ends_of(some: RowRanges) -> dict[str, Ends]:
    """By part and series the first and the last row."""
    return {part: {name: (span.first, span.last) for name, span in getattr(some, part).items()} for part in SPLITS}


def of_one(train: tuple[Any, Any], validation: tuple[Any, Any], test: tuple[Any, Any]) -> dict[str, Ends]:
    """Of one series, which has no name."""
    return {"train": {"": train}, "validation": {"": validation}, "test": {"": test}}


def refuse(seen: RowRanges, judged: RowRanges, *texts: str, who: str = "it") -> None:
    with refused(DataLeakageError, who, "compare anew", *texts):
        validate_holdout(seen, judged, who)


# ---- which rows
def test_rows_without_time_are_numbered_from_1_in_each_series() -> None:
    some = parts_of(rows(20))
    assert (some.by, ends_of(some)) == ("row", of_one((3, 12), (13, 15), (16, 20)))
    some = parts_of(pd.concat([rows(20, g="a"), rows(18, g="b")]), group="g")
    assert some.by == "group and row"
    assert ends_of(some) == {
        "train": {"a": (3, 12), "b": (3, 12)},
        "validation": {"a": (13, 15), "b": (13, 15)},
        "test": {"a": (16, 20), "b": (16, 18)},
    }


@pytest.mark.parametrize("dtype", ["int64", "int16", "uint64", "Int64", "float64"])
def test_whole_numbers_as_time(dtype: str) -> None:
    some = parts_of(rows(20, first=100).astype({"t": dtype}), time="t")
    assert (some.by, ends_of(some)) == ("number", of_one((102, 111), (112, 114), (115, 119)))
    assert type(RowRanges.model_validate_json(some.model_dump_json()).test[""].first) is int


@pytest.mark.parametrize("kind", ["datetime64[ns]", "datetime64[s]", "string", "date32[pyarrow]"])
def test_dates_as_time(kind: str) -> None:
    days = pd.Series(pd.date_range("2024-02-20", periods=20))
    times = days.dt.date.astype(kind) if kind.startswith("date32") else days.astype(kind)
    some = parts_of(rows(20, t=times), time="t")
    dates = [day.isoformat() for day in days]
    assert dates[2] == "2024-02-22T00:00:00"
    assert ends_of(some) == of_one((dates[2], dates[11]), (dates[12], dates[14]), (dates[15], dates[19]))
    assert some.by == "time"


def test_times_with_a_zone_are_in_utc_and_a_fraction_of_a_second_counts() -> None:
    """In Berlin the hour from 2 to 3 comes twice: two rows, of different times."""
    times = pd.date_range("2024-10-26 15:00", periods=20, freq="h", tz="Europe/Berlin")
    some = parts_of(rows(20, t=times), time="t", split={"train": 12, "validation": 1})
    assert some.by == "time in UTC"
    assert some.train[""].last == times[11].tz_convert("UTC").isoformat() == "2024-10-27T00:00:00+00:00"
    assert some.validation[""].first == times[12].tz_convert("UTC").isoformat() == "2024-10-27T01:00:00+00:00"
    assert [times[row].hour for row in (11, 12)] == [2, 2]
    validate_holdout(some, some, "it")
    some = parts_of(rows(20, t=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(20) * 250, unit="ns")), time="t")
    assert some.validation[""].last == "2024-01-01T00:00:00.000003500"
    assert some.test[""].first == "2024-01-01T00:00:00.000003750"
    validate_holdout(some, some, "it")


@given(
    sizes=st.lists(st.integers(20, 30), min_size=1, max_size=3),
    gap=st.integers(0, 19),
    context=st.integers(1, 3),
    horizon=st.integers(1, 3),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_the_spans_are_those_of_the_windows(
    sizes: list[int], gap: int, context: int, horizon: int, strides: tuple[int, int]
) -> None:
    """Of every window its targets, which are the time; groups are 1000 apart."""
    pieces = []
    for number, size in enumerate(sizes):
        t = np.arange(size) + 1000 * number
        t[gap:] += 7
        pieces.append(pd.DataFrame({"g": f"g{number}", "t": t, "y": t.astype(float)}))
    some = dataset(
        pd.concat(pieces), time="t", group="g", gaps="split", context_length=context, horizon=horizon,
        stride=strides[0], evaluation_stride=strides[1], split={"train": 10, "validation": 4},
    )  # fmt: skip
    for part, spans in ends_of(row_ranges(some)).items():
        told: dict[str, set[int]] = {}
        if (windows := getattr(some, part)) is not None:
            for time in windows.get_batch(torch.arange(windows.count)).y.flatten().int().tolist():
                told.setdefault(f"g{time // 1000}", set()).add(time)
        assert spans == {name: (min(times), max(times)) for name, times in told.items()}


# ---- labelled groups
def labelled(count: int, *split: Any, seed: int = 0) -> Dataset:
    """Groups of two rows each; group g begins on day g."""
    days = [pd.Timestamp("2024-01-01") + pd.Timedelta(days=g + row) for g in range(count) for row in range(2)]
    g = np.repeat(np.arange(count), 2)
    table = pd.DataFrame({"g": g, "t": days, "x": g * 1.0, "y": np.where(g % 2, "high", "low")})
    parts = {"train": split[0], "validation": split[1]}
    return dataset(table, seed, task="classify", group="g", time="t", split=parts)


JAN = "2024-01-{:02}".format


def test_labelled_groups_are_each_in_one_part() -> None:
    some = labelled(12, 6, 2)
    assert row_ranges(some).by == "group"
    for part, spans in ends_of(row_ranges(some)).items():
        examples = getattr(some, part)
        x_BTD = examples.get_batch(torch.arange(examples.count)).x_BTD
        assert spans == {str(int(g)): (0, 0) for g in x_BTD[:, 0, 0]}
    assert row_ranges(labelled(12, 6, 0)).validation == {}


def test_later_groups_are_held_out_by_date_and_groups_in_a_random_order_are_not() -> None:
    early, late = row_ranges(labelled(10, JAN(7), JAN(9))), row_ranges(labelled(14, JAN(10), JAN(12)))
    validate_holdout(early, late, "the champion")
    # in training, and in the validation that chose the epoch
    without = row_ranges(labelled(10, JAN(7), JAN(7)))
    refuse(
        without, row_ranges(labelled(10, JAN(3), JAN(5))), "group 4 ", "(train)", "split by date", who="the champion"
    )
    refuse(early, row_ranges(labelled(10, JAN(5), JAN(7))), "group 6 ", "(validation)", "split by date")
    one, other = (row_ranges(labelled(12, 6, 2, seed=seed)) for seed in (0, 1))
    validate_holdout(one, one, "it")
    refuse(one, other, "group ", "split by date")
    both = merge_row_ranges(early, late)
    assert both.by == "group"
    validate_holdout(both, row_ranges(labelled(20, JAN(12), JAN(15))), "it")
    refuse(both, early, "group 9 ", "(validation)")  # not 8, of both trainings: the validation is looked at first


# ---- held out or not
@pytest.mark.parametrize("values", [{}, {"time": "t"}, {"time": "t", "horizon": 3, "evaluation_stride": 2}])
@pytest.mark.parametrize("more", [0, 1, 30])
def test_a_table_with_new_rows_is_held_out(values: dict[str, Any], more: int) -> None:
    seen, judged = (parts_of(rows(count), **FRACTIONS, **values) for count in (100, 100 + more))
    validate_holdout(seen, judged, "the champion")


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_sliding_window_of_rows_is_held_out_and_an_earlier_one_is_not(zone: str | None) -> None:
    """The last 100 hours, a day later."""
    hours = pd.date_range("2024-03-08", periods=124, freq="h", tz=zone)
    first, second = (parts_of(rows(100, t=hours[begin : begin + 100]), time="t", **FRACTIONS) for begin in (0, 24))
    validate_holdout(first, second, "the champion")
    refuse(
        second, first, first.test[""].first, second.validation[""].last, "(validation)", "move the split",
        who="models:/demand/3",
    )  # fmt: skip


def test_a_table_that_lost_rows_is_refused() -> None:
    seen, judged = (parts_of(rows(count), **FRACTIONS) for count in (100, 90))
    refuse(seen, judged, "begin at 73,", "rows up to 80 (validation)", "move the split")
    assert issubclass(DataLeakageError, UserError)
    # without validation it is the training's rows, and one is too many
    split = {"train": 0.8, "validation": 0.0}
    seen, same, judged = (parts_of(rows(100, first), time="t", split=split) for first in (1, 0, 0))
    refuse(seen, judged, "begin at 80,", "rows up to 80 (train)", "move the split")
    validate_holdout(same, judged, "it")


def test_the_group_that_is_not_held_out_is_named() -> None:
    seen = parts_of(pd.concat([rows(50, g="a"), rows(50, g="b")]), time="t", group="g", **FRACTIONS)
    table = pd.concat([rows(60, g="a"), rows(40, g="b"), rows(30, g="new")])
    judged = parts_of(table, time="t", group="g", **FRACTIONS)
    refuse(seen, judged, "group b: ", "begin at 32,", "rows up to 39 (validation)")
    validate_holdout(seen, parts_of(table.query("g != 'b'"), time="t", group="g", **FRACTIONS), "it")


@pytest.mark.parametrize(
    ("before", "after", "texts"),
    [
        ({}, {"time": "t"}, ("by number,", "by row")),  # both are whole numbers, but of different things
        ({"time": "t"}, {"time": "z"}, ("by time in UTC,", "by number")),
        ({"time": "z"}, {"time": "d"}, ("by time,", "by time in UTC")),
        ({"time": "t"}, {"time": "t", "group": "g"}, ("by group and number,", "by number")),
        ({"time": "t", "group": "g"}, {"time": "t"}, ("by number,", "by group and number")),
    ],
)
def test_rows_called_by_different_things_are_not_compared(
    before: dict[str, Any], after: dict[str, Any], texts: tuple[str, str]
) -> None:
    days = pd.date_range("2024-01-01", periods=20)
    table = rows(20, first=1000, g="a", d=days, z=days.tz_localize("UTC"))
    seen, judged = (parts_of(table, **values) for values in (before, after))
    refuse(seen, judged, *texts)
    validate_holdout(judged, judged, "it")
    with refused(DataLeakageError, *texts, "compare anew"):
        merge_row_ranges(seen, judged)


# ---- the rows of a model and of the one that it continues
@pytest.mark.parametrize("values", [{}, {"time": "t"}])
def test_of_a_table_with_new_rows_those_of_both_count(values: dict[str, Any]) -> None:
    before, now = (parts_of(rows(count), **FRACTIONS, **values) for count in (100, 120))
    texts = [some.model_dump_json() for some in (before, now)]
    both, first = merge_row_ranges(before, now), 2 if values else 3
    # the validation is from the earlier one's first to the later one's last
    assert ends_of(both) == of_one((first, first + 81), (first + 68, first + 93), (first + 94, first + 117))
    assert both.by == now.by == ("number" if values else "row")
    assert RowRanges.model_validate_json(both.model_dump_json()) == both
    assert [some.model_dump_json() for some in (before, now)] == texts  # neither changes


def test_of_the_wider_of_two_tables_the_rows_count_whichever_is_later() -> None:
    wide, narrow = (parts_of(rows(count, first), time="t", **FRACTIONS) for count, first in ((100, 0), (60, 10)))
    assert ends_of(narrow)["train"] == {"": (12, 51)}
    for pair in ((wide, narrow), (narrow, wide)):
        assert ends_of(merge_row_ranges(*pair)) == of_one((2, 69), (52, 79), ends_of(pair[1])["test"][""])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_times_are_joined_by_what_they_mean(zone: str | None) -> None:
    """Steps of 250 ns: where a second is whole, its fraction is not written."""
    times = pd.Timestamp("2024-03-31", tz=zone) + pd.to_timedelta(np.arange(140) * 250, unit="ns")
    before, now = (parts_of(rows(100, t=times[begin : begin + 100]), time="t", **FRACTIONS) for begin in (0, 40))
    utc = [time.isoformat() for time in (times if zone is None else times.tz_convert("UTC"))]
    both = merge_row_ranges(before, now)
    assert both.by == ("time" if zone is None else "time in UTC")
    assert ends_of(both) == of_one((utc[2], utc[109]), (utc[70], utc[119]), (utc[120], utc[139]))


@st.composite
def some_parts(draw: st.DrawFn, by: str) -> RowRanges:
    """Any spans of up to three series; in a part that is not there, none."""

    def called(number: int) -> int | str:  # a time of ns: with a fraction of a second, or without one
        return pd.Timestamp(number * 250).isoformat() if "time" in by else number

    def span() -> RowRange:
        if by == "group":
            return RowRange(first=0, last=0)
        first, last = sorted(draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
        return RowRange(first=called(first), last=called(last))

    return RowRanges(
        by=by, **{part: {name: span() for name in draw(st.sets(st.sampled_from("abc")))} for part in SPLITS}
    )


def is_held_out(seen: RowRanges, judged: RowRanges) -> bool:
    try:
        validate_holdout(seen, judged, "it")
    except DataLeakageError:
        return False
    return True


@given(st.data(), st.sampled_from(["row", "number", "time", "time in UTC", "group", "group and time"]))
def test_refused_of_either_is_refused_of_both_and_nothing_else_is(data: st.DataObject, by: str) -> None:
    before, now, judged, third = (data.draw(some_parts(by)) for _ in range(4))
    both = merge_row_ranges(before, now)
    assert is_held_out(both, judged) == (is_held_out(before, judged) and is_held_out(now, judged))
    other = judged.model_copy(update={"by": "another thing"})
    assert not any(is_held_out(seen, other) for seen in (before, now, both))
    assert both.test == now.test
    for part in ("train", "validation"):  # of a series of one alone it is that one's
        one, other, of_both = (getattr(some, part) for some in (before, now, both))
        assert of_both.keys() == one.keys() | other.keys()
        assert all(of_both[name] == (one | other)[name] for name in one.keys() ^ other.keys())
    # in whichever order and however often
    mirrored = merge_row_ranges(now, before)
    assert (both.train, both.validation) == (mirrored.train, mirrored.validation)
    assert merge_row_ranges(before, before) == before
    assert merge_row_ranges(merge_row_ranges(before, now), now) == both
    assert merge_row_ranges(merge_row_ranges(before, now), third) == merge_row_ranges(
        before, merge_row_ranges(now, third)
    )
