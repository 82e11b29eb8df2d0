"""The MLflow runs of flow runs that fail, crash or are cancelled."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from helpers.configurations import TINY
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Crashed, Failed

from flows import recipes
from flows.fine_tune import fine_tune
from flows.monitor import monitor
from tasks import monitoring, tracking
from tasks.orchestration import state_hooks
from tasks.schemas import ParentRun
from tasks.tracking import runs

CONFIG = recipes.load("tutorial", TINY)


def flow_run() -> FlowRun:
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")


def start_runs(owner: FlowRun, experiment: str = "tutorial") -> tuple[ParentRun, str]:
    """Start a parent run of a flow run, and a child of it; both stay RUNNING."""
    config = CONFIG.model_copy(update={"experiment": experiment})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(owner.id))
        patch.setattr(runs, "close_abandoned_runs", lambda _: None)
        parent = runs.start_parent_run(runs.comparison_spec(config))
    return parent, child(parent)


def child(parent: ParentRun) -> str:
    return tracking.start_run(parent.experiment_id, "child", parent=parent.run_id, tags={}, note="")


def status(*run_ids: str) -> list[str]:
    return [str(tracking.mlflow_client().get_run(run_id).info.status) for run_id in run_ids]


STATES = [
    pytest.param(Failed(message="no"), "FAILED", id="failed"),
    pytest.param(Failed(name="TimedOut", message="too long"), "FAILED", id="timed out"),
    pytest.param(Crashed(message="killed"), "KILLED", id="crashed"),
    pytest.param(Cancelled(message="enough"), "KILLED", id="cancelled"),
]


@pytest.mark.parametrize(("state", "expected"), STATES)
def test_running_runs_of_the_flow_run_are_terminated_and_no_others(
    workplace: Path, state: State[Any], expected: str
) -> None:
    failed_flow_run = flow_run()
    parent, first = start_runs(failed_flow_run)
    finished = child(parent)
    tracking.mlflow_client().set_terminated(finished, "FINISHED")
    other_experiment, its_child = start_runs(failed_flow_run, "another experiment")
    others, their_child = start_runs(flow_run())
    by_hand = tracking.start_run(parent.experiment_id, "by hand", tags={}, note="")
    for _ in range(2):
        state_hooks.terminate_tracked_runs(fine_tune, failed_flow_run, state)
        assert status(parent.run_id, first, other_experiment.run_id, its_child) == [expected] * 4
        assert status(finished, others.run_id, their_child, by_hand) == ["FINISHED", *["RUNNING"] * 3]
        state = Failed(message="a second hook changes nothing")
    ended = tracking.mlflow_client().get_run(parent.run_id).info
    assert ended.end_time >= ended.start_time


def test_terminated_runs_keep_their_status(workplace: Path) -> None:
    run = flow_run()
    parent, child_run = start_runs(run)
    runs.terminate_runs(parent.experiment_id, parent.run_id, "FINISHED")
    state_hooks.terminate_tracked_runs(fine_tune, run, Failed(message="the report failed"))
    assert status(parent.run_id, child_run) == ["FINISHED"] * 2


def test_the_reopened_run_of_a_monitoring_series_is_terminated_too(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = flow_run()
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(run.id))
    with monitoring._series_run(None, "tutorial") as run_id:
        assert status(run_id) == ["RUNNING"]
        state_hooks.terminate_tracked_runs(monitor, run, Cancelled(message="enough"))
        assert status(run_id) == ["KILLED"]
    series = tracking.find_run("tutorial", "tags.`lstm_flows.flow` = 'monitor'")
    assert series
    assert series.info.run_id == run_id
