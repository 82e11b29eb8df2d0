"""What a training that has not finished leaves: checkpoints, in the working directory and with its run in MLflow."""

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
CHECKPOINT_PATH = "checkpoint"  # the folder of a run's artifacts that has what a training leaves

logger = logging.getLogger("lstm_flows")


def find_child_run(parent: ParentRun, name: str) -> str | None:
    """The child of a parent that was to train this, when the flow run was interrupted; or None."""
    query = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and attributes.run_name = '{name}'"
    found = tracking.mlflow_client().search_runs([parent.experiment_id], query)
    return str(found[0].info.run_id) if found else None


@contextmanager
def checkpoint_dir(run_id: str) -> Iterator[Path]:
    """Where a run's training writes its checkpoints; it goes when the block ends well, and else stays."""
    place = CHECKPOINT_ROOT / run_id
    place.mkdir(parents=True, exist_ok=True)
    yield place
    for path in (
        atomic_files.previous_path(place / LAST),
        place / LAST,
    ):  # first: what is half gone is nothing to go on from
        path.unlink(missing_ok=True)
    shutil.rmtree(place)
    with suppress(OSError):  # another training's folder lies there
        CHECKPOINT_ROOT.rmdir()


def restore_checkpoint(run_id: str, folder: Path) -> int | None:
    """Put what an interrupted training has left into its folder, as last.ckpt and what belongs to it.

    What lies there is the newest, as far as it can be read; after that, on another machine, what lies with the run.

    Returns:
        The first step whose points the training logs (again) when it goes on; None: it has left nothing.
    """
    if found := _latest_checkpoint(folder):
        return _next_point(found)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # there a warning names the run, and the slot
        left: list[tuple[Path, dict[str, Any]]] = []
        for slot in (*SLOTS, CHECKPOINT_PATH):  # in the last, where it has ended, but has not been answered
            try:
                # where it comes to lie differs: a server's artifacts keep their folders, those on this disk do not
                place = Path(tracking.mlflow_client().download_artifacts(run_id, slot, scratch))
            except (MlflowException, OSError) as error:
                if is_transient(error):
                    raise
                continue
            if found := _latest_checkpoint(place):
                left.append((place, found))
        if not left:
            return None
        place, found = max(left, key=lambda one: int(one[1]["global_step"]))
        for name in FILES:
            if (place / name).exists():
                shutil.copy(place / name, folder)
        return _next_point(found)


def _latest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The checkpoint that a training wrote last to a folder; a damaged one is named in a warning.

    Where it is the one before that can be read, it takes the last one's place.
    """
    path = folder / LAST
    if not (path.exists() or atomic_files.previous_path(path).exists()):
        return None
    try:
        if (found := latest_valid_checkpoint(path)) != path:
            found.replace(path)
        return read_checkpoint(path)
    except CheckpointError as error:
        logger.warning("%s; it is passed over", error)
        return None


def _next_point(checkpoint: dict[str, Any]) -> int:
    """Amid an epoch the last step's point comes again: it may not have been logged when the checkpoint was written."""
    return int(checkpoint["global_step"]) - bool(checkpoint.get("epoch_state", {}).get("point"))


def delete_checkpoints(run_id: str) -> None:
    """Remove the checkpoints on the way from a run whose training has finished."""
    if tracking.mlflow_client().list_artifacts(run_id, SNAPSHOTS):
        tracking.artifact_repository(run_id).delete_artifacts(SNAPSHOTS)
