"""Which errors of real servers are transient; and that a flow comes through where the trouble passes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
import requests
from helpers.processes import free_port
from mlflow.exceptions import MlflowException
from prefect import flow, task
from prefect.client.orchestration import get_client

from lstm_models.config import TableData
from lstm_models.data import source
from lstm_models.data.tables import TableError, Unreachable
from tasks import lineage, retries, tracking
from tasks.lineage import LineageError


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Straight to this machine, and at once: MLflow's client alone would try for minutes."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server with one answer; 0: none."""
    over = threading.Event()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not status:
                over.wait(60)
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>what a proxy says</html>")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()
            thread.join()


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
    assert requests.ConnectionError in map(type, retries.causes(error))
    assert retries.is_passing(error)
    monkeypatch.setattr(tracking, "download", ask)
    error = error_of(lambda: lineage.read_trained("0" * 32))
    assert isinstance(error, LineageError)
    assert retries.is_passing(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_mlflow_server_that_says_later_passes(status: int) -> None:
    """502 and 504 are what a proxy says while MLflow starts."""
    with answering(status) as url:
        error = error_of(lambda: mlflow.MlflowClient(url).search_experiments())
    assert isinstance(error, MlflowException)
    assert retries.is_passing(error)


def test_a_run_that_mlflow_does_not_know_does_not_pass(workplace: Path) -> None:
    error = error_of(lambda: tracking.client().get_run("0" * 32))
    assert isinstance(error, MlflowException)
    assert not retries.is_passing(error)


@pytest.mark.usefixtures("no_proxy")
def test_servers_that_are_not_reached_pass() -> None:
    assert retries.is_passing(error_of(lambda: requests.get(closed(), timeout=5)))
    assert retries.is_passing(error_of(lambda: httpx.get(closed())))
    with answering(0) as url:
        assert retries.is_passing(error_of(lambda: requests.get(url, timeout=0.1)))
        assert retries.is_passing(error_of(lambda: httpx.get(url, timeout=0.1)))


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("where", ["database", "storage", "storage that answers 503"])
def test_a_table_that_is_not_reached_passes(where: str) -> None:
    with answering(503) if "503" in where else nullcontext(closed()) as url:
        sql = {"url": f"postgresql://reader@{url.removeprefix('http://')}/power", "query": "SELECT 1"}
        place = {"sql": sql} if where == "database" else {"path": f"{url}/power.csv"}
        error = error_of(lambda: source.read(TableData.model_validate({"kind": "table", "target": "y", **place})))
    assert isinstance(error, Unreachable)
    assert retries.is_passing(error)


class Door:
    """Closed so many times; each try is counted."""

    def __init__(self, closed: int, error: Exception) -> None:
        self.closed, self.error, self.tries = closed, error, 0

    def __call__(self) -> str:
        self.tries += 1
        if self.tries <= self.closed:
            raise self.error
        return "in"


DOORS: dict[str, Door] = {}


@task(**retries.MAY_PASS)
def knock(name: str) -> str:
    return DOORS[name]()


@flow
def visit(name: str) -> str:
    return knock.with_options(retry_delay_seconds=0, retry_jitter_factor=None)(name)


@pytest.mark.parametrize(
    ("closed", "deployment", "error", "tries", "comes_in"),
    [
        (3, True, Unreachable("the storage was not reached"), 4, True),
        (4, True, requests.ConnectionError("away"), 4, False),
        (1, True, TableError("column load is missing"), 1, False),
        (1, False, requests.ConnectionError("away"), 1, False),
    ],
    ids=["three times", "too often", "for good", "at the terminal"],
)
def test_a_flow_comes_through_where_the_trouble_passes(
    harness: None,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    closed: int,
    deployment: bool,
    error: Exception,
    tries: int,
    comes_in: bool,
) -> None:
    if deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "nightly")
    name = request.node.name
    door = DOORS[name] = Door(closed, error)
    state = visit(name, return_state=True)
    assert door.tries == tries
    assert state.is_completed() == comes_in
    if comes_in:
        assert state.result() == "in"
    else:
        assert state.result(raise_on_failure=False) is error
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).state_type == state.type
