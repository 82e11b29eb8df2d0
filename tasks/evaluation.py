"""What a contender predicts after a phase, and how far off it is."""

import tempfile
from pathlib import Path

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from lstm_models.checkpoint import load_network
from lstm_models.comparison import wilson_interval
from lstm_models.config import CompareConfig, Converged, Phase
from lstm_models.data.dataset import in_sample
from lstm_models.evaluation import Evaluation, one_of
from lstm_models.evaluation import evaluate as judge
from lstm_models.network import Network
from lstm_models.replicas import Replicas
from lstm_models.training import new_network
from tasks import inside, tracking
from tasks.data import load_sequences, load_table
from tasks.references import CheckpointRef, Copies, DatasetRef, ParentRun, Result

MOST_INLINE = 100  # predictions that a result carries itself


@task(task_run_name="evaluate {contender}, untrained", cache_policy=NO_CACHE)
def evaluate_untrained(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> Result:
    """Judge a contender as its seed makes it. It has no run of its own: the figures go to the parent."""
    network = new_network(config.contenders[contender], in_sample(load_sequences(dataset)), config.seed)
    return _judge(config, network, dataset, parent.run_id, contender, "untrained")


@task(task_run_name="evaluate {checkpoint.contender}, {checkpoint.phase}", cache_policy=NO_CACHE)
def evaluate(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef) -> Result:
    """Judge a checkpoint on a dataset."""
    network = load_network(tracking.download(checkpoint.uri))
    result = _judge(config, network, dataset, checkpoint.run_id, checkpoint.contender, checkpoint.phase)
    return result.model_copy(update={"epochs": checkpoint.epochs, "seconds": checkpoint.seconds})


def _judge(
    config: CompareConfig,
    network: Network | Replicas,
    dataset: DatasetRef,
    run_id: str,
    contender: str,
    phase: Phase,
) -> Result:
    sequences = load_sequences(dataset)
    evaluation = judge(network, sequences)
    prefix = f"{contender}/{phase}/" if phase == "untrained" else ""
    result = _record(evaluation, dataset, run_id, contender, phase, prefix)
    one = one_of(network, evaluation.copy_index)
    inside.log_gates(config.figures, one, dataset, run_id, f"{contender}/{phase}", prefix)
    if config.figures.gradients_through_time:
        inside.log_gradients(one, sequences, run_id, prefix)
    if isinstance(network, Replicas):
        copies = _copies(evaluation, config.converged)
        _log_copies(copies, evaluation, config.seed, dataset, run_id, prefix)
        result = result.model_copy(update={"copies": copies})
    return result


def _copies(evaluation: Evaluation, converged: Converged) -> Copies:
    count = len(evaluation.copies)
    successes = sum(own is not None and own[converged.metric] < converged.below for own in evaluation.copies)
    low, high = wilson_interval(successes, count)
    return Copies(
        count=count,
        criterion=f"{converged.metric} below {converged.below:g}",
        converged=successes,
        low=low,
        high=high,
        median=evaluation.copy_index,
        errors=[own and own["mse"] for own in evaluation.copies],
    )


def _log_copies(
    copies: Copies, evaluation: Evaluation, seed: int, dataset: DatasetRef, run_id: str, prefix: str
) -> None:
    """Every copy's errors as a table, and the share that converged."""
    rows = [{"seed": (seed + n) % 2**32, **(own or {})} for n, own in enumerate(evaluation.copies)]
    tracking.client().log_text(run_id, pd.DataFrame(rows).to_csv(index=False), f"{prefix}copies.csv")
    share = {f"{prefix}converged": copies.converged / copies.count}
    tracking.log_metrics(run_id, share, dataset_name=dataset.name, dataset_digest=dataset.digest)


def _record(
    evaluation: Evaluation, dataset: DatasetRef, run_id: str, contender: str, phase: Phase, prefix: str
) -> Result:
    """Log an evaluation to a run: its metrics, and its predictions as a table beside the sequences' names."""
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
        epochs=0,
        targets=evaluation.targets if few else None,
        predictions=evaluation.predictions if few else None,
        predictions_uri=f"runs:/{run_id}/{prefix}{path.name}",
        metrics=evaluation.metrics,
        seconds=0.0,
        parameters=evaluation.parameters,
        run_id=run_id,
        model_uri=None,
    )
