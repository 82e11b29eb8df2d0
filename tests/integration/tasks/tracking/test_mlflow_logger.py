"""What a training sends on its way: it arrives, once, whatever happens to MLflow meanwhile."""

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

LIMIT = 60  # seconds, for what comes at once on an idle machine


def history(run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.mlflow_client().get_metric_history(run_id, key)]


class Outage:
    """MLflow is out of reach while this is on, for what a sender does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.tries = threading.Semaphore(0)
        monkeypatch.setattr(mlflow_logger, "FLUSH_SECONDS", 0.01)
        for name in ("log_batch", "log_artifact"):
            monkeypatch.setattr(MlflowClient, name, self._checked(getattr(MlflowClient, name)))

    def _checked(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            if self.on:
                self.tries.release()
                raise requests.ConnectionError("no route")
            return work(*args, **kwargs)

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
def _tell_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notify `sent`, below, of each sending."""
    send = BufferedMLflowLogger._send

    def sent(self: BufferedMLflowLogger) -> None:
        send(self)
        with self._changed:
            self._changed.notify_all()

    monkeypatch.setattr(BufferedMLflowLogger, "_send", sent)


def wait_until_sent(sender: BufferedMLflowLogger) -> None:
    """Wait until no snapshot lies in the folder any more."""
    with sender._changed:
        assert sender._changed.wait_for(lambda: not list(sender.folder.glob("tmp*")), LIMIT)


def write(folder: Path, number: int) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).write_text(f"{name} {number}")


def stored(run_id: str, slot: str) -> dict[str, str]:
    client = tracking.mlflow_client()
    files = [entry.path for entry in client.list_artifacts(run_id, slot)]
    return {Path(file).name: Path(client.download_artifacts(run_id, file)).read_text() for file in files}


def test_curves_arrive_once_and_leave_the_status_alone(
    run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = [(step, step / 2) for step in range(2 * tracking.MAX_BATCH + 1)]
    for count in (None, 3):  # the second time, the first points again
        with caplog.at_level(logging.WARNING), BufferedMLflowLogger(run_id, workplace) as sender:
            for step, value in points[:count]:
                sender.log_metrics({"loss": value, "epoch": 0.0}, step)
    assert history(run_id) == points
    assert history(run_id, "epoch") == []
    assert tracking.mlflow_client().get_run(run_id).info.status == "RUNNING"
    assert caplog.messages == []


def test_in_an_outage_points_are_held_and_arrive_when_it_is_over(
    outage: Outage, run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = tracking.MAX_BATCH + 10
    with BufferedMLflowLogger(run_id, workplace) as sender:
        outage.on = True
        for step in range(count):
            sender.log_metrics({"loss": float(step)}, step)  # waits for nothing
        outage.wait_for_tries(3)
        assert history(run_id) == []
        outage.on = False
    assert history(run_id) == [(step, float(step)) for step in range(count)]
    (message,) = caplog.messages  # once an outage
    assert names_all(message, "cannot be reached", "ConnectionError", f"points of run {run_id}")


def test_the_seconds_count_from_the_first_beginning(
    run_id: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [50.0]
    monkeypatch.setattr(mlflow_logger, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    (workplace / "progress.json").write_text(json.dumps({"seconds": 1000.0, "points": []}))
    with BufferedMLflowLogger(run_id, workplace) as sender:
        clock[0] = 57.5
        assert sender.seconds == 1007.5
        sender.persist_buffer()
    assert json.loads((workplace / "progress.json").read_text()) == {"seconds": 1007.5, "points": []}


def test_a_damaged_progress_file_is_a_warning(run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    (workplace / "progress.json").write_text('{"seconds": 10')
    with BufferedMLflowLogger(run_id, workplace) as sender:
        sender.log_metrics({"loss": 0.5}, 3)
    assert history(run_id) == [(3, 0.5)]
    (message,) = caplog.messages
    assert names_all(message, workplace / "progress.json", "damaged")


@pytest.mark.parametrize("error", [None, RuntimeError("the crash")], ids=["at the end", "in a crash"])
def test_what_has_not_arrived_arrives_when_the_training_goes_on(
    outage: Outage, run_id: str, workplace: Path, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    """MLflow stays away: the end says so, but for the error of a training that broke."""
    outage.on = True

    def train() -> None:
        with BufferedMLflowLogger(run_id, workplace) as sender:
            sender.log_metrics({"loss": 0.5, "nan": float("nan")}, 3)
            if error:
                sender.persist_buffer()  # with each checkpoint
                raise error
            sender.finalize("success")  # as Lightning does at the end

    with pytest.raises(type(error) if error else requests.ConnectionError, match="the crash" if error else "no route"):
        train()
    assert names_all(caplog.messages[-1], "2 points", "can't be sent to MLflow", "ConnectionError: no route")
    outage.on = False
    assert history(run_id) == []
    with BufferedMLflowLogger(run_id, workplace) as sender:
        sender.log_metrics({"loss": 0.25}, 4)
    assert history(run_id) == [(3, 0.5), (4, 0.25)]
    assert [step for step, _ in history(run_id, "nan")] == [3]


def test_what_mlflow_refuses_ends_the_training(run_id: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_logger, "FLUSH_SECONDS", 0.01)
    tracking.mlflow_client().delete_run(run_id)
    reached: list[int] = []

    def train() -> None:
        with BufferedMLflowLogger(run_id, workplace) as sender:
            sender.log_metrics({"loss": 0.5}, 3)
            reached.append(3)
            sender._thread.join(LIMIT)
            assert not sender._thread.is_alive()
            sender.log_metrics({"loss": 0.5}, 4)
            reached.append(4)

    with pytest.raises(MlflowException, match="active"):
        train()
    assert reached == [3]


def test_snapshots_lie_by_turns_in_two_folders(run_id: str, workplace: Path) -> None:
    with BufferedMLflowLogger(run_id, workplace) as sender:
        for number in range(3):
            write(workplace, number)
            sender.persist_buffer()
            sender.send_snapshot()
            wait_until_sent(sender)
            found = stored(run_id, SLOTS[number % 2])
            assert json.loads(found.pop("progress.json"))["points"] == []
            assert found == {name: f"{name} {number}" for name in ("best.ckpt", "last.ckpt")}
    assert stored(run_id, SLOTS[1])["best.ckpt"] == "best.ckpt 1"


def test_after_an_outage_the_newest_snapshot_is_sent(outage: Outage, run_id: str, workplace: Path) -> None:
    with BufferedMLflowLogger(run_id, workplace) as sender:
        outage.on = True
        for number in range(4):
            write(workplace, number)
            sender.send_snapshot()
            outage.wait_for_tries()
        outage.on = False
        wait_until_sent(sender)
        assert stored(run_id, SLOTS[0])["last.ckpt"] == "last.ckpt 3"
    assert stored(run_id, SLOTS[1]) == {}


@pytest.mark.parametrize("error", [SystemExit(143), ValueError("no")], ids=["SIGTERM", "error"])
def test_a_training_that_breaks_off_sends_its_snapshot_before_the_end(
    outage: Outage, run_id: str, workplace: Path, error: BaseException
) -> None:
    outage.on = True
    write(workplace, 0)

    def train() -> None:
        with BufferedMLflowLogger(run_id, workplace) as sender:
            sender.send_snapshot()
            outage.wait_for_tries()
            outage.on = False
            raise error

    with pytest.raises(type(error)):
        train()
    assert stored(run_id, SLOTS[0])["last.ckpt"] == "last.ckpt 0"


def test_a_training_that_is_done_needs_no_snapshot(outage: Outage, run_id: str, workplace: Path) -> None:
    outage.on = True
    write(workplace, 0)
    with BufferedMLflowLogger(run_id, workplace) as sender:
        sender.send_snapshot()
        outage.wait_for_tries()
    assert stored(run_id, SLOTS[0]) == {}


def test_a_snapshot_that_can_not_be_copied_is_removed_again(
    run_id: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    write(workplace, 0)
    monkeypatch.setattr(mlflow_logger.shutil, "copy", full)
    with pytest.raises(OSError, match="no space"), BufferedMLflowLogger(run_id, workplace) as sender:
        sender.send_snapshot()
    assert list(workplace.glob("tmp*")) == []
