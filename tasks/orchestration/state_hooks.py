"""What happens when a flow run does not end well: its MLflow runs are marked, and the webhook is told.

Prefect calls this in the flow's process on a failure, and in one of the worker's where that process is gone.
"""

from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from tasks import tracking
from tasks.orchestration import notifications
from tasks.tracking.runs import terminate_runs


def terminate_tracked_runs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Mark what a flow run left RUNNING in MLflow: FAILED, or KILLED if it was cancelled, or crashed."""
    notifications.send(
        "failure", f"{flow.name} ({flow_run.name}): {state.name}: {state.message}", flow_run=str(flow_run.id)
    )
    database = tracking.local_database()
    if database and not database.exists():  # it failed before anything was tracked
        return
    client = tracking.mlflow_client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`{tracking.TAG}prefect_flow_run_id` = '{flow_run.id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs(experiments, query):
        terminate_runs(run.info.experiment_id, run.info.run_id, "FAILED" if state.is_failed() else "KILLED")


HOOKS: Any = {
    "on_failure": [terminate_tracked_runs],
    "on_cancellation": [terminate_tracked_runs],
    "on_crashed": [terminate_tracked_runs],
}
