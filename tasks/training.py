"""Initial training, and the training that resumes from its checkpoint."""

import hashlib
import logging
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from prefect import task
from rich.console import Console

from lstm_models.config import CompareConfig, Contender, Phase
from lstm_models.progress import ProgressLine
from lstm_models.training import fit, outcome
from tasks import lineage, tracking, unfinished
from tasks.answers import once
from tasks.data import as_input, load_dataset
from tasks.references import CheckpointRef, DatasetRef, ParentRun
from tasks.retries import MAY_PASS
from tasks.sending import BEST, LAST, Sender

logger = logging.getLogger("lstm_flows")


@task(task_run_name="train {contender}", **MAY_PASS)
@once
def train(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> CheckpointRef:
    """Train a contender from its seed to training.max_epochs, in a run of its own."""
    return _run(config, contender, "initial", dataset, parent)


@task(task_run_name="fine-tune {checkpoint.contender}", **MAY_PASS)
@once
def resume(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, parent: ParentRun) -> CheckpointRef:
    """Go on from a checkpoint to fine_tuning.max_epochs, in a run of its own that names the run it continues."""
    return _run(config, checkpoint.contender, "fine_tuned", dataset, parent, checkpoint)


@task(task_run_name="warm-start {checkpoint.contender}", **MAY_PASS)
@once
def warm_start(
    config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, parent: ParentRun
) -> CheckpointRef:
    """Train from a checkpoint's best weights to training.max_epochs, in a run of its own that names the run before."""
    return _run(config, checkpoint.contender, "fine_tuned", dataset, parent, checkpoint, warm=True)


def _run(
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
    begun = unfinished.run_of(parent, f"{name}/{phase}")
    run_id = begun or tracking.start_run(
        parent.experiment_id,
        f"{name}/{phase}",
        parent=parent.run_id,
        tags={"contender": name, "phase": phase, **({"continues": before.run_id} if before else {})},
        note=_note(contender.model.kind, epochs, before, warm),
    )
    with tracking.ended(run_id), unfinished.folder(run_id) as folder:
        tracking.log_params(run_id, _params(contender, epochs, config.seed))
        tracking.log_dataset(run_id, as_input(dataset), "training")
        data = load_dataset(dataset)
        path, best = folder / LAST, folder / BEST
        step = unfinished.fetch(run_id, folder) if begun else None
        boards = TensorBoardLogger(parent.tensorboard_dir, name=name, version=phase, purge_step=step or 0)
        with Sender(run_id, folder) as sender:
            done = outcome(path, contender, epochs) if step is not None else None
            done = done or fit(
                contender,
                data,
                seed=config.seed,
                save_to=path,
                best_to=best,
                max_epochs=epochs,
                loggers=[sender, boards],
                callbacks=_progress(f"{name}/{phase}"),
                on_snapshot=sender.send_snapshot,
                **({"resume_from": path} if step is not None else _beginning(before, warm)),
            )
        used = best if best.exists() else path  # the same where nothing is validated
        for file in dict.fromkeys((used, path)):  # where the last one is, both are
            tracking.client().log_artifact(run_id, str(file), unfinished.CHECKPOINT)
        checkpoint = CheckpointRef(
            uri=f"runs:/{run_id}/{unfinished.CHECKPOINT}/{path.name}",
            best_uri=f"runs:/{run_id}/{unfinished.CHECKPOINT}/{used.name}",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            run_id=run_id,
            contender=name,
            phase=phase,
            epochs=done.epochs,
            best_epoch=done.best_epoch,
            seconds=sender.seconds,
        )
        lineage.record(config, checkpoint, dataset, data)
        unfinished.clear(run_id)
    return checkpoint


def _beginning(before: CheckpointRef | None, warm: bool) -> dict[str, Any]:
    """What a training begins with, if not with what it has left when it was interrupted."""
    if before is None:
        return {}
    if warm:
        return {"warm_from": tracking.download(before.best_uri)}
    return {"resume_from": tracking.download(before.uri), "further": True}


def _note(kind: str, epochs: int, before: CheckpointRef | None, warm: bool) -> str:
    if before and not warm:
        return f"{kind}, resumed at epoch {before.epochs} and trained to epoch {epochs}."
    return f"{kind}, trained from {'the weights of another run' if warm else 'its seed'} to epoch {epochs}."


def _params(contender: Contender, epochs: int, seed: int) -> dict[str, object]:
    """The settings that tell runs apart; all of them stand in the parent's config.yaml."""
    return {
        **contender.model.model_dump(),
        "learning_rate": contender.training.learning_rate,
        "batch_size": contender.training.batch_size,
        "max_epochs": epochs,
        "seed": seed,
    }


def _progress(name: str) -> list[Callback]:
    """A progress line on standard error, where progress is asked for."""
    return [ProgressLine(name, Console(stderr=True))] if logger.isEnabledFor(logging.INFO) else []
