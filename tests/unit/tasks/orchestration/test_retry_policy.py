"""Which errors are transient, and that deployments retry every task on those."""

import importlib
import pkgutil
from pathlib import Path

import httpx
import pytest
import requests
import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed

import tasks
from lstm_models.config import TableData
from lstm_models.data.readers import files
from lstm_models.utils.errors import TableError, UnreachableError
from tasks.orchestration import retry_policy
from tasks.tracking import transient

UNREACHABLE = requests.ConnectionError("away")


def mlflow_error(code: str) -> MlflowException:
    return MlflowException("later", error_code=ErrorCode.Value(code))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UNREACHABLE, True),
        (requests.ReadTimeout("slow"), True),
        (requests.exceptions.RetryError("busy"), True),
        (httpx.ConnectError("away"), True),
        (httpx.ReadTimeout("slow"), True),
        (sa.exc.OperationalError("SELECT 1", None, Exception("database is locked")), True),
        (sa.exc.InterfaceError("SELECT 1", None, Exception("away")), True),
        (UnreachableError("power.csv: the server was not reached"), True),
        (mlflow_error("TEMPORARILY_UNAVAILABLE"), True),
        (mlflow_error("REQUEST_LIMIT_EXCEEDED"), True),
        (mlflow_error("RESOURCE_DOES_NOT_EXIST"), False),
        (TableError("power.csv: column load is missing"), False),
        (ValueError("no"), False),
        (KeyError("no"), False),
        (OSError("no space"), False),
        (MemoryError(), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_connection_errors_are_transient_and_no_others(error: BaseException, expected: bool) -> None:
    assert transient.is_transient(error) is expected
    # all causes and contexts of an error count
    for link in ("__cause__", "__context__"):
        outer: BaseException = error
        for kind in (ValueError, MlflowException):
            inner, outer = outer, kind("outer")
            setattr(outer, link, inner)
        assert transient.is_transient(outer) is expected


@pytest.mark.parametrize("kind", ["path", "url"])
def test_a_missing_table_is_not_transient(tmp_path: Path, kind: str) -> None:
    sql = {"url": f"sqlite:///{tmp_path}/nowhere.db", "query": "SELECT 1"}
    where = {"path": f"{tmp_path}/nowhere.csv"} if kind == "path" else {"sql": sql}
    with pytest.raises(TableError) as caught:
        files.read_source(TableData.model_validate({"kind": "table", "target": "y", **where}))
    assert not transient.is_transient(caught.value)


def test_only_deployments_retry_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not retry_policy.should_retry(None, None, Failed(data=UNREACHABLE))
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "nightly")
    assert retry_policy.should_retry(None, None, Failed(data=UNREACHABLE))
    assert not retry_policy.should_retry(None, None, Failed(data=TableError("column load is missing")))


def test_every_task_has_these_retries_and_no_cache() -> None:
    modules = [importlib.import_module(f"tasks.{module.name}") for module in pkgutil.iter_modules(tasks.__path__)]
    all_tasks = {value for module in modules for value in vars(module).values() if isinstance(value, Task)}
    assert len(all_tasks) >= 20
    for each in all_tasks:
        assert (each.retries, each.retry_condition_fn, each.cache_policy) == (
            3,
            retry_policy.should_retry,
            NO_CACHE,
        ), each.name
        assert (each.retry_delay_seconds, each.retry_jitter_factor) == ([10, 20, 40], 0.5), each.name
