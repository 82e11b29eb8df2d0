"""Training, validation and test examples of a table, against an enumeration of all windows and of all groups."""

import itertools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.errors import refused
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from lstm_models.config import AddingProblemData, ConfigError, TableData, TutorialData
from lstm_models.data.builders import build_dataset, read_dataset, read_table
from lstm_models.data.dataset import Dataset
from lstm_models.data.output import REGRESSION
from lstm_models.data.splits import split_bounds
from lstm_models.data.synthetic import tutorial
from lstm_models.data.windows import Examples, LabelledSequences, Windows
from lstm_models.utils.errors import TableError

PARTS = ("train", "validation", "test")
SCALINGS = pytest.mark.parametrize("scaling", ["standard", "minmax"])


def config(**values: Any) -> TableData:
    return TableData(kind="table", path="a.csv", **{"target": "y", **values})


def dataset(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    return build_dataset(table, config(**values), seed)


def numbers(count: int) -> pd.DataFrame:
    return pd.DataFrame({"y": np.arange(float(count))})


def examples_of(examples: Examples | None) -> list[tuple[list[Any], list[Any]]]:
    """Return the inputs and the targets of each example."""
    if examples is None:
        return []
    x_BTD, y, _ = examples.get_batch(torch.arange(examples.count))
    return list(zip(x_BTD.tolist(), y.tolist(), strict=True))


def targets(data: Dataset) -> dict[str, list[float]]:
    """Return the targets by part, for windows with one target each."""
    return {part: [y for _, [[y]] in examples_of(getattr(data, part))] for part in PARTS}


def scale(data: Dataset) -> tuple[list[float], list[float]]:
    assert data.mean_D is not None
    assert data.scale_D is not None
    return data.mean_D.tolist(), data.scale_D.tolist()


# ---- forecasts
class Case(NamedTuple):
    """Series whose values identify the row: row n of the table has y = n and x = -n."""

    sizes: list[int]
    split: tuple[int, int, int | None]
    context: int
    horizon: int
    stride: int
    evaluation_stride: int

    def table(self) -> pd.DataFrame:
        n = np.arange(sum(self.sizes), dtype=float)
        return pd.DataFrame({"g": np.repeat(np.arange(len(self.sizes)), self.sizes), "t": n, "x": -n, "y": n})

    def dataset(self, **values: Any) -> Dataset:
        return dataset(
            self.table(), group="g", time="t", features=["x", "y"], context_length=self.context, horizon=self.horizon,
            stride=self.stride, evaluation_stride=self.evaluation_stride,
            split=dict(zip(PARTS, self.split, strict=True)), **values,
        )  # fmt: skip

    def targets(self) -> dict[str, list[list[int]]]:
        """Return for each part the target rows of each window."""
        targets: dict[str, list[list[int]]] = {part: [] for part in PARTS}
        train, validation, test = self.split
        start = 0
        for size in self.sizes:
            stops = [train, train + validation, size if test is None else train + validation + test]
            for part, begin, end in zip(PARTS, [0, *stops], stops, strict=False):
                starts = [row for row in range(begin, end) if row >= self.context and row + self.horizon <= end]
                stride = self.stride if part == "train" else self.evaluation_stride
                targets[part] += [list(range(start + row, start + row + self.horizon)) for row in starts[::stride]]
            start += size
        return targets


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw cases with at least one training window and one test window."""
    train, validation, test = draw(st.integers(1, 12)), draw(st.integers(0, 8)), draw(st.integers(1, 8))
    least = train + validation + test
    sizes = draw(st.lists(st.integers(least, least + 8), min_size=1, max_size=4))
    split = (train, validation, draw(st.sampled_from([test, None])))
    case = Case(sizes, split, *(draw(st.integers(1, most)) for most in (6, 4, 4, 3)))
    targets = case.targets()
    assume(targets["train"] and targets["test"])
    return case


@given(case=cases())
@settings(max_examples=60)  # the cases have seven dimensions
def test_windows_equal_a_brute_force_enumeration(case: Case) -> None:
    """No target is beyond the end of a part or a series; the inputs are the previous rows of the same series."""
    expected, data = case.targets(), case.dataset()
    assert (data.validation is None) == (not expected["validation"])
    windows = [getattr(data, part) for part in PARTS if expected[part]]
    assert len({some.values_ND.data_ptr() for some in windows}) == 1  # all parts share the rows
    group = np.repeat(np.arange(len(case.sizes)), case.sizes)
    for part in PARTS:
        windows = examples_of(getattr(data, part))
        assert [[int(row) for (row,) in y_SK] for _, y_SK in windows] == expected[part]
        for x_TD, y_SK in windows:
            rows = range(int(y_SK[0][0]) - case.context, int(y_SK[0][0]))
            assert x_TD == [[-row, row] for row in rows]
            assert len(set(group[rows[0] : rows[-1] + 1 + case.horizon])) == 1


@given(case=cases(), scaling=st.sampled_from(["standard", "minmax"]))
def test_the_scaling_is_fitted_on_each_training_row_once(case: Case, scaling: str) -> None:
    assume(case.split[0] > case.context)
    data = case.dataset(scaling=scaling)
    values_ND = case.table()[["x", "y"]].to_numpy()
    starts = np.cumsum([0, *case.sizes[:-1]])
    trained_ND = np.concatenate([values_ND[start : start + case.split[0]] for start in starts])
    if scaling == "standard":
        expected = trained_ND.mean(axis=0), trained_ND.std(axis=0)
    else:
        expected = trained_ND.min(axis=0), np.ptp(trained_ND, axis=0)
    # float64 sums in a different order, rounded to float32
    np.testing.assert_allclose(scale(data), expected, rtol=1e-6)


@SCALINGS
@pytest.mark.parametrize("constant", [0.1, 0.0, -1e30, 3e38, 1e-40])
def test_a_constant_column_is_not_divided(scaling: str, constant: float) -> None:
    table = pd.DataFrame({"y": np.arange(1001.0), "c": constant})
    data = dataset(table, features=["c", "y"], context_length=3, scaling=scaling)
    assert data.columns == ("c", "y")
    assert (scale(data)[0][0], scale(data)[1][0]) == (np.float32(constant), 1)


@SCALINGS
@pytest.mark.parametrize("y", [[1e-45] + [0.0] * 99, [-1e-42, 1e-42, 0.0] * 33, [-3e38, 3e38, 0.0] * 33])
def test_a_scale_is_always_positive_and_finite(scaling: str, y: list[float]) -> None:
    """The smallest and largest float32 numbers: with a scale of 0 or infinity every forecast would be NaN."""
    scale_D = dataset(pd.DataFrame({"y": y}), context_length=3, scaling=scaling).scale_D
    assert scale_D is not None
    assert scale_D.isfinite().all()
    assert (scale_D > 0).all()


def test_the_output_and_the_scales_of_a_forecast() -> None:
    table = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) * 2, "c": np.arange(20.0) * 3})
    several = dataset(table, target=["c", "a"], features=["b", "a"], context_length=3, horizon=2)
    assert (several.columns, several.input_size, several.in_sample) == (("b", "a", "c"), 3, False)
    assert several.output.model_dump() == {
        "kind": "forecast", "targets": ["c", "a"], "horizon": 2, "target_indices": [2, 1], "residual": True,
        "classes": [], "mean": 0.0, "scale": 1.0,
    }  # fmt: skip
    assert several.output.size == 4
    x_BTD, y_BSK, _ = several.test.get_batch(torch.tensor([0]))
    assert x_BTD.tolist() == [[[26, 13, 39], [28, 14, 42], [30, 15, 45]]]
    assert y_BSK.tolist() == [[[48, 16], [51, 17]]]
    assert not dataset(table, target="a", context_length=3, residual="none").output.residual

    table = pd.DataFrame({"a": [0.0, 4.0] * 10, "b": [0.0, 8.0] * 10, "c": 1.0})
    values: dict[str, Any] = {"target": ["c", "b", "a"], "features": ["b", "a"], "context_length": 3}
    assert dataset(table, **values).scales().tolist() == [1, 4, 2]
    assert dataset(table, **values).scales().dtype == torch.float64
    assert dataset(table, **values, scaling="minmax").scales().tolist() == [1, 8, 4]
    none = dataset(table, **values, scaling="none")
    assert (none.scales().tolist(), none.mean_D, none.scale_D, none.scaler()) == ([1, 1, 1], None, None, None)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"split": {"train": 5, "validation": 0}}, ["data: too few rows", "6 steps", "train part", "context_length"]),
        ({"split": {"train": 18, "validation": 1}}, ["data: too few rows", "6 steps", "test part", "20 rows in 1"]),
        ({"split": {"train": 20, "validation": 1}}, ["data.split: 20, 1 given", "there are 20"]),
        ({"season_length": 14}, ["data.season_length: 14 given"]),
        ({"season_length": 20}, ["data.season_length: 20 given"]),
    ],
)
def test_tables_with_too_few_rows_are_rejected(values: dict[str, Any], texts: list[str]) -> None:
    with refused(ConfigError, "a.csv: ", *texts):
        dataset(numbers(20), context_length=4, horizon=2, **values)
    assert dataset(numbers(20), context_length=4, horizon=2, season_length=13).config == config(
        context_length=4, horizon=2, season_length=13
    )


def test_a_split_by_date_applies_to_every_series() -> None:
    """Including a series that starts after the training part, and one that ends within it."""
    days = pd.date_range("2017-01-01", periods=12)
    table = pd.concat(
        [
            pd.DataFrame({"g": 0, "t": days, "y": np.arange(12.0)}),
            pd.DataFrame({"g": 1, "t": days[8:], "y": np.arange(108.0, 112)}),
            pd.DataFrame({"g": 2, "t": days[:5], "y": np.arange(200.0, 205)}),
            pd.DataFrame({"g": 3, "t": days, "y": np.arange(300.0, 312)}),
        ]
    )
    split = {"train": "2017-01-07", "validation": "2017-01-10"}
    assert targets(dataset(table, group="g", time="t", context_length=2, split=split)) == {
        "train": [2, 3, 4, 5, 202, 203, 204, 302, 303, 304, 305],
        "validation": [6, 7, 8, 306, 307, 308],
        "test": [9, 10, 11, 110, 111, 309, 310, 311],
    }


def test_no_window_spans_a_gap_and_no_training_row_is_later_than_its_series_test_rows() -> None:
    """A series that is cut at its gaps is split as one series, in chronological order."""
    t = np.concatenate([np.arange(10), np.arange(20, 30)])
    table = pd.DataFrame({"t": t, "y": t.astype(float)})
    data = dataset(table, time="t", gaps="split", context_length=2, split={"train": 0.6, "validation": 0.1})
    # 20 rows: 12, 2 and 6; rows 10 and 11 (times 20 and 21) follow the gap, so they have no context
    assert targets(data) == {
        "train": [2, 3, 4, 5, 6, 7, 8, 9],
        "validation": [22, 23],
        "test": [24, 25, 26, 27, 28, 29],
    }
    table = pd.DataFrame({"t": t, "a": t * 1.0, "b": t * 10.0})
    values: dict[str, Any] = {"time": "t", "gaps": "split", "context_length": 2}
    data = dataset(table, target=["b", "a"], features=["a"], split={"train": 13, "validation": 2}, **values)
    assert [rows_NK.tolist() for rows_NK in data.training_targets()] == [
        [[n * 10, n] for n in range(10)],
        [[n * 10, n] for n in (20, 21, 22)],
    ]


# ---- labels
LABELS: dict[str, Any] = {"task": "classify", "group": "g"}


def labelled(count: int) -> pd.DataFrame:
    """Return groups of 1 to 4 rows; group g has values g * 10, g * 10 + 1, ...; start dates differ, not in order."""
    frames = []
    for g in range(count):
        rows = g % 4 + 1
        times = pd.date_range(pd.Timestamp("2017-01-01") + pd.Timedelta(days=(g * 7) % count * 10), periods=rows)
        x = g * 10 + np.arange(float(rows))
        frames.append(pd.DataFrame({"g": g, "t": times, "x": x, "y": ["low", "high"][g % 2]}))
    return pd.concat(frames, ignore_index=True)


def groups(examples: Examples | None) -> list[int]:
    """Return the groups in order; assert that each is complete."""
    order = []
    if examples is not None:
        x_BTD, _, lengths_B = examples.get_batch(torch.arange(examples.count))
        assert lengths_B is not None
        for x_TD, length in zip(x_BTD, lengths_B.tolist(), strict=True):
            g = int(x_TD[0, 0]) // 10
            assert length == g % 4 + 1
            assert x_TD[:length, 0].tolist() == [g * 10 + row for row in range(length)]
            order.append(g)
    return order


def groups_of(data: Dataset) -> list[list[int]]:
    return [groups(getattr(data, part)) for part in PARTS]


@given(count=st.integers(4, 20), seed=st.integers(0, 2**32 - 1), train=st.integers(2, 10), validation=st.integers(0, 4))
@settings(max_examples=20)  # each makes four datasets
def test_each_group_is_complete_and_in_one_part_only(count: int, seed: int, train: int, validation: int) -> None:
    assume(train + validation < count)
    values: dict[str, Any] = {"group": "g", "time": "t", "split": {"train": train, "validation": validation}}
    # a regression has the same groups in each part, and their numbers
    regression = dataset(labelled(count).assign(y=lambda rows: rows["g"] / 4), seed, task="regress", **values)
    if len({g % 2 for g in groups(regression.train)}) == 1:
        with refused(ConfigError, f"a.csv: data.split: all {train} groups ", "have one class"):
            dataset(labelled(count), seed, task="classify", **values)
        return
    data = dataset(labelled(count), seed, task="classify", **values)
    parts = groups_of(data)
    assert groups_of(regression) == groups_of(dataset(labelled(count), seed, task="classify", **values)) == parts
    assert [len(part) for part in parts] == [train, validation, count - train - validation]
    assert sorted(itertools.chain(*parts)) == list(range(count))
    assert (data.validation is None) == (validation == 0)

    assert data.output.classes == ["high", "low"]
    for name, part in zip(PARTS, parts, strict=True):
        labels = [data.output.classes[int(y)] for _, y in examples_of(getattr(data, name))]
        assert labels == [["low", "high"][g % 2] for g in part]
        assert [y for _, y in examples_of(getattr(regression, name))] == [g / 4 for g in part]
    assert (regression.output.kind, regression.output.targets, regression.output.classes) == ("regression", ["y"], [])
    assert isinstance(regression.test, LabelledSequences)
    assert regression.test.y_G.dtype == torch.float32

    trained = labelled(count).query("g in @parts[0]")["x"].to_numpy()
    # float64 sums in a different order, rounded to float32
    np.testing.assert_allclose(scale(data), [[trained.mean()], [trained.std() or 1]], rtol=1e-6)


def test_groups_are_in_random_order_or_if_split_by_date_in_chronological_order() -> None:
    drawn = {tuple(groups(dataset(labelled(20), seed, **LABELS).train)) for seed in range(5)}
    assert len(drawn) == 5
    assert tuple(range(14)) not in drawn
    order = sorted(range(10), key=lambda g: (g * 7) % 10)
    split = {"train": "2017-02-20", "validation": "2017-03-12"}  # groups start every ten days
    for seed in (0, 1):
        assert groups_of(dataset(labelled(10), seed, **LABELS, time="t", split=split)) == [
            order[:5], order[5:7], order[7:],
        ]  # fmt: skip


def test_unusable_labels_are_rejected() -> None:
    # a labelled group is one sequence; in pieces, the training part would reveal the test part's labels
    table = pd.DataFrame({"g": 0, "t": [0, 1, 2, 9, 10, 11], "x": 1.0, "y": "low"})
    with refused(ConfigError, "a.csv: data.gaps: split given", "for forecasts only"):
        dataset(pd.concat([table, table.assign(g=1, y="high")]), **LABELS, time="t", gaps="split")
    split = {"train": "2016-01-01", "validation": "2017-03-12"}
    with refused(ConfigError, "a.csv: data.split: of 10 groups, none", "change the dates"):
        dataset(labelled(10), **LABELS, time="t", split=split)
    # one class or two, depending on the seed
    table = labelled(10).assign(y=lambda rows: np.where(rows["g"] == 3, "rare", "usual"))
    values: dict[str, Any] = {"group": "g", "split": {"train": 5, "validation": 0}}
    outcomes = set()
    for seed in range(6):
        has_both = 3 in groups(dataset(labelled(10).assign(y=1.0), seed, task="regress", **values).train)
        outcomes.add(has_both)
        if has_both:
            assert dataset(table, seed, task="classify", **values).output.classes == ["rare", "usual"]
        else:
            with refused(ConfigError, "a.csv: data.split: all 5 groups ", "one class, usual", "the split or the seed"):
                dataset(table, seed, task="classify", **values)
    assert outcomes == {True, False}


@pytest.mark.parametrize("scaling", ["standard", "minmax", "none"])
def test_a_number_is_scaled_by_the_training_groups_only(scaling: str) -> None:
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
    assert (data.output.mean, data.output.scale) == pytest.approx(expected, rel=1e-6)  # rounded to float32
    assert data.scales().tolist() == [data.output.scale]


@pytest.mark.parametrize("value", [0.0, 1 / 3, -1e30])
def test_a_constant_number_is_not_divided(value: float) -> None:
    data = dataset(labelled(10).assign(y=value), task="regress", group="g")
    assert (data.output.mean, data.output.scale) == (np.float32(value), 1)


# ---- row counts, and keys of the examples
class Rough(NamedTuple):
    """Daily rows of several series, with gaps and missing values: row n of the table has y = n, or NaN."""

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
def rough(draw: st.DrawFn, least: int = 1) -> Rough:
    days = []
    for _ in range(draw(st.integers(least, 3))):
        steps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 4]), min_size=9, max_size=30))  # 4: a gap
        days.append(np.cumsum([draw(st.integers(0, 9)), *steps]).tolist())
    return Rough(days, draw(st.lists(st.integers(0, 60), max_size=3)), draw(st.integers(0, 9)))


SPLITS: list[dict[str, Any]] = [
    {"train": 0.5, "validation": 0.2},
    {"train": 0.4, "validation": 0.0, "test": 0.3},
    {"train": 4, "validation": 2, "test": 3},
    {"train": "2020-01-10", "validation": "2020-01-14"},
    {"train": "2020-01-08", "validation": "2020-01-08", "test": "2020-01-18"},
]
# half of the cases have too few rows
filtered = settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])


def attempt(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    """Return the dataset; reject the hypothesis example if it has too few rows."""
    try:
        return dataset(table, seed, time="t", group="g", missing="drop", **values)
    except ConfigError as error:
        too_few = r"too few rows|of \d+ groups, none|.* given, (which leaves none|but there are)|all \d groups "
        if not re.match(rf"a\.csv: data(\.split)?: ({too_few})", str(error)):
            raise
        reject()


def windows_of(data: Dataset, part: str) -> list[list[int]]:
    """Return the rows of each of a part's windows, inputs then targets, as indices of the used rows."""
    windows = getattr(data, part)
    if windows is None:
        return []
    assert isinstance(windows, Windows)
    starts = windows.first_rows(torch.arange(windows.count)).tolist()
    return [list(range(start, start + windows.context_length + windows.horizon)) for start in starts]


@given(
    case=rough(), split=st.sampled_from(SPLITS), context=st.integers(1, 3), horizon=st.integers(1, 3),
    stride=st.integers(1, 3),
)  # fmt: skip
@filtered
def test_every_row_of_a_forecast_is_used_or_counted_as_dropped_and_the_parts_are_separate(
    case: Rough, split: dict[str, Any], context: int, horizon: int, stride: int
) -> None:
    table = case.table()
    data = attempt(
        table, split=split, gaps="split", context_length=context, horizon=horizon, evaluation_stride=stride
    )  # fmt: skip
    series, rows = data.series, data.rows
    assert series is not None
    assert series.time is not None
    assert rows is not None
    assert rows.read == len(table) == rows.used + sum(rows.dropped.values())
    every = {part: windows_of(data, part) for part in PARTS}
    target_rows = {part: {row for window in windows for row in window[context:]} for part, windows in every.items()}

    # dropped rows, by enumeration
    later, short = 0, 0
    for name in {segment.name for segment in series.segments}:
        segments = [segment for segment in series.segments if segment.name == name]
        first, last = segments[0].start, segments[-1].stop
        stop = first + split_bounds(last - first, data.config.split, series.time[first:last]).test
        later += last - stop
        for segment in segments:
            if not any(row in target_rows[part] for part in PARTS for row in range(segment.start, segment.stop)):
                short += max(0, min(stop, segment.stop) - segment.start)
    expected = {
        "value missing": int(table["y"].isna().sum()),
        "after the test part": later,
        "in a segment too short for a window": short,
    }
    assert rows.dropped == {reason: count for reason, count in expected.items() if count}

    # no window spans a gap; the targets of the parts are disjoint and in chronological order
    day = np.timedelta64(1, "D")
    group = np.repeat(
        [segment.name for segment in series.segments], [segment.stop - segment.start for segment in series.segments]
    )
    for window in itertools.chain(*every.values()):
        steps = set(np.diff(series.time[window]))
        assert len(steps) == 1
        assert steps <= {day, 4 * day}
        assert len(set(group[window])) == 1
    for name in set(group):
        by_part = [sorted(row for row in target_rows[part] if group[row] == name) for part in PARTS]
        ordered = list(itertools.chain(*by_part))
        assert ordered == sorted(set(ordered))
    # the rows that the scaling is fitted on are no validation or test targets
    for rows_ND in data.training_values:
        first = (rows_ND.data_ptr() - torch.from_numpy(series.values).data_ptr()) // 4
        assert not set(range(first, first + len(rows_ND))) & (target_rows["validation"] | target_rows["test"])

    # the key of a test window is its group and the time of its first target
    firsts = table.set_index("n").loc[[window[0][0] for _, window in examples_of(data.test)]]
    keys = data.keys()
    assert list(keys.columns) == ["g", "t"]
    assert (keys["g"].tolist(), keys["t"].tolist()) == (firsts["g"].tolist(), firsts["t"].tolist())
    assert list(keys.index) == list(range(data.test.count))


@given(
    case=rough(least=2),
    task=st.sampled_from(["classify", "regress"]),
    split=st.sampled_from([*SPLITS[:2], {"train": 1, "validation": 0, "test": 1}]),
    seed=st.integers(0, 99),
)
@filtered
def test_every_row_of_labelled_groups_is_used_or_counted_as_dropped(
    case: Rough, task: str, split: dict[str, Any], seed: int
) -> None:
    table = case.table().rename(columns={"y": "z"})
    group = table["g"].str[1:].astype(int)
    table["y"] = group % 2 if task == "regress" else np.where(group % 2, "odd", "even")
    data = attempt(table, seed, task=task, features=["n", "z"], split=split, gaps="allow")
    rows = data.rows
    assert rows is not None
    assert rows.read == len(table) == rows.used + sum(rows.dropped.values())
    seen: list[float] = []
    for part in (data.train, data.validation, data.test):
        if part is not None:
            x_BTD, _, lengths_B = part.get_batch(torch.arange(part.count))
            assert lengths_B is not None
            for x_TD, length in zip(x_BTD, lengths_B.tolist(), strict=True):
                seen += x_TD[:length, 0].tolist()
    assert len(seen) == len(set(seen)) == rows.used
    whole = table.dropna()
    unused = whole[~whole["n"].isin(seen)]
    expected = {"value missing": int(table["z"].isna().sum()), "in groups outside the split": len(unused)}
    assert rows.dropped == {reason: count for reason, count in expected.items() if count}
    assert not set(unused["g"]) & set(whole.loc[whole["n"].isin(seen), "g"])

    x_BTD, y, _ = data.test.get_batch(torch.arange(data.test.count))
    first_rows = table.set_index("n").loc[x_BTD[:, 0, 0].tolist()]
    assert data.keys().to_dict("list") == {"g": first_rows["g"].tolist()}
    labels = [data.output.classes[int(number)] for number in y] if task == "classify" else y.tolist()
    assert first_rows["y"].tolist() == labels


def test_the_key_of_a_window_without_times_is_the_row_number() -> None:
    data = dataset(numbers(20), context_length=3, horizon=2, evaluation_stride=2)
    assert data.keys().to_dict("list") == {"row": [17, 19]}  # counted from 1: y = 16 and y = 18
    assert [y_SK for _, y_SK in examples_of(data.test)] == [[[16], [17]], [[18], [19]]]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC", "America/New_York"])
def test_the_key_of_a_window_is_the_time_in_the_zone_of_the_source(zone: str) -> None:
    times = pd.date_range("2024-03-30 20:00", periods=40, freq="h", tz=zone)  # the clock goes forward in Berlin
    keys = dataset(numbers(40).assign(t=times), time="t", context_length=3).keys()["t"]
    assert (keys.tolist(), str(keys.dt.tz)) == (times[32:].tolist(), zone)


def test_the_key_of_a_sequence_is_the_first_column() -> None:
    companies = build_dataset(read_table(TutorialData()), TutorialData(), 0)
    assert companies.in_sample
    assert companies.keys().to_dict("list") == {"company": ["A", "B"]}
    adding = AddingProblemData(kind="adding", length=4, count=3)
    data = build_dataset(read_table(adding), adding, 0)
    assert data.keys().to_dict("list") == {"sequence": ["1", "2", "3"]}
    assert data.train.get_batch(torch.tensor([0, 1, 2])).x_BTD.shape == (3, 4, 2)
    assert (data.columns, data.output, data.validation) == ((), REGRESSION, None)
    assert data.scales().tolist() == [1.0]


def test_a_table_is_read_and_built_as_configured(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pd.DataFrame({"t": [3, 1, 2], "x": 0, "y": [3.0, 1.0, 2.0]}).to_csv(path, index=False)
    table = read_table(TableData(kind="table", path=str(path), target="y", time="t"))
    assert table.to_dict("list") == {"y": [3.0, 1.0, 2.0], "t": [3, 1, 2]}
    assert read_table(TutorialData()).equals(tutorial.table())
    numbers(20).to_csv(path, index=False)
    settings = TableData(kind="table", path=str(path), target="y", context_length=3)
    loaded, expected = read_dataset(settings, 0), dataset(numbers(20), context_length=3)
    assert targets(loaded) == targets(expected)
    assert (loaded.rows, loaded.output, loaded.config) == (expected.rows, expected.output, settings)
    with refused(TableError, "a.csv: column y ", "found: x"):
        dataset(pd.DataFrame({"x": [1.0]}))
