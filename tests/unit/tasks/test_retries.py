"""Which errors are transient; and that every task is tried again on those, in deployments alone."""

import importlib
import pkgutil
import sqlite3
from pathlib import Path
from typing import Any

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
from lstm_models.data import source
from lstm_models.data.tables import TableError, Unreachable
from tasks import retries

AWAY = requests.ConnectionError("away")


def mlflow_error(code: str) -> MlflowException:
    return MlflowException("later", error_code=ErrorCode.Value(code))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (AWAY, True),
        (requests.Timeout("slow"), True),
        (requests.exceptions.RetryError("busy"), True),
        (httpx.ConnectError("away"), True),
        (sa.exc.InterfaceError("SELECT 1", None, Exception("away")), True),
        (Unreachable("power.csv: the server was not reached"), True),
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
def test_what_was_not_reached_passes_and_nothing_else(error: BaseException, passes: bool) -> None:
    assert retries.is_passing(error) is passes
    # what led to an error counts, however far away: as its cause and as its context
    for link in ("__cause__", "__context__"):
        outer: BaseException = error
        for kind in (ValueError, MlflowException):
            inner, outer = outer, kind("told")
            setattr(outer, link, inner)
        assert retries.is_passing(outer) is passes


def test_a_database_that_is_locked_passes(tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "a.db")
    holder.execute("BEGIN EXCLUSIVE")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db", connect_args={"timeout": 0})
    try:
        with engine.connect() as connection, pytest.raises(sa.exc.OperationalError) as caught:
            connection.execute(sa.text("CREATE TABLE t (x INT)"))
    finally:
        engine.dispose()
        holder.close()
    assert retries.is_passing(caught.value)


@pytest.mark.parametrize(
    "where",
    [{"path": "{}/nowhere.csv"}, {"sql": {"url": "sqlite:///{}/nowhere.db", "query": "SELECT 1"}}],
    ids=["file", "database"],
)
def test_a_table_that_is_not_there_does_not_pass(tmp_path: Path, where: dict[str, Any]) -> None:
    config = {"path": where["path"].format(tmp_path)} if "path" in where else {}
    if "sql" in where:
        config = {"sql": {**where["sql"], "url": where["sql"]["url"].format(tmp_path)}}
    with pytest.raises(TableError) as caught:
        source.read(TableData.model_validate({"kind": "table", "target": "y", **config}))
    assert not retries.is_passing(caught.value)


def test_a_task_is_tried_again_in_deployments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not retries.may_pass(None, None, Failed(data=AWAY))
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "nightly")
    assert retries.may_pass(None, None, Failed(data=AWAY))
    assert not retries.may_pass(None, None, Failed(data=TableError("column load is missing")))


def test_every_task_has_these_retries_and_no_cache() -> None:
    modules = [importlib.import_module(f"tasks.{module.name}") for module in pkgutil.iter_modules(tasks.__path__)]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, Task)}
    assert len(found) >= 20
    for one in found:
        assert (one.retries, one.retry_condition_fn, one.cache_policy) == (3, retries.may_pass, NO_CACHE), one.name
        assert (one.retry_delay_seconds, one.retry_jitter_factor) == ([10, 20, 40], 0.5), one.name


def test_an_error_in_short_has_no_sql() -> None:
    error = sa.exc.OperationalError("SELECT secret", {}, Exception("database is locked"))
    text = retries.in_short(error)
    assert "OperationalError" in text
    assert "database is locked" in text
    assert "SELECT" not in text
    assert "Background" not in text
    assert retries.in_short(ValueError("no")) == "ValueError: no"
