"""A crashed training is resumed from its checkpoints, wherever they are and however many of them are intact."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.cli_runner import without_plots
from helpers.crash_simulation import (
    Crash,
    UninterruptedRun,
    assert_same,
    collect_outcome,
    crashing,
    recording,
    run_uninterrupted,
)
from helpers.errors import names_all
from helpers.hourly_load import write_load
from mlflow import MlflowClient

from flows import recipes
from flows.compare import compare
from tasks import lineage
from tasks.tracking import checkpoint_store

# four steps per epoch: 12 steps, fine-tuned to 20; a checkpoint in the middle and at the end of each epoch
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
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, database: Path) -> UninterruptedRun:
    return run_uninterrupted(compare_demand, "demand", tmp_path_factory.mktemp("uninterrupted"), database)


def test_the_uninterrupted_run_has_all_steps_and_curves(uninterrupted: UninterruptedRun) -> None:
    assert uninterrupted.record.fits == [list(range(1, 13)), list(range(13, 21))]
    for phase, epochs in (("initial", 3), ("fine_tuned", 2)):
        run = uninterrupted.outcome[f"<hand_built/{phase}>"]
        assert len(run["curves"]["val_loss"]) == epochs
        assert {"train_loss", "val_loss"} <= run["tensorboard"].keys()
    assert uninterrupted.outcome["checkpoints"] == []


# ---- crashes during training: at step 7 the last two checkpoints are of steps 4 and 6
def checkpoint_dir() -> Path:
    """Return the checkpoint directory of the running training."""
    (directory,) = checkpoint_store.CHECKPOINT_ROOT.iterdir()
    return directory


def slots() -> list[Path]:
    """Return the snapshots among the run's artifacts, the newer one first."""
    paths = Path("mlruns").glob(f"*/{checkpoint_dir().name}/artifacts/snapshots/*/last.ckpt")
    return sorted(paths, key=lambda path: -path.stat().st_mtime_ns)


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
    """Delete last.ckpt, as a crash between the two renamings of a write does."""
    (checkpoint_dir() / "last.ckpt").unlink()


def leave_half_of_the_next() -> None:
    shutil.copy(checkpoint_dir() / "last.ckpt", checkpoint_dir() / "last.ckpt.partial")
    truncate(checkpoint_dir() / "last.ckpt.partial")


NO_CHECKPOINT = "not a checkpoint"
# (step of the crash, damage to the files, step after which the training is resumed, parts of the warnings)
CRASHES: list[tuple[int, Callable[[], None], int, list[tuple[str, ...]]]] = [
    (7, lose_the_slots, 0, 2 * [("last.ckpt", NO_CHECKPOINT, "ignored")]),
    (3, lambda: None, 2, []),
    (5, leave_half_of_the_next, 4, []),
    (
        7,
        lambda: truncate(checkpoint_dir() / "last.ckpt"),
        4,
        [("last.ckpt", NO_CHECKPOINT, "the previous checkpoint is used")],
    ),
    (7, lose_the_last, 4, [("last.ckpt", "No such file", "the previous checkpoint is used")]),
    (9, lose_all, 8, []),
    (11, lose_the_newer_slot, 8, [("last.ckpt", NO_CHECKPOINT, "ignored")]),
    (10, lambda: None, 10, []),
    (17, lose_the_slots, 12, 2 * [("last.ckpt", NO_CHECKPOINT, "ignored")]),
    (13, lambda: None, 12, 2 * [("last.ckpt", NO_CHECKPOINT, "ignored")]),  # no other checkpoint yet
    (15, lose_all, 14, [("last.ckpt", NO_CHECKPOINT, "ignored")]),  # the second slot is still damaged
    (17, lambda: None, 16, []),
    (19, lose_all, 18, []),
]


def test_a_training_that_crashes_repeatedly_has_the_same_outcome(
    uninterrupted: UninterruptedRun, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process resumes from the files of the previous one, and crashes."""
    resumed_after, warnings = 0, []
    with without_plots():
        for number, (crash, damage, *resumption) in enumerate(CRASHES):
            with recording(f"step {crash}") as record, crashing():
                (resume if number else compare_demand)()
            assert record.fits[0][0] == resumed_after + 1, f"{number}: {record.fits}"
            assert record.fits[-1][-1] == crash
            check_warnings(caplog, warnings)
            damage()
            resumed_after, warnings = resumption
        with recording() as record:
            resume()
    assert record.fits == [list(range(resumed_after + 1, 21))]
    assert_same(collect_outcome("demand"), uninterrupted.outcome)


def check_warnings(caplog: pytest.LogCaptureFixture, expected: list[tuple[str, ...]]) -> None:
    messages = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(messages) == len(expected), messages
    for message, parts in zip(messages, expected, strict=True):
        assert names_all(message, *parts)
    caplog.clear()


# ---- crashes after training, before the result is stored
def crash(*_: Any, **__: Any) -> None:
    raise Crash


def removes(*first: str) -> Any:
    """Return a replacement of shutil whose rmtree deletes these files of a folder, and crashes."""

    def rmtree(folder: Path) -> None:
        for name in first:
            (folder / name).unlink(missing_ok=True)
        raise Crash

    return SimpleNamespace(copy=shutil.copy, rmtree=rmtree)


# all of the first training; the last item says whether the working directory is lost too
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
    ),  # the last one, because a later crash would repair a wrong best checkpoint
]


def test_a_finished_training_is_not_repeated(
    uninterrupted: UninterruptedRun, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    with without_plots():
        for number, (module, name, replacement, is_lost) in enumerate(CRASHES_AT_THE_END):
            with monkeypatch.context() as patch, recording() as record, crashing():
                patch.setattr(module, name, replacement)
                (resume if number else compare_demand)()
            fits.append(record.fits)
            if is_lost:
                lose_all()
        with recording() as record:
            resume()
    assert fits == [uninterrupted.record.fits[:1], [], [], [], []]
    assert record.fits == uninterrupted.record.fits[1:]
    assert_same(collect_outcome("demand"), uninterrupted.outcome)


def test_the_last_checkpoint_is_not_used_as_the_best_if_only_one_was_uploaded(
    uninterrupted: UninterruptedRun, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_artifact, sent = MlflowClient.log_artifact, []

    def crash_at_second(self: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
        if folder == checkpoint_store.CHECKPOINT_PATH:
            if sent:
                raise Crash(path)
            sent.append(path)
        log_artifact(self, run_id, path, folder)

    with without_plots():
        with monkeypatch.context() as patch, recording(), crashing():
            patch.setattr(MlflowClient, "log_artifact", crash_at_second)
            compare_demand()
        lose_all()
        with recording():
            resume()
    assert_same(collect_outcome("demand"), uninterrupted.outcome)
