"""What a task does where something it needs is out of reach: wait, and try again."""

from typing import Any

import prefect.runtime.deployment
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from tasks.tracking.transient import is_transient


def should_retry(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a task that failed is worth another try: a server or a database was not reached.

    Only in a deployment's runs: who sits at the terminal is told at once.
    """
    if prefect.runtime.deployment.id is None:
        return False
    return is_transient(state.result(raise_on_failure=False))


# how every task is set: three more tries, after about 10, 20 and 40 seconds; no task's result stands for another's
RETRY_OPTIONS: Any = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": should_retry,
    "cache_policy": NO_CACHE,
}
