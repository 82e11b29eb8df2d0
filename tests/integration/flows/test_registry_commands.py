"""history, rollback, prune and monitor, on the versions of a comparison and four fine-tuning runs.

They are created once; a test that changes them works on a copy of the directory, with MLflow's paths adapted.
"""

import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow.pytorch
import pandas as pd
import pytest
from helpers.cli_runner import lstm_flows, webhook, without_plots, working_in
from helpers.errors import names_all
from helpers.hourly_load import hour, write_load
from helpers.processes import free_port
from mlflow.entities.model_registry import ModelVersion
from prefect.client.schemas.objects import StateType

from flows.compare import compare
from flows.fine_tune import fine_tune
from flows.monitor import monitor
from lstm_models.config import FineTuneConfig, MonitorConfig
from lstm_models.data.holdout import DataLeakageError
from lstm_models.evaluation.model_selection import Score
from tasks import tracking
from tasks.schemas import FineTuneResult, MonitoringPoint

DEMAND = """\
data: {kind: table, path: demand.csv, time: time, target: load, context_length: 8, horizon: 2}
contenders:
  hand_built: {model: {hidden_size: 4}, training: {max_epochs: 1, num_threads: 1}, fine_tuning: {max_epochs: 2}}
"""
ALIASES = {"champion": 4, "challenger": 6, "hand_built": 6}


@pytest.fixture(scope="module")
def original(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """A directory with versions 1 and 2 of a comparison; 3 and 4, fine-tuned from 2 and 3 and promoted; and 5 and 6,
    fine-tuned from 4 and 2 and not promoted."""
    directory = tmp_path_factory.mktemp("created")
    (directory / "demand.yaml").write_text(DEMAND)
    with working_in(directory, database), without_plots():
        write_load(300)
        compare("demand.yaml")
        for rows, settings in (
            (340, {"epochs": 20}),
            (440, {"epochs": 2}),
            (480, {"epochs": 1, "min_improvement": 0.99}),
            (480, {"epochs": 1, "mode": "warm_start", "version": 2}),
        ):
            write_load(rows)
            fine_tune(FineTuneConfig(experiment="demand", **settings))
        assert tracking.aliases("demand") == ALIASES
    return directory


@pytest.fixture
def shared_dir(original: Path) -> Iterator[Path]:
    """The original directory as the working directory, for tests that do not change it."""
    with working_in(original):
        yield original


@pytest.fixture
def copied_dir(original: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the directory as the working directory."""
    directory = tmp_path / "copy"
    shutil.copytree(original, directory)
    with closing(sqlite3.connect(directory / "mlflow.db")) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if "CHAR" in kind or "TEXT" in kind:
                    change = f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?'
                    connection.execute(change, (str(original), str(directory), f"%{original}%"))
    with working_in(directory):
        yield directory


def history() -> dict[int, dict[str, Any]]:
    """The output of history --json, by version."""
    code, out, errors = lstm_flows("history", "demand", "--json")
    assert (code, errors) == (0, "")
    return {row["version"]: row for row in json.loads(out)}


def versions() -> dict[int, ModelVersion]:
    return {tracking.version_number(version): version for version in tracking.versions("demand")}


def champion() -> int:
    return tracking.aliases("demand")["champion"]


def artifacts(run_id: str) -> set[str]:
    """The names of a run's artifact files and folders on disk."""
    artifact_dir = Path(tracking.mlflow_client().get_run(run_id).info.artifact_uri.removeprefix("file://"))
    return {path.name for path in artifact_dir.iterdir()}


def parent(version: ModelVersion) -> str:
    """The run whose data a version was trained on."""
    return str(tracking.mlflow_client().get_run(version.run_id).data.tags["mlflow.parentRunId"])


def model(version: ModelVersion) -> Path:
    """The directory of a version's model."""
    logged = tracking.mlflow_client().get_logged_model(str(version.source).removeprefix("models:/"))
    return Path(logged.artifact_location.removeprefix("file://"))


def all_files() -> set[tuple[str, int]]:
    """The paths and sizes of all files of the runs and models."""
    return {(str(path), path.stat().st_size) for path in Path("mlruns").rglob("*") if path.is_file()}


def refused(*command: str) -> str:
    """The one-line error of a command with invalid input."""
    code, out, errors = lstm_flows(*command)
    assert (code, out, errors.partition(": ")[0]) == (2, "", "lstm-flows")
    return errors


# ---- no such experiment
COMMANDS = [("history",), ("rollback",), ("prune", "--keep=1"), ("monitor", "-q")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_an_unknown_experiment_is_a_one_line_error(
    original: Path, empty_directory: Path, command: tuple[str, ...]
) -> None:
    name, *options = command
    assert names_all(refused(name, "demand", *options), "experiment demand", "no mlflow.db in", empty_directory)
    assert list(empty_directory.iterdir()) == []
    with working_in(original):
        model = {"history": "no registered model", "prune": "no registered model"}.get(name, "no champion")
        assert names_all(refused(name, "demnd", *options), "experiment demnd", model)
        assert tracking.mlflow_client().get_experiment_by_name("demnd") is None


@pytest.mark.parametrize("command", [("history",), ("prune", "--keep=1", "--dry-run")], ids=["history", "prune"])
def test_an_unreachable_mlflow_server_is_a_one_line_error(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name, *options = command
    code, out, errors = lstm_flows(name, "demand", *options)
    assert (code, out, errors.count("\n")) == (1, "", 1)


# ---- history
def test_history_has_lineage_evaluation_runs_and_the_times_as_champion(shared_dir: Path) -> None:
    rows, registered = history(), versions()
    champions = [row.pop("champion") for row in rows.values()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row.pop("created")) for row in rows.values())
    scores = {number: Score.model_validate_json(version.tags["score"]) for number, version in registered.items()}
    ends = [hour(round(0.7 * count) - 1)[:16].replace("T", " ") for count in (300, 300, 340, 440, 480, 480)]
    runs = {number: tracking.mlflow_client().get_run(parent(version)) for number, version in registered.items()}
    assert list(rows.values()) == [
        {
            "version": number,
            "contender": "hand_built",
            "phase": "initial" if number == 1 else "fine_tuned",
            "continues": [None, 1, 2, 3, 4, 2][number - 1],
            "rows": f"to {ends[number - 1]}",
            "loss": scores[number].loss,
            "dataset": scores[number].dataset,
            "aliases": {4: ["champion"], 6: ["challenger", "hand_built"]}.get(number, []),
            "flow_run": runs[number].data.tags["lstm_flows.prefect_flow_run_id"],
            "run": registered[number].run_id,
        }
        for number in range(1, 7)
    ]
    assert rows[4]["dataset"] == rows[5]["dataset"] == rows[6]["dataset"]  # the champion, evaluated in every run
    assert [len(times) for times in champions] == [0, 1, 1, 1, 0, 0]
    (second,), (third,), (fourth,) = champions[1:4]
    assert second["since"] <= second["until"] == third["since"] <= third["until"] == fourth["since"]
    assert fourth["until"] is None
    assert second["reason"].endswith(", first champion")
    assert re.fullmatch(r"loss 0\.\d+, better than version 2's 0\.\d+", third["reason"])
    assert re.fullmatch(r"loss 0\.\d+, better than version 3's 0\.\d+", fourth["reason"])
    assert [time["flow_run"] for time in (second, third, fourth)] == [rows[number]["flow_run"] for number in (2, 3, 4)]


def test_history_as_a_table(shared_dir: Path) -> None:
    code, out, errors = lstm_flows("history", "demand")
    assert (code, errors) == (0, "")
    head, _, *lines = out.splitlines()
    assert head.split() == ["version", "continues", "model", "trained", "on", "error", "champion", "aliases"]
    words = [line.split() for line in lines]
    assert words[0] == ["1", "-", "hand_built/initial", "to", "2024-01-09", "17:00", words[0][6]]
    assert words[3][:3] == ["4", "3", "hand_built/fine_tuned"]
    assert re.search(r" \d\d-\d\d \d\d:\d\d - now +champion *$", lines[3])
    assert [line for line in lines if " - now" in line] == [lines[3]]
    assert [line.split()[-1] for line in lines[5:]] == ["challenger", "hand_built"]
    rows = history()
    for number, line_words in zip(rows, words[:6], strict=True):
        assert line_words[6] == f"{rows[number]['loss']:.4g}"
    assert max(map(len, out.splitlines())) <= 120


# ---- rollback
def test_rollback_restores_earlier_champions_one_by_one_and_records_the_reason(copied_dir: Path) -> None:
    before = history()
    with webhook() as posts:
        code, out, _ = lstm_flows("rollback", "demand", "--reason", "the sensor was broken")
    reason = "rollback from version 4: the sensor was broken"
    assert (code, out) == (0, f"Version 3 is now champion of demand ({reason}).\n")
    assert tracking.aliases("demand") == ALIASES | {"champion": 3}
    message = "demand: rolled back from version 4 to 3: the sensor was broken"
    assert posts == [
        {"event": "rollback", "message": message, "text": message, "experiment": "demand", "flow_run": None}
    ]
    rows = history()
    first, second = rows[3]["champion"]
    assert first == before[3]["champion"][0]
    assert (second["reason"], second["until"], second["flow_run"]) == (reason, None, "none")
    assert rows[4]["champion"] == [before[4]["champion"][0] | {"until": second["since"]}]
    table = lstm_flows("history", "demand")[1].splitlines()
    line = next(index for index, line in enumerate(table) if line.startswith("3 "))
    assert re.search(r" \d\d-\d\d \d\d:\d\d - \d\d-\d\d \d\d:\d\d +champion *$", table[line])
    assert re.search(r"^ +\d\d-\d\d \d\d:\d\d - now *$", table[line + 1])

    # a reason that is longer than a tag may be is shortened
    assert lstm_flows("rollback", "demand", "--reason", "the sensor was broken, " * 300)[0] == 0
    assert history()[2]["champion"][-1]["reason"].startswith("rollback from version 3: the sensor was broken, ")
    assert names_all(refused("rollback", "demand"), "before version 2", "history demand")
    assert tracking.aliases("demand") == ALIASES | {"champion": 2}


def test_rollback_to_a_named_version_and_back_to_the_champions_before_it(copied_dir: Path) -> None:
    """Version 5 has never been champion: the champion that it replaced is restored, and then that one's predecessor."""
    assert lstm_flows("rollback", "demand", "5")[:2] == (
        0,
        "Version 5 is now champion of demand (rollback from version 4: manual).\n",
    )
    assert [lstm_flows("rollback", "demand")[0] for _ in range(2)] == [0, 0]
    assert champion() == 3
    reasons = {number: [time["reason"] for time in row["champion"][-1:]] for number, row in history().items()}
    assert reasons[5] == ["rollback from version 4: manual"]
    assert reasons[4] == ["rollback from version 5: manual"]
    assert reasons[3] == ["rollback from version 4: manual"]
    assert [len(row["champion"]) for row in history().values()] == [0, 1, 2, 2, 1, 0]


def test_a_challenger_that_becomes_champion_loses_the_alias_challenger(copied_dir: Path) -> None:
    assert lstm_flows("rollback", "demand", "6")[0] == 0
    assert tracking.aliases("demand") == {"champion": 6, "hand_built": 6}


@pytest.mark.parametrize(
    ("version", "parts"),
    [
        ("4", ["experiment demand", "version 4", "already"]),
        ("99", ["experiment demand", "no version 99", "history demand"]),
        ("0", ["[VERSION]", "0 is not in the range x>=1"]),
        ("two", ["[VERSION]", "'two'"]),
    ],
)
def test_a_version_that_can_not_be_restored_is_a_one_line_error(
    shared_dir: Path, version: str, parts: list[str]
) -> None:
    assert names_all(refused("rollback", "demand", version), *parts)
    assert tracking.aliases("demand") == ALIASES


# ---- prune
def hide_sizes(out: str) -> list[str]:
    return re.sub(r"\d+\.\d MB", "SIZE", out).splitlines()


def test_prune_removes_what_a_dry_run_named_and_nothing_else(copied_dir: Path) -> None:
    """Versions 1, 2 and 3, which 4 and 6 continue, keep their model; version 5 keeps only its run."""
    files, rows, before = all_files(), history(), versions()
    models = {number: model(version) for number, version in before.items()}
    parents = {number: parent(version) for number, version in before.items()}
    runs = {number: str(version.run_id) for number, version in before.items()}
    code, planned, errors = lstm_flows("prune", "demand", "--keep=1", "--dry-run")
    assert (code, errors) == (0, "")
    assert hide_sizes(planned) == [
        "version 1: checkpoint, data (SIZE)",
        "version 2: checkpoint (SIZE)",
        "version 3: checkpoint, data (SIZE)",
        "version 5: model, checkpoint, data (SIZE)",
        "4 versions would be pruned.",
    ]
    assert all_files() == files
    assert [version.tags for version in versions().values()] == [version.tags for version in before.values()]
    assert history() == rows

    code, out, errors = lstm_flows("prune", "demand", "--keep=1")
    assert (code, out, errors) == (0, planned.replace("would be pruned", "pruned"), "")
    assert list(versions()) == [1, 2, 3, 4, 6]
    assert {number for number, path in models.items() if path.exists()} == {1, 2, 3, 4, 6}
    assert not any(models[5].parent.rglob("*"))
    assert {number for number, run_id in runs.items() if "checkpoint" in artifacts(run_id)} == {4, 6}
    assert {number for number, run_id in parents.items() if "data" in artifacts(run_id)} == {4, 6}
    # MLflow no longer knows the model either
    experiment = tracking.get_or_create_experiment("demand")
    assert len(tracking.mlflow_client().search_logged_models([experiment])) == 5
    # runs keep their metrics and other files
    for number, run_id in runs.items():
        run = tracking.mlflow_client().get_run(run_id)
        assert (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")
        assert run.data.metrics["scaled_mse"]
        assert {"training.json", "losses.parquet", "steps.csv"} <= artifacts(run_id), number
    # the history keeps its entries
    assert history() == {number: row for number, row in rows.items() if number != 5}
    assert tracking.aliases("demand") == ALIASES

    files = all_files()
    assert lstm_flows("prune", "demand", "--keep=1") == (0, "Nothing to prune.\n", "")
    assert lstm_flows("prune", "demand", "--keep=1", "--dry-run") == (0, "Nothing to prune.\n", "")
    assert all_files() == files

    # a pruned version can be champion, but not be fine-tuned or evaluated; a removed version is unknown
    assert lstm_flows("rollback", "demand")[0] == 0
    assert champion() == 3
    settings = [("fine-tune", "--set=version=1"), ("fine-tune", "--set=version=3"), ("fine-tune",), ("monitor",)]
    for (command, *options), number in zip(settings, (1, 3, 3, 3), strict=True):
        assert names_all(refused(command, "demand", "-q", *options), f"version {number} of demand", "pruned")
    for command, option in (("fine-tune", "--set=version=5"), ("rollback", "5")):
        assert names_all(refused(command, "demand", "-q", option), "no version 5", "history demand")
    assert lstm_flows("rollback", "demand", "4")[0] == 0  # restore it


def test_prune_keeps_this_many_of_the_newest_versions(shared_dir: Path) -> None:
    files = all_files()
    assert lstm_flows("prune", "demand", "--keep=6") == (0, "Nothing to prune.\n", "")
    assert lstm_flows("prune", "demand", "--keep=100") == (0, "Nothing to prune.\n", "")
    assert all_files() == files
    planned = lstm_flows("prune", "demand", "--keep=3", "--dry-run")[1].splitlines()
    assert [line.partition(":")[0] for line in planned[:-1]] == ["version 1", "version 2", "version 3"]
    planned = lstm_flows("prune", "demand", "--keep=2", "--dry-run")[1].splitlines()
    assert len(planned) == 4  # 1, 2 and 3 without what the champion, 4, needs


def test_data_that_a_kept_version_needs_is_not_removed(copied_dir: Path) -> None:
    """Versions 1 and 2 share their data: with 2 as champion, 1 loses only its checkpoint."""
    lstm_flows("rollback", "demand", "2")
    write_load(480)
    with without_plots():  # fine-tunes version 2
        code, out, _ = lstm_flows("fine-tune", "demand", "--set=epochs=1", "--set=mode=warm_start", "-q")
    assert code == 0
    assert names_all(" ".join(out.split()), "Skipped: version 2 has been fine-tuned on these rows before")
    registered = versions()
    assert hide_sizes(lstm_flows("prune", "demand", "--keep=1")[1]) == [
        "version 1: checkpoint (SIZE)",
        "version 3: checkpoint, data (SIZE)",
        "version 4: checkpoint, data (SIZE)",  # a former champion
        "version 5: model, checkpoint, data (SIZE)",
        "4 versions pruned.",
    ]
    assert "data" in artifacts(parent(registered[2]))
    assert "checkpoint" in artifacts(str(registered[2].run_id))
    assert "checkpoint" not in artifacts(str(registered[1].run_id))


def test_an_interrupted_prune_can_be_repeated(copied_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {number: model(version) for number, version in versions().items()}

    def broken(*_: Any) -> None:
        raise OSError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "delete_model_version", broken)
        code, _, errors = lstm_flows("prune", "demand", "--keep=1")
    assert code == 1
    assert names_all(errors, "OSError: the database is away")
    assert list(versions()) == [1, 2, 3, 4, 5, 6]
    code, out, _ = lstm_flows("prune", "demand", "--keep=1")
    assert (code, out.splitlines()[-1]) == (0, "1 versions pruned.")
    assert list(versions()) == [1, 2, 3, 4, 6]
    assert not models[5].exists()


def test_fine_tune_prunes_if_keep_versions_is_set(copied_dir: Path) -> None:
    write_load(520)
    with without_plots():
        code, out, _ = lstm_flows(
            "fine-tune", "demand", "--set=epochs=1", "--set=min_improvement=0.99", "--set=keep_versions=2", "-q"
        )
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("Pruned: ")] == [
        "Pruned: version 1: checkpoint, data",
        "Pruned: version 2: checkpoint",
        "Pruned: version 3: checkpoint, data",
        "Pruned: version 5: model, checkpoint, data",
    ]
    assert list(versions()) == [1, 2, 3, 4, 6, 7]
    assert versions()[7].tags["continues"] == "4"
    # the same run is skipped: keep_versions does not affect the challenger
    config = FineTuneConfig(experiment="demand", epochs=1, min_improvement=0.99, keep_versions=1)
    again = fine_tune(config, return_state=True)
    assert again.name == "Skipped"
    assert again.result() == FineTuneResult(
        experiment="demand", outcome="skipped", message=again.message, base_version=4
    )
    assert list(versions()) == [1, 2, 3, 4, 6, 7]


@pytest.mark.parametrize("keep", ["0", "all"])
def test_prune_requires_a_positive_number(empty_directory: Path, keep: str) -> None:
    assert names_all(refused("prune", "demand", f"--keep={keep}"), "--keep", keep)


# ---- the registry or the table has changed
def test_without_a_champion_a_named_version_is_fine_tuned_and_promoted(copied_dir: Path) -> None:
    tracking.mlflow_client().delete_registered_model_alias("demand", "champion")
    assert names_all(refused("fine-tune", "demand", "-q"), "experiment demand", "no champion", "lstm-flows compare")
    write_load(520)
    with without_plots():
        done: FineTuneResult = fine_tune(FineTuneConfig(experiment="demand", version=5, epochs=1))
    assert (done.outcome, done.base_version, done.challenger) == ("promoted", 5, 7)
    assert done.message == "Version 7 is now champion: there was none."
    assert done.comparison
    assert [result.name for result in done.comparison.results] == ["challenger/fine_tuned"]
    assert champion() == 7
    assert history()[7]["champion"][0]["reason"].endswith(", first champion")


def test_a_table_that_changes_after_validation_is_refused(copied_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is overwritten without its newest rows; the champion was trained on all that remain."""
    module = sys.modules["flows.fine_tune"]
    find_skip_reason = module.find_skip_reason

    def find_and_overwrite(*arguments: Any) -> Any:
        reason = find_skip_reason(*arguments)
        write_load(300)
        return reason

    monkeypatch.setattr(module, "find_skip_reason", find_and_overwrite)
    write_load(520)
    with without_plots(), pytest.raises(DataLeakageError):
        fine_tune(FineTuneConfig(experiment="demand", epochs=1))
    assert list(versions()) == [1, 2, 3, 4, 5, 6]


# ---- monitor
def run_monitor() -> MonitoringPoint:
    point: MonitoringPoint = monitor(MonitorConfig(experiment="demand"))
    return point


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracking.mlflow_client().get_metric_history(run_id, name)]


def status(run_id: str) -> str:
    return str(tracking.mlflow_client().get_run(run_id).info.status)


def test_monitoring_logs_steps_of_one_run(copied_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[str] = []
    log_batch = mlflow.MlflowClient.log_batch

    def log_and_note_status(client: mlflow.MlflowClient, run_id: str, *arguments: Any, **options: Any) -> None:
        statuses.append(status(run_id))
        log_batch(client, run_id, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_and_note_status)
    score = Score.model_validate_json(versions()[4].tags["score"])  # on these rows, by the last fine-tuning run
    write_load(480)
    first = run_monitor()
    assert (first.version, first.step) == (4, 0)
    assert first.message == "Version 4 evaluated on 95 examples: step 0."
    assert first.metrics["scaled_mse"] == score.loss
    assert first.run_id
    run = tracking.mlflow_client().get_run(first.run_id)
    assert (run.info.status, run.data.tags["lstm_flows.flow"]) == ("FINISHED", "monitor")

    again = run_monitor()
    message = "Skipped: version 4 has already been evaluated on these rows."
    assert again == MonitoringPoint(experiment="demand", version=4, run_id=first.run_id, step=None, message=message)
    assert curve(first.run_id, "version") == [(0, 4.0)]

    write_load(520)
    second = run_monitor()
    assert (second.run_id, second.step, second.version) == (first.run_id, 1, 4)
    then = tracking.mlflow_client().get_run(first.run_id)
    assert (then.info.status, then.info.start_time) == ("FINISHED", run.info.start_time)
    assert then.info.end_time >= run.info.end_time

    lstm_flows("rollback", "demand")
    third = run_monitor()
    assert (third.run_id, third.step, third.version) == (first.run_id, 2, 3)
    assert statuses == 3 * ["RUNNING"]
    points: dict[str, list[float]] = {"version": [4.0, 4.0, 3.0]}
    for point in (first, second, third):
        (drift,) = point.drift
        for name, value in {**point.metrics, "drift/load/psi": drift.psi, "drift/load/ks": drift.ks}.items():
            points.setdefault(name, []).append(value)
    assert {name: curve(first.run_id, name) for name in points} == {
        name: list(enumerate(values)) for name, values in points.items()
    }
    assert versions()[4].tags["score"] == score.model_dump_json()  # unchanged: monitoring does not promote


@pytest.mark.parametrize(
    ("error", "expected"), [(OSError("no space"), "FAILED"), (SystemExit(143), "KILLED")], ids=["error", "signal"]
)
def test_a_failed_monitoring_run_is_marked_and_the_next_one_adds_its_step(
    copied_dir: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: str
) -> None:
    first = run_monitor().run_id
    assert first

    def broken(*_: Any, **__: Any) -> None:
        raise error

    write_load(520)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", broken)
        with pytest.raises(type(error)):
            run_monitor()
    assert status(first) == expected
    second = run_monitor()
    assert (second.run_id, second.step, status(first)) == (first, 1, "FINISHED")


def test_an_evaluation_that_is_refused_changes_nothing(copied_dir: Path) -> None:
    first = run_monitor().run_id
    assert first
    write_load(300)
    message = refused("monitor", "demand", "-q")
    assert names_all(message, "2024-01-11T00:00:00", "version 4 of demand", "2024-01-15T15:00:00 (validation)")
    pd.read_csv("demand.csv").rename(columns={"load": "power"}).to_csv("demand.csv", index=False)
    assert names_all(refused("monitor", "demand", "-q"), "demand.csv", "column load", "time, power")
    assert (status(first), curve(first, "version")) == ("FINISHED", [(0, 4.0)])


def test_a_first_evaluation_that_is_refused_creates_no_run(shared_dir: Path) -> None:
    state = monitor(MonitorConfig(experiment="demand", path="nowhere.csv"), return_state=True)
    assert (state.type, "nowhere.csv: no such file" in str(state.message)) == (StateType.FAILED, True)
    experiment = tracking.get_or_create_experiment("demand")
    assert tracking.mlflow_client().search_runs([experiment], "tags.`lstm_flows.flow` = 'monitor'") == []


def test_what_monitor_prints(copied_dir: Path, tmp_path: Path) -> None:
    write_load(520)
    Path("demand.csv").rename(tmp_path / "moved.csv")
    moved = f"--set=path={tmp_path}/moved.csv"
    code, out, errors = lstm_flows("monitor", "demand", moved, "--json", "-q")
    assert (code, errors, out.count("\n")) == (0, "", 1)
    point = MonitoringPoint.model_validate_json(out)
    assert (point.version, point.step) == (4, 0)
    split = "--set=split={train: 0.75, validation: 0.05}"
    code, out, errors = lstm_flows("monitor", "demand", moved, split, "-q")
    assert (code, errors) == (0, "")
    assert re.search(r"^scaled_mse  0\.\d+$", out, re.MULTILINE)
    assert re.search(r"^load +\d\.\d{3} +\d\.\d{3}$", out, re.MULTILINE)
    assert out.splitlines()[-1] == "Version 4 evaluated on 103 examples: step 1."
    code, out, errors = lstm_flows("monitor", "demand", "--dry-run", split)
    assert (code, errors) == (0, "")
    assert out.startswith("experiment: demand\n")
