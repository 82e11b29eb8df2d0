"""The servers that deploy/ starts, one pair a file."""

from collections.abc import Iterator

import mlflow
import pytest
from helpers import servers as deployed
from helpers.servers import Servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with deployed.servers(tmp_path_factory.mktemp("servers")) as started:
        yield started


@pytest.fixture
def client(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """MLflow's client, with the name and the password that it reads from the environment."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, servers.environment[name])
    return mlflow.MlflowClient(servers.environment["MLFLOW_TRACKING_URI"])
