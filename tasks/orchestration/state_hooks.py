"""Prefect state hooks for flow runs that fail, crash or are cancelled.

Prefect calls them in the flow's process on a failure, and in the worker's process if the flow's process is gone.
"""

from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from tasks import tracking
from tasks.orchestration import notifications
from tasks.tracking.runs import terminate_runs


def terminate_tracked_runs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Send a failure notification, and terminate the MLflow runs that the flow run left RUNNING.

    Their status becomes FAILED if the flow run failed, and KILLED if it was cancelled or crashed.
    """
    notifications.send(
        "failure", f"{flow.name} ({flow_run.name}): {state.name}: {state.message}", flow_run=str(flow_run.id)
    )
    database = tracking.local_database()
    if database and not database.exists():  # the flow run failed before it tracked anything
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
