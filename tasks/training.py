"""Initial training, and the training that resumes from its checkpoint."""

import hashlib
import logging
import tempfile
from pathlib import Path

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from prefect import task
from prefect.cache_policies import NO_CACHE
from rich.console import Console

from lstm_models.config import CompareConfig, Contender, Phase
from lstm_models.progress import ProgressLine
from lstm_models.training import fit
from tasks import tracking
from tasks.data import as_input, load_dataset
from tasks.references import CheckpointRef, DatasetRef, ParentRun

logger = logging.getLogger("lstm_flows")


@task(task_run_name="train {contender}", cache_policy=NO_CACHE)
def train(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> CheckpointRef:
    """Train a contender from its seed to training.max_epochs, in a run of its own."""
    return _run(config, contender, "initial", dataset, parent)


@task(task_run_name="fine-tune {checkpoint.contender}", cache_policy=NO_CACHE)
def resume(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, parent: ParentRun) -> CheckpointRef:
    """Go on from a checkpoint to fine_tuning.max_epochs, in a run of its own that names the run it continues."""
    return _run(config, checkpoint.contender, "fine_tuned", dataset, parent, checkpoint)


def _run(
    config: CompareConfig,
    name: str,
    phase: Phase,
    dataset: DatasetRef,
    parent: ParentRun,
    before: CheckpointRef | None = None,
) -> CheckpointRef:
    contender = config.contenders[name]
    run_id = tracking.start_run(
        parent.experiment_id,
        f"{name}/{phase}",
        parent=parent.run_id,
        tags={"contender": name, "phase": phase, **({"continues": before.run_id} if before else {})},
        note=_note(contender, before),
    )
    tracking.log_params(run_id, _params(contender, phase, config.seed))
    tracking.log_dataset(run_id, as_input(dataset), "training")
    boards = TensorBoardLogger(parent.tensorboard_dir, name=name, version=phase)
    with tempfile.TemporaryDirectory() as directory:
        path, best = Path(directory) / "last.ckpt", Path(directory) / "best.ckpt"
        done = fit(
            contender,
            load_dataset(dataset),
            seed=config.seed,
            save_to=path,
            best_to=best,
            resume_from=tracking.download(before.uri) if before else None,
            loggers=[tracking.Curves(run_id), boards],
            callbacks=_progress(f"{name}/{phase}"),
        )
        used = best if best.exists() else path  # the same where nothing is validated
        for file in {path, used}:
            tracking.client().log_artifact(run_id, str(file), "checkpoint")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return CheckpointRef(
        uri=f"runs:/{run_id}/checkpoint/{path.name}",
        best_uri=f"runs:/{run_id}/checkpoint/{used.name}",
        sha256=sha256,
        run_id=run_id,
        contender=name,
        phase=phase,
        epochs=done.epochs,
        best_epoch=done.best_epoch,
        seconds=done.seconds,
    )


def _note(contender: Contender, before: CheckpointRef | None) -> str:
    kind = contender.model.kind
    if before:
        return f"{kind}, resumed at epoch {before.epochs} and trained to epoch {contender.fine_tuning.max_epochs}."
    return f"{kind}, trained from its seed to epoch {contender.training.max_epochs}."


def _params(contender: Contender, phase: Phase, seed: int) -> dict[str, object]:
    """The settings that tell runs apart; all of them stand in the parent's config.yaml."""
    last = contender.training if phase == "initial" else contender.fine_tuning
    return {
        **contender.model.model_dump(),
        "learning_rate": contender.training.learning_rate,
        "batch_size": contender.training.batch_size,
        "max_epochs": last.max_epochs,
        "seed": seed,
    }


def _progress(name: str) -> list[Callback]:
    """A progress line on standard error, where progress is asked for."""
    return [ProgressLine(name, Console(stderr=True))] if logger.isEnabledFor(logging.INFO) else []
