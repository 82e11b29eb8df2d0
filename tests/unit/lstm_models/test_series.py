"""Rows as series: what is kept, in which order and as what; what is dropped, counted; what is refused, and where."""

import datetime as dt
import re
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_models.config import TableData
from lstm_models.data.series import Group, Series, prepare
from lstm_models.data.tables import TableError


def prepared(table: pd.DataFrame, **settings: Any) -> Series:
    config = TableData.model_validate({"kind": "table", "path": "t.csv", "target": "a"} | settings)
    return prepare(table, config, "t.csv")


def refused(text: str) -> "pytest.RaisesExc[TableError]":
    return pytest.raises(TableError, match=f"^{re.escape('t.csv: ' + text)}$")


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def arrow(values: Any, type: Any = None) -> "pd.Series[Any]":
    array = pa.array(list(values) if isinstance(values, pd.DatetimeIndex) else values, type)
    return pd.Series(array, dtype=pd.ArrowDtype(array.type))


def days(*numbers: int) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([pd.Timestamp("2024-01-01") + pd.Timedelta(days=number) for number in numbers])


def of(series: Series) -> list[tuple[str, list[float]]]:
    """Each group's first column."""
    return [(group.name, series.values[group.start : group.stop, 0].tolist()) for group in series.groups]


# What becomes of a table


def test_a_forecast_of_one_column() -> None:
    series = prepared(frame(x=[9, 9, 9], a=[1.5, 0.1, -3e38]))
    assert series.values.dtype == np.float32
    assert series.values.flags.c_contiguous
    assert series.values.tolist() == np.float32([[1.5], [0.1], [-3e38]]).tolist()
    assert (series.columns, series.features, series.targets) == (("a",), (0,), (0,))
    assert (series.groups, series.time, series.labels, series.classes) == ((Group("", 0, 3),), None, None, ())
    assert (series.rows, series.notes) == ((3, {}, 3), ())


def test_features_come_first_then_the_targets_that_are_none() -> None:
    table = frame(a=[1, 2], b=[3, 4], c=[5, 6], d=[7, 8])
    series = prepared(table, features=["d", "a"], target=["c", "a"])
    assert (series.columns, series.features, series.targets) == (("d", "a", "c"), (0, 1), (2, 1))
    assert series.values.tolist() == [[7, 1, 5], [8, 2, 6]]


def test_labels_and_their_features() -> None:
    table = frame(
        g=["y", "x", "y", "x"], n=[1, 2, 3, 4], t=[1, 1, 2, 2], city=list("abcd"), b=[True, False, True, True]
    )
    told = table.assign(a=["up", "down", "up", "down"])
    series = prepared(told, task="classify", group="g", time="t")
    assert (series.columns, series.features, series.targets) == (("n", "b"), (0, 1), ())
    assert series.groups == (Group("x", 0, 2), Group("y", 2, 4))
    assert series.values.tolist() == [[2, 0], [4, 1], [1, 1], [3, 1]]
    assert series.classes == ("down", "up")
    assert series.labels is not None
    assert series.labels.tolist() == [0, 1]
    assert series.notes == ("no features, as they hold no numbers: city",)
    series = prepared(table.assign(a=[0.1, 7, 0.1, 7]), task="regress", group="g", features=["b"])
    assert series.labels is not None
    assert series.labels.dtype == np.float32
    assert series.labels.tolist() == np.float32([7, 0.1]).tolist()
    assert (series.columns, series.classes) == (("b",), ())


def test_classes_of_numbers_are_sorted_as_numbers() -> None:
    series = prepared(frame(g=[1, 2, 10], n=[1, 2, 3], a=[10, 9, 9]), task="classify", group="g", features=["n"])
    assert series.classes == ("9", "10")
    assert [group.name for group in series.groups] == ["1", "2", "10"]


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 0, 1], dtype=np.int8),
        np.array([True, False, True]),
        np.array([1, 0, 1], dtype=np.float16),
        arrow([1, 0, 1], pa.uint64()),
        arrow([True, False, True]),
        arrow([Decimal("1.00"), Decimal("0.00"), Decimal("1.00")]),
        arrow(["1", "0", "1.0"]),
        arrow(["1", "0", "1.0"], pa.large_string()),
        arrow(["1", "0", "1"]).astype("category"),
        pd.array([1, 0, 1], dtype="Int64"),
        pd.array([True, False, True], dtype="boolean"),
        [Decimal(1), False, "1"],
    ],
    ids=lambda values: str(getattr(values, "dtype", "object")),
)
def test_numbers_of_any_type(values: Any) -> None:
    assert of(prepared(frame(a=values))) == [("", [1, 0, 1])]


@pytest.mark.parametrize(
    "values",
    [
        arrow([1, None, 3], pa.int64()),
        arrow([1.0, float("nan"), 3.0]),
        arrow([True, None, True]),
        arrow([Decimal("1.5"), None, Decimal("2.5")]),
        arrow(["1", None, "3"]),
        pd.array([1, None, 3], dtype="Int64"),
        [1.0, np.nan, 3.0],
        [1, None, "3"],
        arrow([None, None, None]),
    ],
    ids=lambda values: str(getattr(values, "dtype", "object")),
)
def test_a_missing_value_of_any_type(values: Any) -> None:
    row = 1 if pd.isna(values[0]) else 2
    with refused(f"column a, row {row}: the value is missing; set missing to drop, forward_fill or interpolate"):
        prepared(frame(a=values))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03"], "M"),
        (["2024-01-01T00:00:00Z", "2024-01-02T01:00+01:00", "2024-01-03 00:00"], "M"),
        (arrow(["2024-01-01", "2024-01-02", "2024-01-03"]), "M"),
        ([dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 3)], "M"),
        (arrow([dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 3)]), "M"),
        (arrow(days(0, 1, 2), pa.date64()), "M"),
        (days(0, 1, 2), "M"),
        (arrow(days(0, 1, 2)), "M"),
        (days(0, 1, 2).tz_localize("UTC").tz_convert("Asia/Tokyo"), "M"),
        (arrow(days(0, 1, 2).tz_localize("UTC").tz_convert("Asia/Tokyo")), "M"),
        ([19723, 19724, 19725], "i"),
        ([19723.0, 19724.0, 19725.0], "i"),
        (arrow([19723, 19724, 19725], pa.uint64()), "i"),
        (arrow([Decimal(19723), Decimal(19724), Decimal(19725)]), "i"),
        (pd.array([19723, 19724, 19725], dtype="Int32"), "i"),
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value[0]))),
)
def test_times_of_any_type(values: Any, kind: str) -> None:
    series = prepared(frame(a=[1, 2, 3], t=values), time="t")
    assert series.time is not None
    assert series.time.dtype.kind == kind
    whole = series.time.astype("datetime64[D]").astype(np.int64) if kind == "M" else series.time
    assert whole.tolist() == [19723, 19724, 19725]
    assert series.time.dtype == (np.int64 if kind == "i" else series.time.dtype)


@pytest.mark.parametrize(
    "values",
    [
        ["y", "x", "y"],
        arrow(["y", "x", "y"]),
        arrow(["y", "x", "y"]).astype("category"),
        arrow(pa.array(["y", "x", "y"]).dictionary_encode()),
    ],
)
def test_groups_of_any_type(values: Any) -> None:
    assert of(prepared(frame(a=[1, 2, 3], g=values), group="g")) == [("x", [2]), ("y", [1, 3])]


def test_the_zone_of_the_time_is_kept() -> None:
    for zone in (None, "Asia/Tokyo"):
        times = days(0, 1, 2).tz_localize(zone)
        for values in (times, arrow(times)):
            assert str(prepared(frame(a=[1, 2, 3], t=values), time="t").zone) == str(zone)
    assert prepared(frame(a=[1, 2, 3])).zone is None


def test_groups_that_can_not_be_sorted_as_they_are() -> None:
    assert of(prepared(frame(a=[1, 2, 3], g=["x", 7, "x"]), group="g")) == [("7", [2]), ("x", [1, 3])]
    names = [uuid.UUID(int=2), uuid.UUID(int=1)]
    assert of(prepared(frame(a=[1, 2], g=names), group="g")) == [(str(names[1]), [2]), (str(names[0]), [1])]
    assert of(prepared(frame(a=[1, 2], g=arrow([[2], [1]])), group="g")) == [("[1]", [2]), ("[2]", [1])]


def test_rows_come_in_the_order_of_group_and_time() -> None:
    table = frame(a=[1, 2, 3, 4, 5], t=[2, 9, 1, 8, 3], g=["x", "y", "x", "y", "x"])
    series = prepared(table, time="t", group="g")
    assert of(series) == [("x", [3, 1, 5]), ("y", [4, 2])]
    assert series.time is not None
    assert series.time.tolist() == [1, 2, 3, 8, 9]
    series = prepared(table, group="g")  # without a time in the source's order
    assert of(series) == [("x", [1, 3, 5]), ("y", [2, 4])]


def test_rows_of_other_groups_in_between_are_no_disorder() -> None:
    table = frame(a=[1, 2, 3, 4], t=[1, 1, 2, 2], g=["y", "x", "y", "x"])
    assert of(prepared(table, time="t", group="g", unsorted="refuse")) == [("x", [2, 4]), ("y", [1, 3])]


@pytest.mark.parametrize(("way", "kept"), [("first", [1, 5, 6]), ("last", [3, 5, 6]), ("mean", [2, 5, 6])])
def test_duplicates(way: str, kept: list[float]) -> None:
    series = prepared(frame(a=[1, 6, 2, 5, 3], t=[1, 3, 1, 2, 1]), time="t", duplicates=way)
    assert of(series) == [("", kept)]
    assert series.rows == (5, {"time there already": 2}, 3)


def test_the_mean_of_duplicates_is_of_the_values_that_are_there() -> None:
    table = frame(a=[1, np.nan, 3, np.nan, 5, 6], t=[1, 1, 1, 2, 3, 3], g=["x"] * 5 + ["y"])
    series = prepared(table, time="t", group="g", duplicates="mean", missing="interpolate")
    assert of(series) == [("x", [2, 3.5, 5]), ("y", [6])]
    assert series.rows == (6, {"time there already": 2}, 4)


def test_duplicates_among_labels() -> None:
    table = frame(n=[1, 2, 3, 5], t=[1, 1, 2, 2], g=[1, 1, 1, 2], a=["u", "u", "u", "v"])
    series = prepared(table, task="classify", time="t", group="g", duplicates="mean")
    assert series.values.tolist() == [[1.5], [3], [5]]
    assert series.labels is not None
    assert series.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("way", "kept", "dropped"),
    [
        ("drop", [("x", [1, 4]), ("y", [7])], {"value missing": 5}),
        ("forward_fill", [("x", [1, 1, 1, 4]), ("y", [7, 7])], {"value missing at an end of a series": 2}),
        ("interpolate", [("x", [1, 2, 3, 4]), ("y", [7])], {"value missing at an end of a series": 3}),
    ],
)
def test_missing_values(way: str, kept: list[Any], dropped: dict[str, int]) -> None:
    missing = np.nan
    table = frame(a=[1, missing, missing, 4, missing, missing, 7, missing], g=list("xxxxyyyy"))
    series = prepared(table, group="g", missing=way)
    assert of(series) == kept
    assert series.rows == (8, dropped, 8 - sum(dropped.values()))


def test_the_line_between_two_values_is_one_in_time() -> None:
    table = frame(a=[0, np.nan, 10, np.nan, 3e38, np.nan, -3e38], t=[0, 1, 10, 11, 12, 13, 14])
    series = prepared(table, time="t", gaps="allow", missing="interpolate")
    expected = np.float32([0, 1, 10, 1.5e38, 3e38, 0, -3e38])
    np.testing.assert_allclose(series.values[:, 0], expected, rtol=1e-6, atol=1e31)
    table = frame(a=[0, np.nan, 10], t=pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-11"]))
    assert of(prepared(table, time="t", gaps="allow", missing="interpolate")) == [("", [0, 1, 10])]


def test_nothing_is_filled_in_across_a_gap() -> None:
    table = frame(a=[1, 2, np.nan, np.nan, 5, 6], t=[1, 2, 3, 10, 11, 12])
    settings = {"time": "t", "gaps": "split"}
    assert of(prepared(table, missing="forward_fill", **settings)) == [("", [1, 2, 2]), ("", [5, 6])]
    assert of(prepared(table, missing="interpolate", **settings)) == [("", [1, 2]), ("", [5, 6])]


def test_what_nothing_fills_in_is_dropped_or_refused() -> None:
    table = frame(n=[1, 2, 3, 4, 5.0], t=[1, None, 2, 3, 4], g=["x", "x", None, "x", "y"], a=["u", "u", "u", None, "v"])
    series = prepared(table, task="classify", time="t", group="g", missing="drop")
    assert series.rows == (5, {"time missing": 1, "group missing": 1, "label missing": 1}, 2)
    assert of(series) == [("x", [1]), ("y", [5])]
    for missing in ("refuse", "forward_fill", "interpolate"):
        settings = {"task": "classify", "time": "t", "group": "g", "missing": missing}
        with refused("column t, row 2: the time is missing; set missing to drop"):
            prepared(table, **settings)
        with refused("column g, row 3: the group is missing; set missing to drop"):
            prepared(table.drop(index=1).reindex([0, 0, 2, 3, 4]).assign(t=1), **settings, duplicates="first")
        with refused("column a, row 4: the label is missing; set missing to drop"):
            prepared(table.assign(t=range(5), g=list("xxyxy")), **settings)


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_rows_without_a_date_or_with_a_group_that_is_no_number(zone: str | None) -> None:
    table = frame(a=[1, 2, 3, 4], t=arrow([*days(1, 0).tz_localize(zone), None, pd.Timestamp("2024-01-03", tz=zone)]))
    series = prepared(table.assign(g=arrow([0.5, 0.5, 0.5, float("nan")])), time="t", group="g", missing="drop")
    assert of(series) == [("0.5", [2, 1])]
    assert series.rows.dropped == {"time missing": 1, "group missing": 1}
    assert series.notes == ()
    table = frame(a=[1, 2, 3], t=arrow([1.0, float("nan"), 2.0]))
    assert prepared(table, time="t", missing="drop").rows.dropped == {"time missing": 1}


def test_a_regression_without_its_number() -> None:
    table = frame(n=[1, 2], g=["x", "y"], a=[1.5, np.nan])
    with refused("column a, row 2: the label is missing; set missing to drop"):
        prepared(table, task="regress", group="g")
    series = prepared(table, task="regress", group="g", missing="drop")
    assert series.rows.dropped == {"label missing": 1}
    assert series.notes == ("column n is constant", "groups without a row left: 1 of 2")


def test_gaps() -> None:
    table = frame(a=[1, 2, 3, 4, 5, 6, 7], t=[1, 2, 3, 7, 8, 2, 4], g=list("xxxxxyy"))
    settings = {"time": "t", "group": "g"}
    series = prepared(table, gaps="split", **settings)
    assert series.groups == (Group("x", 0, 3), Group("x", 3, 5), Group("y", 5, 7))
    assert series.rows == (7, {}, 7)
    assert prepared(table, gaps="allow", **settings).groups == (Group("x", 0, 5), Group("y", 5, 7))
    with refused("column t, row 4 (group x): a gap in time, from 3 to 7; set gaps to split or allow"):
        prepared(table, **settings)
    with refused("column t, row 2: a gap in time, from 4 to 9, the first of 2 gaps; set gaps to split or allow"):
        prepared(frame(a=[5, 4, 3, 2, 1, 0], t=[10, 9, 4, 3, 2, 99]).iloc[[0, 1, 2, 3, 4, 5]], time="t")


def test_groups_of_the_same_times_have_the_same_gaps() -> None:
    table = frame(a=range(12), t=[1, 2, 4, 5, 1, 2, 4, 5, 1, 2, 3, 5], g=list("xxxxyyyyzzzz"))
    series = prepared(table, time="t", group="g", gaps="split")
    assert of(series) == [("x", [0, 1]), ("x", [2, 3]), ("y", [4, 5]), ("y", [6, 7]), ("z", [8, 9, 10]), ("z", [11])]


def test_each_group_has_a_step_of_its_own() -> None:
    table = frame(a=range(8), t=[1, 2, 3, 4, 10, 20, 30, 40], g=list("xxxxyyyy"))
    assert len(prepared(table, time="t", group="g").groups) == 2


def test_the_pieces_of_a_group_share_its_label() -> None:
    table = frame(n=[1, 2, 3, 4, 9], t=[1, 2, 3, 9, 1], g=list("xxxxy"), a=list("uuuuv"))
    series = prepared(table, task="classify", time="t", group="g", gaps="split")
    assert [group.name for group in series.groups] == ["x", "x", "y"]
    assert series.labels is not None
    assert series.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("freq", ["MS", "ME", "QS", "YS", "YE", "B", "W", "D", "h", "15min", "WOM-2FRI", "s"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_the_calendar_has_no_gaps(freq: str, zone: str | None) -> None:
    time = pd.date_range("2024-02-03", periods=60, freq=freq, tz=zone)
    assert len(prepared(frame(a=range(60), t=time), time="t").groups) == 1


@pytest.mark.parametrize("freq", ["MS", "ME", "QS", "YS", "D", "h", "MS 06:30"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_hole_in_the_calendar_is_one_gap(freq: str, zone: str | None) -> None:
    freq, _, at = freq.partition(" ")
    time = pd.date_range(f"2024-02-03 {at}", periods=60, freq=freq, tz=zone).delete([20, 21])
    series = prepared(frame(a=range(58), t=time), time="t", gaps="split")
    assert series.groups == (Group("", 0, 20), Group("", 20, 58))


def test_constant_features_are_told() -> None:
    table = frame(a=[1, 2], b=[3, 3])
    assert prepared(table, features=["a", "b"]).notes == ("column b is constant",)
    assert prepared(table, target="b", features=["a"]).notes == ()  # the target alone


def test_the_series_shares_no_values_with_the_table() -> None:
    table = frame(a=np.array([1, 2], dtype=np.float32))
    prepared(table).values.fill(7)
    assert table["a"].tolist() == [1, 2]


# What is refused


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, "x", "y"], "column a, row 2: 'x' is no number; correct it, or leave the column out"),
        (arrow(["1", "2", "3,5"]), "column a, row 3: '3,5' is no number; correct it, or leave the column out"),
        (["1", "", "2"], "column a, row 2: '' is no number; correct it, or leave the column out"),
        ([1, np.inf, 2], "column a, row 2: inf is infinite; correct it in the source"),
        (["1", "-inf", 2], "column a, row 2: '-inf' is infinite; correct it in the source"),
        ([1, 2, -1e39], "column a, row 3: -1e+39 is too large for float32; correct it in the source"),
        (days(0, 1, 2), "column a holds datetime64[us], no numbers; leave it out"),
        (arrow(days(0, 1, 2).date), "column a holds date32[day][pyarrow], no numbers; leave it out"),
        (np.array([1, 2, 3j]), "column a holds complex128, no numbers; leave it out"),
        ([10**400, 2, 3], "column a holds object, no numbers; leave it out"),
        (["x" * 1000, 2, 3], f"column a, row 1: '{'x' * 56}... is no number; correct it, or leave the column out"),
        ([dt.date(2024, 1, 1), 2, 3], "column a, row 1: 2024-01-01 is no number; correct it, or leave the column out"),
    ],
)
def test_what_is_no_number(values: Any, text: str) -> None:
    with refused(text):
        prepared(frame(a=values))


@pytest.mark.parametrize("values", [arrow([[1], [2]]), arrow([{"x": 1}, {"x": 2}]), arrow([dt.time(1), dt.time(2)])])
def test_columns_of_other_things(values: Any) -> None:
    with pytest.raises(TableError, match=r"^t\.csv: column a(, row 1: .* is no number; | holds .*, no numbers; )"):
        prepared(frame(a=values))
    with pytest.raises(TableError, match=r"^t\.csv: column t, row 1: .* is neither a whole number nor a date such as "):
        prepared(frame(a=[1, 2], t=values), time="t")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1, 1.5, 2], "row 2: 1.5 is no whole number of 64 bits; times are such, or dates"),
        (
            arrow([1, 2, 2**63], pa.uint64()),
            "row 3: 9223372036854775808 is no whole number of 64 bits; times are such, or dates",
        ),
        (arrow([None, None, None], pa.uint64()), "row 1: the time is missing; set missing to drop"),
        (
            ["2024-01-01", "Monday", "x"],
            "row 2: 'Monday' is neither a whole number nor a date such as 2024-01-31T12:00",
        ),
        (["31.01.2024"] * 3, "row 1: '31.01.2024' is neither a whole number nor a date such as 2024-01-31T12:00"),
        ([True, False, True], "row 1: True is neither a whole number nor a date such as 2024-01-31T12:00"),
        ([1, np.inf, 2], "row 2: inf is infinite; correct it in the source"),
    ],
)
def test_what_is_no_time(values: Any, text: str) -> None:
    with refused(f"column t, {text}"):
        prepared(frame(a=[1, 2, 3], t=values), time="t")


def test_what_is_not_in_order() -> None:
    with refused("column t, row 3: 4 comes after 5; set unsorted to sort"):
        prepared(frame(a=[1, 2, 3], t=[1, 5, 4]), time="t", unsorted="refuse")
    table = frame(a=[1, 2, 3, 4], t=days(1, 3, 0, 2), g=list("xyxy"))
    times = "2024-01-01T00:00:00.000000 comes after 2024-01-02T00:00:00.000000"
    with refused(f"column t, row 3 (group x): {times}; set unsorted to sort"):
        prepared(table, time="t", group="g", unsorted="refuse")


def test_what_is_there_twice() -> None:
    with refused("column t, row 4: 1 is in row 1 already; set duplicates to first, last or mean"):
        prepared(frame(a=[1, 2, 3, 4], t=[1, 3, 2, 1]), time="t")
    table = frame(a=[1, 2, 3], t=[1, 1, 1], g=["x", "y", "y"])
    with refused("column t, row 3 (group y): 1 is in row 2 already; set duplicates to first, last or mean"):
        prepared(table, time="t", group="g")


def test_labels_that_contradict_each_other() -> None:
    table = frame(n=[1, 2, 3, 4], g=list("xyxy"), a=["u", "v", "u", "u"])
    text = "group y has both v and u; the rows of a group must have one label"
    with refused(f"column a, row 4: {text}"):
        prepared(table, task="classify", group="g")
    with refused("column a, row 3: group x has both 1.0 and 1.5; the rows of a group must have one label"):
        prepared(table.assign(a=[1, 2, 1.5, 2]), task="regress", group="g")


def test_labels_of_one_class() -> None:
    text = "column a: each group's label is u; it takes two to classify"
    with refused(text):
        prepared(frame(n=[1, 2], g=["x", "y"], a=["u", "u"]), task="classify", group="g")
    table = frame(n=[1, 2, np.nan], g=["x", "y", "z"], a=["u", "u", "v"])
    with refused(text):  # the other class has no row left
        prepared(table, task="classify", group="g", missing="drop")


def test_tables_with_nothing_to_learn_from() -> None:
    with refused("the table has no rows"):
        prepared(frame(a=[]))
    with refused("none of the 2 rows is left (value missing: 2)"):
        prepared(frame(a=[np.nan, np.nan]), missing="drop")
    with refused("none of the 2 rows is left (value missing at an end of a series: 2)"):
        prepared(frame(a=[np.nan, np.nan]), missing="forward_fill")
    with refused("no column holds numbers, beside the target, time and group; name the features"):
        prepared(frame(n=["x", "y"], g=["x", "y"], a=[1, 2]), task="regress", group="g")


def test_columns_that_are_missing_or_there_twice() -> None:
    with refused("column a is missing; found: A; did you mean A?"):
        prepared(frame(A=[1]))
    with refused("column t is missing; found: a"):
        prepared(frame(a=[1]), time="t")
    with refused("column a is there twice; give each column a name of its own"):
        prepared(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with refused("column a is missing; found: 0, 1"):
        prepared(pd.DataFrame([[1, 2]]))
    assert of(prepared(pd.DataFrame([[1, 2]]), target="1")) == [("", [2])]


# What holds for every table

ROW = st.tuples(
    st.sampled_from(["x", "y", "z", None]),
    st.none() | st.integers(-20, 20),
    st.none() | st.floats(-1e30, 1e30),
    st.none() | st.floats(-1e30, 1e30),
)
TABLES = st.lists(ROW, min_size=1, max_size=25)
WAYS = st.fixed_dictionaries(
    {
        "missing": st.sampled_from(["drop", "forward_fill", "interpolate"]),
        "gaps": st.sampled_from(["allow", "split"]),
        "duplicates": st.sampled_from(["first", "last", "mean"]),
    }
)
EVERY = settings(derandomize=True, deadline=None, max_examples=50)


def table_of(rows: list[Any], whole: bool = False) -> pd.DataFrame:
    """whole: where no time and no group is missing."""
    names = [(group or "x", time or 0, a, b) if whole else (group, time, a, b) for group, time, a, b in rows]
    table = pd.DataFrame(names, columns=["g", "t", "a", "b"])
    return table.astype({"g": "string[pyarrow]", "t": "int64[pyarrow]", "a": "double[pyarrow]", "b": "double[pyarrow]"})


SETTINGS: dict[str, Any] = {"time": "t", "group": "g", "features": ["b", "a"]}


def check(series: Series, rows: int) -> None:
    assert series.rows.read == rows
    assert series.rows.read == series.rows.used + sum(series.rows.dropped.values())
    assert series.rows.used == len(series.values) > 0
    assert all(count > 0 for count in series.rows.dropped.values())
    assert series.values.flags.c_contiguous
    assert np.isfinite(series.values).all()
    # the groups tile the rows, in the order of their names
    assert series.groups[0].start == 0
    assert series.groups[-1].stop == len(series.values)
    assert all(one.stop == two.start for one, two in zip(series.groups, series.groups[1:], strict=False))
    assert all(group.start < group.stop for group in series.groups)
    assert [group.name for group in series.groups] == sorted(group.name for group in series.groups)
    assert series.time is not None
    assert len(series.time) == len(series.values)
    assert all((np.diff(series.time[group.start : group.stop]) > 0).all() for group in series.groups)


@given(TABLES, WAYS, st.booleans())
@EVERY
def test_no_row_is_lost_without_being_counted(rows: list[Any], ways: dict[str, str], whole: bool) -> None:
    try:
        series = prepared(table_of(rows, whole), **SETTINGS, **ways)
    except TableError as error:
        fault = str(error)
    else:
        fault = ""
        check(series, len(rows))
    assert re.search(r"^$|: the (time|group) is missing; set missing to drop$|: none of the \d+ rows is left ", fault)


@given(TABLES, WAYS, st.randoms(use_true_random=False))
@EVERY
def test_the_order_of_the_rows_does_not_matter(rows: list[Any], ways: dict[str, str], random: Any) -> None:
    ways["duplicates"] = "refuse"
    unique = list({row[:2]: row for row in rows if None not in row[:2]}.values())
    shuffled = random.sample(unique, len(unique))
    results = []
    for order in (unique, shuffled):
        try:
            results.append(prepared(table_of(order), **SETTINGS, **ways))
        except TableError as error:
            results.append(str(error))
    one, other = results
    if isinstance(one, str):
        assert one == other
    else:
        assert one.values.tobytes() == other.values.tobytes()
        assert one.time.tobytes() == other.time.tobytes()
        assert (one.groups, one.rows, one.notes) == (other.groups, other.rows, other.notes)


@given(TABLES, st.sampled_from(["first", "last"]), st.sampled_from(["allow", "split"]))
@EVERY
def test_the_values_are_the_sources_in_float32(rows: list[Any], duplicates: str, gaps: str) -> None:
    present = [row for row in rows if None not in row]
    chosen: dict[Any, Any] = {}
    for row in present:
        if duplicates == "last" or row[:2] not in chosen:
            chosen[row[:2]] = row
    if not present:
        return
    series = prepared(table_of(rows), **SETTINGS, missing="drop", duplicates=duplicates, gaps=gaps)
    check(series, len(rows))
    expected = [chosen[key] for key in sorted(chosen)]
    assert series.values.tolist() == np.array([[b, a] for _, _, a, b in expected], dtype=np.float32).tolist()
    assert series.time is not None
    assert series.time.tolist() == [time for _, time, _, _ in expected]
    if gaps == "split":
        for group in series.groups:
            assert len(set(np.diff(series.time[group.start : group.stop]).tolist())) <= 1


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 5)), min_size=2, max_size=20))
@EVERY
def test_each_group_keeps_its_label(rows: list[tuple[str, int]]) -> None:
    table = frame(g=[g for g, _ in rows], n=[n for _, n in rows], a=[f"of {g}" for g, _ in rows])
    if len({g for g, _ in rows}) < 2:
        with pytest.raises(TableError, match="it takes two to classify"):
            prepared(table, task="classify", group="g")
        return
    series = prepared(table, task="classify", group="g")
    assert series.labels is not None
    assert [series.classes[label] for label in series.labels] == [f"of {group.name}" for group in series.groups]
    assert [series.values[group.start : group.stop, 0].tolist() for group in series.groups] == [
        [n for g, n in rows if g == group.name] for group in series.groups
    ]
