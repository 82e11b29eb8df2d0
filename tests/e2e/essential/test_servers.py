"""deploy/, script by script: Prefect's and MLflow's servers on PostgreSQL, and what they let in."""

import os
import subprocess
from pathlib import Path

import httpx
import mlflow
import pytest
from helpers.processes import ROOT
from helpers.servers import NEEDS_POSTGRESQL, Servers

pytestmark = NEEDS_POSTGRESQL


def test_an_artifact_goes_through_the_server_both_ways(
    servers: Servers, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    sent, back = tmp_path / "sent.bin", tmp_path / "back"
    sent.write_bytes(bytes(range(256)) * 4096)
    back.mkdir()
    run = client.create_run(client.create_experiment("artifacts"))
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    client.log_artifact(run.info.run_id, str(sent), "some/folder")
    assert (
        Path(client.download_artifacts(run.info.run_id, "some/folder/sent.bin", str(back))).read_bytes()
        == sent.read_bytes()
    )
    assert [path.name for path in servers.artifacts.rglob("*") if path.is_file()] == ["sent.bin"]


@pytest.mark.parametrize("auth", [None, ("admin", ""), ("admin", "password1234")], ids=["none", "empty", "published"])
@pytest.mark.parametrize("path", ["/", "/api/2.0/mlflow/experiments/search?max_results=1"])
def test_mlflow_lets_nobody_in_without_the_password(servers: Servers, path: str, auth: tuple[str, str] | None) -> None:
    assert httpx.get(servers.environment["MLFLOW_TRACKING_URI"] + path, auth=auth).status_code == 401


def test_mlflow_answers_to_its_own_names_alone(servers: Servers) -> None:
    uri = servers.environment["MLFLOW_TRACKING_URI"]
    port = uri.rpartition(":")[2]
    auth = (servers.environment["MLFLOW_TRACKING_USERNAME"], servers.environment["MLFLOW_TRACKING_PASSWORD"])
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}", f"elsewhere.example:{port}", "elsewhere.example"]
    statuses = [httpx.get(uri, headers={"Host": host}, auth=auth).status_code for host in hosts]
    assert statuses == [200, 200, 403, 403]


def test_what_the_servers_keep_is_in_postgresql(servers: Servers, client: mlflow.MlflowClient) -> None:
    client.create_experiment("kept")
    variable = {"name": "kept", "value": 42}
    httpx.post(f"{servers.environment['PREFECT_API_URL']}/variables/", json=variable).raise_for_status()
    query = servers.cluster.query
    assert query("mlflow", "SELECT name FROM experiments WHERE name = 'kept'") == ["kept"]
    assert query("prefect", "SELECT value FROM variable WHERE name = 'kept'") == ["42"]
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
def test_a_script_without_its_password_says_so_in_a_line(script: str, variable: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != variable}
    done = subprocess.run([ROOT / "deploy" / script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{variable}: set it to the password" in done.stderr
