"""Ten concurrent flow runs on one Prefect server and one MLflow server: none fails, and there is one champion."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import servers as deployed
from helpers.demand import write_demand
from helpers.processes import ROOT
from helpers.servers import NEEDS_POSTGRESQL, SQLiteServers
from mlflow import MlflowClient

from tasks.tracking.history import promotion_history

COMPARES, FINE_TUNES = 5, 5
DEMAND = """
experiment: demand
data: {kind: table, path: demand.csv, time: hour, target: demand, context_length: 8, horizon: 2}
contenders:
  built_in:
    model: {kind: built_in, hidden_size: 4}
    training: {max_epochs: 1, num_threads: 1, checkpoint_every_n_steps: 5}
    fine_tuning: {max_epochs: 2}
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=NEEDS_POSTGRESQL)])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a client of both servers."""
    with ExitStack() as stack:
        if request.param == "postgresql":
            yield stack.enter_context(deployed.servers(tmp_path)).environment
            return
        yield stack.enter_context(SQLiteServers(tmp_path)).environment


def run_concurrently(environment: dict[str, str], directory: Path, compares: int, fine_tunes: int) -> None:
    program = str(ROOT / "tests/helpers/concurrent_flows.py")
    command = [sys.executable, program, "demand.yaml", str(compares), str(fine_tunes)]
    quiet = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(
        command, env=environment | quiet, cwd=directory, capture_output=True, text=True, check=False, timeout=800
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_ten_concurrent_runs(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "demand.yaml").write_text(DEMAND)
    write_demand(directory / "demand.csv", 200)
    run_concurrently(environment, directory, 1, 0)  # its champion is fine-tuned
    write_demand(directory / "demand.csv", 260)
    run_concurrently(environment, directory, COMPARES, FINE_TUNES)

    for key, value in environment.items():
        if key.startswith("MLFLOW_TRACKING"):
            monkeypatch.setenv(key, value)
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("demand").experiment_id
    runs = client.search_runs([experiment])
    assert Counter((run.info.run_name.split("/")[-1], run.info.status) for run in runs) == {
        ("compare demand", "FINISHED"): 1 + COMPARES,
        ("fine_tune demand", "FINISHED"): FINE_TUNES,
        ("initial", "FINISHED"): 1 + COMPARES,
        ("fine_tuned", "FINISHED"): 1 + COMPARES + FINE_TUNES,
    }
    versions = client.search_model_versions("name='demand'", max_results=100)
    trained = {run.info.run_id for run in runs if "/" in run.info.run_name}
    assert sorted(int(version.version) for version in versions) == [*range(1, len(trained) + 1)]
    assert {version.run_id for version in versions} == trained
    models = client.search_logged_models([experiment], max_results=100)
    assert sorted(f"models:/{model.model_id}" for model in models) == sorted(version.source for version in versions)
    tenures = promotion_history(versions)
    champion = client.get_model_version_by_alias("demand", "champion")
    assert tenures[-1].version == int(champion.version)
    assert len({tenure.version for tenure in tenures}) == len(tenures)
    assert not (directory / ".lstm_flows/checkpoints").exists()
