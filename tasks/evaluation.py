"""Evaluation of contenders and baselines on the same examples; metrics and tables go to MLflow."""

import math
import tempfile
from pathlib import Path

import pandas as pd
from prefect import task

from lstm_models.config import CompareConfig, ConvergenceCriterion, Phase
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation.bootstrap import block_bootstrap
from lstm_models.evaluation.evaluate import (
    PRIMARY_METRIC,
    Evaluation,
    NetworkEvaluation,
    bootstrap_block,
    evaluate_predictor,
    fit_baselines,
    select_replica,
)
from lstm_models.evaluation.evaluate import evaluate as evaluate_network
from lstm_models.evaluation.model_selection import wilson_interval
from lstm_models.evaluation.predict import predictions_table
from lstm_models.nn.network import Network
from lstm_models.nn.replicas import Replicas
from lstm_models.training.checkpoint import load_network
from lstm_models.training.trainer import new_network
from tasks import introspection, promotion, tracking
from tasks.data import load_dataset
from tasks.orchestration.result_cache import cached_in_run
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import (
    BaselineResult,
    CheckpointRef,
    DatasetRef,
    ParentRun,
    PhaseResult,
    ReplicaStats,
    TrainedVersion,
)

MAX_INLINE_PREDICTIONS = 100  # a result contains its predictions up to this number


@task(task_run_name="evaluate {contender}, untrained", **RETRY_OPTIONS)
@cached_in_run
def evaluate_untrained(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> PhaseResult:
    """Evaluate a contender with its initial weights; it has no run, so its metrics are logged to the parent."""
    data = load_dataset(dataset)
    network = new_network(config.contenders[contender], data, config.seed)
    artifact_dir = f"{contender}/untrained"
    return _evaluate(config, network, data, dataset, parent.run_id, contender, "untrained", artifact_dir)


@task(task_run_name="evaluate {checkpoint.contender}, {checkpoint.phase}", **RETRY_OPTIONS)
@cached_in_run
def evaluate(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef) -> PhaseResult:
    """Evaluate the best checkpoint of a training on a dataset."""
    return _evaluate_checkpoint(config, checkpoint, dataset, checkpoint.run_id, "")


@task(task_run_name="evaluate version {version.number}, the champion", **RETRY_OPTIONS)
@cached_in_run
def evaluate_champion(
    config: CompareConfig, version: TrainedVersion, dataset: DatasetRef, parent: ParentRun
) -> PhaseResult:
    """Evaluate a champion on a dataset, log its metrics to the parent, and replace the version's score."""
    result = _evaluate_checkpoint(config, version.trained.checkpoint, dataset, parent.run_id, "champion")
    promotion.update_score(version.name, version.number, result)
    return result.model_copy(update={"model_uri": f"models:/{version.name}/{version.number}"})


def _evaluate_checkpoint(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, run_id: str, artifact_dir: str
) -> PhaseResult:
    network = load_network(tracking.download(checkpoint.best_uri))
    data = load_dataset(dataset)
    result = _evaluate(config, network, data, dataset, run_id, checkpoint.contender, checkpoint.phase, artifact_dir)
    best = {} if data.validation is None else {"best_epoch": checkpoint.best_epoch}
    return result.model_copy(update={"epochs": checkpoint.epochs, "seconds": checkpoint.seconds, **best})


@task(**RETRY_OPTIONS)
@cached_in_run
def evaluate_baselines(dataset: DatasetRef, parent: ParentRun) -> list[BaselineResult]:
    """Evaluate the baselines of a dataset; none in sample."""
    data = load_dataset(dataset)
    if data.in_sample:
        return []
    results = []
    for name, predictor in fit_baselines(data).items():
        artifact_dir = f"baselines/{name}"
        evaluation = evaluate_predictor(predictor, data)
        results.append(
            BaselineResult(
                name=name,
                metrics=evaluation.metrics,
                run_id=parent.run_id,
                artifact_dir=artifact_dir,
                parameters=0,
                **_log_evaluation(evaluation, data, dataset, parent.run_id, artifact_dir),
            )
        )
    return results


def _evaluate(
    config: CompareConfig,
    network: Network | Replicas,
    data: Dataset,
    dataset: DatasetRef,
    run_id: str,
    contender: str,
    phase: Phase,
    artifact_dir: str,
) -> PhaseResult:
    """Evaluate a network, log the metrics to a run, and store tables and figures in this directory of its artifacts."""
    network_evaluation = evaluate_network(network, data)
    evaluation = network_evaluation.evaluation
    score = _log_evaluation(evaluation, data, dataset, run_id, artifact_dir)
    few = data.output.kind == "regression" and len(evaluation.targets) <= MAX_INLINE_PREDICTIONS
    table = predictions_table(evaluation, data)
    predictions_uri = _log_table(table, run_id, artifact_dir, "predictions", as_text=few)
    replica = select_replica(network, network_evaluation.replica)
    introspection.log_gates(config.figures, replica, data, run_id, f"{contender}/{phase}", artifact_dir)
    if config.figures.gradients_through_time:
        introspection.log_gradients(replica, data, run_id, artifact_dir)
    replicas = None
    if isinstance(network, Replicas):
        replicas = _replica_stats(network_evaluation, config.converged)
        _log_replicas(replicas, network_evaluation, config.seed, dataset, run_id, artifact_dir)
    return PhaseResult(
        contender=contender,
        phase=phase,
        epochs=0,
        targets=evaluation.targets.tolist() if few else None,
        predictions=evaluation.predictions.tolist() if few else None,
        predictions_uri=predictions_uri,
        metrics=evaluation.metrics,
        seconds=0.0,
        parameters=network_evaluation.parameters,
        run_id=run_id,
        artifact_dir=artifact_dir,
        model_uri=None,
        replicas=replicas,
        **score,
    )


def _log_evaluation(
    evaluation: Evaluation, data: Dataset, dataset: DatasetRef, run_id: str, artifact_dir: str
) -> dict[str, object]:
    """Log an evaluation's metrics and tables to a run; return the fields of its `Score`."""
    _log_metrics(evaluation.metrics, dataset, run_id, artifact_dir)
    score = {"loss": evaluation.metrics[PRIMARY_METRIC[data.output.kind]], "dataset": dataset.digest}
    if data.in_sample:
        return score
    if evaluation.by_step:
        steps = pd.DataFrame(evaluation.by_step)
        steps.insert(0, "step", range(1, len(steps) + 1))
        _log_table(steps, run_id, artifact_dir, "steps", as_text=True)
    if evaluation.confusion:
        classes = data.output.classes
        matrix = pd.DataFrame(evaluation.confusion, columns=classes, index=pd.Index(classes, name="actual, predicted"))
        _log_table(matrix.reset_index(), run_id, artifact_dir, "confusion", as_text=True)
    losses = data.keys().assign(loss=evaluation.losses_W.numpy())
    block = bootstrap_block(data)
    low, high = block_bootstrap(evaluation.losses_W, block)
    # too few examples have an infinite interval
    interval = {"loss_low": low, "loss_high": high} if math.isfinite(high - low) else {}
    _log_metrics(interval, dataset, run_id, artifact_dir)
    return {
        **score,
        "low": interval.get("loss_low"),
        "high": interval.get("loss_high"),
        "losses_uri": _log_table(losses, run_id, artifact_dir, "losses"),
        "block": block,
    }


def _log_metrics(metrics: dict[str, float], dataset: DatasetRef, run_id: str, artifact_dir: str) -> None:
    named = {tracking.join_path(artifact_dir, key): value for key, value in metrics.items()}
    tracking.log_metrics(run_id, named, dataset_name=dataset.name, dataset_digest=dataset.digest)


def _log_table(table: pd.DataFrame, run_id: str, artifact_dir: str, name: str, *, as_text: bool = False) -> str:
    """Store a table as an artifact of a run, CSV or Parquet, and return its URI."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / (f"{name}.csv" if as_text else f"{name}.parquet")
        if as_text:
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
        tracking.mlflow_client().log_artifact(run_id, str(path), artifact_dir or None)
        return f"runs:/{run_id}/{tracking.join_path(artifact_dir, path.name)}"


def _replica_stats(evaluation: NetworkEvaluation, converged: ConvergenceCriterion) -> ReplicaStats:
    count = len(evaluation.replica_metrics)
    successes = sum(
        metrics is not None and metrics[converged.metric] < converged.threshold
        for metrics in evaluation.replica_metrics
    )
    low, high = wilson_interval(successes, count)
    return ReplicaStats(
        count=count,
        criterion=f"{converged.metric} below {converged.threshold:g}",
        converged=successes,
        low=low,
        high=high,
        median=evaluation.replica,
        errors=[metrics and metrics["mse"] for metrics in evaluation.replica_metrics],
    )


def _log_replicas(
    replicas: ReplicaStats,
    evaluation: NetworkEvaluation,
    seed: int,
    dataset: DatasetRef,
    run_id: str,
    artifact_dir: str,
) -> None:
    """Log each replica's metrics as a table, and the share of converged replicas as a metric."""
    rows = [{"seed": (seed + n) % 2**32, **(metrics or {})} for n, metrics in enumerate(evaluation.replica_metrics)]
    _log_table(pd.DataFrame(rows), run_id, artifact_dir, "replicas", as_text=True)
    _log_metrics({"converged": replicas.converged / replicas.count}, dataset, run_id, artifact_dir)
