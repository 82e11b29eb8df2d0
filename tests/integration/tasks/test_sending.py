"""What a training sends on its way: it arrives, once, whatever happens to MLflow meanwhile."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from helpers.processes import eventually
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks import sending, tracking
from tasks.sending import SLOTS, Sender


def start_run() -> str:
    return tracking.start_run(tracking.experiment_id("sent"), "a run", tags={}, note="A run.")


def history(run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.client().get_metric_history(run_id, key)]


class Outage:
    """MLflow is out of reach while this is on, for what a sender does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.tries = threading.Semaphore(0)
        monkeypatch.setattr(sending, "SECONDS_BETWEEN", 0.01)
        for name in ("log_batch", "log_artifact"):
            monkeypatch.setattr(MlflowClient, name, self._checked(getattr(MlflowClient, name)))

    def _checked(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            if self.on:
                self.tries.release()
                raise requests.ConnectionError("no route")
            return work(*args, **kwargs)

        return checked


@pytest.fixture
def outage(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


def write(folder: Path, number: int) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).write_text(f"{name} {number}")


def stored(run_id: str, slot: str) -> dict[str, str]:
    client = tracking.client()
    files = [entry.path for entry in client.list_artifacts(run_id, slot)]
    return {Path(file).name: Path(client.download_artifacts(run_id, file)).read_text() for file in files}


def test_curves_arrive_and_leave_the_status_alone(workplace: Path) -> None:
    run_id, count = start_run(), 2 * tracking.BATCH + 1
    with Sender(run_id, workplace) as sender:
        for step in range(count):
            sender.log_metrics({"loss": step / 2, "epoch": 0.0}, step)
    assert history(run_id) == [(step, step / 2) for step in range(count)]
    assert history(run_id, "epoch") == []
    assert tracking.client().get_run(run_id).info.status == "RUNNING"


def test_a_step_logged_twice_is_one_point(workplace: Path) -> None:
    run_id = start_run()
    for _ in range(2):
        with Sender(run_id, workplace) as sender:
            sender.log_metrics({"loss": 1.5}, 7)
    assert history(run_id) == [(7, 1.5)]


def test_in_an_outage_points_are_held_and_arrive_when_it_is_over(
    outage: Outage, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id, count = start_run(), tracking.BATCH + 10
    with Sender(run_id, workplace) as sender:
        outage.on = True
        for step in range(count):
            sender.log_metrics({"loss": float(step)}, step)  # waits for nothing
        for _ in range(3):
            assert outage.tries.acquire(timeout=60)
        assert history(run_id) == []
        outage.on = False
    assert history(run_id) == [(step, float(step)) for step in range(count)]
    (told,) = caplog.messages  # once an outage
    assert told.startswith("MLflow is out of reach (ConnectionError): ")
    assert told.endswith(f"points of run {run_id} is held back")


def test_what_had_not_arrived_in_a_crash_arrives_when_the_training_goes_on(outage: Outage, workplace: Path) -> None:
    run_id = start_run()
    outage.on = True
    crashed = Sender(run_id, workplace)
    crashed.log_metrics({"loss": 0.5, "nan": float("nan")}, 3)
    crashed.flush()  # with each checkpoint
    outage.on = False
    (workplace / "progress.json").rename(workplace / "kept.json")
    with pytest.raises(RuntimeError, match="the crash"), crashed:
        raise RuntimeError("the crash")
    other = start_run()
    (workplace / "kept.json").rename(workplace / "progress.json")
    with Sender(other, workplace) as sender:
        sender.log_metrics({"loss": 0.25}, 4)
    assert history(other) == [(3, 0.5), (4, 0.25)]
    assert [step for step, _ in history(other, "nan")] == [3]


def test_the_seconds_count_from_the_first_beginning(workplace: Path) -> None:
    (workplace / "progress.json").write_text(json.dumps({"seconds": 1000.0, "points": []}))
    with Sender(start_run(), workplace) as sender:
        assert 1000.0 <= sender.seconds < 1060.0


def test_where_mlflow_stays_away_the_end_says_so_and_nothing_is_lost(outage: Outage, workplace: Path) -> None:
    run_id = start_run()
    outage.on = True

    def train() -> None:
        with Sender(run_id, workplace) as sender:
            sender.log_metrics({"loss": 0.5}, 3)
            sender.finalize("success")  # as Lightning does at the end

    with pytest.raises(requests.ConnectionError, match="no route"):
        train()
    outage.on = False
    with Sender(run_id, workplace):
        pass
    assert history(run_id) == [(3, 0.5)]


def test_the_error_of_the_training_comes_before_that_of_the_outage(
    outage: Outage, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outage.on = True

    def train() -> None:
        with Sender(start_run(), workplace) as sender:
            sender.log_metrics({"loss": 0.5}, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert caplog.messages[-1].endswith("can't be sent to MLflow: ConnectionError: no route")


def test_what_mlflow_refuses_ends_the_training(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SECONDS_BETWEEN", 0.01)
    run_id = start_run()
    sender = Sender(run_id, workplace)
    tracking.client().delete_run(run_id)

    def train() -> None:
        with sender:
            sender.log_metrics({"loss": 0.5}, 3)
            eventually(lambda: not sender._thread.is_alive(), 60)
            sender.log_metrics({"loss": 0.5}, 4)

    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        train()


def test_snapshots_lie_by_turns_in_two_folders(workplace: Path) -> None:
    run_id = start_run()
    with Sender(run_id, workplace) as sender:
        for number in range(3):
            write(workplace, number)
            sender.flush()
            sender.send_snapshot()
            eventually(lambda n=number: stored(run_id, SLOTS[n % 2]).get("last.ckpt") == f"last.ckpt {n}", 60)  # type: ignore[misc]
            progress = json.loads(stored(run_id, SLOTS[number % 2])["progress.json"])
            assert progress["points"] == []
    assert stored(run_id, SLOTS[0])["best.ckpt"] == "best.ckpt 2"
    assert stored(run_id, SLOTS[1])["best.ckpt"] == "best.ckpt 1"
    assert sorted(path.name for path in workplace.glob("tmp*")) == []


def test_after_an_outage_the_newest_snapshot_is_sent(outage: Outage, workplace: Path) -> None:
    run_id = start_run()
    with Sender(run_id, workplace) as sender:
        outage.on = True
        for number in range(4):
            write(workplace, number)
            sender.send_snapshot()
            assert outage.tries.acquire(timeout=60)
        outage.on = False
        eventually(lambda: stored(run_id, SLOTS[0]).get("last.ckpt") == "last.ckpt 3", 60)
        eventually(lambda: not list(workplace.glob("tmp*")), 60)
    assert stored(run_id, SLOTS[1]) == {}


@pytest.mark.parametrize("error", [SystemExit(143), ValueError("no")], ids=["SIGTERM", "error"])
def test_a_training_that_breaks_off_sends_its_snapshot_before_the_end(
    outage: Outage, workplace: Path, error: BaseException
) -> None:
    run_id = start_run()
    outage.on = True
    write(workplace, 0)

    def train() -> None:
        with Sender(run_id, workplace) as sender:
            sender.send_snapshot()
            assert outage.tries.acquire(timeout=60)
            outage.on = False
            raise error

    with pytest.raises(type(error)):
        train()
    assert stored(run_id, SLOTS[0])["last.ckpt"] == "last.ckpt 0"


def test_a_training_that_is_done_needs_no_snapshot(outage: Outage, workplace: Path) -> None:
    outage.on = True
    write(workplace, 0)
    with Sender(start_run(), workplace) as sender:
        sender.send_snapshot()
        assert outage.tries.acquire(timeout=60)


def test_nothing_is_logged_of_an_outage_that_does_not_come(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Sender(start_run(), workplace) as sender:
        sender.log_metrics({"loss": 0.5}, 3)
    assert caplog.messages == []
