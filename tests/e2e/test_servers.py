"""deploy/, script by script: Prefect's and MLflow's servers on PostgreSQL, and what they let in."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers import servers as deployed
from helpers.processes import BIN, ROOT, eventually, running
from helpers.servers import NEEDS_POSTGRESQL, Servers

from flows import recipes

pytestmark = NEEDS_POSTGRESQL


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


# ---- a night: the worker of deploy/worker.sh, and what the schedule starts
HOURS = 24 * 30
DEMAND = """
data:
  {{kind: table, path: {path}, time: hour, target: demand, context_length: 8, horizon: 2}}
contenders:
  hand_built: {{model: {{hidden_size: 4}}, training: {{max_epochs: 1}}, fine_tuning: {{max_epochs: 2}}}}
"""


def write_demand(path: Path, hours: int) -> None:
    """The first hours of a series, the same whenever they are written."""
    t = np.arange(hours)
    noise = np.random.default_rng(0).normal(0, 0.2, 2 * HOURS)[:hours]
    hour = pd.date_range("2026-01-01", periods=hours, freq="h")
    pd.DataFrame({"hour": hour, "demand": np.sin(t / 12 * np.pi) + noise}).to_csv(path, index=False)


def lstm_flows(servers: Servers, directory: Path, *arguments: str) -> str:
    """What the command prints, run in a directory by a client of the servers."""
    done = subprocess.run(
        [BIN / "lstm-flows", *arguments],
        env=servers.environment, cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demand(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, on which an experiment `demand` has a champion, made in a directory that nobody works in later."""
    directory = tmp_path_factory.mktemp("table")
    write_demand(directory / "demand.csv", HOURS)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "demand.yaml").write_text(DEMAND.format(path=directory / "demand.csv"))
    compared = json.loads(lstm_flows(servers, elsewhere, "compare", "demand.yaml", "-q", "--json"))
    assert compared["champion"]["version"] in (1, 2)
    return directory / "demand.csv"


@pytest.fixture(scope="module")
def api(servers: Servers) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=servers.environment["PREFECT_API_URL"], timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def worker(servers: Servers, demand: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker in a checkout of its own, started as the README says; its directory."""
    checkout = tmp_path_factory.mktemp("worker")
    for folder in ("flows", "tasks", "lstm_models", "deploy"):
        shutil.copytree(ROOT / folder, checkout / folder)
    shutil.copy(ROOT / "prefect.yaml", checkout)
    log = checkout.parent / "worker.log"
    with running([str(checkout / "deploy/worker.sh")], log, env=servers.environment, cwd=checkout):
        eventually(lambda: "started!" in log.read_text(), 120)
        yield checkout


def ask(api: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    return api.request(method, path, json=body).raise_for_status().json()


def nightly(api: httpx.Client) -> str:
    """The deployment's id."""
    return str(ask(api, "GET", "/deployments/name/fine_tune/forecast")["id"])


def ended(api: httpx.Client, flow_run: str) -> Any:
    """A flow run, once it is over."""
    eventually(lambda: ask(api, "GET", f"/flow_runs/{flow_run}")["state_type"] in OVER, 240)
    return ask(api, "GET", f"/flow_runs/{flow_run}")


OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.mark.usefixtures("worker")
def test_a_night_that_the_schedule_starts_leaves_a_version_and_its_lineage(
    servers: Servers, demand: Path, api: httpx.Client, client: mlflow.MlflowClient
) -> None:
    write_demand(demand, HOURS + 48)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
    schedule = {"interval": 3600, "anchor_date": soon.isoformat(), "timezone": "UTC"}
    config = {"experiment": "demand", "epochs": 2}
    body = [{"schedule": schedule, "active": True, "parameters": {"config": config}}]
    (made,) = ask(api, "POST", f"/deployments/{nightly(api)}/schedules", body)
    before = client.get_model_version_by_alias("demand", "champion")

    def scheduled() -> list[Any]:
        wanted = {"deployments": {"id": {"any_": [nightly(api)]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
        runs = ask(api, "POST", "/flow_runs/filter", wanted)
        return [run for run in runs if run["parameters"].get("config", {}).get("experiment") == "demand"]

    eventually(scheduled, 60)
    run = ended(api, scheduled()[0]["id"])
    ask_nothing = api.delete(f"/deployments/{nightly(api)}/schedules/{made['id']}")
    assert ask_nothing.status_code == 204
    assert (run["state_type"], run["auto_scheduled"]) == ("COMPLETED", True), run["state"]["message"]

    (version,) = [one for one in client.search_model_versions("name='demand'") if int(one.version) == 3]
    assert version.tags["prefect_flow_run_id"] == run["id"]
    assert version.tags["continues"] == str(before.version)
    aliases = {name: int(number) for name, number in client.get_registered_model("demand").aliases.items()}
    assert 3 in (aliases["champion"], aliases.get("challenger"))
    experiment = client.get_experiment_by_name("demand")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert {one.info.status for one in runs} == {"FINISHED"}
    assert [
        one.data.tags["lstm_flows.prefect_flow_run_id"] for one in runs if one.info.run_name == "fine_tune demand"
    ] == [run["id"]]


@pytest.mark.usefixtures("worker")
def test_a_second_night_at_the_same_time_is_cancelled_and_one_without_new_rows_has_nothing_to_do(
    api: httpx.Client, demand: Path
) -> None:
    asked = {"state": {"type": "SCHEDULED"}, "parameters": {"config": {"experiment": "demand", "epochs": 2}}}
    runs = [ask(api, "POST", f"/deployments/{nightly(api)}/create_flow_run", asked)["id"] for _ in range(2)]
    states = sorted((run["state_type"], run["state_name"]) for run in (ended(api, run) for run in runs))
    assert states == [("CANCELLED", "Cancelled"), ("COMPLETED", "NothingToDo")]


@pytest.mark.usefixtures("worker")
def test_a_night_whose_process_is_killed_is_crashed_and_its_runs_are_killed(
    api: httpx.Client, demand: Path, client: mlflow.MlflowClient
) -> None:
    write_demand(demand, HOURS + 96)
    asked = {"state": {"type": "SCHEDULED"}, "parameters": {"config": {"experiment": "demand", "epochs": 1_000_000}}}
    flow_run = ask(api, "POST", f"/deployments/{nightly(api)}/create_flow_run", asked)["id"]
    experiment = client.get_experiment_by_name("demand")
    assert experiment

    def of_the_night() -> list[Any]:
        """The parent and the run that is being trained; once both are there, the training has begun."""
        runs = client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if run.data.tags.get("lstm_flows.prefect_flow_run_id") == flow_run]
        ids = [run.info.run_id for run in parents]
        return parents + [run for run in runs if run.data.tags.get("mlflow.parentRunId") in ids]

    eventually(lambda: len(of_the_night()) == 2, 120)
    assert {run.info.status for run in of_the_night()} == {"RUNNING"}
    os.kill(int(of_the_night()[0].data.tags["lstm_flows.pid"]), signal.SIGKILL)
    assert ended(api, flow_run)["state_type"] == "CRASHED"
    eventually(lambda: {run.info.status for run in of_the_night()} == {"KILLED"}, 60)


# ---- tasks on machines that share the two servers and nothing else
TRAIN = """
import json, sys
from lstm_models.config import CompareConfig
from tasks import data, runs, training
config = CompareConfig.model_validate_json(sys.argv[1])
parent = runs.start_parent(runs.comparison(config))
dataset = data.store_data.fn(config, parent)
checkpoint = training.train.fn(config, "hand_built", dataset, parent)
print(json.dumps([dataset.model_dump(mode="json"), checkpoint.model_dump(mode="json")]))
"""
EVALUATE = """
import json, sys
from lstm_models.config import CompareConfig
from tasks import evaluation
from tasks.references import CheckpointRef, DatasetRef
config = CompareConfig.model_validate_json(sys.argv[1])
dataset, checkpoint = json.loads(sys.argv[2])
result = evaluation.evaluate.fn(config, CheckpointRef(**checkpoint), DatasetRef.model_validate(dataset))
print(result.model_dump_json())
"""


def test_a_task_goes_on_in_another_directory_with_what_the_servers_hold(servers: Servers, tmp_path: Path) -> None:
    config = recipes.load("forecast", ["experiment=elsewhere", "contenders.hand_built.training.max_epochs=1"])

    def python(directory: str, program: str, *arguments: str) -> str:
        (tmp_path / directory).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", program, config.model_dump_json(), *arguments],
            env={**servers.environment, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path / directory, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    told = python("here", TRAIN)
    shutil.rmtree(tmp_path / "here")  # nothing that lay there is needed
    result = json.loads(python("there", EVALUATE, told))
    assert str(tmp_path) not in told
    assert result["metrics"]["scaled_mse"] > 0
    assert list((tmp_path / "there").iterdir()) == []
