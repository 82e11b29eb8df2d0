"""What a contender predicts after a phase, and how far off it is."""

import tempfile
from pathlib import Path

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from lstm_models.checkpoint import load_network
from lstm_models.config import CompareConfig, Phase
from lstm_models.evaluation import Evaluation
from lstm_models.evaluation import evaluate as judge
from lstm_models.training import new_network
from tasks import tracking
from tasks.data import load_sequences, load_table
from tasks.references import CheckpointRef, DatasetRef, ParentRun, Result

MOST_INLINE = 100  # predictions that a result carries itself


@task(task_run_name="evaluate {contender}, untrained", cache_policy=NO_CACHE)
def evaluate_untrained(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> Result:
    """Judge a contender as its seed makes it. It has no run of its own: the figures go to the parent."""
    sequences = load_sequences(dataset)
    evaluation = judge(new_network(config.contenders[contender], sequences, config.seed), sequences)
    return _record(evaluation, dataset, parent.run_id, contender, "untrained")


@task(task_run_name="evaluate {checkpoint.contender}, {checkpoint.phase}", cache_policy=NO_CACHE)
def evaluate(checkpoint: CheckpointRef, dataset: DatasetRef) -> Result:
    """Judge a checkpoint on a dataset."""
    network = load_network(tracking.download(checkpoint.uri))
    evaluation = judge(network, load_sequences(dataset))
    return _record(
        evaluation,
        dataset,
        checkpoint.run_id,
        checkpoint.contender,
        checkpoint.phase,
        epochs=checkpoint.epochs,
        seconds=checkpoint.seconds,
    )


def _record(
    evaluation: Evaluation,
    dataset: DatasetRef,
    run_id: str,
    contender: str,
    phase: Phase,
    epochs: int = 0,
    seconds: float = 0.0,
) -> Result:
    """Log an evaluation to a run: its metrics, and its predictions as a table beside the sequences' names."""
    prefix = f"{contender}/{phase}/" if phase == "untrained" else ""
    metrics = {prefix + key: value for key, value in evaluation.metrics.items()}
    tracking.log_metrics(run_id, metrics, dataset_name=dataset.name, dataset_digest=dataset.digest)
    table = pd.DataFrame(
        {
            dataset.key: load_table(dataset)[dataset.key],
            "target": evaluation.targets,
            "prediction": evaluation.predictions,
        }
    )
    few = len(table) <= MOST_INLINE
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / ("predictions.csv" if few else "predictions.parquet")
        if few:
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
        tracking.client().log_artifact(run_id, str(path), prefix.rstrip("/") or None)
    return Result(
        contender=contender,
        phase=phase,
        epochs=epochs,
        targets=evaluation.targets if few else None,
        predictions=evaluation.predictions if few else None,
        predictions_uri=f"runs:/{run_id}/{prefix}{path.name}",
        metrics=evaluation.metrics,
        seconds=seconds,
        parameters=evaluation.parameters,
        run_id=run_id,
        model_uri=None,
    )
