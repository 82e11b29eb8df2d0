"""Users' tables, from a YAML file to predictions and to a served model: forecasts, classes, numbers; CSV and SQL.

A newcomer's process on a table of theirs is started first, and works while the other runs are made in this process.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from helpers.cli_runner import lstm_flows, working_in
from helpers.processes import eventually, free_port, running
from mlflow.entities import Run
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from lstm_models.intervals import block_bootstrap, paired_difference
from tasks import inside, tracking
from tasks.references import Comparison, Result

BIN = Path(sys.executable).parent
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": "127.0.0.1,localhost"}

CONTEXT, HORIZON, SEASON = 24, 6, 24
POWER = f"""\
data:
  kind: table
  path: power.csv
  time: time
  group: site
  target: load
  missing: interpolate
  context_length: {CONTEXT}
  horizon: {HORIZON}
  season: {SEASON}
"""
SMALL = "{model: {hidden_size: 4}, training: {max_epochs: 2, threads: 1}}"
SITES = ("north", "south")


def power(rows: int = 200) -> pd.DataFrame:
    """The hourly load of two sites: a day's sine and a trend."""
    hours = np.arange(rows)
    load = 10 + 3 * np.sin(2 * np.pi * hours / SEASON) + 0.01 * hours
    time = pd.date_range("2024-01-01", periods=rows, freq="h").astype(str)
    parts = [
        pd.DataFrame({"site": site, "time": time, "load": np.round(load * scale, 4)})
        for site, scale in zip(SITES, (1, 2), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def with_holes() -> pd.DataFrame:
    """Without the first three loads of one site, and two in the middle of the other."""
    table = power()
    table.loc[[0, 1, 2, 250, 251], "load"] = np.nan
    return table


def filled() -> dict[str, pd.Series]:
    """What the settings make of the holes, by hand: each site's loads by their time."""
    north, south = (own.set_index("time")["load"] for _, own in with_holes().groupby("site"))
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
    """A command that has run: where, and its exit code, standard output and standard error."""

    directory: Path
    code: int
    out: str
    errors: str

    def comparison(self) -> Comparison:
        """What it has stored."""
        parent = self.runs()[0]
        stored = tracking.download(f"runs:/{parent.info.run_id}/comparison.json").read_text()
        return Comparison.model_validate_json(stored)

    def runs(self) -> list[Run]:
        """The latest parent run and what came after it."""
        client = tracking.client()
        (experiment,) = client.search_experiments(filter_string="name != 'Default'")
        found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        last = max(place for place, run in enumerate(found) if "mlflow.parentRunId" not in run.data.tags)
        return list(found[last:])


@contextmanager
def few_pictures() -> Iterator[None]:
    """Gates are drawn at the end only: that takes longer than all the rest."""
    log_gates = inside.log_gates

    def log_few(*arguments: Any) -> None:
        if arguments[4].endswith("/fine_tuned"):
            log_gates(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inside, "log_gates", log_few)
        yield


# ---- what runs
@pytest.fixture(scope="module", autouse=True)
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[str]"]:
    """A newcomer's process, without a way to the network: ten lines of YAML and a table, where nothing has ever run."""
    home = tmp_path_factory.mktemp("newcomer")
    environment = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG", "TMPDIR"}}
    environment |= {"PREFECT_HOME": str(home / "prefect"), "PATH": f"{BIN}:{os.environ['PATH']}", **OFFLINE}
    environment["OMP_NUM_THREADS"] = "1"  # others work here too
    (home / "work").mkdir()
    with_holes().to_csv(home / "work" / "power.csv", index=False)
    (home / "work" / "power.yaml").write_text(POWER)
    process = subprocess.Popen(
        [BIN / "lstm-flows", "compare", "power.yaml"],
        cwd=home / "work",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def forecast(started: "subprocess.Popen[str]", tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out, errors = started.communicate(timeout=280)
    return Ran(tmp_path_factory.getbasetemp() / "newcomer0" / "work", started.returncode, out, errors)


def compare_here(name: str, configuration: str, database: Path) -> Ran:
    """Run a configuration in the working directory, in this process."""
    if not Path("mlflow.db").exists():
        Path("mlflow.db").write_bytes(database.read_bytes())
    Path(f"{name}.yaml").write_text(configuration)
    return Ran(Path.cwd(), *lstm_flows("compare", f"{name}.yaml", "-q"))


@pytest.fixture(scope="module")
def classified(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Ran:
    with working_in(tmp_path_factory.mktemp("classified")), few_pictures():
        machines().drop(columns="slope").to_csv("machines.csv", index=False)
        return compare_here("trends", TRENDS, database)


class Guarded(SQLiteDialect_pysqlite):
    """SQLite in a file, behind a password, as a database server is."""

    supports_statement_cache = True

    def create_connect_args(self, url: sqlalchemy.URL) -> tuple[list[Any], dict[str, Any]]:
        return [str(url.database)], {"user": url.username, "password": url.password}

    def connect(self, *place: Any, user: str, password: str, **options: Any) -> Any:
        if password != SECRET:
            raise sqlite3.OperationalError(f"password {password!r} of {user} is wrong")
        return super().connect(*place, **options)


@pytest.fixture(scope="module")
def guarded() -> Iterator[None]:
    """SQLAlchemy knows the dialect above; and the password is in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sqlalchemy.dialects.registry.impls, "guarded", lambda: Guarded)
        patch.setenv("MACHINES_PASSWORD", SECRET)
        yield


@pytest.fixture(scope="module")
def queried(harness: None, guarded: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Ran:
    with working_in(tmp_path_factory.mktemp("queried")), few_pictures():
        with closing(sqlite3.connect("machines.db")) as connection:
            machines().to_sql("machines", connection, index=False)
        return compare_here("slopes", SLOPES, database)


@pytest.fixture
def there(request: pytest.FixtureRequest) -> Iterator[Ran]:
    """The run of a fixture, its directory being the working directory."""
    ran: Ran = request.getfixturevalue(request.param)
    with working_in(ran.directory):
        yield ran


def at(fixture: str) -> Any:
    return pytest.mark.parametrize("there", [fixture], indirect=True)


def files(run_id: str, folder: str | None = None) -> set[str]:
    """The names of a run's artifacts, in this folder."""
    return {Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run_id, folder)}


def is_picture(run_id: str, name: str) -> bool:
    return tracking.download(f"runs:/{run_id}/{name}").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def predictions(result: Result) -> pd.DataFrame:
    """What a result says that it has stored, whichever the format."""
    path = tracking.download(str(result.predictions_uri))
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def predict(name: str, rows: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """What `lstm-flows predict` writes of new rows."""
    new, output = directory / "new.csv", directory / "out.csv"
    rows.to_csv(new, index=False)
    assert lstm_flows("predict", f"models:/{name}@champion", str(new), "--output", str(output)) == (0, "", "")
    return pd.read_csv(output)


def named(comparison: Comparison) -> dict[str, Any]:
    """Results and baselines by the names that the differences use."""
    return {one.name: one for one in (*comparison.results, *comparison.baselines)}


def champion(comparison: Comparison) -> Result:
    found: Result = named(comparison)[f"{comparison.champion.contender}/{comparison.champion.phase}"]
    return found


def losses(judged: Any) -> np.ndarray:
    return pd.read_parquet(tracking.download(judged.losses_uri))["loss"].to_numpy()


def assert_verdicts_follow_from_the_losses(comparison: Comparison) -> None:
    """Losses, intervals and differences are what anyone finds who reads the stored losses."""
    judged = named(comparison)
    for one in judged.values():
        stored = losses(one)
        assert len(stored) == comparison.dataset.test
        # the one is a mean of means by step
        assert one.loss == one.metrics[comparison.metric] == pytest.approx(stored.mean(), rel=1e-12)
        assert (one.low, one.high) == block_bootstrap(stored, one.block)
    final = [result for result in comparison.results if result.phase == "fine_tuned"]
    found = {(one.of, one.than): one for one in comparison.differences}
    assert len(found) == len(comparison.differences)
    assert found.keys() >= {(one.name, other.name) for one in final for other in comparison.baselines}
    for (of, than), difference in found.items():
        expected = paired_difference(losses(judged[of]), losses(judged[than]), judged[of].block)
        assert (difference.mean, difference.low, difference.high, difference.verdict) == expected
    verdicts = {difference.verdict for difference in found.values()}
    assert verdicts <= {"better", "worse", "can't tell"}


# ---- what is wrong with a table
@pytest.mark.parametrize(
    ("name", "configuration", "content", "message"),
    [
        (
            "power",
            POWER.replace("target: load", "target: lode"),
            power(),
            "power.csv: column lode is missing; found: site, time, load; did you mean load?",
        ),
        ("power", POWER, "", "power.csv: the file is empty"),
        ("power", POWER, "site,time,load\n", "power.csv: the table has no rows"),
        (
            "power",
            POWER,
            power().astype({"load": object}).replace({"load": {20.0: "much"}}),
            "power.csv: column load, row 201: 'much' is no number; correct it, or leave the column out",
        ),
        (
            "machines",
            TRENDS,
            machines().assign(trend="rises"),
            "machines.csv: column trend: each group's label is rises; it takes two to classify",
        ),
        (
            "power",
            POWER,
            power(20),
            f"power.csv: data: too few rows for one window of {CONTEXT + HORIZON} steps in the train part: 40 rows in "
            "2 series; a smaller context_length or horizon, or another split, may do",
        ),
        (
            "machines",
            TRENDS,
            machines()[lambda rows: rows["machine"].isin(["m03", "m04"])],
            "machines.csv: data.split: of 2 nothing is left for the test",
        ),
    ],
    ids=["missing column", "empty", "no rows", "text", "one label", "too few rows", "too few groups"],
)
def test_a_table_that_can_not_be_used_is_one_line_and_leaves_nothing(
    harness: None, empty_directory: Path, name: str, configuration: str, content: str | pd.DataFrame, message: str
) -> None:
    text = content if isinstance(content, str) else content.to_csv(index=False)
    (empty_directory / f"{name}.csv").write_text(text)
    (empty_directory / "mine.yaml").write_text(configuration)
    with working_in(empty_directory):
        assert lstm_flows("compare", "mine.yaml") == (2, "", f"lstm-flows: {message}\n")
    assert {path.name for path in empty_directory.iterdir()} == {f"{name}.csv", "mine.yaml"}  # no mlflow.db either


# ---- classes
NEW = machines(5)[lambda rows: rows["machine"] >= "m02"].drop(columns=["trend", "slope"])  # of 9, 14 and 10 rows


def padded(rows: pd.DataFrame) -> np.ndarray:
    """Each machine's output and heat, and NaN after its last hour: (machines, hours, 2)."""
    parts = [own[["output", "heat"]].to_numpy(np.float32) for _, own in rows.groupby("machine")]
    longest = max(map(len, parts))
    return np.stack([np.pad(own, ((0, longest - len(own)), (0, 0)), constant_values=np.nan) for own in parts])


@at("classified")
def test_a_classification_has_a_confusion_matrix_and_its_picture(there: Ran) -> None:
    assert (there.code, there.errors) == (0, "")
    comparison = there.comparison()
    assert (comparison.experiment, comparison.metric) == ("trends", "log_loss")
    sizes = comparison.dataset.train, comparison.dataset.validation, comparison.dataset.test
    assert sizes == (22, 4, 6)  # 0.7, 0.1 and 0.2 of 32 machines
    assert {one.name for one in comparison.baselines} == {"majority_class", "logistic_regression"}
    assert is_picture(comparison.parent_run_id, "confusion.png")
    for result in comparison.results[1:]:
        told = predictions(result)
        assert told.columns.tolist() == ["machine", "target", "prediction", "probability_falls", "probability_rises"]
        expected = pd.crosstab(told["target"], told["prediction"])
        expected = expected.reindex(index=["falls", "rises"], columns=["falls", "rises"], fill_value=0)
        stored = pd.read_csv(tracking.download(f"runs:/{result.run_id}/confusion.csv"), index_col=0)
        assert stored.to_numpy().tolist() == expected.to_numpy().tolist()
        assert stored.columns.tolist() == stored.index.tolist() == ["falls", "rises"]
        assert result.metrics["accuracy"] == (told["target"] == told["prediction"]).mean()
        assert result.best_epoch in range(1, result.epochs + 1)
    assert is_picture(comparison.results[-1].run_id, "gates.png")


@at("classified")
def test_the_verdicts_on_classifiers_follow_from_their_losses(there: Ran) -> None:
    assert_verdicts_follow_from_the_losses(there.comparison())


@at("classified")
def test_classes_are_predicted_of_rows_without_a_label(there: Ran, tmp_path: Path) -> None:
    told = predict("trends", NEW, tmp_path)
    assert told.columns.tolist() == ["machine", "prediction", "probability_falls", "probability_rises"]
    assert told["machine"].tolist() == ["m02", "m03", "m04"]
    served = mlflow.pyfunc.load_model("models:/trends@champion").predict(padded(NEW))
    probabilities = told.filter(like="probability_").to_numpy()
    assert probabilities == pytest.approx(served, abs=1e-6)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert told["prediction"].tolist() == [["falls", "rises"][number] for number in served.argmax(1)]


# ---- numbers, from a database
@at("queried")
def test_a_regression_tells_numbers_in_their_own_unit(there: Ran) -> None:
    assert (there.code, there.errors) == (0, "")
    comparison = there.comparison()
    assert (comparison.experiment, comparison.metric) == ("slopes", "mse")
    assert_verdicts_follow_from_the_losses(comparison)
    assert {one.name for one in comparison.baselines} == {"mean", "ridge"}
    assert is_picture(comparison.parent_run_id, "predictions.png")
    told = predictions(champion(comparison))
    slope_of = machines().groupby("machine")["slope"].first()
    # in float32
    assert told["target"].to_numpy() == pytest.approx(slope_of[told["machine"]].to_numpy(), rel=1e-7)
    judged = machines()[lambda rows: rows["machine"].isin(told["machine"])]
    served = mlflow.pyfunc.load_model("models:/slopes@champion").predict(padded(judged))
    assert served == pytest.approx(told.sort_values("machine")["prediction"].to_numpy(), abs=1e-5)


@at("queried")
def test_new_rows_come_in_a_file_whatever_the_table_came_from(there: Ran, tmp_path: Path) -> None:
    told = predict("slopes", NEW, tmp_path)
    assert told.columns.tolist() == ["machine", "prediction"]
    assert told["machine"].tolist() == ["m02", "m03", "m04"]
    served = mlflow.pyfunc.load_model("models:/slopes@champion").predict(padded(NEW))
    assert told["prediction"].to_numpy() == pytest.approx(served, abs=1e-6)


def files_with(content: str, directory: Path) -> list[Path]:
    """Those below a directory whose bytes hold this text, whatever they are."""
    return [path for path in directory.rglob("*") if path.is_file() and content.encode() in path.read_bytes()]


@at("queried")
def test_a_password_is_written_nowhere(there: Ran) -> None:
    assert there.directory / "mlflow.db" in files_with("SELECT machine", there.directory)  # what is there is found
    assert files_with("MACHINES_PASSWORD", there.directory)
    assert files_with(SECRET, there.directory) == []
    assert SECRET not in there.out + there.errors


@pytest.mark.usefixtures("guarded")
@at("queried")
def test_a_password_that_is_wrong_is_not_shown(there: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINES_PASSWORD", "hunter2 & co")
    code, out, errors = lstm_flows("compare", "slopes.yaml")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(
        "lstm-flows: query 'SELECT machine, hour, output, heat, slope FROM machines': can't be run"
    )
    assert "of reader is wrong" in errors
    assert "hunter2" not in errors
    assert files_with("hunter2", there.directory) == []


# ---- forecasts
class Served(NamedTuple):
    """A model server that comes up, and what it prints."""

    url: str
    log: Path


@pytest.fixture(scope="module")
def served(forecast: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The champion behind HTTP, by MLflow alone; it comes up while other tests run."""
    port = free_port()
    log = tmp_path_factory.mktemp("served") / "server.log"
    command = ["models", "serve", "-m", "models:/power@champion", "--env-manager", "local", "--host", "127.0.0.1"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{forecast.directory}/mlflow.db"
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
    with running([str(BIN / "mlflow"), *command, "--port", str(port)], log, env=environment, cwd=log.parent):
        yield Served(f"http://127.0.0.1:{port}", log)


@pytest.fixture
def last_windows() -> np.ndarray:
    """What a forecast sees of each site: (sites, hours, 1)."""
    return np.stack([own["load"].to_numpy(np.float32)[-CONTEXT:, None] for _, own in power().groupby("site")])


@at("forecast")
def test_ten_lines_are_enough_for_a_forecast(there: Ran, served: Served) -> None:
    assert len(POWER.splitlines()) == 10
    assert there.code == 0, there.errors
    names = [line.split()[0] for line in there.errors.splitlines()]
    assert names == ["hand_built/initial", "hand_built/fine_tuned", "built_in/initial", "built_in/fine_tuned"]
    assert max(map(len, there.out.splitlines()[:-3])) <= 100
    assert "\u2026" not in there.out  # nothing is cut off
    assert "Differences in scaled_mse, on the same examples:" in there.out
    assert there.out.splitlines()[-1] == "Next: lstm-flows predict models:/power@champion NEW_ROWS"
    sentences = " ".join(there.out.split())
    assert "Rows: 400 read, 397 used, left out: 3 value missing at an end of a series." in sentences
    assert "Note: missing values filled in (interpolate): 2." in sentences


@at("forecast")
def test_mlflow_has_what_became_of_the_rows_and_all_files(there: Ran) -> None:
    parent, *children = there.runs()
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    windows = {f"{part}_examples": str(count) for part, count in (("train", 220), ("validation", 30), ("test", 69))}
    dropped = "{'value missing at an end of a series': 3}"
    rows = {"rows_read": "400", "rows_used": "397", "rows_dropped": dropped}
    assert parent.data.params.items() >= {**windows, **rows}.items()
    assert files(parent.info.run_id) == {
        *("answers", "config.yaml", "comparison.json", "comparison.md", "data", "hand_built", "built_in", "baselines"),
        *("loss_curves.png", "forecasts.png", "error_by_step.png"),
    }
    for name in ("loss_curves.png", "forecasts.png", "error_by_step.png"):
        assert is_picture(parent.info.run_id, name)
    baselines = {"last_value", "mean", "seasonal_naive", "ridge"}
    assert files(parent.info.run_id, "baselines") == baselines
    for name in baselines:
        assert files(parent.info.run_id, f"baselines/{name}") == {"losses.parquet", "steps.csv"}
        assert f"baselines/{name}/scaled_mse" in parent.data.metrics
    judged = {"gates.png", "losses.parquet", "steps.csv", "predictions.parquet"}
    for contender in ("hand_built", "built_in"):
        assert files(parent.info.run_id, f"{contender}/untrained") == judged
    assert [run.info.run_name for run in children] == [
        f"{contender}/{phase}" for contender in ("hand_built", "built_in") for phase in ("initial", "fine_tuned")
    ]
    for run in children:
        assert files(run.info.run_id) == {*judged, "answers", "checkpoint", "training.json"}
        assert files(run.info.run_id, "checkpoint") == {"last.ckpt", "best.ckpt"}
        assert run.data.metrics.keys() >= {"scaled_mse", "mase", "loss_low", "loss_high", "val_loss"}
        steps = pd.read_csv(tracking.download(f"runs:/{run.info.run_id}/steps.csv"))
        assert steps["step"].tolist() == list(range(1, HORIZON + 1))
        assert steps["scaled_mse"].mean() == pytest.approx(run.data.metrics["scaled_mse"], rel=1e-12)


@at("forecast")
def test_the_best_epoch_is_the_one_of_the_lowest_validation_loss(there: Ran) -> None:
    steps_an_epoch = -(-220 // 64)
    untrained, *trained = [result for result in there.comparison().results if result.contender == "hand_built"]
    assert untrained.best_epoch is None
    for result in trained:
        curve = tracking.read_curve(result.run_id, "val_loss")
        assert result.best_epoch
        assert min(curve, key=lambda step: curve[step]) == result.best_epoch * steps_an_epoch - 1


@at("forecast")
def test_the_verdicts_on_forecasts_follow_from_their_losses(there: Ran) -> None:
    comparison = there.comparison()
    assert_verdicts_follow_from_the_losses(comparison)
    assert {one.block for one in named(comparison).values()} == {2 * HORIZON}
    # of the two fine-tuned ones too, the one to be used first
    first = comparison.differences[0]
    assert first.of == champion(comparison).name
    assert {first.of, first.than} >= {"hand_built/fine_tuned"} | {"built_in/fine_tuned"}


@at("forecast")
def test_the_registered_model_takes_raw_values_and_tells_them(there: Ran) -> None:
    told = predictions(champion(there.comparison()))
    assert told.columns.tolist() == ["site", "time", "steps_ahead", "load", "load_predicted"]
    origins = told.loc[told["steps_ahead"] == 1, ["site", "time"]].astype(str)
    loads = filled()
    # the last 20 % of each site's rows, by what a window tells: 39 and 40 of them
    expected = [(site, time) for site, rows in (("north", 39), ("south", 40)) for time in loads[site].index[-rows:-5]]
    assert list(origins.itertuples(index=False, name=None)) == expected
    places = [(loads[site].to_numpy(), loads[site].index.get_loc(time)) for site, time in expected]
    ahead = np.stack([values[place : place + HORIZON] for values, place in places])
    assert told["load"].to_numpy().reshape(-1, HORIZON) == pytest.approx(ahead, rel=1e-6)
    seen = np.stack([values[place - CONTEXT : place] for values, place in places]).astype(np.float32)
    predicted = mlflow.pyfunc.load_model("models:/power@champion").predict(seen[..., None])
    assert predicted.shape == (69, HORIZON, 1)
    assert predicted.flatten() == pytest.approx(told["load_predicted"].to_numpy(), abs=1e-5)
    # and so well that the unit is beyond doubt
    assert np.abs(predicted.squeeze(-1) - ahead).mean() < 2


@at("forecast")
def test_predict_tells_the_next_time_stamps(there: Ran, tmp_path: Path, last_windows: np.ndarray) -> None:
    new = power().groupby("site").tail(40)
    told = predict("power", new.sample(frac=1, random_state=0), tmp_path)  # in any order
    assert told.columns.tolist() == ["site", "time", "load"]
    coming = pd.date_range("2024-01-09 08:00", periods=HORIZON, freq="h").astype(str)
    expected = [(site, time) for site in SITES for time in coming]
    assert list(told[["site", "time"]].itertuples(index=False, name=None)) == expected
    predicted = mlflow.pyfunc.load_model("models:/power@champion").predict(last_windows)
    assert told["load"].to_numpy() == pytest.approx(predicted.flatten(), rel=1e-6)


@at("forecast")
def test_too_few_new_rows_are_refused(there: Ran, tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    power()[:-180].to_csv(new, index=False)
    message = f"{new}: group south: 20 rows without a gap at the end; a forecast sees {CONTEXT}"
    assert lstm_flows("predict", "models:/power@champion", str(new)) == (2, "", f"lstm-flows: {message}\n")


# ---- the recipe that comes along
@pytest.mark.usefixtures("harness")
def test_the_forecast_recipe_runs_where_there_is_nothing(empty_directory: Path) -> None:
    changes = ["contenders.built_in=null", "contenders.hand_built.model.hidden_size=4"]
    changes += ["contenders.hand_built.training.max_epochs=1", "contenders.hand_built.fine_tuning.max_epochs=2"]
    with working_in(empty_directory), few_pictures():
        ran = Ran(empty_directory, *lstm_flows("compare", "forecast", *(f"--set={change}" for change in changes)))
        assert ran.code == 0, ran.errors
        assert ran.out.splitlines()[-1].endswith(" predict models:/forecast@champion NEW_ROWS")
        comparison = ran.comparison()
        assert [(result.name, result.epochs) for result in comparison.results] == [
            ("hand_built/untrained", 0),
            ("hand_built/initial", 1),
            ("hand_built/fine_tuned", 2),
        ]
        assert {one.name for one in comparison.baselines} == {"last_value", "mean", "seasonal_naive", "ridge"}


# ---- the same again, and another table
@at("classified")
def test_an_equal_table_trains_nothing_and_another_trains_a_challenger(there: Ran, database: Path) -> None:
    before = [run.info.run_id for run in there.runs()]
    aliases = mlflow.MlflowClient().get_registered_model("trends").aliases
    assert aliases.keys() == {"hand_built", "champion"}
    table = pd.read_csv("machines.csv")
    table.to_csv("machines.csv", index=False)  # written anew, the same
    again = compare_here("trends", TRENDS, database)
    assert again.code == 0
    assert again.out.startswith("Nothing was trained: an earlier run had this configuration, data and code")
    assert [run.info.run_id for run in there.runs()] == before

    table.loc[0, "heat"] += 1
    table.to_csv("machines.csv", index=False)
    with few_pictures():
        again = compare_here("trends", TRENDS, database)
    assert again.code == 0, again.errors
    runs = [run.info.run_id for run in there.runs()]
    assert len(runs) == 3
    assert not set(runs) & set(before)
    comparison = again.comparison()
    assert comparison.challenger
    assert comparison.challenger.model_uri == "models:/trends@challenger"
    found = mlflow.MlflowClient().get_registered_model("trends").aliases
    assert found.keys() == {"hand_built", "champion", "challenger"}
    assert found["champion"] == aliases["champion"]
    assert mlflow.MlflowClient().get_model_version("trends", found["challenger"]).run_id in runs
    assert " now challenger (models:/trends@challenger)" in " ".join(again.out.split())


# ---- a model server
@at("forecast")
def test_a_model_server_answers_what_predict_tells(
    there: Ran, tmp_path: Path, served: Served, last_windows: np.ndarray
) -> None:
    told = predict("power", power().groupby("site").tail(CONTEXT), tmp_path)

    def is_up() -> bool:
        try:
            return httpx.get(f"{served.url}/ping").is_success
        except httpx.TransportError:
            return False

    try:
        eventually(is_up, 120)
    except AssertionError:
        pytest.fail(served.log.read_text())
    answer = httpx.post(f"{served.url}/invocations", json={"inputs": last_windows.tolist()}, timeout=60)
    assert answer.status_code == 200, answer.text
    answered = np.array(json.loads(answer.text)["predictions"])
    assert answered.shape == (2, HORIZON, 1)
    assert answered.flatten() == pytest.approx(told["load"].to_numpy(), rel=1e-6)
