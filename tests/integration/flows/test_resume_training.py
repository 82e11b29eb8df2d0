"""A training that was interrupted goes on from what it has left, wherever that lies and however much of it is whole."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.cli_runner import plain
from helpers.crash_simulation import (
    Crash,
    Whole,
    assert_same,
    crashing,
    ended_process,
    left_behind,
    uninterrupted,
    watched,
)
from mlflow import MlflowClient

from flows import recipes
from flows.compare import compare
from tasks import lineage, unfinished
from tasks.references import Comparison

# four steps an epoch: 12, then to 20; a checkpoint in each epoch's middle, and at its end
DEMAND = """\
data: {kind: table, path: demand.csv, time: time, target: load, context_length: 8, horizon: 2}
contenders:
  hand_built:
    model: {hidden_size: 4, num_layers: 2, dropout: 0.2}
    training: {max_epochs: 3, learning_rate: 0.01, shuffle: true, threads: 1, log_every_n_steps: 1, batch_size: 64,
               checkpoint_every_n_steps: 2}
    fine_tuning: {max_epochs: 5}
"""


def compared() -> Comparison:
    hours = np.arange(300)
    load = 10 + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * np.random.default_rng(0).normal(size=300)
    time = pd.date_range("2024-01-01", periods=300, freq="h")
    pd.DataFrame({"time": time, "load": load.round(4)}).to_csv("demand.csv", index=False)
    Path("demand.yaml").write_text(DEMAND)
    answer: Comparison = compare.fn(recipes.load("demand.yaml"))
    return answer


def taken_up() -> Comparison:
    answer: Comparison = compare.fn(resume="newest")
    return answer


@pytest.fixture(scope="module")
def gone() -> dict[str, str]:
    return ended_process()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Whole:
    return uninterrupted(compared, "demand", tmp_path_factory.mktemp("whole"), database)


def test_there_is_something_to_lose(whole: Whole) -> None:
    assert whole.did.fits == [list(range(1, 13)), list(range(13, 21))]
    for phase, epochs in (("initial", 3), ("fine_tuned", 2)):
        run = whole.left[f"<hand_built/{phase}>"]
        assert len(run["curves"]["val_loss"]) == epochs
        assert {"train_loss", "val_loss"} <= run["boards"].keys()
    assert whole.left["unfinished"] == []


# ---- in its middle: at step 7 the last two checkpoints are of steps 4 and 6, at 17 of 14 and 16
def here() -> Path:
    """The one training's folder."""
    (found,) = unfinished.HERE.iterdir()
    return found


def slots() -> list[Path]:
    """Its snapshots among its run's artifacts, the newer one first."""
    found = Path("mlruns").glob(f"*/{here().name}/artifacts/snapshots/*/last.ckpt")
    return sorted(found, key=lambda path: -path.stat().st_mtime_ns)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def lose_all() -> None:
    shutil.rmtree(unfinished.HERE)


def lose_the_newer_slot() -> None:
    truncate(slots()[0])
    lose_all()


def lose_the_slots() -> None:
    for path in slots():
        truncate(path)
    lose_all()


def lose_the_last() -> None:
    """As a crash between the two renamings of a write does."""
    (here() / "last.ckpt").unlink()


def leave_half_of_the_next() -> None:
    shutil.copy(here() / "last.ckpt", here() / "last.ckpt.partial")
    truncate(here() / "last.ckpt.partial")


NOT_WHOLE = "not a checkpoint of lstm-flows (BadZipFile)"


DAMAGES: dict[str, tuple[Callable[[], None], int | None, list[str]]] = {
    "all there": (lambda: None, 0, []),
    "a partial file": (leave_half_of_the_next, 0, []),
    "last truncated": (
        lambda: truncate(here() / "last.ckpt"),
        2,
        [f"/last.ckpt: {NOT_WHOLE}; the one before is used"],
    ),
    "last missing": (
        lose_the_last,
        2,
        ["/last.ckpt: can't be read: No such file or directory; the one before is used"],
    ),
    "elsewhere": (lose_all, 0, []),
    "a slot truncated": (lose_the_newer_slot, 2, [f"/last.ckpt: {NOT_WHOLE}; it is passed over"]),
    "both slots truncated": (lose_the_slots, None, 2 * [f"/last.ckpt: {NOT_WHOLE}; it is passed over"]),
}
INITIAL, FINE_TUNED = (7, 12), (17, 20)


@pytest.mark.parametrize(
    ("name", "crash", "ends"),
    [
        *((name, *INITIAL) for name in DAMAGES),
        *((name, *FINE_TUNED) for name in ("elsewhere", "both slots truncated")),
    ],
)
def test_in_its_middle(
    whole: Whole,
    gone: dict[str, str],
    workplace: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    crash: int,
    ends: int,
) -> None:
    damage, lost, told = DAMAGES[name]
    with plain():
        with watched(f"step {crash}") as first, crashing(gone):
            compared()
        damage()
        with watched() as then, caplog.at_level(logging.WARNING, "lstm_flows"):
            taken_up()
    begins = crash - 1 - lost if lost is not None else {12: 0, 20: 12}[ends]
    assert first.fits[-1][-1] == crash
    assert then.fits[0] == list(range(begins + 1, ends + 1))
    assert len(caplog.messages) == len(told)
    assert [message.endswith(end) for message, end in zip(caplog.messages, told, strict=True)] == [True] * len(told)
    assert_same(left_behind("demand"), whole.left)


def test_again_and_again(whole: Whole, gone: dict[str, str], workplace: Path) -> None:
    """At each step but the first, one after another, by turns with the folder and without: no step is lost twice."""
    with plain():
        with watched("step 3"), crashing(gone):
            compared()
        for step in (5, 7, 9, 10, 11, 13, 15, 17, 19):
            if step % 4 == 1:
                lose_all()
            with watched(f"step {step}") as then, crashing(gone):
                taken_up()
            assert len(then.fits[-1]) <= 3
        with watched():
            taken_up()
    assert_same(left_behind("demand"), whole.left)


# ---- at its end, before the answer is there
def crash(*_: Any, **__: Any) -> None:
    raise Crash


def removes(*first: str) -> Any:
    """A shutil that crashes when it has removed these files of a folder."""

    def rmtree(folder: Path) -> None:
        for name in first:
            (folder / name).unlink(missing_ok=True)
        raise Crash

    return SimpleNamespace(copy=shutil.copy, rmtree=rmtree)


@pytest.mark.parametrize(
    ("owner", "name", "instead", "elsewhere"),
    [
        (lineage, "record", crash, False),
        (lineage, "record", crash, True),
        (unfinished, "clear", crash, True),
        (unfinished, "shutil", removes("best.ckpt"), False),
        (unfinished, "shutil", removes("last.ckpt", "last.ckpt.previous", "progress.json"), False),
    ],
    ids=["not recorded", "not recorded, elsewhere", "snapshots there, elsewhere", "best gone", "last gone"],
)
def test_what_has_ended_is_not_trained_again(
    whole: Whole,
    gone: dict[str, str],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    instead: Any,
    elsewhere: bool,
) -> None:
    with plain():
        with monkeypatch.context() as patch, watched(), crashing(gone):
            patch.setattr(owner, name, instead)
            compared()
        if elsewhere:
            lose_all()
        with watched() as then:
            taken_up()
    assert then.fits == whole.did.fits[1:]
    assert_same(left_behind("demand"), whole.left)


def test_the_last_weights_do_not_pass_for_the_best_where_only_one_of_the_two_was_sent(
    whole: Whole, gone: dict[str, str], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_artifact, sent = MlflowClient.log_artifact, []

    def logged(self: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
        if folder == unfinished.CHECKPOINT:
            if sent:
                raise Crash(path)
            sent.append(path)
        log_artifact(self, run_id, path, folder)

    with plain():
        with monkeypatch.context() as patch, watched(), crashing(gone):
            patch.setattr(MlflowClient, "log_artifact", logged)
            compared()
        lose_all()
        with watched():
            taken_up()
    assert_same(left_behind("demand"), whole.left)
