"""What a flow run that did not end well leaves behind in MLflow."""

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


def family(of: FlowRun, experiment: str = "tutorial") -> tuple[ParentRun, str]:
    """A parent run of a flow run, and a child of it; both RUNNING."""
    config = CONFIG.model_copy(update={"experiment": experiment})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(of.id))
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
def test_what_is_left_running_is_marked_and_nothing_else_is(workplace: Path, state: State[Any], expected: str) -> None:
    mine = flow_run()
    parent, first = family(mine)
    done = child(parent)
    tracking.mlflow_client().set_terminated(done, "FINISHED")
    elsewhere, its_child = family(mine, "another experiment")
    others, their_child = family(flow_run())
    by_hand = tracking.start_run(parent.experiment_id, "by hand", tags={}, note="")
    for _ in range(2):
        state_hooks.terminate_tracked_runs(fine_tune, mine, state)
        assert status(parent.run_id, first, elsewhere.run_id, its_child) == [expected] * 4
        assert status(done, others.run_id, their_child, by_hand) == ["FINISHED", *["RUNNING"] * 3]
        state = Failed(message="a second hook changes nothing")
    ended = tracking.mlflow_client().get_run(parent.run_id).info
    assert ended.end_time >= ended.start_time


def test_what_has_ended_stays_as_it_ended(workplace: Path) -> None:
    run = flow_run()
    parent, own = family(run)
    runs.terminate_runs(parent.experiment_id, parent.run_id, "FINISHED")
    state_hooks.terminate_tracked_runs(fine_tune, run, Failed(message="the report failed"))
    assert status(parent.run_id, own) == ["FINISHED"] * 2


def test_the_long_lived_run_of_a_series_is_marked_as_well(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = flow_run()
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(run.id))
    with monitoring._series_run(None, "tutorial") as run_id:
        assert status(run_id) == ["RUNNING"]
        state_hooks.terminate_tracked_runs(monitor, run, Cancelled(message="enough"))
        assert status(run_id) == ["KILLED"]
    found = tracking.find_run("tutorial", "tags.`lstm_flows.flow` = 'monitor'")
    assert found
    assert found.info.run_id == run_id
