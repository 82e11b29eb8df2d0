"""Scheduled fine-tuning on the servers of deploy/: a worker, scheduled runs, a kill; tasks on two machines."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from helpers.demand import write_demand
from helpers.prefect_api import PrefectAPI
from helpers.processes import BIN, ROOT, eventually, running
from helpers.servers import NEEDS_POSTGRESQL, Servers

from flows import recipes

pytestmark = NEEDS_POSTGRESQL


# ---- the worker of deploy/worker.sh, and scheduled runs
HOURS = 24 * 30
DEMAND = """
data:
  {{kind: table, path: {path}, time: hour, target: demand, context_length: 8, horizon: 2}}
contenders:
  hand_built: {{model: {{hidden_size: 4}}, training: {{max_epochs: 1}}, fine_tuning: {{max_epochs: 2}}}}
"""


def lstm_flows(servers: Servers, directory: Path, *arguments: str) -> str:
    """Return the output of a command, run in a directory as a client of the servers."""
    completed = subprocess.run(
        [BIN / "lstm-flows", *arguments],
        env=servers.environment, cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def demand(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, and an experiment `demand` with a champion, trained on it in a directory that is not used again."""
    directory = tmp_path_factory.mktemp("table")
    write_demand(directory / "demand.csv", HOURS)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "demand.yaml").write_text(DEMAND.format(path=directory / "demand.csv"))
    compared = json.loads(lstm_flows(servers, elsewhere, "compare", "demand.yaml", "-q", "--json"))
    assert compared["champion"]["version"] in (1, 2)
    return directory / "demand.csv"


@pytest.fixture(scope="module")
def api(servers: Servers) -> PrefectAPI:
    return PrefectAPI(servers.environment["PREFECT_API_URL"])


@pytest.fixture(scope="module")
def worker(servers: Servers, demand: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker in a separate checkout, started as in the README; its directory."""
    checkout = tmp_path_factory.mktemp("worker")
    for folder in ("flows", "tasks", "lstm_models", "deploy"):
        shutil.copytree(ROOT / folder, checkout / folder)
    shutil.copy(ROOT / "prefect.yaml", checkout)
    log = checkout.parent / "worker.log"
    with running([str(checkout / "deploy/worker.sh")], log, env=servers.environment, cwd=checkout):
        eventually(lambda: "started!" in log.read_text())
        yield checkout


DEPLOYMENT = "fine_tune/forecast"


@pytest.mark.usefixtures("worker")
def test_a_scheduled_run_registers_a_version_with_its_lineage(
    demand: Path, api: PrefectAPI, client: mlflow.MlflowClient
) -> None:
    write_demand(demand, HOURS + 48)
    champion = client.get_model_version_by_alias("demand", "champion")
    run = api.run_by_schedule(DEPLOYMENT, {"config": {"experiment": "demand", "epochs": 2}})
    assert (run["state_type"], run["auto_scheduled"]) == ("COMPLETED", True), run["state"]["message"]

    (version,) = [each for each in client.search_model_versions("name='demand'") if int(each.version) == 3]
    assert version.tags["prefect_flow_run_id"] == run["id"]
    assert version.tags["continues"] == str(champion.version)
    aliases = {name: int(number) for name, number in client.get_registered_model("demand").aliases.items()}
    assert 3 in (aliases["champion"], aliases.get("challenger"))
    experiment = client.get_experiment_by_name("demand")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert {each.info.status for each in runs} == {"FINISHED"}
    assert [
        each.data.tags["lstm_flows.prefect_flow_run_id"] for each in runs if each.info.run_name == "fine_tune demand"
    ] == [run["id"]]


@pytest.mark.usefixtures("worker", "demand")
def test_a_concurrent_run_is_cancelled_and_one_without_new_rows_is_skipped(api: PrefectAPI) -> None:
    ids = [api.start(DEPLOYMENT, {"config": {"experiment": "demand", "epochs": 2}}) for _ in range(2)]
    states = sorted((run["state_type"], run["state_name"]) for run in map(api.wait_for, ids))
    assert states == [("CANCELLED", "Cancelled"), ("COMPLETED", "Skipped")]


@pytest.mark.usefixtures("worker")
def test_a_run_whose_process_is_killed_is_crashed_and_its_mlflow_runs_are_killed(
    api: PrefectAPI, demand: Path, client: mlflow.MlflowClient
) -> None:
    write_demand(demand, HOURS + 96)
    flow_run = api.start(DEPLOYMENT, {"config": {"experiment": "demand", "epochs": 1_000_000}})
    experiment = client.get_experiment_by_name("demand")
    assert experiment

    def tracked_runs() -> list[Any]:
        """Return the parent run and its children; with a child, the training has started."""
        runs = client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if run.data.tags.get("lstm_flows.prefect_flow_run_id") == flow_run]
        ids = [run.info.run_id for run in parents]
        return parents + [run for run in runs if run.data.tags.get("mlflow.parentRunId") in ids]

    eventually(lambda: len(tracked_runs()) == 2)
    assert {run.info.status for run in tracked_runs()} == {"RUNNING"}
    os.kill(int(tracked_runs()[0].data.tags["lstm_flows.pid"]), signal.SIGKILL)
    assert api.wait_for(flow_run)["state_type"] == "CRASHED"
    eventually(lambda: {run.info.status for run in tracked_runs()} == {"KILLED"})


# ---- tasks on machines that share the two servers and nothing else
TRAIN = """
import json, sys
from lstm_models.config import CompareConfig
from tasks import data, training
from tasks.tracking import runs
config = CompareConfig.model_validate_json(sys.argv[1])
parent = runs.start_parent_run(runs.comparison_spec(config))
dataset = data.store_data.fn(config, parent)
checkpoint = training.train.fn(config, "hand_built", dataset, parent)
print(json.dumps([dataset.model_dump(mode="json"), checkpoint.model_dump(mode="json")]))
"""
EVALUATE = """
import json, sys
from lstm_models.config import CompareConfig
from tasks import evaluation
from tasks.schemas import CheckpointRef, DatasetRef
config = CompareConfig.model_validate_json(sys.argv[1])
dataset, checkpoint = json.loads(sys.argv[2])
result = evaluation.evaluate.fn(config, CheckpointRef(**checkpoint), DatasetRef.model_validate(dataset))
print(result.model_dump_json())
"""


def test_a_task_on_another_machine_needs_only_the_servers(servers: Servers, tmp_path: Path) -> None:
    config = recipes.load("forecast", ["experiment=machines", "contenders.hand_built.training.max_epochs=1"])

    def python(directory: str, program: str, *arguments: str) -> str:
        (tmp_path / directory).mkdir()
        completed = subprocess.run(
            [sys.executable, "-c", program, config.model_dump_json(), *arguments],
            env={**servers.environment, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path / directory, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.splitlines()[-1]

    references = python("first", TRAIN)
    shutil.rmtree(tmp_path / "first")
    result = json.loads(python("second", EVALUATE, references))
    assert str(tmp_path) not in references
    assert result["metrics"]["scaled_mse"] > 0
    assert list((tmp_path / "second").iterdir()) == []
