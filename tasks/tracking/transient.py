"""Classify errors: which ones mean that a server or a database was not reached."""

from collections.abc import Iterator

import httpx
import requests
import sqlalchemy as sa
from mlflow.exceptions import MlflowException

from lstm_models.utils.errors import UnreachableError

TRANSIENT_ERRORS = (
    UnreachableError,  # the table's database or storage
    requests.ConnectionError,  # MLflow's server
    requests.Timeout,
    requests.exceptions.RetryError,  # which was busy, time after time
    httpx.TransportError,  # Prefect's
    sa.exc.OperationalError,  # MLflow's database
    sa.exc.InterfaceError,
)


def is_transient(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that something was not reached."""
    return any(
        isinstance(one, TRANSIENT_ERRORS)
        or (
            isinstance(one, MlflowException) and one.error_code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
        )
        for one in error_chain(error)
    )


def summarize_error(error: BaseException) -> str:
    """What an error is and says, without the statements of a database's."""
    said = f"{type(error).__name__}: {error}".partition("[SQL:")[0]
    return said.partition("(Background on this error at:")[0].strip()


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
