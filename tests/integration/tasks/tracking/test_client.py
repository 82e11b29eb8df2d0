"""Functions for MLflow, on a real SQLite database."""

from pathlib import Path

import pytest
from helpers.errors import names_all
from mlflow.exceptions import MlflowException

from tasks import tracking


def start_run() -> str:
    return tracking.start_run(
        tracking.get_or_create_experiment("tracked"), "a run", tags={"phase": "initial"}, note="A run."
    )


def test_an_experiment_is_created_once_and_a_deleted_one_is_refused(workplace: Path) -> None:
    assert tracking.get_or_create_experiment("gone") == tracking.get_or_create_experiment("gone")
    tracking.mlflow_client().delete_experiment(tracking.get_or_create_experiment("gone"))
    with pytest.raises(MlflowException) as caught:
        tracking.get_or_create_experiment("gone")
    assert names_all(caught.value, "experiment gone", "deleted", "restore", "another name")


def test_a_run_has_a_note_tags_and_a_url(workplace: Path) -> None:
    run = tracking.mlflow_client().get_run(start_run())
    tags = run.data.tags
    assert (tags["mlflow.note.content"], tags["lstm_flows.phase"]) == ("A run.", "initial")
    assert tags["lstm_flows.pid"]
    experiment, run_id = run.info.experiment_id, run.info.run_id
    assert tracking.run_url(run_id) == f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run_id}"


def test_a_curve_may_have_more_points_than_one_batch(workplace: Path) -> None:
    run_id, points = start_run(), {step: step / 8 for step in range(1, 2 * tracking.MAX_BATCH + 2)}
    for _ in range(2):  # the second time adds no values
        tracking.log_curve(run_id, "long", points)
    assert tracking.read_curve(run_id, "long") == points
    assert len(tracking.mlflow_client().get_metric_history(run_id, "long")) == len(points)


def test_an_artifact_can_be_downloaded(workplace: Path) -> None:
    run_id = start_run()
    tracking.mlflow_client().log_text(run_id, "seed: 7", "config.yaml")
    assert tracking.download(f"runs:/{run_id}/config.yaml").read_text() == "seed: 7"
