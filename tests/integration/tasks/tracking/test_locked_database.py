"""An MLflow database that another process has locked: wait for it, then report an error in one line."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli_runner import lstm_flows
from helpers.errors import names_all
from mlflow import MlflowClient

from tasks import tracking


@pytest.fixture
def holder(workplace: Path) -> Iterator[sqlite3.Connection]:
    """Another connection that has locked the database, which this process has not used yet."""
    connection = sqlite3.connect(str(workplace / "mlflow.db"), check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    yield connection
    connection.close()


def test_a_client_waits_for_a_locked_database(holder: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = []

    def connect() -> MlflowClient:
        try:
            return MlflowClient()
        except Exception as error:
            errors.append(error)
            holder.rollback()  # releases the lock
            raise

    monkeypatch.setattr(tracking.client, "MlflowClient", connect)
    assert tracking.get_or_create_experiment("unlocked")
    assert len(errors) == 1


@pytest.mark.usefixtures("holder")
@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_a_database_that_stays_locked_is_an_error_of_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracking.client, "LOCK_TIMEOUT_SECONDS", 0.0)
    code, out, errors = lstm_flows(command, "models:/a@champion", str(tmp_path / "new.csv"))
    assert (code, out) == (1, "")
    assert names_all(errors, "OperationalError", "database is locked", "-v")
    assert "SQL:" not in errors
