"""Series from a table: order and types of rows, counts of dropped rows, and the location of errors."""

import datetime as dt
import re
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st

from lstm_models.config import TableData
from lstm_models.data.cleaning.series import Segment, Series, prepare_series
from lstm_models.utils.errors import TableError

NAN = np.nan
LABELS: dict[str, Any] = {"task": "classify", "group": "g"}
REGRESS: dict[str, Any] = {"task": "regress", "group": "g"}
TIME: dict[str, Any] = {"time": "t"}
BOTH: dict[str, Any] = {"time": "t", "group": "g"}


def prepared(table: pd.DataFrame, **settings: Any) -> Series:
    config = TableData.model_validate({"kind": "table", "path": "t.csv", "target": "a"} | settings)
    return prepare_series(table, config, "t.csv")


def refuse(table: pd.DataFrame, *texts: str, **settings: Any) -> None:
    with refused(TableError, "t.csv: ", *texts):
        prepared(table, **settings)


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def arrow(values: Any, type: Any = None) -> "pd.Series[Any]":
    array = pa.array(list(values) if isinstance(values, pd.DatetimeIndex) else values, type)
    return pd.Series(array, dtype=pd.ArrowDtype(array.type))


def days(*numbers: int) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([pd.Timestamp("2024-01-01") + pd.Timedelta(days=number) for number in numbers])


TOKYO = days(0, 1, 2).tz_localize("UTC").tz_convert("Asia/Tokyo")


def first_columns(series: Series) -> list[tuple[str, list[float]]]:
    """Return each segment's name and first column."""
    return [(part.name, series.values[part.start : part.stop, 0].tolist()) for part in series.segments]


def listed(array: Any) -> Any:
    return None if array is None else array.tolist()


# ---- series
def test_forecasts() -> None:
    series = prepared(frame(x=[9, 9, 9], a=np.array([1.5, 0.1, -3e38], dtype=np.float64)))
    assert series.values.dtype == np.float32
    assert series.values.flags.c_contiguous
    assert series.values.tolist() == np.float32([[1.5], [0.1], [-3e38]]).tolist()
    assert (series.columns, series.features, series.targets) == (("a",), (0,), (0,))
    assert (series.segments, series.time, series.labels, series.classes) == ((Segment("", 0, 3),), None, None, ())
    assert (series.rows, series.notes) == ((3, {}, 3), ())
    # features come first, then the targets that are not features
    series = prepared(frame(a=[1, 2], b=[3, 4], c=[5, 6], d=[7, 8]), features=["d", "a"], target=["c", "a"])
    assert (series.columns, series.features, series.targets) == (("d", "a", "c"), (0, 1), (2, 1))
    assert series.values.tolist() == [[7, 1, 5], [8, 2, 6]]
    # the table does not change
    table = frame(a=np.array([1, 2], dtype=np.float32))
    prepared(table).values.fill(7)
    assert table["a"].tolist() == [1, 2]


def test_labels_and_their_features() -> None:
    table = frame(g=[*"yxyx"], n=[1, 2, 3, 4], t=[1, 1, 2, 2], city=[*"abcd"], b=[True, False, True, True])
    series = prepared(table.assign(a=["up", "down", "up", "down"]), **LABELS, time="t")
    assert (series.columns, series.features, series.targets) == (("n", "b"), (0, 1), ())
    assert series.segments == (Segment("x", 0, 2), Segment("y", 2, 4))
    assert series.values.tolist() == [[2, 0], [4, 1], [1, 1], [3, 1]]
    assert (listed(series.labels), series.classes) == ([0, 1], ("down", "up"))
    assert series.notes == ("columns not used, because they are not numeric: city",)
    series = prepared(table.assign(a=[0.1, 7, 0.1, 7]), **REGRESS, features=["b"])
    assert series.labels is not None
    assert (series.labels.dtype, series.labels.tolist()) == (np.float32, np.float32([7, 0.1]).tolist())
    assert (series.columns, series.classes) == (("b",), ())
    # numeric classes and groups are sorted as numbers
    series = prepared(frame(g=[1, 2, 10], n=[1, 2, 3], a=[10, 9, 9]), **LABELS, features=["n"])
    assert (series.classes, [group.name for group in series.segments]) == (("9", "10"), ["1", "2", "10"])


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 0, 1], dtype=np.int8), np.array([True, False, True]), np.array([1, 0, 1], dtype=np.float16),
        arrow([1, 0, 1], pa.uint64()), arrow([True, False, True]), arrow([Decimal("1.00"), Decimal(0), Decimal(1)]),
        arrow(["1", "0", "1.0"]), arrow(["1", "0", "1.0"], pa.large_string()), arrow([*"101"]).astype("category"),
        pd.array([1, 0, 1], dtype="Int64"), pd.array([True, False, True], dtype="boolean"), [Decimal(1), False, "1"],
    ],
)  # fmt: skip
def test_numbers_of_any_type(values: Any) -> None:
    assert first_columns(prepared(frame(a=values))) == [("", [1, 0, 1])]


@pytest.mark.parametrize(
    "values",
    [
        arrow([1, None, 3], pa.int64()), arrow([1.0, NAN, 3.0]), arrow([True, None, True]), arrow(["1", None, "3"]),
        arrow([Decimal("1.5"), None, Decimal("2.5")]), pd.array([1, None, 3], dtype="Int64"), [1.0, NAN, 3.0],
        [1, None, "3"], arrow([None, None, None]),
    ],
)  # fmt: skip
def test_a_missing_value_of_any_type(values: Any) -> None:
    row = 1 if pd.isna(values[0]) else 2
    refuse(frame(a=values), f"column a, row {row}: ", "missing", "drop, forward_fill or interpolate")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["2024-01-01", "2024-01-02", "2024-01-03"], "M"),
        (["2024-01-01T00:00:00Z", "2024-01-02T01:00+01:00", "2024-01-03 00:00"], "M"),
        (arrow(["2024-01-01", "2024-01-02", "2024-01-03"]), "M"),
        ([*days(0, 1, 2).date], "M"), (arrow(days(0, 1, 2).date), "M"), (arrow(days(0, 1, 2), pa.date64()), "M"),
        (days(0, 1, 2), "M"), (arrow(days(0, 1, 2)), "M"), (TOKYO, "M"), (arrow(TOKYO), "M"),
        ([19723, 19724, 19725], "i"), ([19723.0, 19724.0, 19725.0], "i"),
        (arrow([19723, 19724, 19725], pa.uint64()), "i"),
        (arrow([Decimal(19723), Decimal(19724), Decimal(19725)]), "i"),
        (pd.array([19723, 19724, 19725], dtype="Int32"), "i"),
    ],
)  # fmt: skip
def test_times_of_any_type(values: Any, kind: str) -> None:
    series = prepared(frame(a=[1, 2, 3], t=values), time="t")
    assert series.time is not None
    assert series.time.dtype.kind == kind
    whole = series.time.astype("datetime64[D]").astype(np.int64) if kind == "M" else series.time
    assert whole.tolist() == [19723, 19724, 19725]
    assert series.time.dtype == (np.int64 if kind == "i" else series.time.dtype)
    assert str(series.zone) == ("Asia/Tokyo" if "Tokyo" in str(getattr(values, "dtype", "")) else "None")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([*"yxy"], [("x", [2]), ("y", [1, 3])]),
        (arrow([*"yxy"]), [("x", [2]), ("y", [1, 3])]),
        (arrow([*"yxy"]).astype("category"), [("x", [2]), ("y", [1, 3])]),
        (arrow(pa.array([*"yxy"]).dictionary_encode()), [("x", [2]), ("y", [1, 3])]),
        # values that can't be compared
        (["x", 7, "x"], [("7", [2]), ("x", [1, 3])]),
        ([uuid.UUID(int=2), uuid.UUID(int=1)], [(str(uuid.UUID(int=1)), [2]), (str(uuid.UUID(int=2)), [1])]),
        (arrow([[2], [1]]), [("[1]", [2]), ("[2]", [1])]),
    ],
)
def test_groups_of_any_type(values: Any, expected: list[tuple[str, list[float]]]) -> None:
    assert first_columns(prepared(frame(a=range(1, len(values) + 1), g=values), group="g")) == expected


def test_rows_are_sorted_by_group_and_time() -> None:
    table = frame(a=[1, 2, 3, 4, 5], t=[2, 9, 1, 8, 3], g=[*"xyxyx"])
    series = prepared(table, **BOTH)
    assert first_columns(series) == [("x", [3, 1, 5]), ("y", [4, 2])]
    assert listed(series.time) == [1, 2, 3, 8, 9]
    assert first_columns(prepared(table, group="g")) == [("x", [1, 3, 5]), ("y", [2, 4])]  # in the source's order
    # rows of other groups in between do not count as unsorted
    mixed = frame(a=[1, 2, 3, 4], t=[1, 1, 2, 2], g=[*"yxyx"])
    assert first_columns(prepared(mixed, **BOTH, unsorted="error")) == [("x", [2, 4]), ("y", [1, 3])]


@pytest.mark.parametrize(("method", "expected"), [("first", [1, 5, 6]), ("last", [3, 5, 6]), ("mean", [2, 5, 6])])
def test_duplicates(method: str, expected: list[float]) -> None:
    series = prepared(frame(a=[1, 6, 2, 5, 3], t=[1, 3, 1, 2, 1]), time="t", duplicates=method)
    assert first_columns(series) == [("", expected)]
    assert series.rows == (5, {"duplicate time": 2}, 3)


def test_the_mean_of_duplicates_ignores_missing_values() -> None:
    table = frame(a=[1, NAN, 3, NAN, 5, 6], t=[1, 1, 1, 2, 3, 3], g=[*"xxxxxy"])
    series = prepared(table, **BOTH, duplicates="mean", missing="interpolate")
    assert first_columns(series) == [("x", [2, 3.5, 5]), ("y", [6])]
    assert series.rows == (6, {"duplicate time": 2}, 4)
    table = frame(n=[1, 2, 3, 5], t=[1, 1, 2, 2], g=[1, 1, 1, 2], a=[*"uuuv"])
    series = prepared(table, **LABELS, time="t", duplicates="mean")
    assert (series.values.tolist(), listed(series.labels)) == ([[1.5], [3], [5]], [0, 1])


@pytest.mark.parametrize(
    ("method", "expected", "dropped", "filled"),
    [
        ("drop", [("x", [1, 4]), ("y", [7])], {"value missing": 5}, None),
        ("forward_fill", [("x", [1, 1, 1, 4]), ("y", [7, 7])], {"value missing at an end of a series": 2}, "fill): 3"),
        ("interpolate", [("x", [1, 2, 3, 4]), ("y", [7])], {"value missing at an end of a series": 3}, "): 2"),
    ],
)
def test_missing_values(method: str, expected: list[Any], dropped: dict[str, int], filled: str | None) -> None:
    table = frame(a=[1, NAN, NAN, 4, NAN, NAN, 7, NAN], g=[*"xxxxyyyy"])
    series = prepared(table, group="g", missing=method)
    assert first_columns(series) == expected
    assert series.rows == (8, dropped, 8 - sum(dropped.values()))
    assert [note.endswith(str(filled)) for note in series.notes] == [True] * (filled is not None)


def test_interpolation_is_linear_in_time() -> None:
    table = frame(a=[0, NAN, 10, NAN, 3e38, NAN, -3e38], t=[0, 1, 10, 11, 12, 13, 14])
    series = prepared(table, time="t", gaps="allow", missing="interpolate")
    expected = np.float32([0, 1, 10, 1.5e38, 3e38, 0, -3e38])
    # float32; 0 is the difference of two numbers of 1.5e38
    np.testing.assert_allclose(series.values[:, 0], expected, rtol=1e-6, atol=1e31)
    table = frame(a=[0, NAN, 10], t=pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-11"]))
    assert first_columns(prepared(table, time="t", gaps="allow", missing="interpolate")) == [("", [0, 1, 10])]


@pytest.mark.parametrize(("method", "expected"), [("forward_fill", [1, 2, 2]), ("interpolate", [1, 2])])
def test_missing_values_are_not_filled_across_a_gap(method: str, expected: list[float]) -> None:
    table = frame(a=[1, 2, NAN, NAN, 5, 6], t=[1, 2, 3, 10, 11, 12])
    assert first_columns(prepared(table, time="t", gaps="split", missing=method)) == [("", expected), ("", [5, 6])]


def test_a_missing_time_group_or_label_is_dropped_or_rejected() -> None:
    table = frame(n=[1, 2, 3, 4, 5.0], t=[1, None, 2, 3, 4], g=["x", "x", None, "x", "y"], a=["u", "u", "u", None, "v"])
    series = prepared(table, **LABELS, time="t", missing="drop")
    assert series.rows == (5, {"time missing": 1, "group missing": 1, "label missing": 1}, 2)
    assert first_columns(series) == [("x", [1]), ("y", [5])]
    whole = table.drop(index=1).reindex([0, 0, 2, 3, 4]).assign(t=1)
    for missing in ("error", "forward_fill", "interpolate"):
        settings = LABELS | TIME | {"missing": missing}
        refuse(table, "column t, row 2: the time is missing", "drop", **settings)
        refuse(whole, "column g, row 3: the group is missing", "drop", **settings, duplicates="first")
        labels = table.assign(t=range(5), g=[*"xxyxy"])
        refuse(labels, "column a, row 4: the label is missing", "drop", **settings)
    table = frame(n=[1, 2], g=["x", "y"], a=[1.5, NAN])
    refuse(table, "column a, row 2: the label is missing", "drop", **REGRESS)
    series = prepared(table, **REGRESS, missing="drop")
    assert series.rows.dropped == {"label missing": 1}
    assert series.notes == ("column n is constant", "groups without a remaining row: 1 of 2")


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_missing_keys_of_arrow_types(zone: str | None) -> None:
    table = frame(a=[1, 2, 3, 4], t=arrow([*days(1, 0).tz_localize(zone), None, pd.Timestamp("2024-01-03", tz=zone)]))
    series = prepared(table.assign(g=arrow([0.5, 0.5, 0.5, NAN])), **BOTH, missing="drop")
    assert first_columns(series) == [("0.5", [2, 1])]
    assert (series.rows.dropped, series.notes) == ({"time missing": 1, "group missing": 1}, ())
    table = frame(a=[1, 2, 3], t=arrow([1.0, NAN, 2.0]))
    assert prepared(table, time="t", missing="drop").rows.dropped == {"time missing": 1}


# ---- gaps
def test_gaps() -> None:
    table = frame(a=[1, 2, 3, 4, 5, 6, 7], t=[1, 2, 3, 7, 8, 2, 4], g=[*"xxxxxyy"])
    series = prepared(table, gaps="split", **BOTH)
    assert series.segments == (Segment("x", 0, 3), Segment("x", 3, 5), Segment("y", 5, 7))
    assert series.rows == (7, {}, 7)
    assert prepared(table, gaps="allow", **BOTH).segments == (Segment("x", 0, 5), Segment("y", 5, 7))
    # some groups with equal times, one with others
    table = frame(a=range(12), t=[1, 2, 4, 5, 1, 2, 4, 5, 1, 2, 3, 5], g=[*"xxxxyyyyzzzz"])
    series = prepared(table, gaps="split", **BOTH)
    assert first_columns(series) == [
        ("x", [0, 1]),
        ("x", [2, 3]),
        ("y", [4, 5]),
        ("y", [6, 7]),
        ("z", [8, 9, 10]),
        ("z", [11]),
    ]
    # each group has its frequency
    table = frame(a=range(8), t=[1, 2, 3, 4, 10, 20, 30, 40], g=[*"xxxxyyyy"])
    assert len(prepared(table, **BOTH).segments) == 2
    # the segments of a group have its label
    table = frame(n=[1, 2, 3, 4, 9], t=[1, 2, 3, 9, 1], g=[*"xxxxy"], a=[*"uuuuv"])
    series = prepared(table, **LABELS, time="t", gaps="split")
    assert ([group.name for group in series.segments], listed(series.labels)) == (["x", "x", "y"], [0, 0, 1])


@pytest.mark.parametrize(
    "freq", ["MS", "ME", "QS", "YS", "YE", "B", "W", "D", "h", "15min", "WOM-2FRI", "s", "MS 06:30"]
)
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_calendar_frequencies_have_no_gaps_unless_a_row_is_missing(freq: str, zone: str | None) -> None:
    freq, _, at = freq.partition(" ")
    time = pd.date_range(f"2024-02-03 {at}", periods=60, freq=freq, tz=zone)
    assert len(prepared(frame(a=range(60), t=time), time="t").segments) == 1
    if freq in ("MS", "ME", "QS", "YS", "D", "h"):
        series = prepared(frame(a=range(58), t=time.delete([20, 21])), time="t", gaps="split")
        assert series.segments == (Segment("", 0, 20), Segment("", 20, 58))


def test_a_constant_feature_is_noted() -> None:
    table = frame(a=[1, 2], b=[3, 3])
    assert prepared(table, features=["a", "b"]).notes == ("column b is constant",)
    assert prepared(table, target="b", features=["a"]).notes == ()  # the target is not a feature


# ---- rejected tables
@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, "x", "y"], "column a, row 2: 'x'|not a number|remove the column"),
        (arrow(["1", "2", "3,5"]), "column a, row 3: '3,5'|not a number"),
        (["1", "", "2"], "column a, row 2: ''|not a number"),
        ([1, np.inf, 2], "column a, row 2: inf|infinite|source"),
        (["1", "-inf", 2], "column a, row 2: '-inf'|infinite"),
        ([1, 2, -1e39], "column a, row 3: -1e+39|float32|source"),
        (days(0, 1, 2), "column a |datetime64[us]|not numbers|remove the column"),
        (arrow(days(0, 1, 2).date), "column a |date32[day][pyarrow]|not numbers"),
        (np.array([1, 2, 3j]), "column a |complex128|not numbers"),
        ([10**400, 2, 3], "column a |object|not numbers|remove the column"),
        (["x" * 1000, 2, 3], f"column a, row 1: '{'x' * 56}... |not a number"),
        ([dt.date(2024, 1, 1), 2, 3], "column a, row 1: 2024-01-01|not a number"),
    ],
)
def test_columns_that_are_not_numeric_are_rejected(values: Any, texts: str) -> None:
    refuse(frame(a=values), *texts.split("|"))


@pytest.mark.parametrize("values", [arrow([[1], [2]]), arrow([{"x": 1}, {"x": 2}]), arrow([dt.time(1), dt.time(2)])])
def test_columns_of_other_types_are_rejected(values: Any) -> None:
    with pytest.raises(
        TableError, match=r"^t\.csv: column a(, row 1: .* is not a number; | has type .*, not numbers; )"
    ):
        prepared(frame(a=values))
    refuse(frame(a=[1, 2], t=values), "column t, row 1: ", "whole number", "2024-01-31T12:00", time="t")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, 1.5, 2], "row 2: 1.5|whole number of 64 bits|dates"),
        (arrow([1, 2, 2**63], pa.uint64()), f"row 3: {2**63}|whole number of 64 bits"),
        (arrow([None, None, None], pa.uint64()), "row 1: the time is missing|drop"),
        (["2024-01-01", "Monday", "x"], "row 2: 'Monday'|whole number|2024-01-31T12:00"),
        (["31.01.2024"] * 3, "row 1: '31.01.2024'|whole number|2024-01-31T12:00"),
        ([True, False, True], "row 1: True|whole number|2024-01-31T12:00"),
        ([1, np.inf, 2], "row 2: inf|infinite"),
    ],
)
def test_columns_that_are_not_times_are_rejected(values: Any, texts: str) -> None:
    refuse(frame(a=[1, 2, 3], t=values), f"column t, {texts.split('|')[0]}", *texts.split("|")[1:], time="t")


SORTED, DROP = {"unsorted": "error"}, {"missing": "drop"}
A_DAY, NEXT_DAY = "2024-01-01T00:00:00.000000", "2024-01-02T00:00:00.000000"


@pytest.mark.parametrize(
    ("columns", "settings", "texts"),
    [
        # unsorted
        ({"t": [1, 5, 4]}, TIME | SORTED, "column t, row 3: 4 comes after 5|unsorted to sort"),
        ({"t": days(1, 3, 0, 2), "g": [*"xyxy"]}, BOTH | SORTED, f"row 3 (group x): {A_DAY} comes after {NEXT_DAY}"),
        # duplicates
        ({"t": [1, 3, 2, 1]}, TIME, "column t, row 4: 1 |row 1 already|first, last or mean"),
        ({"t": [1, 1, 1], "g": [*"xyy"]}, BOTH, "column t, row 3 (group y): 1 |row 2 already|first, last or mean"),
        # gaps
        ({"t": [1, 2, 3, 7, 8, 2], "g": [*"xxxxxy"]}, BOTH, "column t, row 4 (group x): |from 3 to 7|split or allow"),
        ({"t": [10, 9, 4, 3, 2, 99]}, TIME, "column t, row 2: |from 4 to 9|2 gaps|split or allow"),
        # contradictory labels, or only one class
        ({"n": [1, 2, 3, 4], "g": [*"xyxy"], "a": [*"uvuu"]}, LABELS, "column a, row 4: group y |v and u|one label"),
        ({"n": [1, 2, 3, 4], "g": [*"xyxy"], "a": [1, 2, 1.5, 2]}, REGRESS, "column a, row 3: group x |1.0 and 1.5"),
        ({"n": [1, 2], "g": ["x", "y"], "a": ["u", "u"]}, LABELS, "column a: |label is u|two classes"),
        # all rows of the other class are dropped
        ({"n": [1, 2, NAN], "g": [*"xyz"], "a": [*"uuv"]}, LABELS | DROP, "column a: |label is u|two classes"),
        # no rows, or no features
        ({"a": []}, {}, "no rows"),
        ({"a": [NAN, NAN]}, DROP, "all 2 rows|value missing: 2|setting missing"),
        ({"a": [NAN, NAN]}, {"missing": "forward_fill"}, "all 2 rows|end of a series: 2|setting missing"),
        ({"n": [*"xy"], "g": [*"xy"], "a": [1, 2]}, REGRESS, "no numeric column|set features"),
        # missing columns
        ({"a": [1]}, TIME, "column t is missing|found: a"),
        ({"A": [1]}, {"target": "a"}, "column a is missing|found: A|did you mean A?"),
        ({0: [1], 1: [2]}, {"target": "a"}, "column a is missing|found: 0, 1"),
    ],
)  # fmt: skip
def test_tables_that_are_rejected(columns: dict[Any, Any], settings: dict[str, Any], texts: str) -> None:
    count = len(next(iter(columns.values())))
    without = {} if {"a", "A", 0} & set(columns) else {"a": range(count)}
    refuse(pd.DataFrame(without | columns), *texts.split("|"), **settings)


def test_column_names() -> None:
    refuse(pd.DataFrame([[1, 2]], columns=["a", "a"]), "column a occurs twice", "must be unique")
    assert first_columns(prepared(pd.DataFrame([[1, 2]]), target="1")) == [("", [2])]


# ---- properties of every table
VALUES = st.none() | st.floats(-1e30, 1e30)
ROW = st.tuples(st.sampled_from(["x", "y", "z", None]), st.none() | st.integers(-20, 20), VALUES, VALUES)
TABLES = st.lists(ROW, min_size=1, max_size=25)
METHODS = st.fixed_dictionaries(
    {
        "missing": st.sampled_from(["drop", "forward_fill", "interpolate"]),
        "gaps": st.sampled_from(["allow", "split"]),
        "duplicates": st.sampled_from(["first", "last", "mean"]),
    }
)
SETTINGS = BOTH | {"features": ["b", "a"]}


def table_of(rows: list[Any], whole: bool = False) -> pd.DataFrame:
    """Return a table of these rows; with whole, missing times and groups are replaced."""
    names = [(group or "x", time or 0, a, b) if whole else (group, time, a, b) for group, time, a, b in rows]
    table = pd.DataFrame(names, columns=["g", "t", "a", "b"])
    return table.astype({"g": "string[pyarrow]", "t": "int64[pyarrow]", "a": "double[pyarrow]", "b": "double[pyarrow]"})


def check(series: Series, rows: int) -> None:
    assert series.rows.read == rows == series.rows.used + sum(series.rows.dropped.values())
    assert series.rows.used == len(series.values) > 0
    assert all(count > 0 for count in series.rows.dropped.values())
    assert series.values.flags.c_contiguous
    assert np.isfinite(series.values).all()
    # the segments, sorted by name, cover all rows
    assert series.segments[0].start == 0
    assert series.segments[-1].stop == len(series.values)
    assert all(a.stop == b.start for a, b in zip(series.segments, series.segments[1:], strict=False))
    assert all(group.start < group.stop for group in series.segments)
    assert [group.name for group in series.segments] == sorted(group.name for group in series.segments)
    assert series.time is not None
    assert len(series.time) == len(series.values)
    assert all((np.diff(series.time[group.start : group.stop]) > 0).all() for group in series.segments)


@given(TABLES, METHODS, st.booleans())
def test_every_dropped_row_is_counted(rows: list[Any], methods: dict[str, str], whole: bool) -> None:
    try:
        series = prepared(table_of(rows, whole), **SETTINGS, **methods)
    except TableError as error:
        fault = str(error)
    else:
        fault = ""
        check(series, len(rows))
    assert re.search(r"^$|: the (time|group) is missing; |: all \d+ rows were dropped ", fault)


@given(TABLES, METHODS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[Any], methods: dict[str, str], random: Any) -> None:
    methods["duplicates"] = "error"
    unique = list({row[:2]: row for row in rows if None not in row[:2]}.values())
    shuffled = random.sample(unique, len(unique))
    results: list[Any] = []
    for order in (unique, shuffled):
        try:
            some = prepared(table_of(order), **SETTINGS, **methods)
            results.append((some.values.tobytes(), some.time.tobytes(), some.segments, some.rows, some.notes))
        except TableError as error:
            results.append(str(error))
    assert results[0] == results[1]


@given(TABLES, st.sampled_from(["first", "last"]), st.sampled_from(["allow", "split"]))
def test_the_values_equal_the_source_in_float32(rows: list[Any], duplicates: str, gaps: str) -> None:
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
        for group in series.segments:
            assert len(set(np.diff(series.time[group.start : group.stop]).tolist())) <= 1


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 5)), min_size=2, max_size=20))
def test_each_group_has_its_label(rows: list[tuple[str, int]]) -> None:
    table = frame(g=[g for g, _ in rows], n=[n for _, n in rows], a=[f"of {g}" for g, _ in rows])
    if len({g for g, _ in rows}) < 2:
        refuse(table, "two classes", **LABELS)
        return
    series = prepared(table, **LABELS)
    assert [series.classes[label] for label in series.labels] == [f"of {group.name}" for group in series.segments]
    assert first_columns(series) == [(group.name, [n for g, n in rows if g == group.name]) for group in series.segments]
