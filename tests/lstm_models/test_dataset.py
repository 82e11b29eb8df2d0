"""A table as training, validation and test: against a brute-force enumeration of all windows, and of all groups."""

import itertools
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lstm_models.config import ConfigError, TableData
from lstm_models.data.dataset import Dataset, of_rows
from lstm_models.data.examples import Examples, Labelled, Windows

PARTS = ("train", "validation", "test")


def config(**values: Any) -> TableData:
    return TableData(kind="table", path="a.csv", **{"target": "y", **values})


def dataset(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    return of_rows(table, config(**values), "a.csv", seed)


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
        ({"train": 5, "validation": 0}, "data: too few rows for one window of 6 steps in the train part"),
        ({"train": 18, "validation": 1}, "data: too few rows for one window of 6 steps in the test part"),
        ({"train": 20, "validation": 1}, "data.split: 20, 1 given, but there are 20"),
        ({"train": 19, "validation": 1}, "data.split: of 20 nothing is left for the test"),
    ],
)
def test_too_few_rows(split: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
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
    data = dataset(labelled(count), seed, **values)
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
        ConfigError, match=r"^data\.gaps: split is for forecasts; a group with a label is one sequence$"
    ):
        dataset(pd.concat([table, table.assign(g=1, y="high")]), task="classify", group="g", time="t", gaps="split")
