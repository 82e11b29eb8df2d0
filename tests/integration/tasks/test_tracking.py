"""MLflow as plain functions, on a real SQLite database."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from tasks import tracking


def start_run(name: str = "a run") -> str:
    return tracking.start_run(tracking.experiment_id("tracked"), name, tags={"phase": "initial"}, note="A run.")


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.client().get_metric_history(run_id, key)]


def test_the_default_is_a_database_in_the_working_directory(tmp_path: Path) -> None:
    directory = tmp_path / "a b"  # a space, of which MLflow's own default makes another directory
    directory.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    code = "from tasks import tracking; tracking.client(); print(tracking.local_database())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(directory / "mlflow.db")
    assert {path.name for path in directory.iterdir()} >= {"mlflow.db"}
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]


def test_processes_that_create_the_database_at_once_all_succeed(empty_directory: Path) -> None:
    code = "from tasks import tracking; tracking.experiment_id('same')"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")
    assert [found.name for found in tracking.client().search_experiments(filter_string="name = 'same'")] == ["same"]


def test_an_experiment_is_created_once(workplace: Path) -> None:
    assert tracking.experiment_id("one") == tracking.experiment_id("one")


def test_a_deleted_experiment_is_refused(workplace: Path) -> None:
    tracking.client().delete_experiment(tracking.experiment_id("gone"))
    with pytest.raises(MlflowException, match="experiment gone was deleted; restore it in the MLflow UI, or choose"):
        tracking.experiment_id("gone")


def test_a_run_says_what_it_is_and_where_it_comes_from(workplace: Path) -> None:
    tags = tracking.client().get_run(start_run()).data.tags
    assert tags["mlflow.note.content"] == "A run."
    assert tags["lstm_flows.phase"] == "initial"
    assert tags["lstm_flows.pid"]


def test_a_curve_may_have_more_points_than_one_batch_takes(workplace: Path) -> None:
    run_id, points = start_run(), {step: step / 8 for step in range(1, 2502)}
    tracking.log_curve(run_id, "long", points)
    tracking.log_curve(run_id, "long", points)
    assert tracking.read_curve(run_id, "long") == points
    assert len(history(run_id, "long")) == len(points)


def test_an_artifact_comes_back(workplace: Path) -> None:
    run_id = start_run()
    tracking.client().log_text(run_id, "seed: 7", "config.yaml")
    assert tracking.download(f"runs:/{run_id}/config.yaml").read_text() == "seed: 7"


def test_where_a_run_can_be_looked_at(workplace: Path) -> None:
    run_id = start_run()
    experiment = mlflow.MlflowClient().get_run(run_id).info.experiment_id
    assert tracking.run_url(run_id) == f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run_id}"
