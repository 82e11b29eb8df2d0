"""A checkpoint from the middle of an epoch: the training resumes from it as if it had never been interrupted."""

import errno
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.errors import names_all
from helpers.outcomes import checkpoint, flat
from helpers.recording_logger import Points
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_models.config import BuiltIn, Contender, FineTuning, HandBuilt, Training
from lstm_models.data.dataset import Dataset, in_sample_dataset
from lstm_models.data.output import OutputSpec
from lstm_models.data.sequences import Sequences
from lstm_models.data.windows import Windows
from lstm_models.training.checkpoint import FORMAT_VERSION, CheckpointError
from lstm_models.training.module import NonFiniteLoss
from lstm_models.training.trainer import FitResult, completed_result, fit

SEED = 11
EPOCHS = 3
SEQUENCES = Sequences((torch.arange(11 * 6 * 2) * 0.7).sin().reshape(11, 6, 2), torch.arange(11.0).cos())  # 4 batches


def windows() -> Dataset:
    """Two columns of sizes far from 1; 35 windows to train on, 5 batches of them, and 15 to validate on."""
    n = torch.arange(60.0)
    rows = torch.stack([1000 * torch.cos(n / 5), 50 + 20 * torch.sin(n / 3)], dim=1)

    def part(first: int, count: int) -> Windows:
        return Windows(rows, (1,), 6, 2, 1, torch.tensor([first]), torch.tensor([count]))

    output = OutputSpec(kind="forecast", targets=["a"], horizon=2, target_indices=[1], residual=True)
    scaled = {"mean_D": rows[:42].mean(0), "scale_D": rows[:42].std(0)}
    return replace(in_sample_dataset(SEQUENCES), train=part(0, 35), validation=part(38, 15), output=output, **scaled)


def contender(kind: str = "hand_built", replicas: int = 1, **training: Any) -> Contender:
    sizes: dict[str, Any] = {"hidden_size": 3, "num_layers": 2, "dropout": 0.5, "head": "linear"}
    defaults: dict[str, Any] = {"max_epochs": EPOCHS, "batch_size": 3, "shuffle": True, "num_threads": 1}
    changes = {
        "learning_rate": 0.05,
        "lr_schedule": "exponential",
        "lr_gamma": 0.8,
        "gradient_clip_norm": 0.5,
        "log_every_n_steps": 3,
    }
    return Contender(
        model={"hand_built": HandBuilt, "built_in": BuiltIn}[kind](kind=kind, **sizes),
        training=Training(**defaults | changes | training),
        fine_tuning=FineTuning(max_epochs=2 * EPOCHS),
        replicas=replicas,
    )


CASES: dict[str, tuple[Contender, Dataset]] = {
    # a step so large that the validation loss goes up and down
    "hand_built, windows": (contender(batch_size=8, patience=2, learning_rate=0.3), windows()),
    "built_in, windows": (contender("built_in", batch_size=8, patience=2, log_every_n_steps=1), windows()),
    "hand_built, sequences": (contender(log_predictions=True), in_sample_dataset(SEQUENCES)),
    "built_in, sequences": (
        contender("built_in", log_predictions=True, log_every_n_steps=1),
        in_sample_dataset(SEQUENCES),
    ),
    "copies": (contender(replicas=3, log_predictions=True), in_sample_dataset(SEQUENCES)),
    "in order, without a schedule": (contender(shuffle=False, lr_schedule="none"), in_sample_dataset(SEQUENCES)),
}


class Crash(Exception):
    """What ends a training here."""


class Crashes(L.Callback):
    """Ends the training in one of a step's hooks, or at the end of that step's epoch; by default after the step."""

    def __init__(self, step: int, hook: str = "on_train_batch_end", error: type[BaseException] = Crash) -> None:
        def crash(trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == step:
                raise error

        setattr(self, hook, crash)


class Terminates(L.Callback):
    """Sends SIGTERM to this process in one of a step's hooks."""

    def __init__(self, step: int, hook: str) -> None:
        def terminate(trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step >= step and not self.done:
                self.done = True
                os.kill(os.getpid(), signal.SIGTERM)

        self.done = False
        setattr(self, hook, terminate)


@dataclass
class Run:
    """What is left of a training."""

    done: FitResult | None
    points: list[tuple[int | None, dict[str, float]]]
    last: Path
    best: Path


def run(case: tuple[Contender, Dataset], folder: Path, crash: L.Callback | None = None, **options: Any) -> Run:
    """Train, into a crash if there is one."""
    points, last, best = Points(), folder / "last.ckpt", folder / "best.ckpt"
    options = {"seed": SEED, "last_path": last, "best_path": best, "loggers": [points]} | options
    if crash is None:
        return Run(fit(*case, **options), points.logged, last, best)
    with pytest.raises((Crash, KeyboardInterrupt)):
        fit(*case, callbacks=[crash], **options)
    return Run(None, points.logged, last, best)


def every(case: tuple[Contender, Dataset], steps: int | None, **training: Any) -> tuple[Contender, Dataset]:
    """The case, with a checkpoint every so many steps."""
    changed = case[0].training.model_copy(update={"checkpoint_every_n_steps": steps, **training})
    return case[0].model_copy(update={"training": changed}), case[1]


def go_on(case: tuple[Contender, Dataset], folder: Path, **options: Any) -> Run:
    """From what an interrupted training has left, if it has left anything."""
    torch.manual_seed(999)  # whatever else happens in between
    last = folder / "last.ckpt"
    options = {"resume_from": last if last.exists() else None, "max_epochs": case[0].training.max_epochs} | options
    return run(case, folder, **options)


Straight = Callable[[str], Run]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """A case in one go, with no checkpoint on its way; each is trained once."""
    folder = tmp_path_factory.mktemp("straight")

    @cache
    def _train(name: str) -> Run:
        folder.joinpath(name).mkdir()
        return run(CASES[name], folder / name)

    return _train


def assert_same_checkpoint(found: Path, expected: Path) -> None:
    """To the last bit all but Lightning's own counts within its loops."""
    a, b = checkpoint(found), checkpoint(expected)
    assert a.keys() == b.keys()
    assert flat(a) == flat(b)


def assert_same_run(found: Run, expected: Run) -> None:
    assert found.done is not None
    assert expected.done is not None
    assert replace(found.done, seconds=0.0) == replace(expected.done, seconds=0.0)
    assert_same_checkpoint(found.last, expected.last)
    assert found.best.exists() == expected.best.exists()
    if found.best.exists():
        assert_same_checkpoint(found.best, expected.best)


def assert_whole_curve(first: Run, then: Run, whole: Run) -> None:
    """Each run logs each point once, in order; together they leave none out."""
    assert first.points == whole.points[: len(first.points)]
    assert then.points == whole.points[len(whole.points) - len(then.points) :]
    assert len(first.points) + len(then.points) >= len(whole.points)


@pytest.mark.parametrize("name", ["hand_built, windows", "built_in, sequences", "copies"])
def test_checkpoints_on_the_way_change_nothing(tmp_path: Path, name: str, straight: Straight) -> None:
    found = run(every(CASES[name], 1), tmp_path)
    assert_same_run(found, straight(name))
    assert found.points == straight(name).points
    names = {path.name.removesuffix(".previous") for path in tmp_path.iterdir()}
    assert names <= {"last.ckpt", "best.ckpt"}


# of windows an epoch has 5 steps, of sequences 4
@pytest.mark.parametrize(
    ("name", "steps", "crash", "written"),
    [
        ("hand_built, windows", 4, 4, 4),  # just at a checkpoint, before the step's point is logged
        ("hand_built, windows", 3, 5, 3),  # the last step of an epoch
        ("hand_built, windows", 6, 6, 6),  # the first step of an epoch
        ("hand_built, windows", 7, 15, 14),  # so that nothing but an epoch's last step is left
        ("hand_built, windows", 5, 6, 5),  # due with the last step, written when the epoch is complete
        ("built_in, windows", 2, 10, 8),  # the checkpoint of the tenth is still to be written
        ("hand_built, sequences", 4, 11, 8),
        ("built_in, sequences", 2, 11, 10),
        ("copies", 5, 7, 5),
        ("in order, without a schedule", 5, 12, 10),
    ],
)
def test_an_interrupted_training_resumes_bit_identically(
    tmp_path: Path, name: str, steps: int, crash: int, written: int, straight: Straight
) -> None:
    case, an_epoch = every(CASES[name], steps), 5 if "windows" in name else 4
    first = run(case, tmp_path, Crashes(crash))
    left = torch.load(first.last, weights_only=True)
    assert (left["global_step"], left["epoch"]) == (written, written // an_epoch)
    (loader,) = left["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader["position"] == (written % an_epoch or an_epoch)

    then = go_on(case, tmp_path)
    assert_same_run(then, straight(name))
    assert_whole_curve(first, then, straight(name))


@pytest.mark.parametrize(
    ("step", "hook"),
    [
        (5, "on_train_batch_end"),  # the checkpoint that is due has not been written yet
        (5, "on_validation_end"),
        (5, "on_train_epoch_start"),  # it has been written just now
        (6, "on_train_batch_start"),
        (5 * EPOCHS, "on_train_end"),
    ],
)
def test_resume_is_bit_identical_whatever_hook_it_crashes_in(
    tmp_path: Path, step: int, hook: str, straight: Straight
) -> None:
    case = every(CASES["hand_built, windows"], 5)
    first = run(case, tmp_path, Crashes(step, hook))
    assert first.last.exists() == (step > 5 or hook == "on_train_epoch_start")
    then = go_on(case, tmp_path)
    assert_same_run(then, straight("hand_built, windows"))
    assert_whole_curve(first, then, straight("hand_built, windows"))


def test_a_training_may_be_interrupted_again_and_again(tmp_path: Path, straight: Straight) -> None:
    case, whole = every(CASES["built_in, windows"], 1), straight("built_in, windows")
    runs = [run(case, tmp_path, Crashes(3, error=KeyboardInterrupt))]
    for step in (4, 5, 11):
        runs.append(go_on(case, tmp_path, crash=Crashes(step)))
    runs.append(go_on(case, tmp_path))
    assert_same_run(runs[-1], whole)
    # with a checkpoint at every step, a point is logged again only where the crash came after that
    points = [point for part in runs for point in part.points]
    assert [point for n, point in enumerate(points) if point not in points[:n]] == whole.points


def test_the_best_checkpoint_is_one_to_go_on_from_too(tmp_path: Path, straight: Straight) -> None:
    """It is written after the last step of an epoch, which then still has to be closed."""
    case, whole = CASES["hand_built, windows"], straight("hand_built, windows")
    assert whole.done is not None
    assert whole.done.best_epoch < EPOCHS
    first = run(case, tmp_path, Crashes(5 * whole.done.best_epoch + 1))
    assert not first.last.exists()
    then = go_on(case, tmp_path, resume_from=first.best)
    assert_same_run(then, whole)
    assert_whole_curve(first, then, whole)


@settings(max_examples=4)  # each trains three times
@given(count=st.integers(1, 7), batch_size=st.integers(1, 8), steps=st.integers(1, 4), data=st.data())
def test_any_training_resumes_bit_identically(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch_size: int, steps: int, data: st.DataObject
) -> None:
    few = in_sample_dataset(Sequences(SEQUENCES.x_BTD[:count], SEQUENCES.y_B[:count]))
    case = contender(batch_size=batch_size, max_epochs=2, log_every_n_steps=1, log_predictions=True), few
    crash = data.draw(st.integers(1, 2 * -(-count // batch_size)), label="crash")
    parted = tmp_path_factory.mktemp("parted")
    whole, first = run(case, tmp_path_factory.mktemp("whole")), run(every(case, steps), parted, Crashes(crash))
    then = go_on(every(case, steps), parted)
    assert_same_run(then, whole)
    assert_whole_curve(first, then, whole)


# ---- fine-tuning, and what begins anew
def test_fine_tuning_goes_on_from_where_it_was_interrupted(tmp_path: Path, straight: Straight) -> None:
    """Its best epoch is one of its own, before and after the interruption."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir(), parted.mkdir()
    case, initial = CASES["hand_built, windows"], straight("hand_built, windows").last
    expected = run(case, whole, resume_from=initial)
    assert expected.done is not None
    assert expected.done.epochs > EPOCHS

    first = run(every(case, 3), parted, Crashes(19), resume_from=initial)
    then = go_on(every(case, 3), parted, max_epochs=None)  # none: fine_tuning.max_epochs
    assert_same_run(then, expected)
    assert_whole_curve(first, then, expected)


def test_n_epochs_and_n_more_are_2n_from_the_middle_of_an_epoch_too(tmp_path: Path) -> None:
    expected = run(CASES["built_in, sequences"], tmp_path, max_epochs=2 * EPOCHS - 1)
    folder = tmp_path / "parted"
    folder.mkdir()
    case = every(CASES["built_in, sequences"], 2)
    first = run(case, folder, Crashes(7))
    then = go_on(case, folder, max_epochs=2 * EPOCHS - 1)
    assert_same_run(then, expected)
    assert_whole_curve(first, then, expected)


@contextmanager
def refused(path: Path, *parts: object) -> Iterator[None]:
    """The block raises a CheckpointError that names the path and all parts."""
    with pytest.raises(CheckpointError) as caught:
        yield
    assert names_all(caught.value, f"{path}: ", *parts)


# at this learning rate no weight moves in float32: the loss never falls below that of the first epoch
STUCK = contender(batch_size=8, patience=1, learning_rate=1e-30), windows()


@pytest.mark.parametrize(
    ("max_epochs", "epochs", "best_epoch"),
    [(EPOCHS, 2, 1), (EPOCHS + 2, 3, 2)],  # the same training, and another one
)
def test_patience_and_the_best_epoch_are_kept_in_the_same_training_only(
    tmp_path: Path, max_epochs: int, epochs: int, best_epoch: int
) -> None:
    run(every(STUCK, 1), tmp_path, Crashes(7))
    then = go_on(every(STUCK, 1), tmp_path, max_epochs=max_epochs)
    assert then.done is not None
    assert (then.done.epochs, then.done.best_epoch) == (epochs, best_epoch)
    assert checkpoint(then.best)["global_step"] == 5 * best_epoch


def test_a_training_that_patience_has_ended_has_ended(tmp_path: Path) -> None:
    last = run(STUCK, tmp_path).last
    with refused(last, "2 epochs", "patience 1", f"max_epochs {EPOCHS}"):
        go_on(STUCK, tmp_path)


# ---- when a checkpoint is written
@pytest.mark.parametrize("minutes", [None, 60.0])
def test_with_no_checkpoint_due_it_is_written_at_the_end_only(tmp_path: Path, minutes: float | None) -> None:
    case = every(CASES["hand_built, sequences"], None, checkpoint_every_n_minutes=minutes)
    run(case, tmp_path, Crashes(4 * EPOCHS))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_fails_while_it_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, straight: Straight
) -> None:
    """A crash ends the training, a full disk is a warning."""
    name = "hand_built, sequences"
    case, save, error = every(CASES[name], 3), L.Trainer.save_checkpoint, [Exception()]

    def half(trainer: L.Trainer, path: Path, *args: Any) -> None:
        save(trainer, path, *args)
        if trainer.global_step == 6:
            os.truncate(path, path.stat().st_size // 2)
            raise error[0]

    monkeypatch.setattr(L.Trainer, "save_checkpoint", half)
    error[0] = Crash()
    first = run(case, tmp_path, Crashes(99))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert checkpoint(first.last)["global_step"] == 3

    error[0], written = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), []
    done = run(case, tmp_path, on_snapshot=lambda: written.append(checkpoint(first.last)["global_step"]))
    (warning,) = caplog.messages
    assert names_all(warning, f"{first.last}: ", "No space left on device")
    assert written == [3, 9]
    assert_same_run(done, straight(name))
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "last.ckpt.previous"}


@pytest.mark.parametrize(
    ("name", "step", "hook", "written"),
    [
        # of windows an epoch has 5 steps, and a validation after them; of sequences 4
        ("hand_built, windows", 2, "on_train_batch_start", 3),
        ("hand_built, windows", 2, "on_train_batch_end", 3),  # here it comes too late for that step's checkpoint
        ("hand_built, windows", 2, "on_validation_start", 5),
        ("hand_built, windows", 5, "on_train_batch_start", 6),
        ("hand_built, windows", 5, "on_train_batch_end", 5),
        ("hand_built, windows", 14, "on_train_batch_end", 15),  # the training has ended
        ("hand_built, windows", 14, "on_validation_start", 15),
        ("hand_built, sequences", 4, "on_train_batch_end", 4),
        ("hand_built, sequences", 10, "on_train_batch_start", 11),
        ("hand_built, sequences", 11, "on_train_batch_start", 12),
    ],
)
def test_on_sigterm_a_checkpoint_is_written_after_the_step_and_the_handler_called(
    tmp_path: Path, name: str, step: int, hook: str, written: int, straight: Straight
) -> None:
    """Resumed, it ends bit-identically."""
    case, whole, terminates = every(CASES[name], None), straight(name), Terminates(step, hook)
    assert whole.done is not None

    def handler(*_: Any) -> None:
        raise Crash

    before = signal.signal(signal.SIGTERM, handler)
    try:
        first = run(case, tmp_path, terminates)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert terminates.done
    assert checkpoint(first.last)["global_step"] == written
    done = completed_result(first.last, case[0], EPOCHS)
    assert (done is not None) == (written == whole.done.steps)
    if done:
        assert replace(done, loss=0.0) == replace(whole.done, seconds=0.0, loss=0.0)
        assert done.loss == whole.done.loss or case[1].validation is None
        assert_same_checkpoint(first.last, whole.last)
    else:
        then = go_on(case, tmp_path)
        assert_same_run(then, whole)
        assert_whole_curve(first, then, whole)


def test_minutes_are_a_measure_too_also_where_the_clock_jumps_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Straight
) -> None:
    """Neither how often checkpoints are written, nor what comes of the training."""
    name, now = "hand_built, sequences", time.time()
    times = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(times))
    written: list[int] = []
    case = every(CASES[name], None, checkpoint_every_n_minutes=1e-9)
    done = run(case, tmp_path, on_snapshot=lambda: written.append(checkpoint(tmp_path / "last.ckpt")["global_step"]))
    assert written == [*range(1, 12)]  # the twelfth is the last: it is written when the training has ended
    assert_same_run(done, straight(name))


def test_no_checkpoint_is_written_once_the_loss_is_no_number(tmp_path: Path) -> None:
    """The one from before that stays."""
    y_B = SEQUENCES.y_B.clone()
    y_B[8] = math.inf  # in the third batch
    case = contender(shuffle=False, checkpoint_every_n_steps=1), in_sample_dataset(SEQUENCES._replace(y_B=y_B))
    with pytest.raises(NonFiniteLoss, match="nan in epoch 1"):
        run(case, tmp_path)
    assert checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


class Buffers(Points):
    """Notes how much of what was logged before a checkpoint was out when it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.out = 0

    def persist_buffer(self) -> None:
        self.out = len(self.logged)


def test_points_from_before_a_checkpoint_are_out_before_it_is_written(tmp_path: Path, straight: Straight) -> None:
    case, points = every(CASES["built_in, sequences"], 3), Buffers()
    run(case, tmp_path, Crashes(5), loggers=[points])
    assert points.out == 2  # the third is in the checkpoint itself
    whole = straight("built_in, sequences")
    assert points.logged[:2] + go_on(case, tmp_path).points == whole.points


# ---- what is refused
def test_a_position_in_other_batches_is_refused(tmp_path: Path) -> None:
    case = every(CASES["hand_built, sequences"], 3)
    last = run(case, tmp_path, Crashes(3)).last
    fewer = in_sample_dataset(Sequences(*(part[:9] for part in SEQUENCES)))
    for changed, options, named in (
        (every(case, 3, batch_size=4), {}, ("{'batch_size': 3}", "{'batch_size': 4}")),
        (every(case, 3, shuffle=False), {}, (f"{{'seed': {SEED}}}", "{'seed': None}")),
        (case, {"seed": 12}, (f"{{'seed': {SEED}}}", "{'seed': 12}")),
        ((case[0], fewer), {}, ("{'count': 11}", "{'count': 9}")),
    ):
        with refused(last, "middle of an epoch", *named):
            go_on(changed, tmp_path, **options)
    assert checkpoint(last)["global_step"] == 3


def test_a_resumed_training_without_its_best_checkpoint_is_refused(tmp_path: Path) -> None:
    case = every(CASES["hand_built, windows"], 2)
    first = run(case, tmp_path, Crashes(7))
    first.best.unlink()
    with refused(first.best, "missing", "epoch 1"):
        go_on(case, tmp_path)


def make_older(path: Path) -> None:
    """As the version before wrote it; its patience had a state."""
    older = torch.load(path, weights_only=True)
    assert older["lstm_flows"]["format_version"] == FORMAT_VERSION
    del older["epoch_state"], older["best"], older["lstm_flows"]["max_epochs"]
    del older["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    older["callbacks"] = {"Patience{'monitor': 'val_loss', 'mode': 'min'}": {"wait_count": 1}}
    torch.save(older, path)


def test_a_checkpoint_from_before_there_were_positions_is_read(tmp_path: Path, straight: Straight) -> None:
    case = CASES["hand_built, windows"]
    whole, older = tmp_path / "whole", tmp_path / "older"
    whole.mkdir(), older.mkdir()
    expected = run(case, whole, resume_from=straight("hand_built, windows").last)
    run(case, older)
    make_older(older / "last.ckpt")
    then = run(case, older, resume_from=older / "last.ckpt")
    assert_same_checkpoint(then.last, expected.last)
    assert then.points == expected.points

    make_older(older / "best.ckpt")
    with refused(older / "best.ckpt", "older program", "middle of an epoch", "use the last"):
        run(case, older, resume_from=older / "best.ckpt")
