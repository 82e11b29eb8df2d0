"""What a task does where something it needs is out of reach: wait, and try again."""

from collections.abc import Iterator
from typing import Any

import httpx
import prefect.runtime.deployment
import requests
import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from lstm_models.data.tables import Unreachable

PASSING = (
    Unreachable,  # the table's database or storage
    requests.ConnectionError,  # MLflow's server
    requests.Timeout,
    requests.exceptions.RetryError,  # which was busy, time after time
    httpx.TransportError,  # Prefect's
    sa.exc.OperationalError,  # MLflow's database
    sa.exc.InterfaceError,
)


def may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a task that failed is worth another try: a server or a database was not reached.

    Only in a deployment's runs: who sits at the terminal is told at once.
    """
    if prefect.runtime.deployment.id is None:
        return False
    return is_passing(state.result(raise_on_failure=False))


def is_passing(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that something was not reached."""
    return any(
        isinstance(one, PASSING)
        or (
            isinstance(one, MlflowException) and one.error_code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
        )
        for one in causes(error)
    )


def in_short(error: BaseException) -> str:
    """What an error is and says, without the statements of a database's."""
    said = f"{type(error).__name__}: {error}".partition("[SQL:")[0]
    return said.partition("(Background on this error at:")[0].strip()


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# how every task is set: three more tries, after about 10, 20 and 40 seconds; no task's result stands for another's
MAY_PASS: Any = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_pass,
    "cache_policy": NO_CACHE,
}
