"""Which errors of real servers are transient, and retries of tasks with such errors."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from helpers.http_server import http_server
from helpers.processes import free_port
from mlflow.exceptions import MlflowException
from prefect import flow, task
from prefect.client.orchestration import get_client

from lstm_models.config import TableData
from lstm_models.data.readers import files
from lstm_models.utils.errors import TableError, UnreachableError
from tasks import lineage, tracking
from tasks.lineage import LineageError
from tasks.orchestration import retry_policy
from tasks.tracking import transient


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect without a proxy and without the retries of MLflow's client, which take minutes."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def error_of(act: Callable[[], Any]) -> Exception:
    """Return the exception that a function raises."""
    with pytest.raises(Exception) as caught:
        act()
    assert isinstance(caught.value, Exception)
    return caught.value


def closed() -> str:
    """Return a URL at which no server listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.usefixtures("no_proxy")
def test_an_unreachable_mlflow_server_is_transient_also_as_the_cause_of_a_user_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def get_run(_: str) -> Any:
        return mlflow.MlflowClient(closed()).get_run("0" * 32)

    error = error_of(lambda: get_run(""))
    assert isinstance(error, MlflowException)
    assert requests.ConnectionError in map(type, transient.error_chain(error))
    assert transient.is_transient(error)
    monkeypatch.setattr(tracking, "download", get_run)
    error = error_of(lambda: lineage.load_training_record("0" * 32))
    assert isinstance(error, LineageError)
    assert transient.is_transient(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_mlflow_server_is_transient(status: int) -> None:
    """A proxy responds with 502 or 504 while MLflow starts."""
    with http_server(lambda *_: status) as url:
        error = error_of(lambda: mlflow.MlflowClient(url).search_experiments())
    assert isinstance(error, MlflowException)
    assert transient.is_transient(error)


def test_an_unknown_run_is_not_transient(workplace: Path) -> None:
    error = error_of(lambda: tracking.mlflow_client().get_run("0" * 32))
    assert isinstance(error, MlflowException)
    assert not transient.is_transient(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("where", ["database", "storage", "storage with status 503"])
def test_an_unreachable_table_is_transient(where: str) -> None:
    with http_server(lambda *_: 503) if "503" in where else nullcontext(closed()) as url:
        sql = {"url": f"postgresql://reader@{url.removeprefix('http://')}/power", "query": "SELECT 1"}
        place = {"sql": sql} if where == "database" else {"path": f"{url}/power.csv"}
        error = error_of(lambda: files.read_source(TableData.model_validate({"kind": "table", "target": "y", **place})))
    assert isinstance(error, UnreachableError)
    assert transient.is_transient(error)


ATTEMPTS: list[str] = []


@task(**retry_policy.RETRY_OPTIONS)
def fail_first(failures: int, error: Exception) -> str:
    ATTEMPTS.append("attempt")
    if len(ATTEMPTS) <= failures:
        raise error
    return "result"


@flow
def retrying_flow(failures: int, error: Exception) -> str:
    return fail_first.with_options(retry_delay_seconds=0, retry_jitter_factor=None)(failures, error)


@pytest.mark.parametrize(
    ("failures", "deployment", "error", "attempts"),
    [
        (3, True, UnreachableError("the storage was not reached"), 4),
        (4, True, requests.ConnectionError("away"), 4),
        (1, True, TableError("column load is missing"), 1),
        (1, False, requests.ConnectionError("away"), 1),
    ],
    ids=["three failures", "too many failures", "not transient", "at the terminal"],
)
def test_a_task_is_retried_up_to_three_times_on_transient_errors(
    harness: None, monkeypatch: pytest.MonkeyPatch, failures: int, deployment: bool, error: Exception, attempts: int
) -> None:
    if deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "nightly")
    ATTEMPTS.clear()
    state = retrying_flow(failures, error, return_state=True)
    assert len(ATTEMPTS) == attempts
    assert state.is_completed() == (attempts > failures)
    assert state.result(raise_on_failure=False) == ("result" if attempts > failures else error)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).state_type == state.type
