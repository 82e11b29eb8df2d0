"""What an evaluation leaves in MLflow."""

import tempfile
from pathlib import Path

import pandas as pd
import pytest

from lstm_models.evaluation import Evaluation
from tasks import tracking
from tasks.evaluation import MOST_INLINE, _record
from tasks.references import DatasetRef, Result


def record(count: int) -> Result:
    """An evaluation of so many sequences, recorded in a run."""
    run_id = tracking.start_run(tracking.experiment_id("evaluated"), "a run", tags={}, note="")
    table = pd.DataFrame({"company": [f"c{number}" for number in range(count)]})
    with tempfile.TemporaryDirectory() as directory:
        table.to_parquet(Path(directory) / "many.parquet")
        tracking.client().log_artifact(run_id, f"{directory}/many.parquet", "data")
    dataset = DatasetRef(
        uri=f"runs:/{run_id}/data/many.parquet",
        name="many",
        digest="d",
        sequences=count,
        inputs=("day_1",),
        target="label",
        key="company",
    )
    evaluation = Evaluation(
        targets=[0.0] * count,
        predictions=[number / 8 for number in range(count)],
        metrics={"mse": 1.0, "mae": 0.5},
        parameters=12,
    )
    return _record(evaluation, dataset, run_id, "hand_built", "initial", epochs=3, seconds=1.5)


def test_few_predictions_are_carried_and_stored_as_csv(workplace: Path) -> None:
    result = record(MOST_INLINE)
    assert result.predictions == [number / 8 for number in range(MOST_INLINE)]
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.csv"
    stored = pd.read_csv(tracking.download(result.predictions_uri))
    assert stored["prediction"].tolist() == result.predictions


def test_many_predictions_go_to_parquet_instead(workplace: Path) -> None:
    result = record(MOST_INLINE + 1)
    assert (result.targets, result.predictions) == (None, None)
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.parquet"
    stored = pd.read_parquet(tracking.download(result.predictions_uri))
    assert stored["prediction"].tolist() == [number / 8 for number in range(MOST_INLINE + 1)]
    assert stored["company"].tolist()[-1] == f"c{MOST_INLINE}"


def test_metrics_stand_on_the_run_with_their_data(workplace: Path) -> None:
    result = record(2)
    run = tracking.client().get_run(result.run_id)
    assert run.data.metrics == pytest.approx({"mse": 1.0, "mae": 0.5}, abs=0)
