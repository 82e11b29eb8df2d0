"""Which errors of real servers are transient; and that a flow comes through where the trouble passes."""

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
    """Straight to this machine, and at once: MLflow's client alone would try for minutes."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def error_of(act: Callable[[], Any]) -> Exception:
    """What it raises."""
    with pytest.raises(Exception) as caught:
        act()
    assert isinstance(caught.value, Exception)
    return caught.value


def closed() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.usefixtures("no_proxy")
def test_an_mlflow_server_that_is_away_passes_and_so_does_a_user_error_that_comes_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(_: str) -> Any:
        return mlflow.MlflowClient(closed()).get_run("0" * 32)

    error = error_of(lambda: ask(""))
    assert isinstance(error, MlflowException)
    assert requests.ConnectionError in map(type, transient.error_chain(error))
    assert transient.is_transient(error)
    monkeypatch.setattr(tracking, "download", ask)
    error = error_of(lambda: lineage.load_training_record("0" * 32))
    assert isinstance(error, LineageError)
    assert transient.is_transient(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_mlflow_server_that_says_later_passes(status: int) -> None:
    """502 and 504 are what a proxy says while MLflow starts."""
    with http_server(lambda *_: status) as url:
        error = error_of(lambda: mlflow.MlflowClient(url).search_experiments())
    assert isinstance(error, MlflowException)
    assert transient.is_transient(error)


def test_a_run_that_mlflow_does_not_know_does_not_pass(workplace: Path) -> None:
    error = error_of(lambda: tracking.mlflow_client().get_run("0" * 32))
    assert isinstance(error, MlflowException)
    assert not transient.is_transient(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("where", ["database", "storage", "storage that answers 503"])
def test_a_table_that_is_not_reached_passes(where: str) -> None:
    with http_server(lambda *_: 503) if "503" in where else nullcontext(closed()) as url:
        sql = {"url": f"postgresql://reader@{url.removeprefix('http://')}/power", "query": "SELECT 1"}
        place = {"sql": sql} if where == "database" else {"path": f"{url}/power.csv"}
        error = error_of(lambda: files.read_source(TableData.model_validate({"kind": "table", "target": "y", **place})))
    assert isinstance(error, UnreachableError)
    assert transient.is_transient(error)


TRIES: list[str] = []


@task(**retry_policy.RETRY_OPTIONS)
def knock(closed: int, error: Exception) -> str:
    TRIES.append("knock")
    if len(TRIES) <= closed:
        raise error
    return "in"


@flow
def visit(closed: int, error: Exception) -> str:
    return knock.with_options(retry_delay_seconds=0, retry_jitter_factor=None)(closed, error)


@pytest.mark.parametrize(
    ("closed", "deployment", "error", "tries"),
    [
        (3, True, UnreachableError("the storage was not reached"), 4),
        (4, True, requests.ConnectionError("away"), 4),
        (1, True, TableError("column load is missing"), 1),
        (1, False, requests.ConnectionError("away"), 1),
    ],
    ids=["three times", "too often", "for good", "at the terminal"],
)
def test_a_flow_comes_through_where_the_trouble_passes(
    harness: None, monkeypatch: pytest.MonkeyPatch, closed: int, deployment: bool, error: Exception, tries: int
) -> None:
    if deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "nightly")
    TRIES.clear()
    state = visit(closed, error, return_state=True)
    assert len(TRIES) == tries
    assert state.is_completed() == (tries > closed)
    assert state.result(raise_on_failure=False) == ("in" if tries > closed else error)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).state_type == state.type
