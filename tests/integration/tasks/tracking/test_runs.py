"""Start and termination of the MLflow runs of a flow run."""

import subprocess
from pathlib import Path

import psutil
import pytest
from helpers.configurations import TINY
from helpers.errors import names_all

from flows import recipes
from lstm_models.config import ConfigError
from tasks import tracking
from tasks.tracking import fingerprint, runs

CONFIG = recipes.load("tutorial", TINY)


def status(run_id: str) -> str:
    return str(tracking.mlflow_client().get_run(run_id).info.status)


def test_a_run_that_ends_normally_is_finished_and_records_its_configuration(workplace: Path) -> None:
    with runs.tracked_flow_run(runs.comparison_spec(CONFIG)) as parent:
        assert status(parent.run_id) == "RUNNING"
    run = tracking.mlflow_client().get_run(parent.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "42", "data": "tutorial", "contenders": "hand_built, built_in"}
    assert run.data.tags["lstm_flows.version.torch"] == fingerprint.package_versions()["torch"]
    stored = tracking.download(f"runs:/{parent.run_id}/config.yaml")
    assert recipes.load(str(stored)) == CONFIG


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
    ids=["exception", "ctrl-c", "signal"],
)
def test_an_exception_terminates_the_run_and_its_children(workplace: Path, error: BaseException, expected: str) -> None:
    started: list[str] = []

    def raise_in_run() -> None:
        with runs.tracked_flow_run(runs.comparison_spec(CONFIG)) as parent:
            children = [
                tracking.start_run(parent.experiment_id, "child", parent=parent.run_id, tags={}, note="")
                for _ in range(2)
            ]
            started.extend([parent.run_id, *children])
            tracking.mlflow_client().set_terminated(started[1], "FINISHED")
            raise error

    with pytest.raises(type(error)) as caught:
        raise_in_run()
    assert caught.value is error
    assert error.__notes__ == [runs.CAN_RESUME]
    assert [status(run_id) for run_id in started] == [expected, "FINISHED", expected]
    tags = tracking.mlflow_client().get_run(started[0]).data.tags
    assert tags["lstm_flows.error"] == f"{type(error).__name__}: {error}"


def test_a_run_whose_process_is_gone_is_marked_killed(workplace: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        started = psutil.Process(process.pid).create_time()
        abandoned = runs.start_parent_run(runs.comparison_spec(CONFIG)).run_id
        tracking.mlflow_client().set_tag(abandoned, "lstm_flows.pid", str(process.pid))
        tracking.mlflow_client().set_tag(abandoned, "lstm_flows.started", f"{started:.2f}")
        runs.close_abandoned_runs(tracking.get_or_create_experiment("tutorial"))
        assert status(abandoned) == "RUNNING"  # while the process is running
        process.communicate()
    elsewhere = tracking.start_run(tracking.get_or_create_experiment("tutorial"), "on another host", tags={}, note="")
    for name, value in {"host": "elsewhere", "pid": str(process.pid)}.items():
        tracking.mlflow_client().set_tag(elsewhere, f"lstm_flows.{name}", value)
    alive = runs.start_parent_run(runs.comparison_spec(CONFIG))
    assert [status(run_id) for run_id in (abandoned, elsewhere, alive.run_id)] == ["KILLED", "RUNNING", "RUNNING"]


def test_a_cell_that_cannot_be_imported_creates_no_run(workplace: Path) -> None:
    config = recipes.load("tutorial", [*TINY, "contenders.hand_built.model.cell=nowhere.Mine"])
    with pytest.raises(ConfigError) as caught, runs.tracked_flow_run(runs.comparison_spec(config)):
        pass
    assert names_all(caught.value, "cell nowhere.Mine", "No module named 'nowhere'")
    assert tracking.mlflow_client().get_experiment_by_name("tutorial") is None
