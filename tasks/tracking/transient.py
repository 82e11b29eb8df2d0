"""Classify errors as transient, and summarize them."""

from collections.abc import Iterator

import httpx
import requests
import sqlalchemy as sa
from mlflow.exceptions import MlflowException

from lstm_models.utils.errors import UnreachableError

TRANSIENT_ERRORS = (
    UnreachableError,  # a table's database or storage
    requests.ConnectionError,  # the MLflow server
    requests.Timeout,
    requests.exceptions.RetryError,  # the MLflow server was busy at each retry
    httpx.TransportError,  # the Prefect server
    sa.exc.OperationalError,  # MLflow's database
    sa.exc.InterfaceError,
)


def is_transient(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, is that a server or a database could not be reached."""
    return any(
        isinstance(cause, TRANSIENT_ERRORS)
        or (
            isinstance(cause, MlflowException)
            and cause.error_code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
        )
        for cause in error_chain(error)
    )


def summarize_error(error: BaseException) -> str:
    """Return the class and message of an error, without SQLAlchemy's SQL statement and link."""
    summary = f"{type(error).__name__}: {error}".partition("[SQL:")[0]
    return summary.partition("(Background on this error at:")[0].strip()


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
