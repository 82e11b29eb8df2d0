"""The scripts of deploy/: Prefect and MLflow servers on PostgreSQL, and their access control."""

import os
import subprocess
from pathlib import Path

import httpx
import mlflow
import pytest
from helpers.processes import ROOT
from helpers.servers import NEEDS_POSTGRESQL, Servers

pytestmark = NEEDS_POSTGRESQL


def test_the_server_uploads_and_downloads_artifacts(
    servers: Servers, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    sent, downloads = tmp_path / "sent.bin", tmp_path / "downloads"
    sent.write_bytes(bytes(range(256)) * 4096)
    downloads.mkdir()
    run = client.create_run(client.create_experiment("artifacts"))
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    client.log_artifact(run.info.run_id, str(sent), "some/folder")
    assert (
        Path(client.download_artifacts(run.info.run_id, "some/folder/sent.bin", str(downloads))).read_bytes()
        == sent.read_bytes()
    )
    assert [path.name for path in servers.artifacts.rglob("*") if path.is_file()] == ["sent.bin"]


@pytest.mark.parametrize("auth", [None, ("admin", ""), ("admin", "password1234")], ids=["none", "empty", "published"])
@pytest.mark.parametrize("path", ["/", "/api/2.0/mlflow/experiments/search?max_results=1"])
def test_mlflow_rejects_requests_without_the_password(
    servers: Servers, path: str, auth: tuple[str, str] | None
) -> None:
    assert httpx.get(servers.environment["MLFLOW_TRACKING_URI"] + path, auth=auth).status_code == 401


def test_mlflow_rejects_other_host_names(servers: Servers) -> None:
    uri = servers.environment["MLFLOW_TRACKING_URI"]
    port = uri.rpartition(":")[2]
    auth = (servers.environment["MLFLOW_TRACKING_USERNAME"], servers.environment["MLFLOW_TRACKING_PASSWORD"])
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}", f"elsewhere.example:{port}", "elsewhere.example"]
    statuses = [httpx.get(uri, headers={"Host": host}, auth=auth).status_code for host in hosts]
    assert statuses == [200, 200, 403, 403]


def test_the_servers_store_their_data_in_postgresql(servers: Servers, client: mlflow.MlflowClient) -> None:
    client.create_experiment("stored")
    variable = {"name": "stored", "value": 42}
    httpx.post(f"{servers.environment['PREFECT_API_URL']}/variables/", json=variable).raise_for_status()
    query = servers.cluster.query
    assert query("mlflow", "SELECT name FROM experiments WHERE name = 'stored'") == ["stored"]
    assert query("prefect", "SELECT value FROM variable WHERE name = 'stored'") == ["42"]
    assert query("mlflow_auth", "SELECT username, is_admin FROM users") == ["admin|t"]
    assert not list(servers.artifacts.parent.rglob("*.db"))


@pytest.mark.parametrize(
    ("script", "variable"),
    [
        ("database.sh", "PGPASSWORD"),
        ("mlflow-server.sh", "MLFLOW_TRACKING_PASSWORD"),
        ("worker.sh", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_script_reports_a_missing_password_in_one_line(script: str, variable: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != variable}
    completed = subprocess.run([ROOT / "deploy" / script], env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 1
    assert completed.stderr.count("\n") == 1
    assert f"{variable}: set it to the password" in completed.stderr
