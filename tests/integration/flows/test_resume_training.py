"""A training that crashed is resumed from what it has left, wherever that lies and however much of it is intact."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.cli_runner import plain
from helpers.crash_simulation import Crash, Whole, assert_same, crashing, left_behind, uninterrupted, watched
from helpers.errors import names_all
from helpers.hourly_load import write_load
from mlflow import MlflowClient

from flows import recipes
from flows.compare import compare
from tasks import lineage
from tasks.tracking import checkpoint_store

# four steps an epoch: 12, then to 20; a checkpoint in each epoch's middle, and at its end
DEMAND = """\
data: {kind: table, path: demand.csv, time: time, target: load, context_length: 8, horizon: 2}
contenders:
  hand_built:
    model: {hidden_size: 4, num_layers: 2, dropout: 0.2}
    training: {max_epochs: 3, learning_rate: 0.01, shuffle: true, num_threads: 1, log_every_n_steps: 1, batch_size: 64,
               checkpoint_every_n_steps: 2}
    fine_tuning: {max_epochs: 5}
"""


def compare_demand() -> None:
    write_load(300)
    Path("demand.yaml").write_text(DEMAND)
    compare.fn(recipes.load("demand.yaml"))


def resume() -> None:
    compare.fn(resume="newest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Whole:
    return uninterrupted(compare_demand, "demand", tmp_path_factory.mktemp("whole"), database)


def test_there_is_something_to_lose(whole: Whole) -> None:
    assert whole.did.fits == [list(range(1, 13)), list(range(13, 21))]
    for phase, epochs in (("initial", 3), ("fine_tuned", 2)):
        run = whole.left[f"<hand_built/{phase}>"]
        assert len(run["curves"]["val_loss"]) == epochs
        assert {"train_loss", "val_loss"} <= run["boards"].keys()
    assert whole.left["unfinished"] == []


# ---- in its middle: at step 7 the last two checkpoints are of steps 4 and 6
def here() -> Path:
    """The one training's folder."""
    (found,) = checkpoint_store.CHECKPOINT_ROOT.iterdir()
    return found


def slots() -> list[Path]:
    """Its snapshots among its run's artifacts, the newer one first."""
    found = Path("mlruns").glob(f"*/{here().name}/artifacts/snapshots/*/last.ckpt")
    return sorted(found, key=lambda path: -path.stat().st_mtime_ns)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def lose_all() -> None:
    shutil.rmtree(checkpoint_store.CHECKPOINT_ROOT)


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


NO_CHECKPOINT = "not a checkpoint"
# (the step of the crash, what becomes of its files, the step that it is resumed after, what the warnings say)
CRASHES: list[tuple[int, Callable[[], None], int, list[tuple[str, ...]]]] = [
    (7, lose_the_slots, 0, 2 * [("last.ckpt", NO_CHECKPOINT, "passed over")]),
    (3, lambda: None, 2, []),
    (5, leave_half_of_the_next, 4, []),
    (7, lambda: truncate(here() / "last.ckpt"), 4, [("last.ckpt", NO_CHECKPOINT, "the previous checkpoint is used")]),
    (7, lose_the_last, 4, [("last.ckpt", "No such file", "the previous checkpoint is used")]),
    (9, lose_all, 8, []),
    (11, lose_the_newer_slot, 8, [("last.ckpt", NO_CHECKPOINT, "passed over")]),
    (10, lambda: None, 10, []),
    (17, lose_the_slots, 12, 2 * [("last.ckpt", NO_CHECKPOINT, "passed over")]),
    (13, lambda: None, 12, 2 * [("last.ckpt", NO_CHECKPOINT, "passed over")]),  # no other checkpoint yet
    (15, lose_all, 14, [("last.ckpt", NO_CHECKPOINT, "passed over")]),  # the second slot is as it was
    (17, lambda: None, 16, []),
    (19, lose_all, 18, []),
]


def test_in_its_middle(whole: Whole, workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Again and again: each process resumes what the one before has left, and crashes itself."""
    resumed_after, warnings = 0, []
    with plain():
        for number, (crash, damage, *then) in enumerate(CRASHES):
            with watched(f"step {crash}") as did, crashing():
                (resume if number else compare_demand)()
            assert did.fits[0][0] == resumed_after + 1, f"{number}: {did.fits}"
            assert did.fits[-1][-1] == crash
            check_warnings(caplog, warnings)
            damage()
            resumed_after, warnings = then
        with watched() as did:
            resume()
    assert did.fits == [list(range(resumed_after + 1, 21))]
    assert_same(left_behind("demand"), whole.left)


def check_warnings(caplog: pytest.LogCaptureFixture, expected: list[tuple[str, ...]]) -> None:
    messages = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(messages) == len(expected), messages
    for message, parts in zip(messages, expected, strict=True):
        assert names_all(message, *parts)
    caplog.clear()


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


# in turn, all of the first training; and whether the working directory is lost as well
CRASHES_AT_THE_END: list[tuple[Any, str, Any, bool]] = [
    (lineage, "save_training_record", crash, False),
    (lineage, "save_training_record", crash, True),
    (checkpoint_store, "delete_checkpoints", crash, True),
    (checkpoint_store, "shutil", removes("last.ckpt", "last.ckpt.previous", "progress.json"), False),
    (
        checkpoint_store,
        "shutil",
        removes("best.ckpt"),
        False,
    ),  # the last: a wrong best checkpoint would be mended by another
]


def test_what_has_ended_is_not_trained_again(whole: Whole, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    with plain():
        for number, (owner, name, instead, elsewhere) in enumerate(CRASHES_AT_THE_END):
            with monkeypatch.context() as patch, watched() as did, crashing():
                patch.setattr(owner, name, instead)
                (resume if number else compare_demand)()
            fits.append(did.fits)
            if elsewhere:
                lose_all()
        with watched() as did:
            resume()
    assert fits == [whole.did.fits[:1], [], [], [], []]
    assert did.fits == whole.did.fits[1:]
    assert_same(left_behind("demand"), whole.left)


def test_the_last_weights_do_not_pass_for_the_best_where_only_one_of_the_two_was_sent(
    whole: Whole, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_artifact, sent = MlflowClient.log_artifact, []

    def logged(self: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
        if folder == checkpoint_store.CHECKPOINT_PATH:
            if sent:
                raise Crash(path)
            sent.append(path)
        log_artifact(self, run_id, path, folder)

    with plain():
        with monkeypatch.context() as patch, watched(), crashing():
            patch.setattr(MlflowClient, "log_artifact", logged)
            compare_demand()
        lose_all()
        with watched():
            resume()
    assert_same(left_behind("demand"), whole.left)
