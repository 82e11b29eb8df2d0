"""history, rollback, prune and evaluate, on versions that a comparison and four nights have made.

They are made once; each test works on a copy of the directory, in which MLflow's paths are the copy's.
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
from helpers.cli_runner import lstm_flows, plain, webhook, working_in
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
from tasks import tracking
from tasks.schemas import FineTuneResult, MonitoringPoint, Score

DEMAND = """\
data: {kind: table, path: demand.csv, time: time, target: load, context_length: 8, horizon: 2}
contenders:
  hand_built: {model: {hidden_size: 4}, training: {max_epochs: 1, num_threads: 1}, fine_tuning: {max_epochs: 2}}
"""
ALIASES = {"champion": 4, "challenger": 6, "hand_built": 6}


@pytest.fixture(scope="module")
def made(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """Versions 1 and 2 of a comparison; 3 goes on from 2, and 4 from 3, both promoted; 5 from 4 and 6 from 2, kept."""
    directory = tmp_path_factory.mktemp("created")
    shutil.copy(database, directory)
    (directory / "demand.yaml").write_text(DEMAND)
    with working_in(directory), plain():
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
def there(made: Path) -> Iterator[Path]:
    """The directory itself, for what changes nothing in it."""
    with working_in(made):
        yield made


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, as the working directory."""
    directory = tmp_path / "copy"
    shutil.copytree(made, directory)
    with closing(sqlite3.connect(directory / "mlflow.db")) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if "CHAR" in kind or "TEXT" in kind:
                    change = f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?'
                    connection.execute(change, (str(made), str(directory), f"%{made}%"))
    with working_in(directory):
        yield directory


def history() -> dict[int, dict[str, Any]]:
    """What history --json tells, by version."""
    code, out, errors = lstm_flows("history", "demand", "--json")
    assert (code, errors) == (0, "")
    return {row["version"]: row for row in json.loads(out)}


def versions() -> dict[int, ModelVersion]:
    return {tracking.version_number(version): version for version in tracking.versions("demand")}


def champion() -> int:
    return tracking.aliases("demand")["champion"]


def artifacts(run_id: str) -> set[str]:
    """A run's files and folders on the disk, whatever MLflow knows of them."""
    place = Path(tracking.mlflow_client().get_run(run_id).info.artifact_uri.removeprefix("file://"))
    return {path.name for path in place.iterdir()}


def parent(version: ModelVersion) -> str:
    """The run whose data a version was trained on."""
    return str(tracking.mlflow_client().get_run(version.run_id).data.tags["mlflow.parentRunId"])


def model(version: ModelVersion) -> Path:
    """Where a version's model lies."""
    found = tracking.mlflow_client().get_logged_model(str(version.source).removeprefix("models:/"))
    return Path(found.artifact_location.removeprefix("file://"))


def everything() -> set[tuple[str, int]]:
    """All files of the runs and models."""
    return {(str(path), path.stat().st_size) for path in Path("mlruns").rglob("*") if path.is_file()}


def refused(*command: str) -> str:
    """The one line of a command that is wrong input."""
    code, out, errors = lstm_flows(*command)
    assert (code, out, errors.partition(": ")[0]) == (2, "", "lstm-flows")
    return errors


# ---- nobody there
COMMANDS = [("history",), ("rollback",), ("prune", "--keep=1"), ("monitor", "-q")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_an_experiment_that_is_not_there_is_one_line(
    made: Path, empty_directory: Path, command: tuple[str, ...]
) -> None:
    name, *options = command
    assert names_all(refused(name, "demand", *options), "experiment demand", "no mlflow.db in", empty_directory)
    assert list(empty_directory.iterdir()) == []
    with working_in(made):
        model = {"history": "no registered model", "prune": "no registered model"}.get(name, "no champion")
        assert names_all(refused(name, "demnd", *options), "experiment demnd", model)
        assert tracking.mlflow_client().get_experiment_by_name("demnd") is None


@pytest.mark.parametrize("command", [("history",), ("prune", "--keep=1", "--dry-run")], ids=["history", "prune"])
def test_an_mlflow_server_that_is_away_is_one_line(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name, *options = command
    code, out, errors = lstm_flows(name, "demand", *options)
    assert (code, out, errors.count("\n")) == (1, "", 1)


# ---- history
def test_history_has_lineage_evaluation_runs_and_the_times_as_champion(there: Path) -> None:
    rows, found = history(), versions()
    champions = [row.pop("champion") for row in rows.values()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row.pop("created")) for row in rows.values())
    judged = {number: Score.model_validate_json(version.tags["score"]) for number, version in found.items()}
    ends = [hour(round(0.7 * count) - 1)[:16].replace("T", " ") for count in (300, 300, 340, 440, 480, 480)]
    runs = {number: tracking.mlflow_client().get_run(parent(version)) for number, version in found.items()}
    assert list(rows.values()) == [
        {
            "version": number,
            "contender": "hand_built",
            "phase": "initial" if number == 1 else "fine_tuned",
            "continues": [None, 1, 2, 3, 4, 2][number - 1],
            "rows": f"to {ends[number - 1]}",
            "loss": judged[number].loss,
            "dataset": judged[number].dataset,
            "aliases": {4: ["champion"], 6: ["challenger", "hand_built"]}.get(number, []),
            "flow_run": runs[number].data.tags["lstm_flows.prefect_flow_run_id"],
            "run": found[number].run_id,
        }
        for number in range(1, 7)
    ]
    assert rows[4]["dataset"] == rows[5]["dataset"] == rows[6]["dataset"]  # the champion, anew every night
    assert [len(times) for times in champions] == [0, 1, 1, 1, 0, 0]
    (second,), (third,), (fourth,) = champions[1:4]
    assert second["since"] <= second["until"] == third["since"] <= third["until"] == fourth["since"]
    assert fourth["until"] is None
    assert second["reason"].endswith(", the first")
    assert re.fullmatch(r"loss 0\.\d+, better than version 2's 0\.\d+", third["reason"])
    assert re.fullmatch(r"loss 0\.\d+, better than version 3's 0\.\d+", fourth["reason"])
    assert [time["flow_run"] for time in (second, third, fourth)] == [rows[number]["flow_run"] for number in (2, 3, 4)]


def test_history_as_a_table(there: Path) -> None:
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
    for number, own in zip(rows, words[:6], strict=True):
        assert own[6] == f"{rows[number]['loss']:.4g}"
    assert max(map(len, out.splitlines())) <= 120


# ---- rollback
def test_rollback_goes_back_step_by_step_with_its_reason(here: Path) -> None:
    before = history()
    with webhook() as posts:
        code, out, _ = lstm_flows("rollback", "demand", "--reason", "the sensor was broken")
    why = "rollback from version 4: the sensor was broken"
    assert (code, out) == (0, f"Version 3 is champion of demand again ({why}).\n")
    assert tracking.aliases("demand") == ALIASES | {"champion": 3}
    message = "demand: back from version 4 to 3: the sensor was broken"
    assert posts == [
        {"event": "rollback", "message": message, "text": message, "experiment": "demand", "flow_run": None}
    ]
    rows = history()
    first, second = rows[3]["champion"]
    assert first == before[3]["champion"][0]
    assert (second["reason"], second["until"], second["flow_run"]) == (why, None, "none")
    assert rows[4]["champion"] == [before[4]["champion"][0] | {"until": second["since"]}]
    table = lstm_flows("history", "demand")[1].splitlines()
    line = next(place for place, line in enumerate(table) if line.startswith("3 "))
    assert re.search(r" \d\d-\d\d \d\d:\d\d - \d\d-\d\d \d\d:\d\d +champion *$", table[line])
    assert re.search(r"^ +\d\d-\d\d \d\d:\d\d - now *$", table[line + 1])

    # a reason that is longer than a tag does not spoil the history
    assert lstm_flows("rollback", "demand", "--reason", "the sensor was broken, " * 300)[0] == 0
    assert history()[2]["champion"][-1]["reason"].startswith("rollback from version 3: the sensor was broken, ")
    assert names_all(refused("rollback", "demand"), "before version 2", "history demand")
    assert tracking.aliases("demand") == ALIASES | {"champion": 2}


def test_a_version_can_be_named_and_the_champion_before_comes_back_after_it(here: Path) -> None:
    """Version 5 has never been champion: who was when it took over comes back; and then goes back to its own."""
    assert lstm_flows("rollback", "demand", "5")[:2] == (
        0,
        "Version 5 is champion of demand again (rollback from version 4: by hand).\n",
    )
    assert [lstm_flows("rollback", "demand")[0] for _ in range(2)] == [0, 0]
    assert champion() == 3
    whys = {number: [time["reason"] for time in row["champion"][-1:]] for number, row in history().items()}
    assert whys[5] == ["rollback from version 4: by hand"]
    assert whys[4] == ["rollback from version 5: by hand"]
    assert whys[3] == ["rollback from version 4: by hand"]
    assert [len(row["champion"]) for row in history().values()] == [0, 1, 2, 2, 1, 0]


def test_a_challenger_that_becomes_champion_is_challenger_no_more(here: Path) -> None:
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
def test_a_version_that_can_not_be_gone_back_to_is_one_line(there: Path, version: str, parts: list[str]) -> None:
    assert names_all(refused("rollback", "demand", version), *parts)
    assert tracking.aliases("demand") == ALIASES


# ---- prune
def sizes_hidden(out: str) -> list[str]:
    return re.sub(r"\d+\.\d MB", "SIZE", out).splitlines()


def test_prune_removes_what_a_dry_run_named_and_nothing_else(here: Path) -> None:
    """Of 1, 2 and 3, which 4 and 6 continue, the model stays; of 5 nothing but its run."""
    files, rows, before = everything(), history(), versions()
    models = {number: model(version) for number, version in before.items()}
    parents = {number: parent(version) for number, version in before.items()}
    runs = {number: str(version.run_id) for number, version in before.items()}
    code, planned, errors = lstm_flows("prune", "demand", "--keep=1", "--dry-run")
    assert (code, errors) == (0, "")
    assert sizes_hidden(planned) == [
        "version 1: checkpoint, data (SIZE)",
        "version 2: checkpoint (SIZE)",
        "version 3: checkpoint, data (SIZE)",
        "version 5: model, checkpoint, data (SIZE)",
        "4 versions would be pruned.",
    ]
    assert everything() == files
    assert [version.tags for version in versions().values()] == [version.tags for version in before.values()]
    assert history() == rows

    code, out, errors = lstm_flows("prune", "demand", "--keep=1")
    assert (code, out, errors) == (0, planned.replace("would be pruned", "pruned"), "")
    assert list(versions()) == [1, 2, 3, 4, 6]
    assert {number for number, place in models.items() if place.exists()} == {1, 2, 3, 4, 6}
    assert not any(models[5].parent.rglob("*"))
    assert {number for number, run_id in runs.items() if "checkpoint" in artifacts(run_id)} == {4, 6}
    assert {number for number, run_id in parents.items() if "data" in artifacts(run_id)} == {4, 6}
    # MLflow no longer knows the model either
    experiment = tracking.get_or_create_experiment("demand")
    assert len(tracking.mlflow_client().search_logged_models([experiment])) == 5
    # runs stay, with their metrics and what else they hold
    for number, run_id in runs.items():
        run = tracking.mlflow_client().get_run(run_id)
        assert (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")
        assert run.data.metrics["scaled_mse"]
        assert {"training.json", "losses.parquet", "steps.csv"} <= artifacts(run_id), number
    # and so does the place in the history
    assert history() == {number: row for number, row in rows.items() if number != 5}
    assert tracking.aliases("demand") == ALIASES

    files = everything()
    assert lstm_flows("prune", "demand", "--keep=1") == (0, "Nothing to prune.\n", "")
    assert lstm_flows("prune", "demand", "--keep=1", "--dry-run") == (0, "Nothing to prune.\n", "")
    assert everything() == files

    # a pruned version can't be trained further, nor evaluated, but it can be champion; one that is gone is no version
    assert lstm_flows("rollback", "demand")[0] == 0
    assert champion() == 3
    settings = [("fine-tune", "--set=version=1"), ("fine-tune", "--set=version=3"), ("fine-tune",), ("monitor",)]
    for (command, *options), number in zip(settings, (1, 3, 3, 3), strict=True):
        assert names_all(refused(command, "demand", "-q", *options), f"version {number} of demand", "pruned")
    for command, option in (("fine-tune", "--set=version=5"), ("rollback", "5")):
        assert names_all(refused(command, "demand", "-q", option), "no version 5", "history demand")
    assert lstm_flows("rollback", "demand", "4")[0] == 0  # and back


def test_so_many_of_the_newest_stay(there: Path) -> None:
    files = everything()
    assert lstm_flows("prune", "demand", "--keep=6") == (0, "Nothing to prune.\n", "")
    assert lstm_flows("prune", "demand", "--keep=100") == (0, "Nothing to prune.\n", "")
    assert everything() == files
    planned = lstm_flows("prune", "demand", "--keep=3", "--dry-run")[1].splitlines()
    assert [line.partition(":")[0] for line in planned[:-1]] == ["version 1", "version 2", "version 3"]
    planned = lstm_flows("prune", "demand", "--keep=2", "--dry-run")[1].splitlines()
    assert len(planned) == 4  # what 4, which is champion, does not need of 1, 2 and 3


def test_data_that_a_version_needs_which_stays_is_not_removed(here: Path) -> None:
    """Versions 1 and 2 share theirs: with 2 as champion, 1 loses nothing but its checkpoint."""
    lstm_flows("rollback", "demand", "2")
    write_load(480)
    with plain():  # 2 is what goes on now
        code, out, _ = lstm_flows("fine-tune", "demand", "--set=epochs=1", "--set=mode=warm_start", "-q")
    assert code == 0
    assert names_all(" ".join(out.split()), "Skipped: version 2 has gone on with these rows before")
    found = versions()
    assert sizes_hidden(lstm_flows("prune", "demand", "--keep=1")[1]) == [
        "version 1: checkpoint (SIZE)",
        "version 3: checkpoint, data (SIZE)",
        "version 4: checkpoint, data (SIZE)",  # champion once
        "version 5: model, checkpoint, data (SIZE)",
        "4 versions pruned.",
    ]
    assert "data" in artifacts(parent(found[2]))
    assert "checkpoint" in artifacts(str(found[2].run_id))
    assert "checkpoint" not in artifacts(str(found[1].run_id))


def test_a_prune_that_broke_off_can_be_done_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_night_prunes_where_it_is_told_to(here: Path) -> None:
    write_load(520)
    with plain():
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
    # the same night again: how many are kept makes no other challenger
    config = FineTuneConfig(experiment="demand", epochs=1, min_improvement=0.99, keep_versions=1)
    again = fine_tune(config, return_state=True)
    assert again.name == "NothingToDo"
    assert again.result() == FineTuneResult(
        experiment="demand", outcome="skipped", message=again.message, base_version=4
    )
    assert list(versions()) == [1, 2, 3, 4, 6, 7]


@pytest.mark.parametrize("keep", ["0", "all"])
def test_keeping_none_is_refused(empty_directory: Path, keep: str) -> None:
    assert names_all(refused("prune", "demand", f"--keep={keep}"), "--keep", keep)


# ---- nights that find the registry, or the table, changed
def test_where_there_is_no_champion_a_named_version_goes_on_and_becomes_it(here: Path) -> None:
    tracking.mlflow_client().delete_registered_model_alias("demand", "champion")
    assert names_all(refused("fine-tune", "demand", "-q"), "experiment demand", "no champion", "lstm-flows compare")
    write_load(520)
    with plain():
        done: FineTuneResult = fine_tune(FineTuneConfig(experiment="demand", version=5, epochs=1))
    assert (done.outcome, done.base_version, done.challenger) == ("promoted", 5, 7)
    assert done.message == "Version 7 is champion now: there was none."
    assert done.comparison
    assert [result.name for result in done.comparison.results] == ["challenger/fine_tuned"]
    assert champion() == 7
    assert history()[7]["champion"][0]["reason"].endswith(", the first")


def test_a_table_that_changes_after_it_was_looked_at_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that is written anew in that second, and has lost its newest rows: those left were learnt from."""
    module = sys.modules["flows.fine_tune"]
    look = module.find_skip_reason

    def looked(*arguments: Any) -> Any:
        found = look(*arguments)
        write_load(300)
        return found

    monkeypatch.setattr(module, "find_skip_reason", looked)
    write_load(520)
    with plain(), pytest.raises(DataLeakageError):
        fine_tune(FineTuneConfig(experiment="demand", epochs=1))
    assert list(versions()) == [1, 2, 3, 4, 5, 6]


# ---- evaluate
def point() -> MonitoringPoint:
    found: MonitoringPoint = monitor(MonitorConfig(experiment="demand"))
    return found


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in tracking.mlflow_client().get_metric_history(run_id, name)]


def status(run_id: str) -> str:
    return str(tracking.mlflow_client().get_run(run_id).info.status)


def test_the_champion_on_the_newest_rows_is_a_series_in_one_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[str] = []
    log_batch = mlflow.MlflowClient.log_batch

    def noting(client: mlflow.MlflowClient, run_id: str, *arguments: Any, **options: Any) -> None:
        statuses.append(status(run_id))
        log_batch(client, run_id, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", noting)
    judged = Score.model_validate_json(versions()[4].tags["score"])  # on these rows, last night
    write_load(480)
    first = point()
    assert (first.version, first.step) == (4, 0)
    assert first.message == "Version 4 judged on 95 examples: point 0."
    assert first.metrics["scaled_mse"] == judged.loss
    assert first.run_id
    run = tracking.mlflow_client().get_run(first.run_id)
    assert (run.info.status, run.data.tags["lstm_flows.flow"]) == ("FINISHED", "monitor")

    again = point()
    message = "Skipped: version 4 has been judged on these rows."
    assert again == MonitoringPoint(experiment="demand", version=4, run_id=first.run_id, step=None, message=message)
    assert curve(first.run_id, "version") == [(0, 4.0)]

    write_load(520)
    second = point()
    assert (second.run_id, second.step, second.version) == (first.run_id, 1, 4)
    then = tracking.mlflow_client().get_run(first.run_id)
    assert (then.info.status, then.info.start_time) == ("FINISHED", run.info.start_time)
    assert then.info.end_time >= run.info.end_time

    lstm_flows("rollback", "demand")
    third = point()
    assert (third.run_id, third.step, third.version) == (first.run_id, 2, 3)
    assert statuses == 3 * ["RUNNING"]
    points: dict[str, list[float]] = {"version": [4.0, 4.0, 3.0]}
    for one in (first, second, third):
        (moved,) = one.drift
        for name, value in {**one.metrics, "drift/load/psi": moved.psi, "drift/load/ks": moved.ks}.items():
            points.setdefault(name, []).append(value)
    assert {name: curve(first.run_id, name) for name in points} == {
        name: list(enumerate(values)) for name, values in points.items()
    }
    assert versions()[4].tags["score"] == judged.model_dump_json()  # nothing about who is champion


@pytest.mark.parametrize(
    ("error", "expected"), [(OSError("no space"), "FAILED"), (SystemExit(143), "KILLED")], ids=["error", "signal"]
)
def test_a_point_that_breaks_says_so_and_the_next_one_is_added(
    here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: str
) -> None:
    first = point().run_id
    assert first

    def broken(*_: Any, **__: Any) -> None:
        raise error

    write_load(520)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", broken)
        with pytest.raises(type(error)):
            point()
    assert status(first) == expected
    second = point()
    assert (second.run_id, second.step, status(first)) == (first, 1, "FINISHED")


def test_an_evaluation_that_is_refused_leaves_the_series_as_it_is(here: Path) -> None:
    first = point().run_id
    assert first
    write_load(300)
    message = refused("monitor", "demand", "-q")
    assert names_all(message, "2024-01-11T00:00:00", "version 4 of demand", "2024-01-15T15:00:00 (validation)")
    pd.read_csv("demand.csv").rename(columns={"load": "power"}).to_csv("demand.csv", index=False)
    assert names_all(refused("monitor", "demand", "-q"), "demand.csv", "column load", "time, power")
    assert (status(first), curve(first, "version")) == ("FINISHED", [(0, 4.0)])


def test_an_evaluation_that_is_refused_at_first_makes_no_run(there: Path) -> None:
    state = monitor(MonitorConfig(experiment="demand", path="nowhere.csv"), return_state=True)
    assert (state.type, "nowhere.csv: no such file" in str(state.message)) == (StateType.FAILED, True)
    experiment = tracking.get_or_create_experiment("demand")
    assert tracking.mlflow_client().search_runs([experiment], "tags.`lstm_flows.flow` = 'monitor'") == []


def test_what_evaluate_prints(here: Path, tmp_path: Path) -> None:
    write_load(520)
    Path("demand.csv").rename(tmp_path / "moved.csv")
    moved = f"--set=path={tmp_path}/moved.csv"
    code, out, errors = lstm_flows("monitor", "demand", moved, "--json", "-q")
    assert (code, errors, out.count("\n")) == (0, "", 1)
    found = MonitoringPoint.model_validate_json(out)
    assert (found.version, found.step) == (4, 0)
    split = "--set=split={train: 0.75, validation: 0.05}"
    code, out, errors = lstm_flows("monitor", "demand", moved, split, "-q")
    assert (code, errors) == (0, "")
    assert re.search(r"^scaled_mse  0\.\d+$", out, re.MULTILINE)
    assert re.search(r"^load +\d\.\d{3} +\d\.\d{3}$", out, re.MULTILINE)
    assert out.splitlines()[-1] == "Version 4 judged on 103 examples: point 1."
    code, out, errors = lstm_flows("monitor", "demand", "--dry-run", split)
    assert (code, errors) == (0, "")
    assert out.startswith("experiment: demand\n")
