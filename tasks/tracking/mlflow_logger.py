"""Lightning logger that sends metrics and snapshots to MLflow from a thread, so that training never waits for it."""

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

FLUSH_SECONDS = 5.0  # interval between uploads, and between retries when MLflow cannot be reached
BEST, PROGRESS, LAST = "best.ckpt", "progress.json", "last.ckpt"
FILES = (BEST, PROGRESS, LAST)  # files of a running training; the last one is uploaded last, and completes a snapshot
SNAPSHOTS = "snapshots"  # an artifact folder of the run
SLOTS = (f"{SNAPSHOTS}/0", f"{SNAPSHOTS}/1")  # written alternately, so that one of them is always complete

logger = logging.getLogger("lstm_flows")


class BufferedMLflowLogger(Logger):
    """Lightning logger that sends metrics, and snapshots of a training's files, to one MLflow run.

    While MLflow cannot be reached, metrics and the newest snapshot are buffered, and sent later. `persist_buffer`
    writes the metrics that have not been sent to progress.json, beside the next checkpoint, so that a crash loses none.
    A value's timestamp is computed from the run's start time and the step, so that MLflow stores a value that is sent
    twice only once. The logger does not change the run's status.

    Args:
        run_id: The MLflow run.
        folder: The directory of last.ckpt and best.ckpt. Metrics in its progress.json are sent first.

    Raises:
        Exception: An error of MLflow, from `log_metrics`; a connection error only at the end of the `with` block.
    """

    def __init__(self, run_id: str, folder: Path) -> None:
        super().__init__()
        self.run_id = run_id
        self.folder = folder
        self._client = tracking.mlflow_client()
        self._start = int(self._client.get_run(run_id).info.start_time)
        progress = read_progress(folder)
        self._began = time.monotonic() - progress.seconds
        self._points = [Metric(key, value, self._start + step, step) for key, value, step in progress.points]
        self._snapshot: Path | None = None
        self._slot = 0
        self._closing = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run_worker, name=f"MLflow logger of {run_id}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "mlflow"

    @property
    def version(self) -> str:
        """The MLflow run id."""
        return self.run_id

    @property
    def _buffered(self) -> str:
        """Description of the buffer, for log messages."""
        return f"{len(self._points):,} points of run {self.run_id}" + (" and a checkpoint" if self._snapshot else "")

    @property
    def seconds(self) -> float:
        """Duration of the training, including the time before an interruption."""
        return time.monotonic() - self._began

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the task that starts the run logs its parameters."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Buffer metrics of a step, to be sent by the thread; raise the thread's error if it has failed."""
        step = step or 0
        if self._error:
            raise self._error
        with self._changed:
            for key, value in metrics.items():
                if key != "epoch":  # Lightning adds it to all metrics
                    self._points.append(Metric(key, float(value), self._start + step, step))
            if len(self._points) == tracking.MAX_BATCH:
                self._changed.notify()

    def persist_buffer(self) -> None:
        """Write the metrics that have not been sent to progress.json."""
        with self._changed:
            points = [(point.key, point.value, point.step) for point in self._points]
        partial = self.folder / "progress.partial"
        partial.write_text(json.dumps({"seconds": self.seconds, "points": points}))
        atomic_files.atomic_replace(partial, self.folder / PROGRESS)

    def send_snapshot(self) -> None:
        """Copy the training's files, and send them when MLflow can be reached; an unsent older copy is discarded."""
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
        """Write the buffer to progress.json."""
        self.persist_buffer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until everything is sent, or MLflow's client gives up; that error is raised unless the block raised."""
        with self._changed:
            self._closing = True
            if kind is None:
                self._snapshot = None  # a finished training needs none
            self._changed.notify()
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def _run_worker(self) -> None:
        """Send the buffer at intervals until the block ends; this is the thread's target."""
        has_warned = closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(self._is_due, FLUSH_SECONDS)
                closing = self._closing
            try:
                self._send()
                has_warned = False
            except Exception as error:  # noqa: BLE001  # log_metrics or __exit__ raises it
                if closing or not is_transient(error):
                    self._error = error
                    logger.warning("%s can't be sent to MLflow: %s", self._buffered, summarize_error(error))
                    return
                if not has_warned:
                    logger.warning("MLflow cannot be reached (%s): buffering %s", type(error).__name__, self._buffered)
                    has_warned = True
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, FLUSH_SECONDS)

    def _is_due(self) -> bool:
        return self._closing or self._snapshot is not None or len(self._points) >= tracking.MAX_BATCH

    def _send(self) -> None:
        """Send all metrics, then the newest snapshot."""
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
                    if self._snapshot is None:  # there is no newer one: keep this one for the next attempt
                        snapshot, self._snapshot = None, snapshot
                raise
            finally:
                if snapshot:
                    shutil.rmtree(snapshot)
            self._slot = 1 - self._slot


class BufferedProgress(BaseModel):
    """Content of progress.json: the training's duration, and metrics that may not have been sent: name, value, step."""

    seconds: float = 0.0
    points: list[tuple[str, float, int]] = []


def read_progress(folder: Path) -> BufferedProgress:
    """Return the content of progress.json; an empty one if the file is missing or damaged."""
    try:
        return BufferedProgress.model_validate_json((folder / PROGRESS).read_bytes())
    except FileNotFoundError:
        return BufferedProgress()
    except ValueError:
        logger.warning("%s: damaged; points that had not been sent to MLflow may be missing", folder / PROGRESS)
        return BufferedProgress()
