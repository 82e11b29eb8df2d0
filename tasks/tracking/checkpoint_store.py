"""Checkpoints of running trainings, in the working directory and among the artifacts of the MLflow run."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from lstm_models.training.checkpoint import CheckpointError, latest_valid_checkpoint, read_checkpoint
from lstm_models.utils import atomic_files
from tasks import tracking
from tasks.schemas import ParentRun
from tasks.tracking.mlflow_logger import FILES, LAST, SLOTS, SNAPSHOTS
from tasks.tracking.transient import is_transient

CHECKPOINT_ROOT = Path(".lstm_flows/checkpoints")
CHECKPOINT_PATH = "checkpoint"  # the artifact folder with the files of a finished training

logger = logging.getLogger("lstm_flows")


def find_child_run(parent: ParentRun, name: str) -> str | None:
    """Return the id of the parent's child run with this name, or None."""
    query = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and attributes.run_name = '{name}'"
    runs = tracking.mlflow_client().search_runs([parent.experiment_id], query)
    return str(runs[0].info.run_id) if runs else None


@contextmanager
def checkpoint_dir(run_id: str) -> Iterator[Path]:
    """Provide the directory for the checkpoints of a run's training; delete it unless the block raises."""
    directory = CHECKPOINT_ROOT / run_id
    directory.mkdir(parents=True, exist_ok=True)
    yield directory
    # the last checkpoints first: a half-deleted directory must not look like one to resume from
    for path in (atomic_files.previous_path(directory / LAST), directory / LAST):
        path.unlink(missing_ok=True)
    shutil.rmtree(directory)
    with suppress(OSError):  # not empty: another training is running
        CHECKPOINT_ROOT.rmdir()


def restore_checkpoint(run_id: str, folder: Path) -> int | None:
    """Restore the latest files of an interrupted training into its directory, with the checkpoint as last.ckpt.

    A readable checkpoint in the directory is the latest. Otherwise, as on another machine, the latest snapshot among
    the run's artifacts is copied into it.

    Args:
        run_id: The run of the training.
        folder: Its checkpoint directory.

    Returns:
        The first step whose metrics the resumed training logs (again); None if there is no checkpoint.
    """
    if checkpoint := _latest_checkpoint(folder):
        return _next_logged_step(checkpoint)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # below folder, so that warnings name the run and the slot
        snapshots: list[tuple[Path, dict[str, Any]]] = []
        # CHECKPOINT_PATH too: the training may have finished without its result having been stored
        for slot in (*SLOTS, CHECKPOINT_PATH):
            try:
                # a server's artifacts keep their folders below scratch; those on the local disk are not copied
                snapshot = Path(tracking.mlflow_client().download_artifacts(run_id, slot, scratch))
            except (MlflowException, OSError) as error:
                if is_transient(error):
                    raise
                continue
            if checkpoint := _latest_checkpoint(snapshot):
                snapshots.append((snapshot, checkpoint))
        if not snapshots:
            return None
        snapshot, checkpoint = max(snapshots, key=lambda pair: int(pair[1]["global_step"]))
        for name in FILES:
            if (snapshot / name).exists():
                shutil.copy(snapshot / name, folder)
        return _next_logged_step(checkpoint)


def _latest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the latest readable checkpoint of a directory, or None; log a warning for a damaged one.

    If only the previous checkpoint is readable, it replaces the last one.
    """
    path = folder / LAST
    if not (path.exists() or atomic_files.previous_path(path).exists()):
        return None
    try:
        if (latest := latest_valid_checkpoint(path)) != path:
            latest.replace(path)
        return read_checkpoint(path)
    except CheckpointError as error:
        logger.warning("%s; it is ignored", error)
        return None


def _next_logged_step(checkpoint: dict[str, Any]) -> int:
    """Return the first step whose metrics are logged after the checkpoint.

    Within an epoch this is the checkpoint's own step, whose metrics may not have been logged when it was written.
    """
    return int(checkpoint["global_step"]) - bool(checkpoint.get("epoch_state", {}).get("point"))


def delete_checkpoints(run_id: str) -> None:
    """Delete the snapshots of a finished training from the run's artifacts."""
    if tracking.mlflow_client().list_artifacts(run_id, SNAPSHOTS):
        tracking.artifact_repository(run_id).delete_artifacts(SNAPSHOTS)
