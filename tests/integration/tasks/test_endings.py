"""What a flow run that did not end well leaves behind in MLflow."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from helpers.configurations import TINY
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Crashed, Failed

from flows import recipes
from flows.compare import compare
from flows.evaluate import evaluate
from flows.fine_tune import fine_tune
from tasks import endings, runs, tracking, watching
from tasks.references import ParentRun

CONFIG = recipes.load("tutorial", TINY)


def flow_run() -> FlowRun:
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")


def family(of: FlowRun, experiment: str = "tutorial") -> tuple[ParentRun, str]:
    """A parent run of a flow run, and a child of it; both RUNNING."""
    config = CONFIG.model_copy(update={"experiment": experiment})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(of.id))
        patch.setattr(runs, "close_abandoned_runs", lambda _: None)
        parent = runs.start_parent(runs.comparison(config))
    return parent, child(parent)


def child(parent: ParentRun) -> str:
    return tracking.start_run(parent.experiment_id, "child", parent=parent.run_id, tags={}, note="")


def status(run_id: str) -> str:
    return str(tracking.client().get_run(run_id).info.status)


STATES = [
    pytest.param(Failed(message="no"), "FAILED", id="failed"),
    pytest.param(Failed(name="TimedOut", message="too long"), "FAILED", id="timed out"),
    pytest.param(Crashed(message="killed"), "KILLED", id="crashed"),
    pytest.param(Cancelled(message="enough"), "KILLED", id="cancelled"),
]


@pytest.mark.parametrize(("state", "expected"), STATES)
def test_what_is_left_running_is_marked_and_nothing_else_is(workplace: Path, state: State[Any], expected: str) -> None:
    mine, another = flow_run(), flow_run()
    parent, first = family(mine)
    done = child(parent)
    tracking.client().set_terminated(done, "FINISHED")
    others = family(another)
    by_hand = tracking.start_run(parent.experiment_id, "by hand", tags={}, note="")
    endings.ended_badly(fine_tune, mine, state)
    assert [status(run_id) for run_id in (parent.run_id, first, done)] == [expected, expected, "FINISHED"]
    assert [status(run_id) for run_id in (others[0].run_id, others[1], by_hand)] == ["RUNNING"] * 3
    ended = tracking.client().get_run(parent.run_id).info
    assert ended.end_time >= ended.start_time


def test_what_has_ended_stays_as_it_ended(workplace: Path) -> None:
    run = flow_run()
    parent, own = family(run)
    runs.end_family(parent.experiment_id, parent.run_id, "FINISHED")
    endings.ended_badly(fine_tune, run, Failed(message="the report failed"))
    assert (status(parent.run_id), status(own)) == ("FINISHED", "FINISHED")


def test_the_second_hook_changes_nothing(workplace: Path) -> None:
    run = flow_run()
    parent, own = family(run)
    endings.ended_badly(fine_tune, run, Crashed(message="killed"))
    endings.ended_badly(fine_tune, run, Failed(message="no"))
    assert (status(parent.run_id), status(own)) == ("KILLED", "KILLED")


def test_runs_of_any_experiment_are_marked(workplace: Path) -> None:
    run = flow_run()
    families = [family(run, experiment) for experiment in ("one", "two")]
    endings.ended_badly(compare, run, Failed(message="no"))
    assert [status(parent.run_id) for parent, _ in families] == ["FAILED", "FAILED"]


def test_the_long_lived_run_of_a_series_is_marked_as_well(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = flow_run()
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(run.id))
    with watching._appending(None, "tutorial") as run_id:
        assert status(run_id) == "RUNNING"
        endings.ended_badly(evaluate, run, Cancelled(message="enough"))
        assert status(run_id) == "KILLED"
    found = tracking.find_run("tutorial", "tags.`lstm_flows.flow` = 'evaluate'")
    assert found
    assert found.info.run_id == run_id


def test_no_database_is_made_where_there_is_none(empty_directory: Path) -> None:
    endings.ended_badly(fine_tune, flow_run(), Failed(message="demand.csv: no such file"))
    assert list(empty_directory.iterdir()) == []


@pytest.mark.parametrize("flow", [compare, fine_tune, evaluate], ids=lambda flow: flow.name)
def test_every_flow_has_the_hooks(flow: Any) -> None:
    for hooks in (flow.on_failure_hooks, flow.on_crashed_hooks, flow.on_cancellation_hooks):
        assert hooks == [endings.ended_badly]
