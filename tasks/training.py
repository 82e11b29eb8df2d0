"""Train a contender from its seed, fine-tune it from a checkpoint, or warm-start it from its best weights."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from prefect import task
from rich.console import Console

from lstm_models.config import CompareConfig, Contender, Phase
from lstm_models.training.progress import ProgressLine
from lstm_models.training.trainer import completed_result, fit
from tasks import lineage, tracking
from tasks.data import as_mlflow_dataset, load_dataset
from tasks.orchestration.result_cache import cached_in_run
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import CheckpointRef, DatasetRef, ParentRun
from tasks.tracking import checkpoint_store
from tasks.tracking.mlflow_logger import BEST, LAST, BufferedMLflowLogger

logger = logging.getLogger("lstm_flows")


@task(task_run_name="train {contender}", **RETRY_OPTIONS)
@cached_in_run
def train(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> CheckpointRef:
    """Train a contender from its seed to training.max_epochs, in its own MLflow run."""
    return _train_phase(config, contender, "initial", dataset, parent)


@task(task_run_name="fine-tune {checkpoint.contender}", **RETRY_OPTIONS)
@cached_in_run
def fine_tune(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, parent: ParentRun
) -> CheckpointRef:
    """Fine-tune from a checkpoint to fine_tuning.max_epochs, in its own MLflow run with the tag `continues`."""
    return _train_phase(config, checkpoint.contender, "fine_tuned", dataset, parent, checkpoint)


@task(task_run_name="warm-start {checkpoint.contender}", **RETRY_OPTIONS)
@cached_in_run
def warm_start(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, parent: ParentRun
) -> CheckpointRef:
    """Train from a checkpoint's best weights to training.max_epochs, in its own MLflow run with the tag `continues`."""
    return _train_phase(config, checkpoint.contender, "fine_tuned", dataset, parent, checkpoint, warm=True)


def _train_phase(
    config: CompareConfig,
    name: str,
    phase: Phase,
    dataset: DatasetRef,
    parent: ParentRun,
    previous: CheckpointRef | None = None,
    warm: bool = False,
) -> CheckpointRef:
    """Train one phase of a contender, or resume it if its run was interrupted, and log the checkpoints."""
    contender = config.contenders[name]
    epochs = contender.fine_tuning.max_epochs if previous and not warm else contender.training.max_epochs
    interrupted = checkpoint_store.find_child_run(parent, f"{name}/{phase}")
    run_id = interrupted or tracking.start_run(
        parent.experiment_id,
        f"{name}/{phase}",
        parent=parent.run_id,
        tags={"contender": name, "phase": phase, **({"continues": previous.run_id} if previous else {})},
        note=_describe_run(contender.model.kind, epochs, previous, warm),
    )
    with tracking.terminate_on_error(run_id), checkpoint_store.checkpoint_dir(run_id) as folder:
        tracking.log_params(run_id, _run_params(contender, epochs, config.seed))
        tracking.log_dataset(run_id, as_mlflow_dataset(dataset), "training")
        data = load_dataset(dataset)
        path, best = folder / LAST, folder / BEST
        step = checkpoint_store.restore_checkpoint(run_id, folder) if interrupted else None
        boards = TensorBoardLogger(parent.tensorboard_dir, name=name, version=phase, purge_step=step or 0)
        with BufferedMLflowLogger(run_id, folder) as mlflow_logger:
            fitted = completed_result(path, contender, epochs) if step is not None else None
            fitted = fitted or fit(
                contender,
                data,
                seed=config.seed,
                last_path=path,
                best_path=best,
                max_epochs=epochs,
                loggers=[mlflow_logger, boards],
                callbacks=_progress_callbacks(f"{name}/{phase}"),
                on_checkpoint=mlflow_logger.send_snapshot,
                **({"resume_from": path} if step is not None else _start_from(previous, warm)),
            )
        checkpoint = CheckpointRef(
            **_log_checkpoints(run_id, path, best),
            run_id=run_id,
            contender=name,
            phase=phase,
            epochs=fitted.epochs,
            best_epoch=fitted.best_epoch,
            seconds=mlflow_logger.seconds,
        )
        lineage.save_training_record(config, checkpoint, dataset, data)
        checkpoint_store.delete_checkpoints(run_id)
    return checkpoint


def _log_checkpoints(run_id: str, last: Path, best: Path) -> dict[str, str]:
    """Log the last and the best checkpoint to a run and return their URIs and the last one's SHA-256."""
    best = best if best.exists() else last  # without validation there is no separate best checkpoint
    for file in dict.fromkeys((best, last)):  # the last one goes last: if it is there, both are
        tracking.mlflow_client().log_artifact(run_id, str(file), checkpoint_store.CHECKPOINT_PATH)
    artifact_dir = f"runs:/{run_id}/{checkpoint_store.CHECKPOINT_PATH}"
    digest = hashlib.sha256(last.read_bytes()).hexdigest()
    return {"uri": f"{artifact_dir}/{last.name}", "best_uri": f"{artifact_dir}/{best.name}", "sha256": digest}


def _start_from(previous: CheckpointRef | None, warm: bool) -> dict[str, Any]:
    """Return the arguments of `fit` for a training that is not resumed: the checkpoint to start from, if any."""
    if previous is None:
        return {}
    if warm:
        return {"init_from": tracking.download(previous.best_uri)}
    return {"resume_from": tracking.download(previous.uri), "is_fine_tuning": True}


def _describe_run(kind: str, epochs: int, previous: CheckpointRef | None, warm: bool) -> str:
    if previous and not warm:
        return f"{kind}, fine-tuned from epoch {previous.epochs} to epoch {epochs}."
    return f"{kind}, trained from {'the best weights of another run' if warm else 'its seed'} to epoch {epochs}."


def _run_params(contender: Contender, epochs: int, seed: int) -> dict[str, object]:
    """Return the settings that distinguish runs; the parent's config.yaml has all settings."""
    return {
        **contender.model.model_dump(),
        "learning_rate": contender.training.learning_rate,
        "batch_size": contender.training.batch_size,
        "max_epochs": epochs,
        "seed": seed,
    }


def _progress_callbacks(name: str) -> list[Callback]:
    """Return a progress line on standard error, unless progress is disabled."""
    return [ProgressLine(name, Console(stderr=True))] if logger.isEnabledFor(logging.INFO) else []
