"""Retries of tasks when a server or a database cannot be reached."""

from typing import Any

import prefect.runtime.deployment
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from tasks.tracking.transient import is_transient


def should_retry(task: Any, task_run: Any, state: Any) -> bool:
    """Return whether to retry a failed task: its error is transient, and the flow run belongs to a deployment.

    Runs at a terminal report the error at once instead.
    """
    if prefect.runtime.deployment.id is None:
        return False
    return is_transient(state.result(raise_on_failure=False))


# options of every task: three retries, after about 10, 20 and 40 seconds; Prefect's own result cache is off
RETRY_OPTIONS: Any = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": should_retry,
    "cache_policy": NO_CACHE,
}
