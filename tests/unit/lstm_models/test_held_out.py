"""Which rows each part told, and who is refused as judge: against windows taken one by one."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_models.config import TableData, UserError
from lstm_models.data.dataset import Dataset, of_table
from lstm_models.held_out import PARTS, NotHeldOut, Parts, Span, check_held_out, joined, parts

Ends = dict[str, tuple[int | str, int | str]]
SPLIT = {"train": 12, "validation": 3}


def dataset(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    config = TableData(kind="table", path="a.csv", **{"target": "y", "context_length": 2, "split": SPLIT, **values})
    return of_table(table, config, seed)


def rows(count: int, first: int = 0) -> pd.DataFrame:
    """Whole numbers as time; y is the time as well."""
    t = np.arange(first, first + count)
    return pd.DataFrame({"t": t, "y": t.astype(float)})


def found(table: pd.DataFrame, **values: Any) -> dict[str, Ends]:
    """By part and series the first and the last row; they survive being written and read."""
    some = parts(dataset(table, **values))
    again = Parts.model_validate_json(some.model_dump_json())
    assert again == some
    return {part: {name: (span.first, span.last) for name, span in getattr(again, part).items()} for part in PARTS}


def refused(text: str) -> Any:
    return pytest.raises(NotHeldOut, match=f"^{re.escape(text)}$")


# ---- which rows
def test_rows_without_time_are_numbered_from_1() -> None:
    assert found(rows(20)) == {"train": {"": (3, 12)}, "validation": {"": (13, 15)}, "test": {"": (16, 20)}}
    assert parts(dataset(rows(20))).by == "row"


def test_rows_are_numbered_within_their_series() -> None:
    table = pd.concat([rows(20).assign(g="a"), rows(18).assign(g="b")])
    assert found(table, group="g") == {
        "train": {"a": (3, 12), "b": (3, 12)},
        "validation": {"a": (13, 15), "b": (13, 15)},
        "test": {"a": (16, 20), "b": (16, 18)},
    }
    assert parts(dataset(table, group="g")).by == "group and row"


@pytest.mark.parametrize("dtype", ["int64", "int16", "uint64", "Int64", "float64"])
def test_whole_numbers_as_time(dtype: str) -> None:
    table = rows(20, first=100).astype({"t": dtype})
    assert found(table, time="t") == {
        "train": {"": (102, 111)},
        "validation": {"": (112, 114)},
        "test": {"": (115, 119)},
    }
    assert parts(dataset(table, time="t")).by == "number"


def test_a_number_is_none_of_text() -> None:
    some = parts(dataset(rows(20), time="t"))
    assert type(Parts.model_validate_json(some.model_dump_json()).test[""].first) is int


@pytest.mark.parametrize("kind", ["datetime64[ns]", "datetime64[s]", "string", "date32[pyarrow]"])
def test_dates_as_time(kind: str) -> None:
    days = pd.Series(pd.date_range("2024-02-20", periods=20))
    times = days.dt.date.astype(kind) if kind.startswith("date32") else days.astype(kind)
    table = rows(20).assign(t=times)
    assert found(table, time="t") == {
        "train": {"": ("2024-02-22T00:00:00", "2024-03-02T00:00:00")},
        "validation": {"": ("2024-03-03T00:00:00", "2024-03-05T00:00:00")},
        "test": {"": ("2024-03-06T00:00:00", "2024-03-10T00:00:00")},
    }
    assert parts(dataset(table, time="t")).by == "time"


def test_times_with_a_zone_are_in_utc() -> None:
    """In Berlin the hour from 2 to 3 comes twice: two rows, of different times."""
    times = pd.date_range("2024-10-26 15:00", periods=20, freq="h", tz="Europe/Berlin")
    some = dataset(rows(20).assign(t=times), time="t", split={"train": 12, "validation": 1})
    assert parts(some).by == "time in UTC"
    assert parts(some).train[""].last == times[11].tz_convert("UTC").isoformat() == "2024-10-27T00:00:00+00:00"
    assert parts(some).validation[""].first == times[12].tz_convert("UTC").isoformat() == "2024-10-27T01:00:00+00:00"
    assert [times[row].hour for row in (11, 12)] == [2, 2]
    check_held_out(parts(some), parts(some), "it")


def test_a_fraction_of_a_second_counts() -> None:
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(20) * 250, unit="ns")
    some = parts(dataset(rows(20).assign(t=times), time="t"))
    assert some.validation[""].last == "2024-01-01T00:00:00.000003500"
    assert some.test[""].first == "2024-01-01T00:00:00.000003750"
    check_held_out(some, some, "it")


def test_a_stride_leaves_rows_at_the_end_untold() -> None:
    values: dict[str, Any] = {
        "horizon": 2,
        "stride": 3,
        "evaluation_stride": 4,
        "split": {"train": 12, "validation": 5},
    }
    # windows tell 2-3, 5-6, 8-9, and 11-12 would cross; 12-13, and 16-17 would; 17-18, 21-22
    assert found(rows(24), time="t", **values) == {
        "train": {"": (2, 9)},
        "validation": {"": (12, 13)},
        "test": {"": (17, 22)},
    }


def test_a_series_that_is_cut_at_gaps_is_one() -> None:
    """12 rows of 0 to 9 and 20, 21; then 22 to 25; then 26 to 29: 20 and 21 have nothing but the gap before them."""
    table = pd.concat([rows(10), rows(10, first=20)])
    values: dict[str, Any] = {"time": "t", "gaps": "split"}
    assert found(table, **values, split={"train": 12, "validation": 4}) == {
        "train": {"": (2, 9)},
        "validation": {"": (22, 25)},
        "test": {"": (26, 29)},
    }
    # a part on both sides of a gap reaches from the first piece to the last
    assert found(table, **values, split={"train": 14, "validation": 1})["train"] == {"": (2, 23)}
    assert found(table, **values, split={"train": 7, "validation": 1})["test"] == {"": (8, 29)}


def test_pieces_of_two_groups_keep_their_own() -> None:
    table = pd.concat([rows(10).assign(g="a"), rows(10, 20).assign(g="a"), rows(18, 500).assign(g="b")])
    assert found(table, time="t", group="g", gaps="split", split={"train": 14, "validation": 0}) == {
        "train": {"a": (2, 23), "b": (502, 513)},
        "validation": {},
        "test": {"a": (24, 29), "b": (514, 517)},
    }


def test_a_series_may_lie_in_one_part_alone() -> None:
    days = pd.date_range("2024-01-01", periods=20)
    table = pd.concat(
        [pd.DataFrame({"g": "old", "t": days, "y": 1.0}), pd.DataFrame({"g": "new", "t": days[15:], "y": 1.0})]
    )
    some = parts(dataset(table, time="t", group="g", split={"train": "2024-01-10", "validation": "2024-01-12"}))
    assert (list(some.train), list(some.validation), list(some.test)) == (["old"], ["old"], ["new", "old"])
    check_held_out(some, some, "it")


@given(
    sizes=st.lists(st.integers(20, 30), min_size=1, max_size=3),
    gap=st.integers(0, 19),
    context=st.integers(1, 3),
    horizon=st.integers(1, 3),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(derandomize=True, deadline=None, max_examples=50)  # a shared machine may pause for longer
def test_the_spans_are_those_of_the_windows(
    sizes: list[int], gap: int, context: int, horizon: int, strides: tuple[int, int]
) -> None:
    """Of every window what it tells, which is the time; groups are 1000 apart."""
    pieces = []
    for number, size in enumerate(sizes):
        t = np.arange(size) + 1000 * number
        t[gap:] += 7
        pieces.append(pd.DataFrame({"g": f"g{number}", "t": t, "y": t.astype(float)}))
    some = dataset(
        pd.concat(pieces), time="t", group="g", gaps="split", context_length=context, horizon=horizon,
        stride=strides[0], evaluation_stride=strides[1], split={"train": 10, "validation": 4},
    )  # fmt: skip
    for part in PARTS:
        told: dict[str, set[int]] = {}
        if (windows := getattr(some, part)) is not None:
            for time in windows.take(torch.arange(windows.count)).y.flatten().int().tolist():
                told.setdefault(f"g{time // 1000}", set()).add(time)
        spans = getattr(parts(some), part)
        assert {name: (span.first, span.last) for name, span in spans.items()} == {
            name: (min(times), max(times)) for name, times in told.items()
        }


# ---- labelled groups
def groups(count: int) -> pd.DataFrame:
    """Of two rows each; group g begins on day g."""
    days = [pd.Timestamp("2024-01-01") + pd.Timedelta(days=g + row) for g in range(count) for row in range(2)]
    g = np.repeat(np.arange(count), 2)
    return pd.DataFrame({"g": g, "t": days, "x": g * 1.0, "y": np.where(g % 2, "high", "low")})


def labelled(count: int, seed: int = 0, **values: Any) -> Dataset:
    return dataset(groups(count), seed, task="classify", group="g", time="t", **values)


DATES = {"train": "2024-01-07", "validation": "2024-01-09"}


def test_of_labelled_groups_each_is_in_its_part() -> None:
    some = labelled(12, split={"train": 6, "validation": 2})
    again = Parts.model_validate_json(parts(some).model_dump_json())
    assert again == parts(some)
    assert again.by == "group"
    for part in PARTS:
        examples = getattr(some, part)
        x_BTD = examples.take(torch.arange(examples.count)).x_BTD
        expected = {str(int(g)): (0, 0) for g in x_BTD[:, 0, 0]}
        assert {name: (span.first, span.last) for name, span in getattr(again, part).items()} == expected
    assert not labelled(12, split={"train": 6, "validation": 0}).validation
    assert parts(labelled(12, split={"train": 6, "validation": 0})).validation == {}


def test_later_groups_are_held_out_by_date_and_drawn_ones_are_not() -> None:
    later = DATES | {"train": "2024-01-10", "validation": "2024-01-12"}
    check_held_out(parts(labelled(10, split=DATES)), parts(labelled(14, split=later)), "the champion")
    with refused("group 4 is to judge by, but the champion has learnt from it (train); split by date, or compare anew"):
        check_held_out(
            parts(labelled(10, split=DATES | {"validation": DATES["train"]})),
            parts(labelled(10, split={"train": "2024-01-03", "validation": "2024-01-05"})),
            "the champion",
        )
    drawn = [parts(labelled(12, seed, split={"train": 6, "validation": 2})) for seed in (0, 1)]
    check_held_out(drawn[0], drawn[0], "it")
    with pytest.raises(NotHeldOut, match=r"^group \d+ is to judge by, but it has learnt from it"):
        check_held_out(*drawn, "it")


def test_a_group_that_chose_the_epoch_is_not_held_out() -> None:
    later = {"train": "2024-01-05", "validation": "2024-01-07"}
    with refused("group 6 is to judge by, but it has learnt from it (validation); split by date, or compare anew"):
        check_held_out(parts(labelled(10, split=DATES)), parts(labelled(10, split=later)), "it")


# ---- held out or not
FRACTIONS: dict[str, Any] = {"split": {"train": 0.7, "validation": 0.1}}


@pytest.mark.parametrize("values", [{}, {"time": "t"}, {"time": "t", "horizon": 3, "evaluation_stride": 2}])
@pytest.mark.parametrize("more", [0, 1, 30])
def test_a_grown_table_is_held_out_against_the_earlier_one(values: dict[str, Any], more: int) -> None:
    seen, judged = (parts(dataset(rows(count), **FRACTIONS, **values)) for count in (100, 100 + more))
    check_held_out(seen, judged, "the champion")


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_table_that_moves_on_is_held_out(zone: str | None) -> None:
    """The last 100 hours, a day later."""
    hours = pd.date_range("2024-03-08", periods=124, freq="h", tz=zone)
    first, second = (
        parts(dataset(rows(100).assign(t=hours[begin : begin + 100]), time="t", **FRACTIONS)) for begin in (0, 24)
    )
    check_held_out(first, second, "the champion")
    with pytest.raises(NotHeldOut, match=r"^the rows to judge by begin at 2024-03-11T\d\d:00:00.* \(validation\)"):
        check_held_out(second, first, "the challenger")


def test_a_shrunk_table_is_refused() -> None:
    seen, judged = (parts(dataset(rows(count), **FRACTIONS)) for count in (100, 90))
    text = (
        "the rows to judge by begin at 73, but the champion has learnt from rows up to 80 (validation); "
        "move the split, or compare anew"
    )
    with refused(text):
        check_held_out(seen, judged, "the champion")
    assert issubclass(NotHeldOut, UserError)


def test_a_shifted_table_is_refused() -> None:
    """Rows from before the earlier table's begin."""
    days = pd.date_range("2024-01-01", periods=120)
    seen, judged = (
        parts(dataset(rows(100).assign(t=days[begin : begin + 100]), time="t", **FRACTIONS)) for begin in (20, 0)
    )
    text = (
        "the rows to judge by begin at 2024-03-21T00:00:00, but models:/demand/3 has learnt from rows up to "
        "2024-04-09T00:00:00 (validation); move the split, or compare anew"
    )
    with refused(text):
        check_held_out(seen, judged, "models:/demand/3")


def test_without_validation_it_is_the_training() -> None:
    split = {"train": 0.8, "validation": 0.0}
    seen, judged = (parts(dataset(rows(100, first), time="t", split=split)) for first in (1, 0))
    text = (
        "the rows to judge by begin at 80, but it has learnt from rows up to 80 (train); "
        "move the split, or compare anew"
    )
    with refused(text):  # one row is too many
        check_held_out(seen, judged, "it")
    check_held_out(parts(dataset(rows(100), time="t", split=split)), judged, "it")


def test_the_group_is_named_that_is_not_held_out() -> None:
    seen = parts(dataset(pd.concat([rows(50).assign(g="a"), rows(50).assign(g="b")]), time="t", group="g", **FRACTIONS))
    table = pd.concat([rows(60).assign(g="a"), rows(40).assign(g="b"), rows(30).assign(g="new")])
    judged = parts(dataset(table, time="t", group="g", **FRACTIONS))
    text = (
        "group b: the rows to judge by begin at 32, but it has learnt from rows up to 39 (validation); "
        "move the split, or compare anew"
    )
    with refused(text):
        check_held_out(seen, judged, "it")
    check_held_out(seen, parts(dataset(table.query("g != 'b'"), time="t", group="g", **FRACTIONS)), "it")


@pytest.mark.parametrize(
    ("before", "after", "texts"),
    [
        ({}, {"time": "t"}, ("number", "row")),  # both are whole numbers, but of different things
        ({"time": "t"}, {"time": "z"}, ("time in UTC", "number")),
        ({"time": "z"}, {"time": "d"}, ("time", "time in UTC")),
        ({"time": "t"}, {"time": "t", "group": "g"}, ("group and number", "number")),
        ({"time": "t", "group": "g"}, {"time": "t"}, ("number", "group and number")),
    ],
)
def test_what_is_called_by_different_things_is_refused(
    before: dict[str, Any], after: dict[str, Any], texts: tuple[str, str]
) -> None:
    days = pd.date_range("2024-01-01", periods=20)
    table = rows(20, first=1000).assign(g="a", d=days, z=days.tz_localize("UTC"))
    seen, judged = (parts(dataset(table, **values)) for values in (before, after))
    text = (
        f"the rows to judge by are called by {texts[0]}, but those that it has learnt from by {texts[1]}: "
        "they can't be told apart; compare anew"
    )
    with refused(text):
        check_held_out(seen, judged, "it")
    check_held_out(judged, judged, "it")


# ---- what a model that continues another one has learnt from
def ends_of(some: Parts) -> dict[str, Ends]:
    return {part: {name: (span.first, span.last) for name, span in getattr(some, part).items()} for part in PARTS}


@pytest.mark.parametrize("values", [{}, {"time": "t"}])
def test_of_a_grown_table_the_rows_of_both_count(values: dict[str, Any]) -> None:
    before, now = (parts(dataset(rows(count), **FRACTIONS, **values)) for count in (100, 120))
    assert (before.by, before.validation[""].last) == ("number", 79) if values else ("row", 80)
    first = 2 if values else 3
    both = joined(before, now)
    assert ends_of(both) == {
        "train": {"": (first, first + 81)},
        "validation": {"": (first + 68, first + 93)},  # from the earlier one's first to the later one's last
        "test": {"": (first + 94, first + 117)},
    }
    assert both.by == now.by
    assert Parts.model_validate_json(both.model_dump_json()) == both


def test_of_a_table_that_lost_its_begin_and_one_that_lost_its_end_the_rows_of_both_count() -> None:
    """The later one is not always the larger one: it is the wider span of either that counts."""
    wide, narrow = (parts(dataset(rows(count, first), time="t", **FRACTIONS)) for count, first in ((100, 0), (60, 10)))
    assert ends_of(narrow)["train"] == {"": (12, 51)}
    for pair in ((wide, narrow), (narrow, wide)):
        assert ends_of(joined(*pair)) == {
            "train": {"": (2, 69)},
            "validation": {"": (52, 79)},
            "test": ends_of(pair[1])["test"],
        }


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_times_are_joined_by_what_they_mean(zone: str | None) -> None:
    """Steps of 250 ns: where a second is whole, its fraction is not written."""
    times = pd.Timestamp("2024-03-31", tz=zone) + pd.to_timedelta(np.arange(140) * 250, unit="ns")
    before, now = (
        parts(dataset(rows(100).assign(t=times[begin : begin + 100]), time="t", **FRACTIONS)) for begin in (0, 40)
    )
    utc = times if zone is None else times.tz_convert("UTC")
    both = joined(before, now)
    assert both.by == ("time" if zone is None else "time in UTC")
    assert ends_of(both) == {
        "train": {"": (utc[2].isoformat(), utc[109].isoformat())},
        "validation": {"": (utc[70].isoformat(), utc[119].isoformat())},
        "test": {"": (utc[120].isoformat(), utc[139].isoformat())},
    }


def test_a_series_of_either_is_one_of_both() -> None:
    def of(**sizes: int) -> Parts:
        table = pd.concat([rows(size).assign(g=name) for name, size in sizes.items()])
        return parts(dataset(table, time="t", group="g", **FRACTIONS))

    before, now = of(gone=50, stays=50), of(stays=60, new=40)
    both = joined(before, now)
    assert both.train == {"gone": before.train["gone"], "stays": Span(first=2, last=41), "new": now.train["new"]}
    assert both.validation["gone"] == before.validation["gone"]
    assert both.test == now.test
    assert set(both.test) == {"stays", "new"}
    # one that comes back is still one that was learnt from
    text = (
        "group gone: the rows to judge by begin at 32, but it has learnt from rows up to 39 (validation); "
        "move the split, or compare anew"
    )
    check_held_out(now, of(gone=40), "it")
    with refused(text):
        check_held_out(both, of(gone=40), "it")


def test_a_validation_of_one_alone_counts() -> None:
    with_one, without = (
        parts(dataset(rows(100), time="t", split={"train": 70, "validation": count})) for count in (10, 0)
    )
    assert without.validation == {}
    for pair in ((with_one, without), (without, with_one)):
        assert joined(*pair).validation == with_one.validation
    assert joined(without, without) == without


def test_labelled_groups_of_either_are_of_both() -> None:
    before = parts(labelled(10, split=DATES))
    now = parts(labelled(14, split={"train": "2024-01-10", "validation": "2024-01-12"}))
    both = joined(before, now)
    assert both.by == "group"
    assert {name: set(getattr(both, name)) for name in PARTS} == {
        "train": {str(g) for g in range(9)},
        "validation": {str(g) for g in (6, 7, 9, 10)},
        "test": {str(g) for g in (11, 12, 13)},
    }
    assert {span for name in PARTS for span in ends_of(both)[name].values()} == {(0, 0)}
    check_held_out(both, parts(labelled(20, split={"train": "2024-01-12", "validation": "2024-01-15"})), "it")
    with refused("group 9 is to judge by, but it has learnt from it (validation); split by date, or compare anew"):
        check_held_out(both, before, "it")  # 8 too: the validation is looked at first


def test_neither_of_the_two_changes() -> None:
    before, now = (parts(dataset(rows(count), **FRACTIONS)) for count in (100, 120))
    texts = [some.model_dump_json() for some in (before, now)]
    joined(before, now)
    assert [some.model_dump_json() for some in (before, now)] == texts


@pytest.mark.parametrize(
    ("before", "now", "texts"),
    [
        ({}, {"time": "t"}, ("number", "row")),
        ({"time": "z"}, {"time": "d"}, ("time", "time in UTC")),
        ({"time": "t", "group": "g"}, {"time": "t"}, ("number", "group and number")),
    ],
)
def test_what_is_called_by_different_things_is_not_joined(
    before: dict[str, Any], now: dict[str, Any], texts: tuple[str, str]
) -> None:
    days = pd.date_range("2024-01-01", periods=20)
    table = rows(20).assign(g="a", d=days, z=days.tz_localize("UTC"))
    with refused(f"the rows are called by {texts[0]}, but those before by {texts[1]}; compare anew"):
        joined(*(parts(dataset(table, **values)) for values in (before, now)))


def moment(number: int) -> str:
    return pd.Timestamp(number * 250).isoformat()  # ns: with a fraction of a second, or without one


@st.composite
def some_parts(draw: st.DrawFn, by: str) -> Parts:
    """Any spans of up to three series; in a part that is not there, none."""
    called = moment if "time" in by else int

    def span() -> Span:
        if by == "group":
            return Span(first=0, last=0)
        first, last = sorted(draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
        return Span(first=called(first), last=called(last))

    found = {part: {name: span() for name in draw(st.sets(st.sampled_from("abc")))} for part in PARTS}
    return Parts(by=by, **found)


def is_held_out(seen: Parts, judged: Parts) -> bool:
    try:
        check_held_out(seen, judged, "it")
    except NotHeldOut:
        return False
    return True


@given(st.data(), st.sampled_from(["row", "number", "time", "time in UTC", "group", "group and time"]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_what_is_refused_of_either_is_refused_of_both_and_nothing_else_is(data: st.DataObject, by: str) -> None:
    before, now, judged, third = (data.draw(some_parts(by)) for _ in range(4))
    both = joined(before, now)
    assert is_held_out(both, judged) == (is_held_out(before, judged) and is_held_out(now, judged))
    other = judged.model_copy(update={"by": "another thing"})
    assert not any(is_held_out(seen, other) for seen in (before, now, both))
    assert both.test == now.test
    # in whichever order and however often
    mirrored = joined(now, before)
    assert (both.train, both.validation) == (mirrored.train, mirrored.validation)
    assert joined(before, before) == before
    assert joined(joined(before, now), now) == both
    assert joined(joined(before, now), third) == joined(before, joined(now, third))
