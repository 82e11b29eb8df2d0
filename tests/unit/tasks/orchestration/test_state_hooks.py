"""State hooks of flows, without MLflow."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed

from flows.compare import compare
from flows.fine_tune import fine_tune
from flows.monitor import monitor
from tasks.orchestration import state_hooks


def test_the_hook_creates_no_database(empty_directory: Path) -> None:
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="bold-cat")
    state_hooks.terminate_tracked_runs(fine_tune, run, Failed(message="demand.csv: no such file"))
    assert list(empty_directory.iterdir()) == []


@pytest.mark.parametrize("flow", [compare, fine_tune, monitor], ids=lambda flow: flow.name)
def test_every_flow_has_the_hooks(flow: Any) -> None:
    for hooks in (flow.on_failure_hooks, flow.on_crashed_hooks, flow.on_cancellation_hooks):
        assert hooks == [state_hooks.terminate_tracked_runs]
