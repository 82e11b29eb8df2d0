"""Users' tables, from a YAML file to predictions: forecasts, classes, numbers; CSV and SQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from helpers.cli_runner import lstm_flows, selected_plots, without_plots, working_in
from helpers.errors import names_all
from helpers.power import CONTEXT, HORIZON, POWER, SITES, last_windows, power, with_holes
from mlflow.entities import Run
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from lstm_models.evaluation.bootstrap import block_bootstrap, paired_difference
from tasks import tracking
from tasks.schemas import ComparisonReport, PhaseResult

SMALL = "{model: {hidden_size: 4}, training: {max_epochs: 2, num_threads: 1}}"
FORECAST = f"""{POWER}contenders: {{hand_built: {SMALL}, built_in: {SMALL}}}
"""


def imputed() -> dict[str, pd.Series]:
    """The loads of each site by time, with the missing values imputed as the settings say, by hand."""
    north, south = (rows.set_index("time")["load"] for _, rows in with_holes().groupby("site"))
    return {"north": north[3:], "south": south.interpolate()}


def machines(count: int = 32) -> pd.DataFrame:
    """Hourly rows of machines, 8 to 16 each, whose output falls or rises."""
    parts = []
    for number in range(count):
        hours = np.arange(8 + 5 * number % 9)
        slope = (number % 7 - 3.5) / 10
        parts.append(
            pd.DataFrame(
                {
                    "machine": f"m{number:02}",
                    "hour": hours,
                    "output": np.round(5 + slope * hours + 0.1 * np.sin(hours + number), 4),
                    "heat": np.round(np.cos(hours / 3 + number), 4),
                    "trend": "falls" if slope < 0 else "rises",
                    "slope": slope,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


TRENDS = f"""\
data: {{kind: table, path: machines.csv, task: classify, target: trend, group: machine, time: hour}}
contenders: {{hand_built: {SMALL}}}
"""
SECRET = "correct horse battery"
SLOPES = f"""\
data:
  kind: table
  sql:
    url: guarded://reader@nowhere/machines.db
    query: SELECT machine, hour, output, heat, slope FROM machines
    password_env: MACHINES_PASSWORD
  task: regress
  target: slope
  group: machine
  time: hour
contenders: {{built_in: {SMALL}}}
"""


class Ran(NamedTuple):
    """A finished command: its directory, exit code, standard output and standard error."""

    directory: Path
    code: int
    out: str
    errors: str

    def comparison(self) -> ComparisonReport:
        """The comparison that it has stored."""
        parent = self.runs()[0]
        stored = tracking.download(f"runs:/{parent.info.run_id}/comparison.json").read_text()
        return ComparisonReport.model_validate_json(stored)

    def runs(self) -> list[Run]:
        """The latest parent run and its children."""
        client = tracking.mlflow_client()
        (experiment,) = client.search_experiments(filter_string="name != 'Default'")
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        last = max(index for index, run in enumerate(runs) if "mlflow.parentRunId" not in run.data.tags)
        return list(runs[last:])


# ---- the runs; only the first contender's last phase exports a real program
def run_compare(name: str, configuration: str) -> Ran:
    """Run a configuration in the working directory, in this process."""
    Path(f"{name}.yaml").write_text(configuration)
    return Ran(Path.cwd(), *lstm_flows("compare", f"{name}.yaml", "-q"))


@pytest.fixture(scope="module")
def forecast(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Ran:
    with (
        working_in(tmp_path_factory.mktemp("forecast"), database),
        selected_plots(gates="hand_built/fine_tuned", exports=[2]),
    ):
        with_holes().to_csv("power.csv", index=False)
        return run_compare("power", FORECAST)


@pytest.fixture(scope="module")
def classified(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Ran:
    with (
        working_in(tmp_path_factory.mktemp("classified"), database),
        selected_plots(gates="hand_built/fine_tuned", exports=[2]),
    ):
        machines().drop(columns="slope").to_csv("machines.csv", index=False)
        return run_compare("trends", TRENDS)


class Guarded(SQLiteDialect_pysqlite):
    """SQLite in a file, behind a password, as a database server is."""

    supports_statement_cache = True

    def create_connect_args(self, url: sqlalchemy.URL) -> tuple[list[Any], dict[str, Any]]:
        return [str(url.database)], {"user": url.username, "password": url.password}

    def connect(self, *arguments: Any, user: str, password: str, **options: Any) -> Any:
        if password != SECRET:
            raise sqlite3.OperationalError(f"password {password!r} of {user} is wrong")
        return super().connect(*arguments, **options)


@pytest.fixture(scope="module")
def guarded() -> Iterator[None]:
    """Register the dialect above with SQLAlchemy, and set the password in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sqlalchemy.dialects.registry.impls, "guarded", lambda: Guarded)
        patch.setenv("MACHINES_PASSWORD", SECRET)
        yield


@pytest.fixture(scope="module")
def queried(harness: None, guarded: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Ran:
    with working_in(tmp_path_factory.mktemp("queried"), database), selected_plots(exports=[2]):
        with closing(sqlite3.connect("machines.db")) as connection:
            machines().to_sql("machines", connection, index=False)
        return run_compare("slopes", SLOPES)


@pytest.fixture
def ran(request: pytest.FixtureRequest) -> Iterator[Ran]:
    """The command of a fixture, with its directory as the working directory."""
    command: Ran = request.getfixturevalue(request.param)
    with working_in(command.directory):
        yield command


def use(fixture: str) -> Any:
    return pytest.mark.parametrize("ran", [fixture], indirect=True)


def files(run_id: str, folder: str | None = None) -> set[str]:
    """The names of a run's artifacts, in this folder."""
    return {Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run_id, folder)}


def is_png(run_id: str, name: str) -> bool:
    return tracking.download(f"runs:/{run_id}/{name}").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def predictions(result: PhaseResult) -> pd.DataFrame:
    """The stored table of predictions of a result."""
    path = tracking.download(str(result.predictions_uri))
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def predict(name: str, rows: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """The output of `lstm-flows predict` for new rows."""
    new, output = directory / "new.csv", directory / "out.csv"
    rows.to_csv(new, index=False)
    assert lstm_flows("predict", f"models:/{name}/2", str(new), "--output", str(output)) == (0, "", "")
    return pd.read_csv(output)


def named(comparison: ComparisonReport) -> dict[str, Any]:
    """Results and baselines by the names that the differences use."""
    return {result.name: result for result in (*comparison.results, *comparison.baselines)}


def champion(comparison: ComparisonReport) -> PhaseResult:
    result: PhaseResult = named(comparison)[f"{comparison.champion.contender}/{comparison.champion.phase}"]
    return result


def losses(result: Any) -> np.ndarray:
    return pd.read_parquet(tracking.download(result.losses_uri))["loss"].to_numpy()


def assert_verdicts_follow_from_the_losses(comparison: ComparisonReport) -> None:
    """Losses, intervals and differences can be recomputed from the stored losses."""
    results = named(comparison)
    for result in results.values():
        stored = losses(result)
        assert len(stored) == comparison.dataset.test
        # the loss is a mean of means by step
        assert result.loss == result.metrics[comparison.metric] == pytest.approx(stored.mean(), rel=1e-12)
        assert (result.low, result.high) == block_bootstrap(stored, result.block)
    final = [result for result in comparison.results if result.phase == "fine_tuned"]
    differences = {(difference.model, difference.reference): difference for difference in comparison.differences}
    assert len(differences) == len(comparison.differences)
    assert differences.keys() >= {(result.name, baseline.name) for result in final for baseline in comparison.baselines}
    for (model, reference), difference in differences.items():
        expected = paired_difference(losses(results[model]), losses(results[reference]), results[model].block)
        assert (difference.mean, difference.low, difference.high, difference.verdict) == expected
    verdicts = {difference.verdict for difference in differences.values()}
    assert verdicts <= {"better", "worse", "not significant"}


# ---- invalid tables
@pytest.mark.parametrize(
    ("configuration", "table", "parts"),
    [
        (POWER.replace("target: load", "target: lode"), power(), ["column lode", "site, time, load", "mean load?"]),
        (POWER, power(20), ["too few rows", "context_length", "train", "40 rows in 2 series"]),
    ],
    ids=["when it is read", "when it is split"],
)
def test_an_invalid_table_is_a_one_line_error_and_leaves_nothing(
    harness: None, empty_directory: Path, configuration: str, table: pd.DataFrame, parts: list[str]
) -> None:
    table.to_csv("power.csv", index=False)
    Path("mine.yaml").write_text(configuration)
    code, out, errors = lstm_flows("compare", "mine.yaml")
    assert (code, out) == (2, "")
    assert names_all(errors, "lstm-flows: power.csv: ", *parts)
    assert {path.name for path in empty_directory.iterdir()} == {"power.csv", "mine.yaml"}  # no mlflow.db either


# ---- classes
NEW = machines(5)[lambda rows: rows["machine"] >= "m02"].drop(columns=["trend", "slope"])  # of 9, 14 and 10 rows


def padded(rows: pd.DataFrame) -> np.ndarray:
    """Each machine's output and heat, and NaN after its last hour: (machines, hours, 2)."""
    parts = [values[["output", "heat"]].to_numpy(np.float32) for _, values in rows.groupby("machine")]
    longest = max(map(len, parts))
    return np.stack([np.pad(part, ((0, longest - len(part)), (0, 0)), constant_values=np.nan) for part in parts])


@use("classified")
def test_a_classification_has_a_confusion_matrix_and_its_figure(ran: Ran) -> None:
    assert (ran.code, ran.errors) == (0, "")
    comparison = ran.comparison()
    assert (comparison.experiment, comparison.metric) == ("trends", "log_loss")
    sizes = comparison.dataset.train, comparison.dataset.validation, comparison.dataset.test
    assert sizes == (22, 4, 6)  # 0.7, 0.1 and 0.2 of 32 machines
    assert {baseline.name for baseline in comparison.baselines} == {"majority_class", "logistic_regression"}
    assert is_png(comparison.parent_run_id, "confusion.png")
    for result in comparison.results[1:]:
        table = predictions(result)
        assert table.columns.tolist() == ["machine", "target", "prediction", "probability_falls", "probability_rises"]
        expected = pd.crosstab(table["target"], table["prediction"])
        expected = expected.reindex(index=["falls", "rises"], columns=["falls", "rises"], fill_value=0)
        stored = pd.read_csv(tracking.download(f"runs:/{result.run_id}/confusion.csv"), index_col=0)
        assert stored.to_numpy().tolist() == expected.to_numpy().tolist()
        assert stored.columns.tolist() == stored.index.tolist() == ["falls", "rises"]
        assert result.metrics["accuracy"] == (table["target"] == table["prediction"]).mean()
        assert result.best_epoch in range(1, result.epochs + 1)
    assert is_png(comparison.results[-1].run_id, "gates.png")
    assert_verdicts_follow_from_the_losses(comparison)


@use("classified")
def test_classes_are_predicted_of_rows_without_a_label(ran: Ran, tmp_path: Path) -> None:
    table = predict("trends", NEW, tmp_path)
    assert table.columns.tolist() == ["machine", "prediction", "probability_falls", "probability_rises"]
    assert table["machine"].tolist() == ["m02", "m03", "m04"]
    served = mlflow.pyfunc.load_model("models:/trends/2").predict(padded(NEW))
    probabilities = table.filter(like="probability_").to_numpy()
    assert probabilities == pytest.approx(served, abs=1e-6)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert table["prediction"].tolist() == [["falls", "rises"][number] for number in served.argmax(1)]


# ---- numbers, from a database
@use("queried")
def test_a_regression_predicts_numbers_in_their_own_unit(ran: Ran, tmp_path: Path) -> None:
    assert (ran.code, ran.errors) == (0, "")
    comparison = ran.comparison()
    assert (comparison.experiment, comparison.metric) == ("slopes", "mse")
    assert_verdicts_follow_from_the_losses(comparison)
    assert {baseline.name for baseline in comparison.baselines} == {"mean", "ridge"}
    assert is_png(comparison.parent_run_id, "predictions.png")
    table = predictions(named(comparison)["built_in/fine_tuned"])
    slope_of = machines().groupby("machine")["slope"].first()
    # in float32
    assert table["target"].to_numpy() == pytest.approx(slope_of[table["machine"]].to_numpy(), rel=1e-7)
    tested = machines()[lambda rows: rows["machine"].isin(table["machine"])]
    served = mlflow.pyfunc.load_model("models:/slopes/2").predict(padded(tested))
    assert served == pytest.approx(table.sort_values("machine")["prediction"].to_numpy(), abs=1e-5)
    # new rows are read from a file even if the training data came from a database
    table = predict("slopes", NEW, tmp_path)
    assert table.columns.tolist() == ["machine", "prediction"]
    assert table["machine"].tolist() == ["m02", "m03", "m04"]
    served = mlflow.pyfunc.load_model("models:/slopes/2").predict(padded(NEW))
    assert table["prediction"].to_numpy() == pytest.approx(served, abs=1e-6)


def files_with(content: str, directory: Path) -> list[Path]:
    """The files below a directory whose bytes contain this text."""
    return [path for path in directory.rglob("*") if path.is_file() and content.encode() in path.read_bytes()]


@use("queried")
def test_a_password_is_written_nowhere(ran: Ran) -> None:
    assert ran.directory / "mlflow.db" in files_with("SELECT machine", ran.directory)  # the search finds what is stored
    assert files_with("MACHINES_PASSWORD", ran.directory)
    assert files_with(SECRET, ran.directory) == []
    assert SECRET not in ran.out + ran.errors


@pytest.mark.usefixtures("guarded")
@use("queried")
def test_a_password_that_is_wrong_is_not_shown(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINES_PASSWORD", "hunter2 & co")
    code, out, errors = lstm_flows("compare", "slopes.yaml")
    assert (code, out) == (2, "")
    assert names_all(errors, "query 'SELECT machine, hour, output, heat, slope FROM machines'", "of reader is wrong")
    assert "hunter2" not in errors
    assert files_with("hunter2", ran.directory) == []


# ---- forecasts
@use("forecast")
def test_mlflow_has_the_row_counts_and_all_files(ran: Ran) -> None:
    assert ran.code == 0, ran.errors
    assert max(map(len, ran.out.splitlines())) <= 100
    sentences = " ".join(ran.out.split())
    assert "Rows: 400 read, 397 used, dropped: 3 value missing at an end of a series." in sentences
    assert "Note: missing values filled in (interpolate): 2." in sentences
    parent, *children = ran.runs()
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    windows = {f"{part}_examples": str(count) for part, count in (("train", 220), ("validation", 30), ("test", 69))}
    dropped = "{'value missing at an end of a series': 3}"
    rows = {"rows_read": "400", "rows_used": "397", "rows_dropped": dropped}
    assert parent.data.params.items() >= {**windows, **rows}.items()
    assert files(parent.info.run_id) == {
        *(
            "result_cache",
            "config.yaml",
            "comparison.json",
            "comparison.md",
            "data",
            "hand_built",
            "built_in",
            "baselines",
        ),
        *("loss_curves.png", "forecasts.png", "error_by_step.png"),
    }
    for name in ("loss_curves.png", "forecasts.png", "error_by_step.png"):
        assert is_png(parent.info.run_id, name)
    baselines = {"last_value", "mean", "seasonal_naive", "ridge"}
    assert files(parent.info.run_id, "baselines") == baselines
    for name in baselines:
        assert files(parent.info.run_id, f"baselines/{name}") == {"losses.parquet", "steps.csv"}
        assert f"baselines/{name}/scaled_mse" in parent.data.metrics
    evaluated = {"losses.parquet", "steps.csv", "predictions.parquet"}
    for contender in ("hand_built", "built_in"):
        assert files(parent.info.run_id, f"{contender}/untrained") == evaluated
    assert [run.info.run_name for run in children] == [
        f"{contender}/{phase}" for contender in ("hand_built", "built_in") for phase in ("initial", "fine_tuned")
    ]
    for run in children:
        gates = {"gates.png"} if run.info.run_name == "hand_built/fine_tuned" else set()
        assert files(run.info.run_id) == {*evaluated, *gates, "result_cache", "checkpoint", "training.json"}
        assert files(run.info.run_id, "checkpoint") == {"last.ckpt", "best.ckpt"}
        assert run.data.metrics.keys() >= {"scaled_mse", "mase", "loss_low", "loss_high", "val_loss"}
        steps = pd.read_csv(tracking.download(f"runs:/{run.info.run_id}/steps.csv"))
        assert steps["step"].tolist() == list(range(1, HORIZON + 1))
        assert steps["scaled_mse"].mean() == pytest.approx(run.data.metrics["scaled_mse"], rel=1e-12)


@use("forecast")
def test_the_best_epoch_is_the_one_of_the_lowest_validation_loss(ran: Ran) -> None:
    steps_per_epoch = -(-220 // 64)
    untrained, *trained = [result for result in ran.comparison().results if result.contender == "hand_built"]
    assert untrained.best_epoch is None
    for result in trained:
        curve = tracking.read_curve(result.run_id, "val_loss")
        assert result.best_epoch
        assert min(curve, key=lambda step: curve[step]) == result.best_epoch * steps_per_epoch - 1


@use("forecast")
def test_the_verdicts_on_forecasts_follow_from_their_losses(ran: Ran) -> None:
    comparison = ran.comparison()
    assert_verdicts_follow_from_the_losses(comparison)
    assert {result.block for result in named(comparison).values()} == {2 * HORIZON}
    # the champion's difference from the other fine-tuned model comes first
    first = comparison.differences[0]
    assert first.model == champion(comparison).name
    assert {first.model, first.reference} >= {"hand_built/fine_tuned"} | {"built_in/fine_tuned"}


@use("forecast")
def test_the_registered_model_reads_and_predicts_unscaled_values(ran: Ran, tmp_path: Path) -> None:
    table = predictions(named(ran.comparison())["hand_built/fine_tuned"])
    assert table.columns.tolist() == ["site", "time", "steps_ahead", "load", "load_predicted"]
    origins = table.loc[table["steps_ahead"] == 1, ["site", "time"]].astype(str)
    loads = imputed()
    # the last 20 % of each site's rows are forecast: 39 and 40 of them
    expected = [(site, time) for site, rows in (("north", 39), ("south", 40)) for time in loads[site].index[-rows:-5]]
    assert list(origins.itertuples(index=False, name=None)) == expected
    starts = [(loads[site].to_numpy(), loads[site].index.get_loc(time)) for site, time in expected]
    ahead = np.stack([values[start : start + HORIZON] for values, start in starts])
    assert table["load"].to_numpy().reshape(-1, HORIZON) == pytest.approx(ahead, rel=1e-6)
    context = np.stack([values[start - CONTEXT : start] for values, start in starts]).astype(np.float32)
    predicted = mlflow.pyfunc.load_model("models:/power/2").predict(context[..., None])
    assert predicted.shape == (69, HORIZON, 1)
    assert predicted.flatten() == pytest.approx(table["load_predicted"].to_numpy(), abs=1e-5)
    # in scaled units it would be off by more than 10
    assert np.abs(predicted.squeeze(-1) - ahead).mean() < 5

    # new rows may be in any order; the forecast is for the time stamps after them
    new = power().groupby("site").tail(40)
    table = predict("power", new.sample(frac=1, random_state=0), tmp_path)
    assert table.columns.tolist() == ["site", "time", "load"]
    future = pd.date_range("2024-01-09 08:00", periods=HORIZON, freq="h").astype(str)
    assert list(table[["site", "time"]].itertuples(index=False, name=None)) == [
        (site, time) for site in SITES for time in future
    ]
    predicted = mlflow.pyfunc.load_model("models:/power/2").predict(last_windows())
    assert table["load"].to_numpy() == pytest.approx(predicted.flatten(), rel=1e-6)


# ---- the same table, and another one
@use("classified")
def test_an_equal_table_is_not_trained_again_and_a_changed_one_makes_a_challenger(ran: Ran) -> None:
    before = [run.info.run_id for run in ran.runs()]
    aliases = mlflow.MlflowClient().get_registered_model("trends").aliases
    assert aliases.keys() == {"hand_built", "champion"}
    table = pd.read_csv("machines.csv")
    table.to_csv("machines.csv", index=False)  # rewritten, with the same content
    again = run_compare("trends", TRENDS)
    assert again.code == 0
    assert again.out.startswith("Nothing was trained: ")
    assert [run.info.run_id for run in ran.runs()] == before

    table.loc[0, "heat"] += 1
    table.to_csv("machines.csv", index=False)
    with without_plots():
        again = run_compare("trends", TRENDS)
    assert again.code == 0, again.errors
    runs = [run.info.run_id for run in ran.runs()]
    assert len(runs) == 3
    assert not set(runs) & set(before)
    comparison = again.comparison()
    assert comparison.challenger
    assert comparison.challenger.model_uri == "models:/trends@challenger"
    new_aliases = mlflow.MlflowClient().get_registered_model("trends").aliases
    assert new_aliases.keys() == {"hand_built", "champion", "challenger"}
    assert new_aliases["champion"] == aliases["champion"]
    assert mlflow.MlflowClient().get_model_version("trends", new_aliases["challenger"]).run_id in runs
    assert " now challenger (models:/trends@challenger)" in " ".join(again.out.split())
