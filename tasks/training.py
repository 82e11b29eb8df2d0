"""Initial training, and the training that resumes from its checkpoint."""

import hashlib
import logging
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
    """Train a contender from its seed to training.max_epochs, in a run of its own."""
    return _train_phase(config, contender, "initial", dataset, parent)


@task(task_run_name="fine-tune {checkpoint.contender}", **RETRY_OPTIONS)
@cached_in_run
def fine_tune(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, parent: ParentRun
) -> CheckpointRef:
    """Go on from a checkpoint to fine_tuning.max_epochs, in a run of its own that names the run it continues."""
    return _train_phase(config, checkpoint.contender, "fine_tuned", dataset, parent, checkpoint)


@task(task_run_name="warm-start {checkpoint.contender}", **RETRY_OPTIONS)
@cached_in_run
def warm_start(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, parent: ParentRun
) -> CheckpointRef:
    """Train from a checkpoint's best weights to training.max_epochs, in a run of its own that names the run before."""
    return _train_phase(config, checkpoint.contender, "fine_tuned", dataset, parent, checkpoint, warm=True)


def _train_phase(
    config: CompareConfig,
    name: str,
    phase: Phase,
    dataset: DatasetRef,
    parent: ParentRun,
    before: CheckpointRef | None = None,
    warm: bool = False,
) -> CheckpointRef:
    contender = config.contenders[name]
    epochs = contender.fine_tuning.max_epochs if before and not warm else contender.training.max_epochs
    begun = checkpoint_store.find_child_run(parent, f"{name}/{phase}")
    run_id = begun or tracking.start_run(
        parent.experiment_id,
        f"{name}/{phase}",
        parent=parent.run_id,
        tags={"contender": name, "phase": phase, **({"continues": before.run_id} if before else {})},
        note=_describe_run(contender.model.kind, epochs, before, warm),
    )
    with tracking.terminate_on_error(run_id), checkpoint_store.checkpoint_dir(run_id) as folder:
        tracking.log_params(run_id, _run_params(contender, epochs, config.seed))
        tracking.log_dataset(run_id, as_mlflow_dataset(dataset), "training")
        data = load_dataset(dataset)
        path, best = folder / LAST, folder / BEST
        step = checkpoint_store.restore_checkpoint(run_id, folder) if begun else None
        boards = TensorBoardLogger(parent.tensorboard_dir, name=name, version=phase, purge_step=step or 0)
        with BufferedMLflowLogger(run_id, folder) as sender:
            done = completed_result(path, contender, epochs) if step is not None else None
            done = done or fit(
                contender,
                data,
                seed=config.seed,
                last_path=path,
                best_path=best,
                max_epochs=epochs,
                loggers=[sender, boards],
                callbacks=_progress_callbacks(f"{name}/{phase}"),
                on_snapshot=sender.send_snapshot,
                **({"resume_from": path} if step is not None else _start_from(before, warm)),
            )
        used = best if best.exists() else path  # the same where nothing is validated
        for file in dict.fromkeys((used, path)):  # where the last one is, both are
            tracking.mlflow_client().log_artifact(run_id, str(file), checkpoint_store.CHECKPOINT_PATH)
        checkpoint = CheckpointRef(
            uri=f"runs:/{run_id}/{checkpoint_store.CHECKPOINT_PATH}/{path.name}",
            best_uri=f"runs:/{run_id}/{checkpoint_store.CHECKPOINT_PATH}/{used.name}",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            run_id=run_id,
            contender=name,
            phase=phase,
            epochs=done.epochs,
            best_epoch=done.best_epoch,
            seconds=sender.seconds,
        )
        lineage.save_training_record(config, checkpoint, dataset, data)
        checkpoint_store.delete_checkpoints(run_id)
    return checkpoint


def _start_from(before: CheckpointRef | None, warm: bool) -> dict[str, Any]:
    """What a training begins with, if not with what it has left when it was interrupted."""
    if before is None:
        return {}
    if warm:
        return {"init_from": tracking.download(before.best_uri)}
    return {"resume_from": tracking.download(before.uri), "is_fine_tuning": True}


def _describe_run(kind: str, epochs: int, before: CheckpointRef | None, warm: bool) -> str:
    if before and not warm:
        return f"{kind}, resumed at epoch {before.epochs} and trained to epoch {epochs}."
    return f"{kind}, trained from {'the weights of another run' if warm else 'its seed'} to epoch {epochs}."


def _run_params(contender: Contender, epochs: int, seed: int) -> dict[str, object]:
    """The settings that tell runs apart; all of them stand in the parent's config.yaml."""
    return {
        **contender.model.model_dump(),
        "learning_rate": contender.training.learning_rate,
        "batch_size": contender.training.batch_size,
        "max_epochs": epochs,
        "seed": seed,
    }


def _progress_callbacks(name: str) -> list[Callback]:
    """A progress line on standard error, where progress is asked for."""
    return [ProgressLine(name, Console(stderr=True))] if logger.isEnabledFor(logging.INFO) else []
