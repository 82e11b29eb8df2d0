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
import numpy as np
import pandas as pd
import pytest
from helpers.cli_runner import lstm_flows, plain, webhook, working_in
from helpers.processes import free_port
from mlflow.entities.model_registry import ModelVersion
from prefect.client.schemas.objects import StateType

from flows.compare import compare
from flows.evaluate import evaluate
from flows.fine_tune import fine_tune
from lstm_models.config import EvaluateConfig, FineTuneConfig
from lstm_models.held_out import NotHeldOut
from tasks import tracking
from tasks.references import FineTuned, Judged, Watched

DEMAND = """\
data: {kind: table, path: demand.csv, time: time, target: load, context_length: 8, horizon: 2}
contenders:
  hand_built: {model: {hidden_size: 4}, training: {max_epochs: 1, threads: 1}, fine_tuning: {max_epochs: 2}}
"""
ALIASES = {"champion": 4, "challenger": 6, "hand_built": 6}


def demand(rows: int) -> None:
    """An hourly load: a day's sine and noise. A longer table begins like a shorter one."""
    hours = np.arange(rows)
    load = 10 + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * np.random.default_rng(0).normal(size=rows)
    time = pd.date_range("2024-01-01", periods=rows, freq="h").astype(str)
    pd.DataFrame({"time": time, "load": np.round(load, 4)}).to_csv("demand.csv", index=False)


@pytest.fixture(scope="module")
def made(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """Versions 1 and 2 of a comparison; 3 goes on from 2, and 4 from 3, both promoted; 5 from 4 and 6 from 2, kept."""
    directory = tmp_path_factory.mktemp("made")
    shutil.copy(database, directory)
    (directory / "demand.yaml").write_text(DEMAND)
    with working_in(directory), plain():
        demand(300)
        compare("demand.yaml")
        for rows, settings in (
            (340, {"epochs": 20}),
            (440, {"epochs": 2}),
            (480, {"epochs": 1, "margin": 0.99}),
            (480, {"epochs": 1, "mode": "warm_start", "version": 2}),
        ):
            demand(rows)
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


@pytest.fixture
def posts() -> Iterator[list[dict[str, Any]]]:
    """What a webhook is sent."""
    with webhook() as found:
        yield found


def history() -> dict[int, dict[str, Any]]:
    """What history --json tells, by version."""
    code, out, errors = lstm_flows("history", "demand", "--json")
    assert (code, errors) == (0, "")
    return {row["version"]: row for row in json.loads(out)}


def versions() -> dict[int, ModelVersion]:
    return {tracking.number(version): version for version in tracking.versions("demand")}


def champion() -> int:
    return tracking.aliases("demand")["champion"]


def artifacts(run_id: str) -> set[str]:
    """A run's files and folders on the disk, whatever MLflow knows of them."""
    place = Path(tracking.client().get_run(run_id).info.artifact_uri.removeprefix("file://"))
    return {path.name for path in place.iterdir()}


def parent(version: ModelVersion) -> str:
    """The run whose data a version was trained on."""
    return str(tracking.client().get_run(version.run_id).data.tags["mlflow.parentRunId"])


def model(version: ModelVersion) -> Path:
    """Where a version's model lies."""
    found = tracking.client().get_logged_model(str(version.source).removeprefix("models:/"))
    return Path(found.artifact_location.removeprefix("file://"))


def everything() -> set[tuple[str, int]]:
    """All files of the runs and models."""
    return {(str(path), path.stat().st_size) for path in Path("mlruns").rglob("*") if path.is_file()}


# ---- nobody there
COMMANDS = [("history",), ("rollback",), ("prune", "--keep=1"), ("evaluate", "-q")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_where_nothing_is_tracked_nothing_is_made(harness: None, empty_directory: Path, command: list[str]) -> None:
    message = f"experiment demand: no models here, since there is no mlflow.db in {empty_directory}"
    name, *options = command
    assert lstm_flows(name, "demand", *options) == (2, "", f"lstm-flows: {message}\n")
    assert list(empty_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (COMMANDS[0], "experiment demnd: no registered model of this name"),
        (COMMANDS[1], "experiment demnd: no champion; see lstm-flows history demnd"),
        (COMMANDS[2], "experiment demnd: no registered model of this name"),
        (COMMANDS[3], "experiment demnd: no champion; lstm-flows compare makes one"),
    ],
    ids=[command[0] for command in COMMANDS],
)
def test_an_experiment_that_is_not_there_is_one_line(there: Path, command: tuple[str, ...], message: str) -> None:
    name, *options = command
    assert lstm_flows(name, "demnd", *options) == (2, "", f"lstm-flows: {message}\n")
    assert tracking.client().get_experiment_by_name("demnd") is None


@pytest.mark.parametrize("command", [("history",), ("prune", "--keep=1", "--dry-run")], ids=["history", "prune"])
def test_an_mlflow_server_that_is_away_is_one_line(
    harness: None, empty_directory: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name, *options = command
    code, out, errors = lstm_flows(name, "demand", *options)
    assert (code, out, errors.count("\n")) == (1, "", 1)


# ---- history
def test_history_tells_what_continues_what_on_which_rows(there: Path) -> None:
    rows = history()
    assert list(rows) == [1, 2, 3, 4, 5, 6]
    assert [row["continues"] for row in rows.values()] == [None, 1, 2, 3, 4, 2]
    assert [row["phase"] for row in rows.values()] == ["initial", *["fine_tuned"] * 5]
    assert {row["contender"] for row in rows.values()} == {"hand_built"}
    ends = [pd.Timestamp("2024-01-01") + pd.Timedelta(round(0.7 * count) - 1, "h") for count in (300, 340, 440, 480)]
    told = [f"to {end:%Y-%m-%d %H:%M}" for end in ends]
    assert [row["rows"] for row in rows.values()] == [told[0], told[0], told[1], told[2], told[3], told[3]]
    assert [row["aliases"] for row in rows.values()] == [[], [], [], ["champion"], [], ["challenger", "hand_built"]]


def test_history_tells_the_latest_judgement_the_runs_and_the_flow_runs(there: Path) -> None:
    rows, found = history(), versions()
    for number, row in rows.items():
        version = found[number]
        judged = Judged.model_validate_json(version.tags["judged"])
        assert (row["loss"], row["judged_on"], row["run"]) == (judged.loss, judged.dataset, version.run_id)
        flow_run = tracking.client().get_run(parent(version)).data.tags["lstm_flows.prefect_flow_run_id"]
        assert row["flow_run"] == flow_run
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row["made"])
    assert rows[4]["judged_on"] == rows[5]["judged_on"] == rows[6]["judged_on"]  # the champion, anew every night


def test_history_tells_who_was_champion_when_and_why(there: Path) -> None:
    rows = history()
    reigns = [row["champion"] for row in rows.values()]
    assert [len(times) for times in reigns] == [0, 1, 1, 1, 0, 0]
    (second,), (third,), (fourth,) = reigns[1:4]
    assert second["until"] == third["since"]
    assert third["until"] == fourth["since"]
    assert fourth["until"] is None
    assert second["since"] <= third["since"] <= fourth["since"]
    assert second["why"].endswith(", the first")
    assert re.fullmatch(r"loss 0\.\d+, better than version 2's 0\.\d+", third["why"])
    assert re.fullmatch(r"loss 0\.\d+, better than version 3's 0\.\d+", fourth["why"])
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
def test_rollback_goes_back_step_by_step(here: Path) -> None:
    for old, new in ((4, 3), (3, 2)):
        message = f"Version {new} is champion of demand again (rollback from version {old}: by hand).\n"
        assert lstm_flows("rollback", "demand") == (0, message, "")
        assert tracking.aliases("demand") == ALIASES | {"champion": new}
    message = "experiment demand: nobody was champion before version 2; give a version, see lstm-flows history demand"
    assert lstm_flows("rollback", "demand") == (2, "", f"lstm-flows: {message}\n")
    assert champion() == 2


def test_the_reason_of_a_rollback_is_recorded(here: Path) -> None:
    before = history()
    code, out, _ = lstm_flows("rollback", "demand", "--why", "the sensor was broken")
    assert code == 0
    why = "rollback from version 4: the sensor was broken"
    assert out == f"Version 3 is champion of demand again ({why}).\n"
    rows = history()
    first, second = rows[3]["champion"]
    assert first == before[3]["champion"][0]
    assert (second["why"], second["until"], second["flow_run"]) == (why, None, "none")
    assert rows[4]["champion"] == [before[4]["champion"][0] | {"until": second["since"]}]
    table = lstm_flows("history", "demand")[1].splitlines()
    line = next(place for place, line in enumerate(table) if line.startswith("3 "))
    assert re.search(r" \d\d-\d\d \d\d:\d\d - \d\d-\d\d \d\d:\d\d +champion *$", table[line])
    assert re.search(r"^ +\d\d-\d\d \d\d:\d\d - now *$", table[line + 1])


def test_a_version_can_be_named_and_the_champion_before_comes_back_after_it(here: Path) -> None:
    """Version 5 has never been champion: who was when it took over comes back; and then goes back to its own."""
    assert lstm_flows("rollback", "demand", "5")[:2] == (
        0,
        "Version 5 is champion of demand again (rollback from version 4: by hand).\n",
    )
    assert [lstm_flows("rollback", "demand")[0] for _ in range(2)] == [0, 0]
    assert champion() == 3
    whys = {number: [time["why"] for time in row["champion"][-1:]] for number, row in history().items()}
    assert whys[5] == ["rollback from version 4: by hand"]
    assert whys[4] == ["rollback from version 5: by hand"]
    assert whys[3] == ["rollback from version 4: by hand"]
    assert [len(row["champion"]) for row in history().values()] == [0, 1, 2, 2, 1, 0]


def test_a_challenger_that_becomes_champion_is_challenger_no_more(here: Path) -> None:
    assert lstm_flows("rollback", "demand", "6")[0] == 0
    assert tracking.aliases("demand") == {"champion": 6, "hand_built": 6}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("4", "experiment demand: version 4 is champion already"),
        ("99", "experiment demand: no version 99; see lstm-flows history demand"),
        ("0", "Invalid value for '[VERSION]': 0 is not in the range x>=1."),
        ("two", "Invalid value for '[VERSION]': 'two' is not a valid integer range."),
    ],
)
def test_a_version_that_can_not_be_gone_back_to_is_one_line(there: Path, version: str, message: str) -> None:
    assert lstm_flows("rollback", "demand", version) == (2, "", f"lstm-flows: {message}\n")
    assert tracking.aliases("demand") == ALIASES


def test_the_webhook_is_told_of_a_rollback(here: Path, posts: list[dict[str, Any]]) -> None:
    assert lstm_flows("rollback", "demand", "--why", "so I say")[0] == 0
    message = "demand: back from version 4 to 3: so I say"
    assert posts == [
        {"event": "rollback", "message": message, "text": message, "experiment": "demand", "flow_run": None}
    ]


def test_a_long_reason_does_not_spoil_the_history(here: Path) -> None:
    assert lstm_flows("rollback", "demand", "--why", "the sensor was broken, " * 300)[0] == 0
    (_, last) = history()[3]["champion"]
    assert last["why"].startswith("rollback from version 4: the sensor was broken, ")
    assert lstm_flows("rollback", "demand")[0] == 0


def test_after_a_rollback_the_next_night_goes_on_from_the_champion(here: Path) -> None:
    lstm_flows("rollback", "demand", "2")
    demand(480)
    with plain():
        code, out, _ = lstm_flows("fine-tune", "demand", "--set=epochs=1", "--set=mode=warm_start", "-q")
    assert (code, out) == (0, out)
    assert " ".join(out.split()).startswith("Nothing to do: version 2 has gone on with these rows before, in run ")


# ---- prune
def test_a_dry_run_tells_what_would_go_and_removes_nothing(there: Path) -> None:
    files, before = everything(), {number: version.tags for number, version in versions().items()}
    code, out, errors = lstm_flows("prune", "demand", "--keep=1", "--dry-run")
    assert (code, errors) == (0, "")
    assert re.sub(r"\d+\.\d MB", "SIZE", out).splitlines() == [
        "version 1: checkpoint, data (SIZE)",
        "version 2: checkpoint (SIZE)",
        "version 3: checkpoint, data (SIZE)",
        "version 5: model, checkpoint, data (SIZE)",
        "4 versions would be pruned.",
    ]
    assert everything() == files
    assert {number: version.tags for number, version in versions().items()} == before
    assert tracking.aliases("demand") == ALIASES


def test_prune_removes_what_it_told(here: Path) -> None:
    """Of 1, 2 and 3, which 4 and 6 continue, the model stays; of 5 nothing but its run."""
    before = versions()
    models = {number: model(version) for number, version in before.items()}
    parents = {number: parent(version) for number, version in before.items()}
    rows = history()
    planned = lstm_flows("prune", "demand", "--keep=1", "--dry-run")[1].splitlines()[:-1]
    code, out, errors = lstm_flows("prune", "demand", "--keep=1")
    assert (code, out, errors) == (0, "\n".join([*planned, "4 versions pruned.\n"]), "")
    assert list(versions()) == [1, 2, 3, 4, 6]
    assert {number for number, place in models.items() if place.exists()} == {1, 2, 3, 4, 6}
    assert not any(models[5].parent.rglob("*"))
    runs = {number: str(version.run_id) for number, version in before.items()}
    assert {number for number, run_id in runs.items() if "checkpoint" in artifacts(run_id)} == {4, 6}
    assert {number for number, run_id in parents.items() if "data" in artifacts(run_id)} == {4, 6}
    # MLflow no longer knows the model either
    experiment = tracking.experiment_id("demand")
    assert len(tracking.client().search_logged_models([experiment])) == 5
    # runs stay, with their metrics and what else they hold
    for number, run_id in runs.items():
        run = tracking.client().get_run(run_id)
        assert (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")
        assert run.data.metrics["scaled_mse"]
        assert {"training.json", "losses.parquet", "steps.csv"} <= artifacts(run_id), number
    # and so does the place in the history
    assert history() == {number: row for number, row in rows.items() if number != 5}
    assert tracking.aliases("demand") == ALIASES


def test_pruned_twice_there_is_nothing_to_prune(here: Path) -> None:
    assert lstm_flows("prune", "demand", "--keep=1")[0] == 0
    files = everything()
    assert lstm_flows("prune", "demand", "--keep=1") == (0, "Nothing to prune.\n", "")
    assert lstm_flows("prune", "demand", "--keep=1", "--dry-run") == (0, "Nothing to prune.\n", "")
    assert everything() == files


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
    found = versions()
    out = lstm_flows("prune", "demand", "--keep=1")[1]
    assert re.sub(r"\d+\.\d MB", "SIZE", out).splitlines() == [
        "version 1: checkpoint (SIZE)",
        "version 3: checkpoint, data (SIZE)",
        "version 4: checkpoint, data (SIZE)",  # champion once
        "version 5: model, checkpoint, data (SIZE)",
        "4 versions pruned.",
    ]
    assert "data" in artifacts(parent(found[2]))
    assert "checkpoint" in artifacts(str(found[2].run_id))
    assert "checkpoint" not in artifacts(str(found[1].run_id))


def test_a_pruned_version_can_not_go_on_and_one_that_is_gone_is_no_version(here: Path) -> None:
    lstm_flows("prune", "demand", "--keep=1")
    for number in (1, 3):
        message = f"lstm-flows: version {number} of demand: its checkpoint was pruned; compare anew\n"
        assert lstm_flows("fine-tune", "demand", f"--set=version={number}", "-q") == (2, "", message)
    for command in (("fine-tune", "demand", "--set=version=5", "-q"), ("rollback", "demand", "5")):
        message = "lstm-flows: experiment demand: no version 5; see lstm-flows history demand\n"
        assert lstm_flows(*command) == (2, "", message)


def test_a_pruned_version_that_was_champion_can_be_champion_again_and_not_go_on(here: Path) -> None:
    lstm_flows("prune", "demand", "--keep=1")
    assert lstm_flows("rollback", "demand")[0] == 0
    assert champion() == 3
    message = "lstm-flows: version 3 of demand: its checkpoint was pruned; compare anew\n"
    assert lstm_flows("fine-tune", "demand", "-q") == (2, "", message)
    assert lstm_flows("evaluate", "demand", "-q") == (2, "", message)
    assert lstm_flows("rollback", "demand", "4")[0] == 0  # and back


def test_a_prune_that_broke_off_can_be_done_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {number: model(version) for number, version in versions().items()}

    def broken(*_: Any) -> None:
        raise OSError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "delete_model_version", broken)
        code, _, errors = lstm_flows("prune", "demand", "--keep=1")
    assert (code, errors.startswith("lstm-flows: the run failed: OSError: the database is away")) == (1, True)
    assert list(versions()) == [1, 2, 3, 4, 5, 6]
    code, out, _ = lstm_flows("prune", "demand", "--keep=1")
    assert (code, out.splitlines()[-1]) == (0, "1 versions pruned.")
    assert list(versions()) == [1, 2, 3, 4, 6]
    assert not models[5].exists()


def test_a_night_prunes_where_it_is_told_to(here: Path) -> None:
    demand(520)
    with plain():
        code, out, _ = lstm_flows("fine-tune", "demand", "--set=epochs=1", "--set=margin=0.99", "--set=keep=2", "-q")
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
    config = FineTuneConfig(experiment="demand", epochs=1, margin=0.99, keep=1)
    again = fine_tune(config, return_state=True)
    assert again.name == "NothingToDo"
    assert again.result() == FineTuned(experiment="demand", outcome="nothing to do", message=again.message, continued=4)
    assert list(versions()) == [1, 2, 3, 4, 6, 7]


@pytest.mark.parametrize("keep", ["0", "-1", "all"])
def test_keeping_none_is_refused(empty_directory: Path, keep: str) -> None:
    code, out, errors = lstm_flows("prune", "demand", f"--keep={keep}")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("lstm-flows: Invalid value for '--keep': ")


# ---- nights that find the registry, or the table, changed
def test_where_there_is_no_champion_a_named_version_goes_on_and_becomes_it(here: Path) -> None:
    tracking.client().delete_registered_model_alias("demand", "champion")
    message = "lstm-flows: experiment demand: no champion; lstm-flows compare makes one\n"
    assert lstm_flows("fine-tune", "demand", "-q") == (2, "", message)
    demand(520)
    with plain():
        done: FineTuned = fine_tune(FineTuneConfig(experiment="demand", version=5, epochs=1))
    assert (done.outcome, done.continued, done.challenger) == ("promoted", 5, 7)
    assert done.message == "Version 7 is champion now: there was none."
    assert done.comparison
    assert [result.name for result in done.comparison.results] == ["challenger/fine_tuned"]
    assert champion() == 7
    assert history()[7]["champion"][0]["why"].endswith(", the first")


def test_a_table_that_changes_after_it_was_looked_at_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that is written anew in that second, and has lost its newest rows: those left were learnt from."""
    module = sys.modules["flows.fine_tune"]
    look = module.nothing_new

    def looked(*arguments: Any) -> Any:
        found = look(*arguments)
        demand(300)
        return found

    monkeypatch.setattr(module, "nothing_new", looked)
    demand(520)
    with plain(), pytest.raises(NotHeldOut):
        fine_tune(FineTuneConfig(experiment="demand", epochs=1))
    assert list(versions()) == [1, 2, 3, 4, 5, 6]


# ---- evaluate
def point() -> Watched:
    found: Watched = evaluate(EvaluateConfig(experiment="demand"))
    return found


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in tracking.client().get_metric_history(run_id, name)]


def status(run_id: str) -> str:
    return str(tracking.client().get_run(run_id).info.status)


def test_the_champion_on_the_newest_rows_is_a_series_in_one_run(here: Path) -> None:
    judged = Judged.model_validate_json(versions()[4].tags["judged"])  # on these rows, last night
    demand(480)
    first = point()
    assert (first.version, first.step) == (4, 0)
    assert first.message == "Version 4 judged on 95 examples: point 0."
    assert first.metrics["scaled_mse"] == judged.loss
    assert first.run_id
    assert status(first.run_id) == "FINISHED"

    again = point()
    message = "Nothing to do: version 4 has been judged on these rows."
    assert again == Watched(experiment="demand", version=4, run_id=first.run_id, step=None, message=message)
    assert curve(first.run_id, "version") == [(0, 4.0)]

    demand(520)
    second = point()
    assert (second.run_id, second.step, second.version) == (first.run_id, 1, 4)
    assert status(first.run_id) == "FINISHED"

    lstm_flows("rollback", "demand")
    third = point()
    assert (third.run_id, third.step, third.version) == (first.run_id, 2, 3)
    assert curve(first.run_id, "version") == [(0, 4.0), (1, 4.0), (2, 3.0)]
    for name, value in first.metrics.items():
        expected = [(0, value), (1, second.metrics[name]), (2, third.metrics[name])]
        assert curve(first.run_id, name) == expected
    for place, one in enumerate((first, second, third)):
        (moved,) = one.drift
        assert curve(first.run_id, "drift/load/psi")[place] == (place, moved.psi)
        assert curve(first.run_id, "drift/load/ks")[place] == (place, moved.ks)
    assert versions()[4].tags["judged"] == judged.model_dump_json()  # nothing about who is champion


def test_the_run_is_running_while_a_point_is_added_and_finished_between(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = point().run_id
    assert first
    statuses: list[str] = []
    log_batch = mlflow.MlflowClient.log_batch

    def noting(client: mlflow.MlflowClient, run_id: str, *arguments: Any, **options: Any) -> None:
        statuses.append(status(run_id))
        log_batch(client, run_id, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", noting)
    demand(520)
    assert point().run_id == first
    assert statuses == ["RUNNING"]
    assert status(first) == "FINISHED"
    run = tracking.client().get_run(first)
    assert run.info.end_time > run.info.start_time
    assert run.data.tags["lstm_flows.flow"] == "evaluate"


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

    demand(520)
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
    demand(300)
    code, out, errors = lstm_flows("evaluate", "demand", "-q")
    assert (code, out) == (2, "")
    assert errors == (
        "lstm-flows: the rows to judge by begin at 2024-01-11T00:00:00, but version 4 of demand has learnt from rows "
        "up to 2024-01-15T15:00:00 (validation); move the split, or compare anew\n"
    )
    pd.read_csv("demand.csv").rename(columns={"load": "power"}).to_csv("demand.csv", index=False)
    message = "demand.csv: column load is missing; found: time, power"
    assert lstm_flows("evaluate", "demand", "-q") == (2, "", f"lstm-flows: {message}\n")
    assert (status(first), curve(first, "version")) == ("FINISHED", [(0, 4.0)])


def test_an_evaluation_that_is_refused_at_first_makes_no_run(there: Path) -> None:
    state = evaluate(EvaluateConfig(experiment="demand", path="nowhere.csv"), return_state=True)
    assert (state.type, "nowhere.csv: no such file" in str(state.message)) == (StateType.FAILED, True)
    experiment = tracking.experiment_id("demand")
    assert tracking.client().search_runs([experiment], "tags.`lstm_flows.flow` = 'evaluate'") == []


def test_what_evaluate_prints(here: Path, tmp_path: Path) -> None:
    demand(520)
    Path("demand.csv").rename(tmp_path / "moved.csv")
    moved = f"--set=path={tmp_path}/moved.csv"
    code, out, errors = lstm_flows("evaluate", "demand", moved, "--json", "-q")
    assert (code, errors, out.count("\n")) == (0, "", 1)
    found = Watched.model_validate_json(out)
    assert (found.version, found.step) == (4, 0)
    split = "--set=split={train: 0.75, validation: 0.05}"
    code, out, errors = lstm_flows("evaluate", "demand", moved, split, "-q")
    assert (code, errors) == (0, "")
    assert re.search(r"^scaled_mse  0\.\d+$", out, re.MULTILINE)
    assert re.search(r"^load +\d\.\d{3} +\d\.\d{3}$", out, re.MULTILINE)
    assert out.splitlines()[-1] == "Version 4 judged on 103 examples: point 1."
    code, out, errors = lstm_flows("evaluate", "demand", "--dry-run", split)
    assert (code, errors) == (0, "")
    assert out.startswith("experiment: demand\n")
