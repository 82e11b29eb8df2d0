"""A table as training, validation and test: against a brute-force enumeration of all windows, and of all groups."""

import itertools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from lstm_models.config import NUMBER, AddingData, ConfigError, TableData, TutorialData
from lstm_models.data import tutorial
from lstm_models.data.dataset import Dataset, load, of_table, read
from lstm_models.data.examples import Examples, Labelled, Windows
from lstm_models.data.splits import ends
from lstm_models.data.tables import TableError

PARTS = ("train", "validation", "test")


def config(**values: Any) -> TableData:
    return TableData(kind="table", path="a.csv", **{"target": "y", **values})


def dataset(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    return of_table(table, config(**values), seed)


def taken(examples: Examples | None) -> list[tuple[list[Any], list[Any]]]:
    """What each example is seen of, and what of it is told."""
    if examples is None:
        return []
    x_BTD, y, _ = examples.take(torch.arange(examples.count))
    return list(zip(x_BTD.tolist(), y.tolist(), strict=True))


# ---- forecasts
class Case(NamedTuple):
    """Rows that tell where they are: row n of all has y = n, and x = -n."""

    sizes: list[int]
    split: tuple[int, int, int | None]
    context: int
    horizon: int
    stride: int

    def table(self) -> pd.DataFrame:
        group = np.repeat(np.arange(len(self.sizes)), self.sizes)
        n = np.arange(sum(self.sizes), dtype=float)
        return pd.DataFrame({"g": group, "t": n, "x": -n, "y": n})

    def dataset(self, **values: Any) -> Dataset:
        train, validation, test = self.split
        return dataset(
            self.table(),
            group="g",
            time="t",
            features=["x", "y"],
            context_length=self.context,
            horizon=self.horizon,
            stride=self.stride,
            split={"train": train, "validation": validation, "test": test},
            **values,
        )

    def targets(self) -> dict[str, list[list[int]]]:
        """Every window's targets, row by row, of every series' every part."""
        found: dict[str, list[list[int]]] = {part: [] for part in PARTS}
        train, validation, test = self.split
        start = 0
        for size in self.sizes:
            stops = [train, train + validation, size if test is None else train + validation + test]
            for part, begin, end in zip(PARTS, [0, *stops], stops, strict=False):
                firsts = [row for row in range(begin, end) if row >= self.context and row + self.horizon <= end]
                stride = self.stride if part == "train" else 1
                found[part] += [list(range(start + row, start + row + self.horizon)) for row in firsts[::stride]]
            start += size
        return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    train, validation, test = draw(st.integers(1, 12)), draw(st.integers(0, 8)), draw(st.integers(1, 8))
    least = train + validation + test
    sizes = draw(st.lists(st.integers(least, least + 8), min_size=1, max_size=4))
    return Case(
        sizes,
        (train, validation, draw(st.sampled_from([test, None]))),
        draw(st.integers(1, 6)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
    )


@given(case=cases())
@settings(derandomize=True, deadline=None, max_examples=150)  # a shared machine may pause for longer than by default
def test_the_windows_are_those_that_a_brute_force_enumeration_finds(case: Case) -> None:
    """No target crosses the end of a part or of a series; what is seen is what lies before, in the same series."""
    expected = case.targets()
    assume(expected["train"] and expected["test"])
    data = case.dataset()
    assert (data.validation is None) == (not expected["validation"])
    for part in PARTS:
        windows = taken(getattr(data, part))
        assert [[int(row) for (row,) in told] for _, told in windows] == expected[part]
        for seen, told in windows:
            rows = range(int(told[0][0]) - case.context, int(told[0][0]))
            assert seen == [[-row, row] for row in rows]
            group = np.repeat(np.arange(len(case.sizes)), case.sizes)
            assert len(set(group[rows[0] : rows[-1] + 1 + case.horizon])) == 1


def test_what_is_seen_may_reach_back_into_the_part_before() -> None:
    data = Case([10], (6, 2, 2), context=4, horizon=2, stride=1).dataset()
    rows = {part: [[int(y) for _, y in seen] for seen, _ in taken(getattr(data, part))] for part in PARTS}
    assert rows == {"train": [[0, 1, 2, 3]], "validation": [[2, 3, 4, 5]], "test": [[4, 5, 6, 7]]}


@given(case=cases(), scaling=st.sampled_from(["standard", "minmax"]))
@settings(derandomize=True, deadline=None, max_examples=60)  # as above
def test_the_scaling_is_of_the_training_rows_each_once(case: Case, scaling: str) -> None:
    expected = case.targets()
    assume(expected["train"] and expected["test"] and case.split[0] > case.context)
    data = case.dataset(scaling=scaling)
    values_ND = case.table()[["x", "y"]].to_numpy()
    starts = np.cumsum([0, *case.sizes[:-1]])
    trained_ND = np.concatenate([values_ND[start : start + case.split[0]] for start in starts])
    if scaling == "standard":
        center_D, spread_D = trained_ND.mean(axis=0), trained_ND.std(axis=0)
    else:
        center_D, spread_D = trained_ND.min(axis=0), np.ptp(trained_ND, axis=0)
    assert data.center_D is not None
    assert data.spread_D is not None
    # both are float64 sums in another order, rounded to float32
    np.testing.assert_allclose(data.center_D, center_D, rtol=1e-6)
    np.testing.assert_allclose(data.spread_D, spread_D, rtol=1e-6)


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
def test_what_comes_after_the_training_part_does_not_move_the_scaling(scaling: str) -> None:
    n = np.arange(60.0)
    table = pd.DataFrame({"g": np.repeat([0, 1], 30), "y": np.sin(n)})
    changed = table.copy()
    later = n % 30 >= 15
    changed.loc[later, "y"] = changed.loc[later, "y"] * 1e6 - 5
    settings: dict[str, Any] = {
        "group": "g",
        "context_length": 4,
        "horizon": 2,
        "split": {"train": 15, "validation": 5},
        "scaling": scaling,
    }
    before, after = dataset(table, **settings), dataset(changed, **settings)
    for name in ("center_D", "spread_D"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert taken(before.train) == taken(after.train)
    assert taken(before.test) != taken(after.test)


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
@pytest.mark.parametrize("constant", [0.1, 0.0, -1e30, 3e38, 1e-40])
def test_a_column_that_does_not_vary_is_not_divided(scaling: str, constant: float) -> None:
    table = pd.DataFrame({"y": np.arange(1001.0), "c": constant})
    scaled = dataset(table, features=["c", "y"], context_length=3, scaling=scaling)
    assert scaled.center_D is not None
    assert scaled.spread_D is not None
    assert scaled.columns == ("c", "y")
    assert scaled.spread_D[0] == 1
    assert scaled.center_D[0] == np.float32(constant)


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
@pytest.mark.parametrize(("value", "once"), [(1e-45, True), (1e-42, False), (3e38, False)])
def test_a_spread_is_a_number_above_0_whatever_the_values(scaling: str, value: float, once: bool) -> None:
    """The smallest and largest numbers of float32: a spread of 0 or infinity makes NaN of every forecast."""
    table = pd.DataFrame({"y": np.resize([-value, value, 0.0], 100)})
    if once:
        table["y"] = [value] + [0.0] * 99
    spread_D = dataset(table, context_length=3, scaling=scaling).spread_D
    assert spread_D is not None
    assert spread_D.isfinite().all()
    assert (spread_D > 0).all()


def test_without_scaling_there_is_none() -> None:
    data = dataset(pd.DataFrame({"y": np.arange(20.0)}), context_length=3, scaling="none")
    assert (data.center_D, data.spread_D, data.scaling()) == (None, None, None)


def test_what_is_told_of_a_forecast() -> None:
    table = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) * 2, "c": np.arange(20.0) * 3})
    several = dataset(table, target=["c", "a"], features=["b", "a"], context_length=3, horizon=2)
    assert several.columns == ("b", "a", "c")
    assert several.output.model_dump() == {
        "kind": "forecast",
        "targets": ["c", "a"],
        "steps": 2,
        "places": [2, 1],
        "residual": True,
        "classes": [],
        "center": 0.0,
        "spread": 1.0,
    }
    assert several.output.size == 4
    assert several.input_size == 3
    assert not several.in_sample
    x_BTD, y_BSK, _ = several.test.take(torch.tensor([0]))
    assert x_BTD.tolist() == [[[26, 13, 39], [28, 14, 42], [30, 15, 45]]]
    assert y_BSK.tolist() == [[[48, 16], [51, 17]]]
    assert not dataset(table, target="a", context_length=3, residual="none").output.residual


def test_the_rows_are_held_once_by_all_parts() -> None:
    data = dataset(pd.DataFrame({"y": np.arange(100.0)}), context_length=3)
    assert isinstance(data.train, Windows)
    assert isinstance(data.validation, Windows)
    assert isinstance(data.test, Windows)
    places = {part.values_ND.data_ptr() for part in (data.train, data.validation, data.test)}
    assert len(places) == 1


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (
            {"train": 5, "validation": 0},
            "data: too few rows for one window of 6 steps in the train part: 20 rows in 1 series; a smaller "
            "context_length or horizon, or another split, may do",
        ),
        (
            {"train": 18, "validation": 1},
            "data: too few rows for one window of 6 steps in the test part: 20 rows in 1 series; a smaller "
            "context_length or horizon, or another split, may do",
        ),
        ({"train": 20, "validation": 1}, "data.split: 20, 1 given, but there are 20"),
        ({"train": 19, "validation": 1}, "data.split: of 20 nothing is left for the test"),
    ],
)
def test_too_few_rows(split: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^a\\.csv: {re.escape(text)}$"):
        dataset(pd.DataFrame({"y": np.arange(20.0)}), context_length=4, horizon=2, split=split)


def test_every_series_is_split_by_the_same_date() -> None:
    days = pd.date_range("2017-01-01", periods=12)
    table = pd.concat([pd.DataFrame({"g": g, "t": days, "y": np.arange(12.0) + 100 * g}) for g in (0, 1)])
    split = {"train": "2017-01-07", "validation": "2017-01-10"}
    data = dataset(table, group="g", time="t", context_length=2, split=split)
    told = {part: [y for _, [[y]] in taken(getattr(data, part))] for part in PARTS}
    assert told == {
        "train": [2, 3, 4, 5, 102, 103, 104, 105],
        "validation": [6, 7, 8, 106, 107, 108],
        "test": [9, 10, 11, 109, 110, 111],
    }


def test_a_series_may_lie_in_one_part_alone_when_the_split_is_by_date() -> None:
    """A shop that opened after the training ended, one that closed before."""
    days = pd.date_range("2017-01-01", periods=12)
    table = pd.concat(
        [
            pd.DataFrame({"g": 0, "t": days, "y": np.arange(12.0)}),
            pd.DataFrame({"g": 1, "t": days[8:], "y": np.arange(108.0, 112)}),
            pd.DataFrame({"g": 2, "t": days[:5], "y": np.arange(200.0, 205)}),
        ]
    )
    split = {"train": "2017-01-07", "validation": "2017-01-10"}
    data = dataset(table, group="g", time="t", context_length=2, split=split)
    told = {part: [y for _, [[y]] in taken(getattr(data, part))] for part in PARTS}
    assert told == {"train": [2, 3, 4, 5, 202, 203, 204], "validation": [6, 7, 8], "test": [9, 10, 11, 110, 111]}


def test_no_window_reaches_across_a_gap_and_no_training_comes_after_its_series_test() -> None:
    """A series that gaps cut into pieces is one series: its parts follow one another."""
    t = np.concatenate([np.arange(10), np.arange(20, 30)])
    table = pd.DataFrame({"t": t, "y": t.astype(float)})
    data = dataset(table, time="t", gaps="split", context_length=2, split={"train": 0.6, "validation": 0.1})
    told = {part: [y for _, [[y]] in taken(getattr(data, part))] for part in PARTS}
    # 20 rows: 12 and 2 and 6; rows 10 and 11 (times 20 and 21) have nothing but the gap before them
    assert told == {
        "train": [2, 3, 4, 5, 6, 7, 8, 9],
        "validation": [22, 23],
        "test": [24, 25, 26, 27, 28, 29],
    }


# ---- labels
def labelled(count: int) -> pd.DataFrame:
    """Groups of 1 to 4 rows; group g holds g * 10, g * 10 + 1, ... and begins on a day of its own, not in order."""
    frames = []
    for g in range(count):
        day = pd.Timestamp("2017-01-01") + pd.Timedelta(days=(g * 7) % count * 10)
        rows = g % 4 + 1
        times = pd.date_range(day, periods=rows)
        frames.append(
            pd.DataFrame({"g": g, "t": times, "x": g * 10 + np.arange(float(rows)), "y": ["low", "high"][g % 2]})
        )
    return pd.concat(frames, ignore_index=True)


def groups(examples: Examples | None) -> list[int]:
    """The groups in their order, each seen to be whole."""
    found = []
    if examples is not None:
        x_BTD, _, lengths_B = examples.take(torch.arange(examples.count))
        assert lengths_B is not None
        for x_TD, length in zip(x_BTD, lengths_B.tolist(), strict=True):
            g = int(x_TD[0, 0]) // 10
            assert length == g % 4 + 1
            assert x_TD[:length, 0].tolist() == [g * 10 + row for row in range(length)]
            found.append(g)
    return found


@given(
    count=st.integers(4, 20),
    seed=st.integers(0, 2**32 - 1),
    train=st.integers(2, 10),
    validation=st.integers(0, 4),
)
@settings(derandomize=True, deadline=None, max_examples=40)  # as above
def test_each_group_is_whole_and_in_one_part_alone(count: int, seed: int, train: int, validation: int) -> None:
    assume(train + validation < count)
    values: dict[str, Any] = {"task": "classify", "group": "g", "time": "t"}
    values["split"] = {"train": train, "validation": validation}
    # of numbers the same groups are drawn
    of_numbers = dataset(labelled(count).assign(y=lambda rows: rows["g"]), seed, **values | {"task": "regress"})
    if len({g % 2 for g in groups(of_numbers.train)}) == 1:
        text = rf"^a\.csv: data\.split: all {train} groups for training are of one class, "
        with pytest.raises(ConfigError, match=text):
            dataset(labelled(count), seed, **values)
        return
    data = dataset(labelled(count), seed, **values)
    assert groups(data.train) == groups(of_numbers.train)
    parts = [groups(getattr(data, part)) for part in PARTS]
    assert [len(part) for part in parts] == [train, validation, count - train - validation]
    assert sorted(itertools.chain(*parts)) == list(range(count))
    assert (data.validation is None) == (validation == 0)

    again = dataset(labelled(count), seed, **values)
    assert [groups(getattr(again, part)) for part in PARTS] == parts
    assert data.output.classes == ["high", "low"]
    for part in (data.train, data.test):
        assert [data.output.classes[int(y)] for _, y in taken(part)] == [["low", "high"][g % 2] for g in groups(part)]

    trained = labelled(count).query("g in @parts[0]")["x"].to_numpy()
    assert data.center_D is not None
    assert data.spread_D is not None
    # both are float64 sums in another order, rounded to float32
    np.testing.assert_allclose(data.center_D, [trained.mean()], rtol=1e-6)
    np.testing.assert_allclose(data.spread_D, [trained.std() or 1], rtol=1e-6)


def test_another_seed_draws_other_groups() -> None:
    drawn = {tuple(groups(dataset(labelled(20), seed, task="classify", group="g").train)) for seed in range(5)}
    assert len(drawn) == 5
    assert tuple(range(14)) not in drawn


def test_by_date_groups_are_in_the_order_of_their_beginnings_whatever_the_seed() -> None:
    count = 10
    order = sorted(range(count), key=lambda g: (g * 7) % count)
    split = {"train": "2017-02-20", "validation": "2017-03-12"}  # they begin every ten days
    for seed in (0, 1):
        data = dataset(labelled(count), seed, task="classify", group="g", time="t", split=split)
        assert [groups(getattr(data, part)) for part in PARTS] == [order[:5], order[5:7], order[7:]]


def test_a_number_to_be_told_of_each_group() -> None:
    table = labelled(10).assign(y=lambda rows: rows["g"] / 4)
    data = dataset(table, task="regress", group="g", time="t")
    assert (data.output.kind, data.output.targets, data.output.classes) == ("number", ["y"], [])
    assert isinstance(data.test, Labelled)
    assert data.test.y_G.dtype == torch.float32
    for part in PARTS:
        assert [y for _, y in taken(getattr(data, part))] == [g / 4 for g in groups(getattr(data, part))]


def test_pieces_are_not_for_labels() -> None:
    """A group with a label is one sequence; and its pieces in the test would be known from training."""
    table = pd.DataFrame({"g": 0, "t": [0, 1, 2, 9, 10, 11], "x": 1.0, "y": "low"})
    with pytest.raises(
        ConfigError, match=r"^a\.csv: data\.gaps: split is for forecasts; a group with a label is one sequence$"
    ):
        dataset(pd.concat([table, table.assign(g=1, y="high")]), task="classify", group="g", time="t", gaps="split")


@pytest.mark.parametrize("scaling", ["standard", "minmax", "none"])
def test_a_number_is_scaled_by_the_training_groups_alone(scaling: str) -> None:
    values: dict[str, Any] = {"task": "regress", "group": "g", "split": {"train": 9, "validation": 3}}
    values["scaling"] = scaling
    table = labelled(20).assign(y=lambda rows: (rows["g"] * 7) % 11 / 4)
    data = dataset(table, **values)
    trained = np.array([(g * 7) % 11 / 4 for g in groups(data.train)])
    expected = {
        "standard": (trained.mean(), trained.std()),
        "minmax": (trained.min(), np.ptp(trained)),
        "none": (0, 1),
    }[scaling]
    assert (data.output.center, data.output.spread) == pytest.approx(expected, rel=1e-6)  # rounded to float32
    assert data.scales().tolist() == [data.output.spread]

    others = ~table["g"].isin(groups(data.train))
    table.loc[others, ["x", "y"]] = table.loc[others, ["x", "y"]] * -1e6 + 3
    changed = dataset(table, **values)
    assert changed.output == data.output
    for name in ("center_D", "spread_D"):
        before, after = getattr(data, name), getattr(changed, name)
        assert (before is None and after is None) or torch.equal(before, after)
    assert taken(changed.test) != taken(data.test)


@pytest.mark.parametrize("value", [0.0, 1 / 3, -1e30])
def test_numbers_that_do_not_vary_are_not_divided(value: float) -> None:
    data = dataset(labelled(10).assign(y=value), task="regress", group="g")
    assert (data.output.center, data.output.spread) == (np.float32(value), 1)


def test_training_groups_of_one_class_teach_nothing() -> None:
    table = labelled(10).assign(y=lambda rows: np.where(rows["g"] == 3, "rare", "usual"))
    values: dict[str, Any] = {"task": "classify", "group": "g", "split": {"train": 5, "validation": 0}}
    of_numbers = [dataset(labelled(10).assign(y=1.0), seed, **values | {"task": "regress"}) for seed in range(6)]
    refused = [seed for seed, data in enumerate(of_numbers) if 3 not in groups(data.train)]
    assert 0 < len(refused) < 6
    text = "data.split: all 5 groups for training are of one class, usual; another split or seed may do"
    for seed in range(6):
        if seed in refused:
            with pytest.raises(ConfigError, match=f"^a\\.csv: {re.escape(text)}$"):
                dataset(table, seed, **values)
        else:
            assert dataset(table, seed, **values).output.classes == ["rare", "usual"]


# ---- every row is accounted for, and every example has a name
class Rough(NamedTuple):
    """Rows of some days of several series, with holes and missing values: row n of all has y = n, or none."""

    days: list[list[int]]
    missing: list[int]
    shuffled: int

    def table(self) -> pd.DataFrame:
        group = np.repeat([f"g{number}" for number in range(len(self.days))], [len(days) for days in self.days])
        n = np.arange(len(group), dtype=float)
        days = pd.to_timedelta(list(itertools.chain(*self.days)), unit="D")
        table = pd.DataFrame({"g": group, "t": pd.Timestamp("2020-01-01") + days, "x": -n, "y": n, "n": n})
        table.loc[[row % len(n) for row in self.missing], "y"] = np.nan
        return table.sample(frac=1, random_state=self.shuffled)


@st.composite
def rough(draw: st.DrawFn) -> Rough:
    days = []
    for _ in range(draw(st.integers(1, 3))):
        steps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 3]), min_size=9, max_size=30))
        days.append(np.cumsum([draw(st.integers(0, 9)), *steps]).tolist())
    return Rough(days, draw(st.lists(st.integers(0, 60), max_size=3)), draw(st.integers(0, 9)))


SPLITS: list[dict[str, Any]] = [
    {"train": 0.5, "validation": 0.2},
    {"train": 0.4, "validation": 0.0, "test": 0.3},
    {"train": 4, "validation": 2, "test": 3},
    {"train": "2020-01-10", "validation": "2020-01-14"},
    {"train": "2020-01-08", "validation": "2020-01-08", "test": "2020-01-18"},
]
TOO_FEW = (
    r"a\.csv: data(\.split)?: "
    r"(too few rows for one window|of \d+ nothing is left|.* given, but there are|all \d groups .* are of one class)"
)


def attempt(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    """The dataset, if there is enough for one."""
    try:
        return dataset(table, seed, **values)
    except ConfigError as error:
        if not re.match(TOO_FEW, str(error)):
            raise
        reject()


def placed(data: Dataset, part: str) -> list[list[int]]:
    """Of each of a part's windows its rows, by their place among those that are used: seen and told."""
    windows = getattr(data, part)
    if windows is None:
        return []
    assert isinstance(windows, Windows)
    firsts = windows.rows(torch.arange(windows.count)).tolist()
    return [list(range(first, first + windows.context + windows.horizon)) for first in firsts]


@given(case=rough(), split=st.sampled_from(SPLITS), context=st.integers(1, 3), horizon=st.integers(1, 3))
@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
def test_of_forecasts_every_row_is_used_or_dropped_for_a_reason_and_no_part_knows_the_next(
    case: Rough, split: dict[str, Any], context: int, horizon: int
) -> None:
    table = case.table()
    lengths: dict[str, Any] = {"context_length": context, "horizon": horizon, "gaps": "split", "missing": "drop"}
    data = attempt(table, group="g", time="t", split=split, **lengths)
    series, rows = data.series, data.rows
    assert series is not None
    assert rows is not None
    assert rows.read == len(table)
    assert rows.used + sum(rows.dropped.values()) == rows.read
    assert all(count > 0 for count in rows.dropped.values())
    assert rows.dropped.get("value missing", 0) == table["y"].isna().sum()

    # what becomes of the rest, by enumeration
    later, short = 0, 0
    told = {part: {row for window in placed(data, part) for row in window[context:]} for part in PARTS}
    assert series.time is not None
    for name in {piece.name for piece in series.groups}:
        pieces = [piece for piece in series.groups if piece.name == name]
        first, last = pieces[0].start, pieces[-1].stop
        stop = first + ends(last - first, data.config.split, series.time[first:last]).test
        later += last - stop
        for piece in pieces:
            if not any(row in told[part] for part in PARTS for row in range(piece.start, piece.stop)):
                short += max(0, min(stop, piece.stop) - piece.start)
    assert rows.dropped.get("after the test part", 0) == later
    assert rows.dropped.get("in a stretch too short for a window", 0) == short
    allowed = {"value missing", "after the test part", "in a stretch too short for a window"}
    assert set(rows.dropped) <= allowed

    # no window reaches across a hole; no part is told what another one is, or what comes after it
    day = np.timedelta64(1, "D")
    group = np.repeat([piece.name for piece in series.groups], [piece.stop - piece.start for piece in series.groups])
    for part in PARTS:
        for window in placed(data, part):
            assert set(np.diff(series.time[window])) <= {day, 3 * day}
            assert len(set(np.diff(series.time[window]))) == (1 if len(window) > 1 else 0)
            assert len(set(group[window])) == 1
    assert not (told["train"] & told["validation"]) | (told["train"] & told["test"])
    assert not told["validation"] & told["test"]
    for name in set(group):
        lines = [sorted(row for row in told[part] if group[row] == name) for part in PARTS]
        assert sorted(itertools.chain(*lines)) == list(itertools.chain(*lines))
    # what the scaling is made of lies before all that is told later
    for rows_ND in data.trained:
        place = (rows_ND.data_ptr() - torch.from_numpy(series.values).data_ptr()) // 4
        assert not set(range(place, place + len(rows_ND))) & (told["validation"] | told["test"])


@given(case=rough(), split=st.sampled_from(SPLITS), context=st.integers(1, 3), stride=st.integers(1, 3))
@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
def test_a_window_is_called_by_its_group_and_the_time_of_its_first_step_that_is_told(
    case: Rough, split: dict[str, Any], context: int, stride: int
) -> None:
    table = case.table()
    values: dict[str, Any] = {"group": "g", "time": "t", "gaps": "split", "missing": "drop", "horizon": 2}
    data = attempt(table, split=split, context_length=context, evaluation_stride=stride, **values)
    by_number = table.set_index("n")
    first = [told[0][0] for _, told in taken(data.test)]
    keys = data.keys()
    assert list(keys.columns) == ["g", "t"]
    assert keys["g"].tolist() == by_number.loc[first, "g"].tolist()
    assert keys["t"].tolist() == by_number.loc[first, "t"].tolist()
    assert list(keys.index) == list(range(data.test.count))


@given(
    case=rough(),
    task=st.sampled_from(["classify", "regress"]),
    split=st.sampled_from([*SPLITS[:2], {"train": 1, "validation": 0, "test": 1}]),
    seed=st.integers(0, 99),
)
@settings(derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
def test_of_labels_every_row_is_used_or_dropped_for_a_reason(
    case: Rough, task: str, split: dict[str, Any], seed: int
) -> None:
    table = case.table().rename(columns={"y": "z"})
    group = table["g"].str[1:].astype(int)
    table["y"] = group % 2 if task == "regress" else np.where(group % 2, "odd", "even")
    assume(table["y"].nunique() > 1)
    values: dict[str, Any] = {"task": task, "group": "g", "time": "t", "features": ["n", "z"], "missing": "drop"}
    data = attempt(table, seed, split=split, gaps="allow", **values)
    rows = data.rows
    assert rows is not None
    assert rows.read == len(table)
    assert rows.used + sum(rows.dropped.values()) == rows.read
    assert rows.dropped.get("value missing", 0) == table["z"].isna().sum()
    seen: list[float] = []
    for part in (data.train, data.validation, data.test):
        if part is not None:
            x_BTD, _, lengths_B = part.take(torch.arange(part.count))
            assert lengths_B is not None
            for x_TD, length in zip(x_BTD, lengths_B.tolist(), strict=True):
                seen += x_TD[:length, 0].tolist()
    assert len(seen) == len(set(seen)) == rows.used
    unused = table.dropna()[~table.dropna()["n"].isin(seen)]
    assert rows.dropped.get("in groups of no part of the split", 0) == len(unused)
    assert not set(unused["g"]) & set(table.dropna().loc[table.dropna()["n"].isin(seen), "g"])
    assert all(count > 0 for count in rows.dropped.values())

    x_BTD, y, _ = data.test.take(torch.arange(data.test.count))
    called = table.set_index("n").loc[x_BTD[:, 0, 0].tolist()]
    assert data.keys().to_dict("list") == {"g": called["g"].tolist()}
    told = [data.output.classes[int(number)] for number in y] if task == "classify" else y.tolist()
    assert called["y"].tolist() == told


def test_a_window_of_a_table_without_times_is_called_by_the_row() -> None:
    data = dataset(pd.DataFrame({"y": np.arange(20.0)}), context_length=3, horizon=2, evaluation_stride=2)
    assert data.keys().to_dict("list") == {"row": [17, 19]}  # counted from 1: y = 16 and y = 18
    assert [told for _, told in taken(data.test)] == [[[16], [17]], [[18], [19]]]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC", "America/New_York"])
def test_a_window_is_called_by_the_time_in_its_own_zone(zone: str) -> None:
    times = pd.date_range("2024-03-30 20:00", periods=40, freq="h", tz=zone)  # the clock goes forward in Berlin
    data = dataset(pd.DataFrame({"t": times, "y": np.arange(40.0)}), time="t", context_length=3)
    found = data.keys()["t"]
    assert found.tolist() == times[32:].tolist()
    assert str(found.dt.tz) == zone


def test_sequences_are_called_by_the_first_column() -> None:
    companies = of_table(read(TutorialData()), TutorialData(), 0)
    assert companies.in_sample
    assert companies.keys().to_dict("list") == {"company": ["A", "B"]}
    adding = AddingData(kind="adding", length=4, count=3)
    data = of_table(read(adding), adding, 0)
    assert data.keys().to_dict("list") == {"sequence": ["1", "2", "3"]}
    assert data.train.take(torch.tensor([0, 1, 2])).x_BTD.shape == (3, 4, 2)
    assert (data.columns, data.output, data.validation) == ((), NUMBER, None)
    assert data.scales().tolist() == [1.0]


# ---- what else there is of a table
def test_validation_and_test_have_a_stride_of_their_own() -> None:
    split = {"train": 20, "validation": 10}
    data = dataset(pd.DataFrame({"y": np.arange(40.0)}), context_length=2, stride=5, evaluation_stride=3, split=split)
    told = {part: [y for _, [[y]] in taken(getattr(data, part))] for part in PARTS}
    assert told == {"train": [2, 7, 12, 17], "validation": [20, 23, 26, 29], "test": [30, 33, 36, 39]}


@pytest.mark.parametrize(("season", "fits"), [(1, True), (13, True), (14, False), (20, False)])
def test_a_season_is_shorter_than_the_training_part(season: int, fits: bool) -> None:
    table = pd.DataFrame({"y": np.arange(20.0)})
    if fits:
        assert dataset(table, context_length=3, season=season).config.season == season
        return
    text = f"data.season: {season} given, but no series has that many rows for training"
    with pytest.raises(ConfigError, match=f"^a\\.csv: {re.escape(text)}$"):
        dataset(table, context_length=3, season=season)


def test_the_units_of_scaled_figures_are_the_targets_own() -> None:
    table = pd.DataFrame({"a": [0.0, 4.0] * 10, "b": [0.0, 8.0] * 10, "c": 1.0})
    values: dict[str, Any] = {"target": ["c", "b", "a"], "features": ["b", "a"], "context_length": 3}
    assert dataset(table, **values).scales().tolist() == [1, 4, 2]
    assert dataset(table, **values, scaling="minmax").scales().tolist() == [1, 8, 4]
    assert dataset(table, **values, scaling="none").scales().tolist() == [1, 1, 1]
    assert dataset(table, **values).scales().dtype == torch.float64


def test_the_training_part_of_the_targets_is_piece_by_piece_in_their_order() -> None:
    t = np.concatenate([np.arange(10), np.arange(20, 30)])
    table = pd.DataFrame({"t": t, "a": t * 1.0, "b": t * 10.0})
    values: dict[str, Any] = {"time": "t", "gaps": "split", "context_length": 2}
    data = dataset(table, target=["b", "a"], features=["a"], split={"train": 13, "validation": 2}, **values)
    first, second = data.trained_targets()
    assert first.tolist() == [[n * 10, n] for n in range(10)]
    assert second.tolist() == [[n * 10, n] for n in (20, 21, 22)]


def test_a_table_is_read_as_its_settings_say(tmp_path: Path) -> None:
    pd.DataFrame({"t": [3, 1, 2], "x": 0, "y": [3.0, 1.0, 2.0]}).to_csv(tmp_path / "a.csv", index=False)
    found = read(TableData(kind="table", path=str(tmp_path / "a.csv"), target="y", time="t"))
    assert found.to_dict("list") == {"y": [3.0, 1.0, 2.0], "t": [3, 1, 2]}
    assert read(TutorialData()).equals(tutorial.table())


def test_a_table_is_loaded_as_it_is_read(tmp_path: Path) -> None:
    pd.DataFrame({"y": np.arange(20.0)}).to_csv(tmp_path / "a.csv", index=False)
    settings = TableData(kind="table", path=str(tmp_path / "a.csv"), target="y", context_length=3)
    found, expected = load(settings, 0), dataset(pd.DataFrame({"y": np.arange(20.0)}), context_length=3)
    assert [taken(getattr(found, part)) for part in PARTS] == [taken(getattr(expected, part)) for part in PARTS]
    assert (found.rows, found.output, found.config) == (expected.rows, expected.output, settings)


def test_an_error_names_the_source() -> None:
    with pytest.raises(TableError, match=r"^a\.csv: column y is missing; found: x$"):
        dataset(pd.DataFrame({"x": [1.0]}))
