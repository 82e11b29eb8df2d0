"""What a contender predicts after a phase, and how far off it is; and the baselines, on the same examples."""

import math
import tempfile
from pathlib import Path

import pandas as pd
from prefect import task

from lstm_models.checkpoint import load_network
from lstm_models.comparison import wilson_interval
from lstm_models.config import CompareConfig, Converged, Phase
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation import HEADLINES, Evaluation, Judgement, block, judge, one_of, tellers
from lstm_models.evaluation import evaluate as judge_network
from lstm_models.intervals import block_bootstrap
from lstm_models.network import Network
from lstm_models.prediction import as_table
from lstm_models.replicas import Replicas
from lstm_models.training import new_network
from tasks import champions, inside, tracking
from tasks.answers import once
from tasks.data import load_dataset
from tasks.references import Baseline, CheckpointRef, Copies, DatasetRef, ParentRun, Result, Version
from tasks.retries import MAY_PASS

MOST_INLINE = 100  # predictions that a result carries itself


@task(task_run_name="evaluate {contender}, untrained", **MAY_PASS)
@once
def evaluate_untrained(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> Result:
    """Judge a contender as its seed makes it. It has no run of its own: the figures go to the parent."""
    data = load_dataset(dataset)
    network = new_network(config.contenders[contender], data, config.seed)
    place = f"{contender}/untrained"
    return _evaluate(config, network, data, dataset, parent.run_id, contender, "untrained", place)


@task(task_run_name="evaluate {checkpoint.contender}, {checkpoint.phase}", **MAY_PASS)
@once
def evaluate(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef) -> Result:
    """Judge a training's best checkpoint on a dataset."""
    return _of_checkpoint(config, checkpoint, dataset, checkpoint.run_id, "")


@task(task_run_name="evaluate version {version.number}, the champion", **MAY_PASS)
@once
def evaluate_champion(config: CompareConfig, version: Version, dataset: DatasetRef, parent: ParentRun) -> Result:
    """Judge a champion on a dataset. The figures go to the parent; the version's judgement is now this one."""
    result = _of_checkpoint(config, version.trained.checkpoint, dataset, parent.run_id, "champion")
    champions.judge(version.name, version.number, result)
    return result.model_copy(update={"model_uri": f"models:/{version.name}/{version.number}"})


def _of_checkpoint(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, run_id: str, place: str
) -> Result:
    network = load_network(tracking.download(checkpoint.best_uri))
    data = load_dataset(dataset)
    result = _evaluate(config, network, data, dataset, run_id, checkpoint.contender, checkpoint.phase, place)
    best = {} if data.validation is None else {"best_epoch": checkpoint.best_epoch}
    return result.model_copy(update={"epochs": checkpoint.epochs, "seconds": checkpoint.seconds, **best})


@task(**MAY_PASS)
@once
def evaluate_baselines(dataset: DatasetRef, parent: ParentRun) -> list[Baseline]:
    """Judge what needs little or no learning; in sample there is nothing to hold it against."""
    data = load_dataset(dataset)
    if data.in_sample:
        return []
    found = []
    for name, tell in tellers(data).items():
        place = f"baselines/{name}"
        judgement = judge(tell, data)
        judged = _record(judgement, data, dataset, parent.run_id, place)
        found.append(
            Baseline(
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
) -> Result:
    """Judge, and log to a run, what there are files of to this folder of it."""
    evaluation = judge_network(network, data)
    judgement = evaluation.judgement
    judged = _record(judgement, data, dataset, run_id, place)
    few = data.output.kind == "number" and len(judgement.y) <= MOST_INLINE
    stored = _store(as_table(judgement, data), run_id, place, "predictions", as_text=few)
    one = one_of(network, evaluation.copy_index)
    inside.log_gates(config.figures, one, data, run_id, f"{contender}/{phase}", place)
    if config.figures.gradients_through_time:
        inside.log_gradients(one, data, run_id, place)
    copies = None
    if isinstance(network, Replicas):
        copies = _copies(evaluation, config.converged)
        _log_copies(copies, evaluation, config.seed, dataset, run_id, place)
    return Result(
        contender=contender,
        phase=phase,
        epochs=0,
        targets=judgement.y.tolist() if few else None,
        predictions=judgement.told.tolist() if few else None,
        predictions_uri=stored,
        metrics=judgement.metrics,
        seconds=0.0,
        parameters=evaluation.parameters,
        run_id=run_id,
        artifacts=place,
        model_uri=None,
        copies=copies,
        **judged,
    )


def _record(judgement: Judgement, data: Dataset, dataset: DatasetRef, run_id: str, place: str) -> dict[str, object]:
    """Log a judgement to a run, its files to this folder: what a reference to it says."""
    _log_metrics(judgement.metrics, dataset, run_id, place)
    found = {"loss": judgement.metrics[HEADLINES[data.output.kind]], "dataset": dataset.digest}
    if data.in_sample:
        return found
    if judgement.by_step:
        steps = pd.DataFrame(judgement.by_step)
        steps.insert(0, "step", range(1, len(steps) + 1))
        _store(steps, run_id, place, "steps", as_text=True)
    if judgement.confusion:
        classes = data.output.classes
        matrix = pd.DataFrame(judgement.confusion, columns=classes, index=pd.Index(classes, name="is, told as"))
        _store(matrix.reset_index(), run_id, place, "confusion", as_text=True)
    losses = data.keys().assign(loss=judgement.losses_W.numpy())
    together = block(data)
    low, high = block_bootstrap(judgement.losses_W, together)
    known = {"loss_low": low, "loss_high": high} if math.isfinite(high - low) else {}  # of too few nothing is known
    _log_metrics(known, dataset, run_id, place)
    return {
        **found,
        "low": known.get("loss_low"),
        "high": known.get("loss_high"),
        "losses_uri": _store(losses, run_id, place, "losses"),
        "block": together,
    }


def _log_metrics(metrics: dict[str, float], dataset: DatasetRef, run_id: str, place: str) -> None:
    named = {tracking.within(place, key): value for key, value in metrics.items()}
    tracking.log_metrics(run_id, named, dataset_name=dataset.name, dataset_digest=dataset.digest)


def _store(table: pd.DataFrame, run_id: str, place: str, name: str, *, as_text: bool = False) -> str:
    """Put a table among a run's artifacts, and return its URI."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / (f"{name}.csv" if as_text else f"{name}.parquet")
        if as_text:
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
        tracking.client().log_artifact(run_id, str(path), place or None)
        return f"runs:/{run_id}/{tracking.within(place, path.name)}"


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
    copies: Copies, evaluation: Evaluation, seed: int, dataset: DatasetRef, run_id: str, place: str
) -> None:
    """Every copy's errors as a table, and the share that converged."""
    rows = [{"seed": (seed + n) % 2**32, **(own or {})} for n, own in enumerate(evaluation.copies)]
    _store(pd.DataFrame(rows), run_id, place, "copies", as_text=True)
    _log_metrics({"converged": copies.converged / copies.count}, dataset, run_id, place)
