"""Metrics and snapshots of a running training arrive in MLflow once, also after outages and crashes."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from helpers.errors import names_all
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks import tracking
from tasks.tracking import mlflow_logger
from tasks.tracking.mlflow_logger import SLOTS, BufferedMLflowLogger

LIMIT = 60  # timeout in seconds, for what takes no time on an idle machine


def history(run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.mlflow_client().get_metric_history(run_id, key)]


class Outage:
    """Makes MLflow unreachable for the logger's requests while it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.tries = threading.Semaphore(0)
        monkeypatch.setattr(mlflow_logger, "FLUSH_SECONDS", 0.01)
        for name in ("log_batch", "log_artifact"):
            monkeypatch.setattr(MlflowClient, name, self._checked(getattr(MlflowClient, name)))

    def _checked(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            if self.on:
                self.tries.release()
                raise requests.ConnectionError("no route")
            return method(*args, **kwargs)

        return checked

    def wait_for_tries(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.tries.acquire(timeout=LIMIT)


@pytest.fixture
def outage(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


@pytest.fixture
def run_id(workplace: Path) -> str:
    return tracking.start_run(tracking.get_or_create_experiment("sent"), "a run", tags={}, note="A run.")


@pytest.fixture(autouse=True)
def _notify_after_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notify `wait_until_sent`, below, after each upload."""
    send = BufferedMLflowLogger._send

    def notifying_send(self: BufferedMLflowLogger) -> None:
        send(self)
        with self._changed:
            self._changed.notify_all()

    monkeypatch.setattr(BufferedMLflowLogger, "_send", notifying_send)


def wait_until_sent(mlflow_run: BufferedMLflowLogger) -> None:
    """Wait until there is no snapshot in the folder any more."""
    with mlflow_run._changed:
        assert mlflow_run._changed.wait_for(lambda: not list(mlflow_run.folder.glob("tmp*")), LIMIT)


def write(folder: Path, number: int) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).write_text(f"{name} {number}")


def stored(run_id: str, slot: str) -> dict[str, str]:
    client = tracking.mlflow_client()
    files = [entry.path for entry in client.list_artifacts(run_id, slot)]
    return {Path(file).name: Path(client.download_artifacts(run_id, file)).read_text() for file in files}


def test_metrics_arrive_once_and_the_status_is_unchanged(
    run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = [(step, step / 2) for step in range(2 * tracking.MAX_BATCH + 1)]
    for count in (None, 3):  # the second time, some points again
        with caplog.at_level(logging.WARNING), BufferedMLflowLogger(run_id, workplace) as mlflow_run:
            for step, value in points[:count]:
                mlflow_run.log_metrics({"loss": value, "epoch": 0.0}, step)
    assert history(run_id) == points
    assert history(run_id, "epoch") == []
    assert tracking.mlflow_client().get_run(run_id).info.status == "RUNNING"
    assert caplog.messages == []


def test_points_are_buffered_in_an_outage_and_sent_after_it(
    outage: Outage, run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = tracking.MAX_BATCH + 10
    with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        outage.on = True
        for step in range(count):
            mlflow_run.log_metrics({"loss": float(step)}, step)  # does not block
        outage.wait_for_tries(3)
        assert history(run_id) == []
        outage.on = False
    assert history(run_id) == [(step, float(step)) for step in range(count)]
    (message,) = caplog.messages  # one per outage
    assert names_all(message, "cannot be reached", "ConnectionError", f"points of run {run_id}")


def test_the_duration_includes_the_time_before_an_interruption(
    run_id: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [50.0]
    monkeypatch.setattr(mlflow_logger, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    (workplace / "progress.json").write_text(json.dumps({"seconds": 1000.0, "points": []}))
    with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        clock[0] = 57.5
        assert mlflow_run.seconds == 1007.5
        mlflow_run.persist_buffer()
    assert json.loads((workplace / "progress.json").read_text()) == {"seconds": 1007.5, "points": []}


def test_a_damaged_progress_file_is_a_warning(run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    (workplace / "progress.json").write_text('{"seconds": 10')
    with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        mlflow_run.log_metrics({"loss": 0.5}, 3)
    assert history(run_id) == [(3, 0.5)]
    (message,) = caplog.messages
    assert names_all(message, workplace / "progress.json", "damaged")


@pytest.mark.parametrize("error", [None, RuntimeError("the crash")], ids=["at the end", "in a crash"])
def test_unsent_points_are_sent_when_the_training_is_resumed(
    outage: Outage, run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    """MLflow stays unreachable: the logger raises that error, unless the training raised one."""
    outage.on = True

    def train() -> None:
        with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
            mlflow_run.log_metrics({"loss": 0.5, "nan": float("nan")}, 3)
            if error:
                mlflow_run.persist_buffer()  # with each checkpoint
                raise error
            mlflow_run.finalize("success")  # as Lightning does at the end

    with pytest.raises(type(error) if error else requests.ConnectionError, match="the crash" if error else "no route"):
        train()
    assert names_all(caplog.messages[-1], "2 points", "can't be sent to MLflow", "ConnectionError: no route")
    outage.on = False
    assert history(run_id) == []
    with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        mlflow_run.log_metrics({"loss": 0.25}, 4)
    assert history(run_id) == [(3, 0.5), (4, 0.25)]
    assert [step for step, _ in history(run_id, "nan")] == [3]


def test_an_error_of_mlflow_ends_the_training(run_id: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_logger, "FLUSH_SECONDS", 0.01)
    tracking.mlflow_client().delete_run(run_id)
    reached: list[int] = []

    def train() -> None:
        with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
            mlflow_run.log_metrics({"loss": 0.5}, 3)
            reached.append(3)
            mlflow_run._thread.join(LIMIT)
            assert not mlflow_run._thread.is_alive()
            mlflow_run.log_metrics({"loss": 0.5}, 4)
            reached.append(4)

    with pytest.raises(MlflowException, match="active"):
        train()
    assert reached == [3]


def test_snapshots_alternate_between_two_folders(run_id: str, workplace: Path) -> None:
    with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        for number in range(3):
            write(workplace, number)
            mlflow_run.persist_buffer()
            mlflow_run.send_snapshot()
            wait_until_sent(mlflow_run)
            files = stored(run_id, SLOTS[number % 2])
            assert json.loads(files.pop("progress.json"))["points"] == []
            assert files == {name: f"{name} {number}" for name in ("best.ckpt", "last.ckpt")}
    assert stored(run_id, SLOTS[1])["best.ckpt"] == "best.ckpt 1"


def test_after_an_outage_the_newest_snapshot_is_sent(outage: Outage, run_id: str, workplace: Path) -> None:
    with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        outage.on = True
        for number in range(4):
            write(workplace, number)
            mlflow_run.send_snapshot()
            outage.wait_for_tries()
        outage.on = False
        wait_until_sent(mlflow_run)
        assert stored(run_id, SLOTS[0])["last.ckpt"] == "last.ckpt 3"
    assert stored(run_id, SLOTS[1]) == {}


@pytest.mark.parametrize("error", [SystemExit(143), ValueError("no")], ids=["SIGTERM", "error"])
def test_an_interrupted_training_sends_its_snapshot_before_the_end(
    outage: Outage, run_id: str, workplace: Path, error: BaseException
) -> None:
    outage.on = True
    write(workplace, 0)

    def train() -> None:
        with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
            mlflow_run.send_snapshot()
            outage.wait_for_tries()
            outage.on = False
            raise error

    with pytest.raises(type(error)):
        train()
    assert stored(run_id, SLOTS[0])["last.ckpt"] == "last.ckpt 0"


def test_a_finished_training_sends_no_snapshot(outage: Outage, run_id: str, workplace: Path) -> None:
    outage.on = True
    write(workplace, 0)
    with BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        mlflow_run.send_snapshot()
        outage.wait_for_tries()
    assert stored(run_id, SLOTS[0]) == {}


def test_a_snapshot_that_cannot_be_copied_is_deleted(
    run_id: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    write(workplace, 0)
    monkeypatch.setattr(mlflow_logger.shutil, "copy", full)
    with pytest.raises(OSError, match="no space"), BufferedMLflowLogger(run_id, workplace) as mlflow_run:
        mlflow_run.send_snapshot()
    assert list(workplace.glob("tmp*")) == []
