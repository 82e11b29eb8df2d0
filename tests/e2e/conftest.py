"""Servers that the scripts of deploy/ start, one pair per test file."""

from collections.abc import Iterator

import mlflow
import pytest
from helpers import servers as deployed
from helpers.servers import Servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Prefect and MLflow servers on PostgreSQL."""
    with deployed.servers(tmp_path_factory.mktemp("servers")) as started:
        yield started


@pytest.fixture
def client(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """MLflow's client, with user name and password in the environment."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, servers.environment[name])
    return mlflow.MlflowClient(servers.environment["MLFLOW_TRACKING_URI"])
