"""Which errors pass, asked for at real closed doors; and that tasks are tried again, in deployments alone."""

import importlib
import pkgutil
import sqlite3
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
import sqlalchemy as sa
from helpers.processes import free_port
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.states import Failed

import tasks
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
                over.wait(10)
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


def causes(error: BaseException | None) -> Iterator[type[BaseException]]:
    while error:
        yield type(error)
        error = error.__cause__ or error.__context__


# ---- which pass
@pytest.mark.usefixtures("no_proxy")
def test_an_mlflow_server_that_is_away_passes() -> None:
    error = error_of(lambda: mlflow.MlflowClient(closed()).search_experiments())
    assert isinstance(error, MlflowException)
    assert requests.ConnectionError in causes(error)
    assert retries.is_passing(error)


@pytest.mark.usefixtures("no_proxy")
def test_a_user_error_that_comes_of_it_passes_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_: str) -> Any:
        return mlflow.MlflowClient(closed()).get_run("0" * 32)

    monkeypatch.setattr(tracking, "download", asked)
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


@pytest.mark.parametrize("code", ["TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"])
def test_what_mlflow_calls_passing_passes(code: str) -> None:
    assert retries.is_passing(MlflowException("later", error_code=ErrorCode.Value(code)))


@pytest.mark.usefixtures("no_proxy")
def test_servers_that_are_not_reached_pass() -> None:
    assert retries.is_passing(error_of(lambda: requests.get(closed(), timeout=5)))
    assert retries.is_passing(error_of(lambda: httpx.get(closed())))
    with answering(0) as url:
        assert retries.is_passing(error_of(lambda: requests.get(url, timeout=0.1)))
        assert retries.is_passing(error_of(lambda: httpx.get(url, timeout=0.1)))


def test_a_database_that_is_locked_passes(tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "a.db")
    holder.execute("BEGIN EXCLUSIVE")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db", connect_args={"timeout": 0})

    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE TABLE t (x INT)"))

    try:
        error = error_of(ask)
    finally:
        engine.dispose()
        holder.close()
    assert isinstance(error, sa.exc.OperationalError)
    assert retries.is_passing(error)


def test_a_table_that_was_not_reached_passes_and_one_that_is_wrong_does_not() -> None:
    assert retries.is_passing(Unreachable("power.csv: the server was not reached"))
    assert not retries.is_passing(TableError("power.csv: column load is missing"))


def read_error(**where: Any) -> Exception:
    return error_of(lambda: source.read(TableData.model_validate({"kind": "table", "target": "y", **where})))


def test_a_table_whose_database_does_not_answer_passes() -> None:
    sql = {"url": f"postgresql://reader@127.0.0.1:{free_port()}/power", "query": "SELECT 1"}
    error = read_error(sql=sql)
    assert isinstance(error, Unreachable)
    assert retries.is_passing(error)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("status", [None, 503], ids=["nobody listens", "503"])
def test_a_table_whose_storage_does_not_answer_passes(status: int | None) -> None:
    with answering(status) if status else nullcontext(closed()) as url:
        assert retries.is_passing(read_error(path=f"{url}/power.csv"))


def test_a_table_that_is_not_there_does_not_pass(tmp_path: Path) -> None:
    for where in (
        {"path": f"{tmp_path}/nowhere.csv"},
        {"sql": {"url": f"sqlite:///{tmp_path}/nowhere.db", "query": "SELECT 1"}},
    ):
        error = read_error(**where)
        assert isinstance(error, TableError)
        assert not retries.is_passing(error)


def test_what_caused_an_error_counts_however_far_away() -> None:
    far: BaseException = requests.ConnectionError("away")
    for kind in (ValueError, MlflowException, LineageError):
        error = kind("told")
        error.__cause__ = far
        far = error
    assert retries.is_passing(far)


def test_other_errors_do_not_pass(workplace: Path) -> None:
    gone = error_of(lambda: tracking.client().get_run("0" * 32))
    assert isinstance(gone, MlflowException)
    for error in (gone, ValueError("no"), KeyError("no"), OSError("no space"), MemoryError(), KeyboardInterrupt()):
        assert not retries.is_passing(error)


# ---- in deployments alone
AWAY = Failed(data=requests.ConnectionError("away"))


def test_without_a_deployment_nothing_is_tried_again() -> None:
    assert not retries.may_pass(None, None, AWAY)


def test_in_a_deployment_what_passes_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "nightly")
    assert retries.may_pass(None, None, AWAY)
    assert not retries.may_pass(None, None, Failed(data=TableError("column load is missing")))


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
        (2, True, requests.ConnectionError("away"), 3, True),
        (3, True, Unreachable("the storage was not reached"), 4, True),
        (4, True, requests.ConnectionError("away"), 4, False),
        (1, True, TableError("column load is missing"), 1, False),
        (1, False, requests.ConnectionError("away"), 1, False),
    ],
    ids=["twice", "three times", "too often", "for good", "at the terminal"],
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


def test_every_task_is_set_like_this() -> None:
    modules = [importlib.import_module(f"tasks.{module.name}") for module in pkgutil.iter_modules(tasks.__path__)]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, Task)}
    assert len(found) >= 20
    for one in found:
        assert (one.retries, one.retry_condition_fn, one.cache_policy) == (3, retries.may_pass, NO_CACHE), one.name
        assert (one.retry_delay_seconds, one.retry_jitter_factor) == ([10, 20, 40], 0.5), one.name
