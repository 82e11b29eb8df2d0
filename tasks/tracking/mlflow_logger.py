"""What a training sends to its MLflow run on its way, from a thread of its own: the training waits for no server."""

import json
import logging
import shutil
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from lightning.pytorch.loggers.logger import Logger
from mlflow.entities import Metric
from pydantic import BaseModel

from lstm_models.utils import atomic_files
from tasks import tracking
from tasks.tracking.transient import is_transient, summarize_error

FLUSH_SECONDS = 5.0  # how far the curves in the UI are behind; and between two tries where MLflow is out of reach
BEST, PROGRESS, LAST = "best.ckpt", "progress.json", "last.ckpt"
FILES = (BEST, PROGRESS, LAST)  # of a training on its way; where the last one is, all are
SNAPSHOTS = "snapshots"  # the folder of the run's artifacts
SLOTS = (f"{SNAPSHOTS}/0", f"{SNAPSHOTS}/1")  # written by turns: one of them is whole

logger = logging.getLogger("lstm_flows")


class BufferedMLflowLogger(Logger):
    """A Lightning logger that sends points, and snapshots of what a training has written, to one MLflow run.

    While MLflow is out of reach, points are held, and the newest snapshot; they are sent when it is back. `flush` puts
    what has not arrived into progress.json, beside the checkpoint that is written next: so a crash loses none. A
    point's time stamp derives from the run's start and the step: one that is sent twice is stored once. The run's
    status is left alone.

    Args:
        run_id: the MLflow run.
        folder: where the training writes last.ckpt and best.ckpt; what progress.json there holds is sent first.

    Raises:
        Exception: from `log_metrics`, what MLflow refuses; at the block's end also that it is out of reach.
    """

    def __init__(self, run_id: str, folder: Path) -> None:
        super().__init__()
        self.run_id = run_id
        self.folder = folder
        self._client = tracking.mlflow_client()
        self._start = int(self._client.get_run(run_id).info.start_time)
        held = read_progress(folder)
        self._began = time.monotonic() - held.seconds
        self._points = [Metric(key, value, self._start + step, step) for key, value, step in held.points]
        self._snapshot: Path | None = None
        self._slot = 0
        self._closing = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run_worker, name=f"sender of {run_id}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return "mlflow"

    @property
    def version(self) -> str:
        return self.run_id

    @property
    def _buffered(self) -> str:
        """What is held."""
        return f"{len(self._points):,} points of run {self.run_id}" + (", a checkpoint" if self._snapshot else "")

    @property
    def seconds(self) -> float:
        """Spent in this training, before it was interrupted too."""
        return time.monotonic() - self._began

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the task that starts the run logs its parameters."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = step or 0
        if self._error:
            raise self._error
        with self._changed:
            for key, value in metrics.items():
                if key != "epoch":  # which Lightning adds to every point
                    self._points.append(Metric(key, float(value), self._start + step, step))
            if len(self._points) == tracking.MAX_BATCH:
                self._changed.notify()

    def persist_buffer(self) -> None:
        """Put what has not arrived into progress.json."""
        with self._changed:
            points = [(point.key, point.value, point.step) for point in self._points]
        partial = self.folder / "progress.partial"
        partial.write_text(json.dumps({"seconds": self.seconds, "points": points}))
        atomic_files.atomic_replace(partial, self.folder / PROGRESS)

    def send_snapshot(self) -> None:
        """Send what the training has written, as it is now, when MLflow can be reached."""
        snapshot = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            for name in FILES:
                if (self.folder / name).exists():
                    shutil.copy(self.folder / name, snapshot)
        except OSError:
            shutil.rmtree(snapshot)
            raise
        with self._changed:
            older, self._snapshot = self._snapshot, snapshot
            self._changed.notify()
        if older:
            shutil.rmtree(older)

    def finalize(self, status: str) -> None:
        self.persist_buffer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until all has arrived, or MLflow's client gives up: an error, if the training itself went well."""
        with self._changed:
            self._closing = True
            if kind is None:
                self._snapshot = None  # who has ended needs none
            self._changed.notify()
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def _run_worker(self) -> None:
        """What the thread does: send what there is, until the training has ended."""
        is_told = closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(self._is_due, FLUSH_SECONDS)
                closing = self._closing
            try:
                self._send()
                is_told = False
            except Exception as error:  # noqa: BLE001  # raised where it is seen
                if closing or not is_transient(error):
                    self._error = error
                    logger.warning("%s can't be sent to MLflow: %s", self._buffered, summarize_error(error))
                    return
                if not is_told:
                    logger.warning("MLflow is out of reach (%s): %s is held back", type(error).__name__, self._buffered)
                    is_told = True
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, FLUSH_SECONDS)

    def _is_due(self) -> bool:
        return self._closing or self._snapshot is not None or len(self._points) >= tracking.MAX_BATCH

    def _send(self) -> None:
        """All points, then the newest snapshot."""
        while points := self._points[: tracking.MAX_BATCH]:
            self._client.log_batch(self.run_id, metrics=points)
            with self._changed:
                del self._points[: len(points)]
        with self._changed:
            snapshot, self._snapshot = self._snapshot, None
        if snapshot:
            try:
                for name in FILES:
                    if (snapshot / name).exists():
                        self._client.log_artifact(self.run_id, str(snapshot / name), SLOTS[self._slot])
            except Exception:
                with self._changed:
                    if self._snapshot is None:  # no newer one is there
                        snapshot, self._snapshot = None, snapshot
                raise
            finally:
                if snapshot:
                    shutil.rmtree(snapshot)
            self._slot = 1 - self._slot


class BufferedProgress(BaseModel):
    """progress.json: how long the training has taken; and points that may not have arrived: name, value, step."""

    seconds: float = 0.0
    points: list[tuple[str, float, int]] = []


def read_progress(folder: Path) -> BufferedProgress:
    """What an interrupted training has left."""
    try:
        return BufferedProgress.model_validate_json((folder / PROGRESS).read_bytes())
    except FileNotFoundError:
        return BufferedProgress()
    except ValueError:
        logger.warning("%s: damaged; points that MLflow was not told of may be missing", folder / PROGRESS)
        return BufferedProgress()
