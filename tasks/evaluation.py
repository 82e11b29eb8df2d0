"""What a contender predicts after a phase, and how far off it is; and the baselines, on the same examples."""

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
from lstm_models.evaluation.evaluate import evaluate as judge_network
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

MAX_INLINE_PREDICTIONS = 100  # predictions that a result carries itself


@task(task_run_name="evaluate {contender}, untrained", **RETRY_OPTIONS)
@cached_in_run
def evaluate_untrained(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> PhaseResult:
    """Judge a contender as its seed makes it. It has no run of its own: the figures go to the parent."""
    data = load_dataset(dataset)
    network = new_network(config.contenders[contender], data, config.seed)
    place = f"{contender}/untrained"
    return _evaluate(config, network, data, dataset, parent.run_id, contender, "untrained", place)


@task(task_run_name="evaluate {checkpoint.contender}, {checkpoint.phase}", **RETRY_OPTIONS)
@cached_in_run
def evaluate(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef) -> PhaseResult:
    """Judge a training's best checkpoint on a dataset."""
    return _evaluate_checkpoint(config, checkpoint, dataset, checkpoint.run_id, "")


@task(task_run_name="evaluate version {version.number}, the champion", **RETRY_OPTIONS)
@cached_in_run
def evaluate_champion(
    config: CompareConfig, version: TrainedVersion, dataset: DatasetRef, parent: ParentRun
) -> PhaseResult:
    """Judge a champion on a dataset. The figures go to the parent; the version's judgement is now this one."""
    result = _evaluate_checkpoint(config, version.trained.checkpoint, dataset, parent.run_id, "champion")
    promotion.update_score(version.name, version.number, result)
    return result.model_copy(update={"model_uri": f"models:/{version.name}/{version.number}"})


def _evaluate_checkpoint(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, run_id: str, place: str
) -> PhaseResult:
    network = load_network(tracking.download(checkpoint.best_uri))
    data = load_dataset(dataset)
    result = _evaluate(config, network, data, dataset, run_id, checkpoint.contender, checkpoint.phase, place)
    best = {} if data.validation is None else {"best_epoch": checkpoint.best_epoch}
    return result.model_copy(update={"epochs": checkpoint.epochs, "seconds": checkpoint.seconds, **best})


@task(**RETRY_OPTIONS)
@cached_in_run
def evaluate_baselines(dataset: DatasetRef, parent: ParentRun) -> list[BaselineResult]:
    """Judge what needs little or no learning; in sample there is nothing to hold it against."""
    data = load_dataset(dataset)
    if data.in_sample:
        return []
    found = []
    for name, tell in fit_baselines(data).items():
        place = f"baselines/{name}"
        judgement = evaluate_predictor(tell, data)
        judged = _log_evaluation(judgement, data, dataset, parent.run_id, place)
        found.append(
            BaselineResult(
                name=name, metrics=judgement.metrics, run_id=parent.run_id, artifacts=place, parameters=0, **judged
            )
        )
    return found


def _evaluate(
    config: CompareConfig,
    network: Network | Replicas,
    data: Dataset,
    dataset: DatasetRef,
    run_id: str,
    contender: str,
    phase: Phase,
    place: str,
) -> PhaseResult:
    """Judge, and log to a run, what there are files of to this folder of it."""
    evaluation = judge_network(network, data)
    judgement = evaluation.evaluation
    judged = _log_evaluation(judgement, data, dataset, run_id, place)
    few = data.output.kind == "regression" and len(judgement.targets) <= MAX_INLINE_PREDICTIONS
    stored = _log_table(predictions_table(judgement, data), run_id, place, "predictions", as_text=few)
    one = select_replica(network, evaluation.replica)
    introspection.log_gates(config.figures, one, data, run_id, f"{contender}/{phase}", place)
    if config.figures.gradients_through_time:
        introspection.log_gradients(one, data, run_id, place)
    copies = None
    if isinstance(network, Replicas):
        copies = _replica_stats(evaluation, config.converged)
        _log_replicas(copies, evaluation, config.seed, dataset, run_id, place)
    return PhaseResult(
        contender=contender,
        phase=phase,
        epochs=0,
        targets=judgement.targets.tolist() if few else None,
        predictions=judgement.predictions.tolist() if few else None,
        predictions_uri=stored,
        metrics=judgement.metrics,
        seconds=0.0,
        parameters=evaluation.parameters,
        run_id=run_id,
        artifacts=place,
        model_uri=None,
        replicas=copies,
        **judged,
    )


def _log_evaluation(
    judgement: Evaluation, data: Dataset, dataset: DatasetRef, run_id: str, place: str
) -> dict[str, object]:
    """Log a judgement to a run, its files to this folder: what a reference to it says."""
    _log_metrics(judgement.metrics, dataset, run_id, place)
    found = {"loss": judgement.metrics[PRIMARY_METRIC[data.output.kind]], "dataset": dataset.digest}
    if data.in_sample:
        return found
    if judgement.by_step:
        steps = pd.DataFrame(judgement.by_step)
        steps.insert(0, "step", range(1, len(steps) + 1))
        _log_table(steps, run_id, place, "steps", as_text=True)
    if judgement.confusion:
        classes = data.output.classes
        matrix = pd.DataFrame(judgement.confusion, columns=classes, index=pd.Index(classes, name="is, told as"))
        _log_table(matrix.reset_index(), run_id, place, "confusion", as_text=True)
    losses = data.keys().assign(loss=judgement.losses_W.numpy())
    together = bootstrap_block(data)
    low, high = block_bootstrap(judgement.losses_W, together)
    known = {"loss_low": low, "loss_high": high} if math.isfinite(high - low) else {}  # of too few nothing is known
    _log_metrics(known, dataset, run_id, place)
    return {
        **found,
        "low": known.get("loss_low"),
        "high": known.get("loss_high"),
        "losses_uri": _log_table(losses, run_id, place, "losses"),
        "block": together,
    }


def _log_metrics(metrics: dict[str, float], dataset: DatasetRef, run_id: str, place: str) -> None:
    named = {tracking.join_path(place, key): value for key, value in metrics.items()}
    tracking.log_metrics(run_id, named, dataset_name=dataset.name, dataset_digest=dataset.digest)


def _log_table(table: pd.DataFrame, run_id: str, place: str, name: str, *, as_text: bool = False) -> str:
    """Put a table among a run's artifacts, and return its URI."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / (f"{name}.csv" if as_text else f"{name}.parquet")
        if as_text:
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
        tracking.mlflow_client().log_artifact(run_id, str(path), place or None)
        return f"runs:/{run_id}/{tracking.join_path(place, path.name)}"


def _replica_stats(evaluation: NetworkEvaluation, converged: ConvergenceCriterion) -> ReplicaStats:
    count = len(evaluation.replica_metrics)
    successes = sum(
        own is not None and own[converged.metric] < converged.threshold for own in evaluation.replica_metrics
    )
    low, high = wilson_interval(successes, count)
    return ReplicaStats(
        count=count,
        criterion=f"{converged.metric} below {converged.threshold:g}",
        converged=successes,
        low=low,
        high=high,
        median=evaluation.replica,
        errors=[own and own["mse"] for own in evaluation.replica_metrics],
    )


def _log_replicas(
    copies: ReplicaStats, evaluation: NetworkEvaluation, seed: int, dataset: DatasetRef, run_id: str, place: str
) -> None:
    """Every copy's errors as a table, and the share that converged."""
    rows = [{"seed": (seed + n) % 2**32, **(own or {})} for n, own in enumerate(evaluation.replica_metrics)]
    _log_table(pd.DataFrame(rows), run_id, place, "copies", as_text=True)
    _log_metrics({"converged": copies.converged / copies.count}, dataset, run_id, place)
