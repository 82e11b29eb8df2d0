"""What a training that has not finished leaves: checkpoints, in the working directory and with its run in MLflow."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException

from lstm_models.checkpoint import CheckpointError, newest, read
from tasks import tracking
from tasks.references import ParentRun
from tasks.sending import FILES, SLOTS, SNAPSHOTS

HERE = Path("unfinished")
CHECKPOINT = "checkpoint"  # the folder of a run's artifacts that has what a training leaves

logger = logging.getLogger("lstm_flows")


def run_of(parent: ParentRun, name: str) -> str | None:
    """The child of a parent that was to train this, when the flow run was interrupted; or None."""
    query = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and attributes.run_name = '{name}'"
    found = tracking.client().search_runs([parent.experiment_id], query)
    return str(found[0].info.run_id) if found else None


@contextmanager
def folder(run_id: str) -> Iterator[Path]:
    """Where a run's training writes its checkpoints; it goes when the block ends well, and else stays."""
    place = HERE / run_id
    place.mkdir(parents=True, exist_ok=True)
    yield place
    shutil.rmtree(place)
    if not any(HERE.iterdir()):
        HERE.rmdir()


def fetch(run_id: str, folder: Path) -> int | None:
    """Put what an interrupted training has left into its folder: how many steps it had done; None: none at all.

    What lies there is the newest, as far as it can be read; after that, on another machine, what lies with the run.
    """
    if (steps := _steps(folder)) is not None:
        return steps
    with tempfile.TemporaryDirectory() as scratch:
        found: dict[int, Path] = {}
        for slot in (*SLOTS, CHECKPOINT):  # in the last, where it has ended, but has not been answered
            place = Path(scratch, slot)
            try:
                tracking.client().download_artifacts(run_id, slot, scratch)
            except (MlflowException, OSError):
                continue
            if (steps := _steps(place)) is not None:
                found[steps] = place
        if not found:
            return None
        for name in FILES:
            if (found[max(found)] / name).exists():
                shutil.copy(found[max(found)] / name, folder)
        return max(found)


def _steps(folder: Path) -> int | None:
    """How many steps the training had done that wrote this folder's checkpoint; a damaged one is named in a warning."""
    if not (folder / "last.ckpt").exists():
        return None
    try:
        return int(read(newest(folder / "last.ckpt"))["global_step"])
    except CheckpointError as error:
        logger.warning("%s; it is passed over", error)
        return None


def clear(run_id: str) -> None:
    """Remove the checkpoints on the way from a run whose training has finished."""
    if tracking.client().list_artifacts(run_id, SNAPSHOTS):
        tracking.artifacts_of(run_id).delete_artifacts(SNAPSHOTS)
