"""Creation of the MLflow database: its default path, and two concurrent processes."""

import os
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient


def test_the_default_is_a_database_in_the_working_directory(tmp_path: Path) -> None:
    directory = tmp_path / "a b"  # MLflow's own default percent-encodes the space, which names another directory
    directory.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    code = "from tasks import tracking; tracking.mlflow_client(); print(tracking.local_database())"
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == str(directory / "mlflow.db")
    assert {path.name for path in directory.iterdir()} >= {"mlflow.db"}
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]


def test_concurrent_processes_can_create_the_database(empty_directory: Path) -> None:
    code = "from tasks import tracking; tracking.get_or_create_experiment('same')"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert ([process.returncode for process in processes], errors) == ([0, 0], [b"", b""])
    assert [each.name for each in MlflowClient().search_experiments(filter_string="name = 'same'")] == ["same"]
