"""Tables of predictions for a dataset's test part and for new rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.errors import refused_at
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm_models.config import AddingProblemData, AnyData, HandBuilt, Sql, TableData, TutorialData
from lstm_models.data.builders import build_dataset, read_table
from lstm_models.data.dataset import Dataset
from lstm_models.data.output import REGRESSION, OutputSpec
from lstm_models.data.synthetic import tutorial
from lstm_models.evaluation import predict
from lstm_models.evaluation.evaluate import evaluate, evaluate_predictor
from lstm_models.evaluation.predict import predictions_table, read_new_rows
from lstm_models.nn.export import ExportableNetwork
from lstm_models.nn.network import build_network
from lstm_models.utils.errors import TableError


def table_config(**values: Any) -> TableData:
    return TableData(**{"kind": "table", "path": "somewhere/else.csv", "target": "y"} | values)


def write_table(folder: Path, table: pd.DataFrame, name: str = "new.csv") -> Path:
    path = folder / name
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return path


def forecast(steps: int, *targets: str, columns: tuple[str, ...] = ()) -> OutputSpec:
    indices = [(columns or targets).index(name) for name in targets]
    return OutputSpec(kind="forecast", targets=list(targets), horizon=steps, target_indices=indices, residual=True)


class Counts(nn.Module):
    """Model that forecasts the last value of each target plus 1, 2 and so on, and records its input."""

    def __init__(self, output: OutputSpec) -> None:
        super().__init__()
        self.output = output
        self.seen_BTD = torch.empty(0)

    def forward(self, x_BTD: Tensor) -> Tensor:
        self.seen_BTD = x_BTD
        steps_S1 = torch.arange(1.0, self.output.horizon + 1).unsqueeze(1)
        return x_BTD[:, -1:, self.output.target_indices] + steps_S1


def predicted(path: Path, config: AnyData, columns: tuple[str, ...], output: OutputSpec) -> tuple[pd.DataFrame, Tensor]:
    """Return what `Counts` forecasts for these rows, and its input."""
    program = Counts(output)
    found = predict.predict(program, read_new_rows(path, config, columns, output), config, output)
    return found, program.seen_BTD


# ---- forecasts of new rows
DAYS = pd.date_range("2024-02-20", periods=8)
COUNT = pd.DataFrame({"t": DAYS, "y": np.arange(8.0)})
SHOPS = pd.concat(
    [
        pd.DataFrame({"shop": "b", "t": DAYS, "y": np.arange(8.0)}),
        pd.DataFrame({"shop": "a", "t": DAYS[2:6], "y": np.arange(100.0, 104.0)}),
    ]
).sample(frac=1, random_state=1)  # shuffled
GAP = pd.DataFrame({"t": [1, 2, 3, 4, 5, 9, 10, 11], "y": [10.0, 20.0, 30.0, 40.0, 50.0, 90.0, 100.0, 110.0]})
NEW_ROWS: dict[str, tuple[pd.DataFrame, dict[str, Any], list[str], Any, dict[str, Any]]] = {
    "the last rows": (
        COUNT, {"time": "t", "context_length": 3}, ["last window"], [[[5], [6], [7]]],
        {"t": [pd.Timestamp("2024-02-28"), pd.Timestamp("2024-02-29")], "y": [8.0, 9.0]},
    ),
    "no times": (
        COUNT, {"context_length": 8}, ["last window"], [[[n] for n in range(8)]],
        {"steps_ahead": [1, 2], "y": [8.0, 9.0]},
    ),
    "several series": (
        SHOPS, {"time": "t", "group": "shop", "context_length": 3}, ["a", "b"],
        [[[101], [102], [103]], [[5], [6], [7]]],
        {
            "shop": ["a", "a", "b", "b"],
            "t": [pd.Timestamp(f"2024-02-{day}") for day in (26, 27, 28, 29)],
            "y": [104.0, 105.0, 8.0, 9.0],
        },
    ),
    "several series without times": (
        pd.DataFrame({"shop": [1, 2, 1, 2, 1], "y": [0.0, 10.0, 1.0, 11.0, 2.0]}),
        {"group": "shop", "context_length": 2}, ["1", "2"], [[[1], [2]], [[10], [11]]],
        {"shop": ["1", "1", "2", "2"], "steps_ahead": [1, 2, 1, 2], "y": [3.0, 4.0, 12.0, 13.0]},
    ),
    "the last segment after a gap": (
        GAP, {"time": "t", "gaps": "split", "context_length": 3}, ["last window"], [[[90], [100], [110]]],
        {"t": [12, 13], "y": [111.0, 112.0]},
    ),
    "one row after a gap": (
        GAP.head(6), {"time": "t", "gaps": "split", "context_length": 1}, ["last window"], [[[90]]],
        {"t": [10, 11], "y": [91.0, 92.0]},
    ),
    "missing values": (
        pd.DataFrame({"t": [1, 2, 3, 5], "y": [1.0, None, 3.0, 5.0]}),
        {"time": "t", "missing": "interpolate", "gaps": "allow", "context_length": 4}, ["last window"],
        [[[1], [2], [3], [5]]], {"t": [6, 7], "y": [6.0, 7.0]},
    ),
    "the path, where training read a query": (
        COUNT, {"path": None, "sql": Sql(url="sqlite:///no.db", query="SELECT y FROM t"), "context_length": 1},
        ["last window"], [[[7]]], {"steps_ahead": [1, 2], "y": [8.0, 9.0]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("table", "values", "names", "seen", "expected"), NEW_ROWS.values(), ids=NEW_ROWS)
def test_each_series_is_forecast_from_its_last_rows(
    tmp_path: Path, table: pd.DataFrame, values: dict[str, Any], names: list[str], seen: Any, expected: dict[str, Any]
) -> None:
    path, config = write_table(tmp_path, table), table_config(**values)
    new = read_new_rows(path, config, ("y",), forecast(2, "y"))
    found, seen_BTD = predicted(path, config, ("y",), forecast(2, "y"))
    assert (new.names, seen_BTD.tolist(), found.to_dict("list")) == (names, seen, expected)
    if config.group:
        assert new.keys.to_dict("list") == {config.group: names}
    else:
        assert list(new.keys.columns) == []
    assert len(new.times) == (len(names) if config.time else 0)


@pytest.mark.parametrize("name", ["new.csv", "new.parquet"])
def test_the_columns_have_the_models_order_and_not_the_files(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"other": "x", "a": np.arange(4.0), "b": np.arange(4.0) * 10, "c": np.arange(4.0) * 100})
    path, columns = write_table(tmp_path, table, name), ("b", "c", "a")
    config = table_config(target=["a", "c"], features=["b", "c"], context_length=2)
    found, seen_BTD = predicted(path, config, columns, forecast(2, "a", "c", columns=columns))
    assert seen_BTD.tolist() == [[[20, 200, 2], [30, 300, 3]]]
    assert found.to_dict("list") == {"steps_ahead": [1, 2], "a": [4.0, 5.0], "c": [301.0, 302.0]}


@pytest.mark.parametrize("context", [1, 5, 20])
def test_the_times_follow_the_frequency_of_the_complete_series(tmp_path: Path, context: int) -> None:
    """A context from Monday to Friday looks daily, and one or two days have no certain frequency."""
    weekdays = pd.bdate_range("2024-01-01", periods=20)
    path = write_table(tmp_path, pd.DataFrame({"t": weekdays, "y": np.arange(20.0)}))
    found, seen_BTD = predicted(path, table_config(time="t", context_length=context), ("y",), forecast(3, "y"))
    assert seen_BTD.shape == (1, context, 1)
    assert weekdays[-1].day_name() == "Friday"
    assert found["t"].tolist() == [pd.Timestamp(f"2024-01-{day}") for day in (29, 30, 31)]


@pytest.mark.parametrize(
    ("start", "freq", "zone", "expected"),
    [
        # daylight saving time begins on the 31st: hours follow UTC, days follow local time
        ("2024-03-30 20:00", "h", "Europe/Berlin", ["2024-03-31 01:00", "2024-03-31 03:00", "2024-03-31 04:00"]),
        ("2024-03-24 12:00", "D", "Europe/Berlin", ["2024-03-29 12:00", "2024-03-30 12:00", "2024-03-31 12:00"]),
        ("2024-03-30 20:00", "h", "UTC", ["2024-03-31 01:00", "2024-03-31 02:00", "2024-03-31 03:00"]),
    ],
)
def test_times_with_a_zone_keep_it(tmp_path: Path, start: str, freq: str, zone: str, expected: list[str]) -> None:
    times = pd.date_range(start, periods=5, freq=freq, tz=zone)
    # Parquet keeps the zone; CSV would keep only the offset from UTC
    path = write_table(tmp_path, pd.DataFrame({"t": times, "y": np.arange(5.0)}), "new.parquet")
    found, _ = predicted(path, table_config(time="t", context_length=2), ("y",), forecast(3, "y"))
    assert found["t"].tolist() == [pd.Timestamp(moment, tz=zone) for moment in expected]
    assert str(found["t"].dt.tz) == zone


TWO = pd.DataFrame({"g": ["a"] * 5 + ["b"] * 4, "y": np.arange(9.0)})
ONE = pd.DataFrame({"g": ["a", "a", "b"], "t": [1, 2, 1], "y": np.arange(3.0)})
HOLES = pd.DataFrame({"t": [1, 2, 3, 5], "y": [1.0, None, 3.0, 5.0]})


@pytest.mark.parametrize(
    ("table", "values", "named"),
    [
        (GAP, {"time": "t", "gaps": "split", "context_length": 4}, ("3 rows", "needs 4", "context_length")),
        (TWO, {"context_length": 10}, ("9 rows", "needs 10", "context_length")),
        (TWO, {"context_length": 5, "group": "g"}, ("group b: 4 rows", "needs 5", "context_length")),
        (
            ONE,
            {"context_length": 1, "time": "t", "group": "g"},
            ("group b: ", "frequency of 1 timestamps", "at least 2"),
        ),
        (ONE.head(1), {"context_length": 1, "time": "t"}, ("frequency of 1 timestamps", "at least 2")),
        (HOLES, {"context_length": 2}, ("column y, row 2", "missing", "drop, forward_fill or interpolate")),
        (
            HOLES,
            {"context_length": 2, "time": "t", "missing": "interpolate"},
            ("column t, row 4", "from 3 to 5", "gaps", "split or allow"),
        ),
        (DAYS.to_frame(name="Y"), {"context_length": 2}, ("column y is missing", "found: Y", "did you mean Y?")),
    ],
)
def test_invalid_rows_raise(
    tmp_path: Path, table: pd.DataFrame, values: dict[str, Any], named: tuple[str, ...]
) -> None:
    path = write_table(tmp_path, table)
    with refused_at(TableError, path, *named):
        predicted(path, table_config(**values), ("y",), forecast(2, "y"))


@given(
    sizes=st.lists(st.integers(15, 20), min_size=1, max_size=3),
    context=st.integers(1, 3),
    horizon=st.integers(1, 3),
    gaps=st.booleans(),
)
def test_new_rows_are_read_like_the_windows_of_training(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], context: int, horizon: int, gaps: bool
) -> None:
    """The rows before a test window's targets result in the same context and the timestamps of the targets."""
    group, n = np.repeat(np.arange(len(sizes)), sizes), np.arange(float(sum(sizes)))
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(n + 5 * (n >= 6) * gaps, unit="D")
    table = pd.DataFrame({"g": group, "t": days, "x": -n, "y": n})
    config = table_config(time="t", group="g", features=["x"], context_length=context, horizon=horizon, gaps="split")
    data = build_dataset(table, config, 0)
    keys = data.keys()
    for number in (0, data.test.count - 1):
        key, (x_BTD, y_BSK, _) = keys.loc[number], data.test.get_batch(torch.tensor([number]))
        before = table[(table["g"].astype(str) == key["g"]) & (table["t"] < key["t"])]
        path = write_table(tmp_path_factory.mktemp("new"), before)
        new = read_new_rows(path, config, data.columns, data.output)
        assert new.names == [key["g"]]
        assert torch.equal(new.batch.x_BTD, x_BTD)
        times = table.set_index("y").loc[y_BSK[0, :, 0].tolist(), "t"]
        assert list(new.times[0]) == times.tolist()


# ---- classification and regression of new groups
class FirstAndLast(nn.Module):
    """Model that adds the first value of the first column and the last real value of the last column."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        lengths_B = (~x_BTD.isnan().all(-1)).sum(1)
        return x_BTD[:, 0, 0] + x_BTD[torch.arange(len(x_BTD)), lengths_B - 1, -1]


class Shares(FirstAndLast):
    """Model that predicts three probabilities: a tenth of that sum, and the rest in two unequal parts."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        share_B = super().forward(x_BTD) / 10
        return torch.stack([share_B, 0.75 * (1 - share_B), 0.25 * (1 - share_B)], dim=1)


def machines() -> pd.DataFrame:
    """Return groups of 1, 3 and 2 rows, without labels, shuffled."""
    return pd.DataFrame(
        {
            "machine": ["m2", "m1", "m3", "m2", "m2", "m3"],
            "t": [1, 1, 1, 3, 2, 2],
            "a": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "b": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5],
        }
    )


@pytest.mark.parametrize("labels", [False, True])
def test_regression_of_groups_needs_no_label(tmp_path: Path, labels: bool) -> None:
    table = machines().assign(y=["not", "a", "number", "of", "any", "kind"]) if labels else machines()
    path = write_table(tmp_path, table)
    config = table_config(task="regress", group="machine", time="t")
    output = OutputSpec(targets=["y"], mean=3.0, scale=2.0)
    new = read_new_rows(path, config, ("b", "a"), output)
    assert new.names == ["m1", "m2", "m3"]
    assert new.times == ()
    assert new.batch.lengths_B is not None
    assert new.batch.lengths_B.tolist() == [1, 3, 2]
    found = predict.predict(FirstAndLast(), new, config, output)
    assert found.to_dict("list") == {"machine": ["m1", "m2", "m3"], "prediction": [0.5 + 2, 0 + 4, 1 + 6]}


def test_classification_has_the_most_likely_class_and_all_probabilities(tmp_path: Path) -> None:
    path, config = write_table(tmp_path, machines()), table_config(task="classify", group="machine", time="t")
    output = OutputSpec(kind="classification", targets=["y"], classes=["worn", "new", "lost"])
    new = read_new_rows(path, config, ("b", "a"), output)
    assert new.names == ["m1", "m2", "m3"]
    found = predict.predict(Shares(), new, config, output)
    assert found["machine"].tolist() == ["m1", "m2", "m3"]
    assert found["prediction"].tolist() == ["new", "new", "worn"]
    assert list(found.columns[2:]) == ["probability_worn", "probability_new", "probability_lost"]
    expected = [[0.25, 0.5625, 0.1875], [0.4, 0.45, 0.15], [0.7, 0.225, 0.075]]
    np.testing.assert_allclose(found.iloc[:, 2:], expected, rtol=1e-6)  # float32


def test_an_exported_network_predicts_the_same_for_new_groups_as_for_the_test_part(tmp_path: Path) -> None:
    """The code path of `lstm-flows predict` equals that of the evaluation."""
    g = np.repeat(np.arange(20), np.arange(20) % 4 + 1)
    table = pd.DataFrame({"g": g, "a": np.sin(np.arange(len(g))), "b": np.cos(g), "y": np.where(g % 2, "up", "down")})
    for task in ("classify", "regress"):
        config = table_config(task=task, group="g")
        data = build_dataset(table.assign(y=g * 3.0) if task == "regress" else table, config, 0)
        torch.manual_seed(0)
        model = HandBuilt(kind="hand_built", hidden_size=3, head="linear")
        network = build_network(model, data.input_size, data.output, data.scaler()).eval()
        expected = predictions_table(evaluate(network, data).evaluation, data).drop(columns="target").sort_values("g")
        new = table[g % 20 == g].drop(columns="y")
        path = write_table(tmp_path, new[new["g"].astype(str).isin(expected["g"])])
        examples = read_new_rows(path, config, data.columns, data.output)
        found = predict.predict(ExportableNetwork(network).eval(), examples, config, data.output).sort_values("g")
        pd.testing.assert_frame_equal(
            found.reset_index(drop=True), expected.reset_index(drop=True), rtol=1e-5, check_dtype=False
        )


# ---- tables with one sequence per row
def test_the_tutorials_companies_are_predicted_by_name(tmp_path: Path) -> None:
    class Learns(FirstAndLast):
        weight = nn.Parameter(torch.ones(()))

        def forward(self, x_BTD: Tensor) -> Tensor:
            return self.weight * super().forward(x_BTD)

    path = write_table(tmp_path, tutorial.table().drop(columns="label"))
    new = read_new_rows(path, TutorialData(), (), REGRESSION)
    assert new.names == ["A", "B"]
    assert new.batch.lengths_B is None
    found = predict.predict(Learns(), new, TutorialData(), REGRESSION)  # the predictions need no gradient
    assert list(found.columns) == ["company", "day_1", "day_2", "day_3", "day_4", "prediction"]
    assert found["company"].tolist() == ["A", "B"]
    assert found["prediction"].tolist() == [1.0, 2.0]
    # without a column of names, the row number is the name
    path = write_table(tmp_path, tutorial.table()[["day_1", "day_2", "day_3", "day_4"]])
    assert read_new_rows(path, TutorialData(), (), REGRESSION).names == ["1", "2"]
    numbered = write_table(tmp_path, tutorial.table().assign(company=[7, 9]))
    assert read_new_rows(numbered, TutorialData(), (), REGRESSION).names == ["7", "9"]


def test_sequences_of_the_adding_problem_are_read_for_their_length(tmp_path: Path) -> None:
    config = AddingProblemData(kind="adding", length=3, count=4)
    path = write_table(tmp_path, read_table(config).drop(columns="sum"))
    new = read_new_rows(path, config, (), REGRESSION)
    assert new.names == ["1", "2", "3", "4"]
    assert new.batch.x_BTD.shape == (4, 3, 2)
    longer = config.model_copy(update={"length": 4})
    with refused_at(TableError, path, "column value_4 is missing", "value_3, mark_3, value_4, mark_4", "found: "):
        read_new_rows(path, longer, (), REGRESSION)


# ---- the test part
def waves(**values: Any) -> Dataset:
    table = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=20), "a": np.arange(20.0), "b": -np.arange(20.0)})
    settings = {"time": "t", "target": ["b", "a"], "features": ["a", "b"], "context_length": 2, "horizon": 3}
    return build_dataset(table, table_config(**{**settings, **values}), 0)


def test_forecasts_have_one_row_per_step_of_each_window() -> None:
    data = waves()  # rows 16 to 19 are the test part: two windows
    found = predictions_table(evaluate_predictor(lambda batch: batch.y + torch.tensor([0.5, 100.0]), data), data)
    days = [pd.Timestamp(f"2024-01-{day}") for day in (17, 17, 17, 18, 18, 18)]  # of the first forecast step
    assert found.to_dict("list") == {
        "t": days,
        "steps_ahead": [1, 2, 3, 1, 2, 3],
        "b": [-16.0, -17.0, -18.0, -17.0, -18.0, -19.0],
        "b_predicted": [-15.5, -16.5, -17.5, -16.5, -17.5, -18.5],
        "a": [16.0, 17.0, 18.0, 17.0, 18.0, 19.0],
        "a_predicted": [116.0, 117.0, 118.0, 117.0, 118.0, 119.0],
    }
    assert list(found.columns) == ["t", "steps_ahead", "b", "b_predicted", "a", "a_predicted"]


@pytest.mark.parametrize(("most", "first_steps"), [(36, 6), (35, 3), (18, 3), (17, 2), (8, 2), (6, 1)])
def test_too_many_values_are_thinned_to_evenly_spaced_windows(
    most: int, first_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 windows of 3 steps and 2 targets have 36 values."""
    monkeypatch.setattr(predict, "MAX_VALUES", most)
    data = waves(split={"train": 10, "validation": 2})
    found = predictions_table(evaluate_predictor(lambda batch: batch.y, data), data)
    every = -(-36 // most)
    assert found["a"][found["steps_ahead"] == 1].tolist() == list(range(12, 18, every))
    assert (found["steps_ahead"] == 1).sum() == first_steps
    assert found["a"].tolist() == found["a_predicted"].tolist()
    assert len(found) == 3 * first_steps
    assert 2 * len(found) < most + 6  # at most one window more


def test_classification_has_the_target_the_most_likely_class_and_all_probabilities() -> None:
    g = np.repeat(np.arange(10), 2)
    table = pd.DataFrame({"g": g, "x": g * 1.0, "y": np.array(["low", "mid", "top"])[g % 3]})
    data = build_dataset(table, table_config(task="classify", group="g", split={"train": 6, "validation": 1}), 0)
    log_odds = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0], [2.0, 1.0, 1.0]])
    found = predictions_table(evaluate_predictor(lambda batch: log_odds, data), data)
    assert list(found.columns) == ["g", "target", "prediction", "probability_low", "probability_mid", "probability_top"]
    assert found["target"].tolist() == [["low", "mid", "top"][int(name) % 3] for name in found["g"]]
    assert found["prediction"].tolist() == ["mid", "top", "low"]
    odds = np.exp(log_odds.numpy())
    np.testing.assert_allclose(found.iloc[:, 3:], odds / odds.sum(1, keepdims=True), rtol=1e-6)  # float32
    assert found["g"].tolist() == data.keys()["g"].tolist()


def test_regression_has_the_target_and_the_prediction() -> None:
    g = np.repeat(np.arange(10), 2)
    table = pd.DataFrame({"g": g, "x": g * 1.0, "y": g * 2.0})
    data = build_dataset(table, table_config(task="regress", group="g"), 0)
    found = predictions_table(evaluate_predictor(lambda batch: batch.y + 1, data), data)
    right = [2.0 * int(name) for name in data.keys()["g"]]
    assert found.to_dict("list") == {
        "g": data.keys()["g"].tolist(), "target": right, "prediction": [number + 1 for number in right],
    }  # fmt: skip

    data = build_dataset(tutorial.table(), TutorialData(), 0)
    found = predictions_table(evaluate_predictor(lambda batch: torch.tensor([0.25, 0.75]), data), data)
    assert found.to_dict("list") == {"company": ["A", "B"], "target": [0.0, 1.0], "prediction": [0.25, 0.75]}
