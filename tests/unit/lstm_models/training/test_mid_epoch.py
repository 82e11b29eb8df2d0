"""Checkpoints in the middle of an epoch: an interrupted training resumes from them bit-identically."""

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
from lstm_models.data.builders import in_sample_dataset
from lstm_models.data.dataset import Dataset
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
    """Return unscaled data of two columns: 35 training windows, which are 5 batches, and 15 validation windows."""
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
    # a learning rate so large that the validation loss oscillates
    "hand_built, windows": (contender(batch_size=8, patience=2, learning_rate=0.3), windows()),
    "built_in, windows": (contender("built_in", batch_size=8, patience=2, log_every_n_steps=1), windows()),
    "hand_built, sequences": (contender(log_predictions=True), in_sample_dataset(SEQUENCES)),
    "built_in, sequences": (
        contender("built_in", log_predictions=True, log_every_n_steps=1),
        in_sample_dataset(SEQUENCES),
    ),
    "replicas": (contender(replicas=3, log_predictions=True), in_sample_dataset(SEQUENCES)),
    "unshuffled, without a schedule": (contender(shuffle=False, lr_schedule="none"), in_sample_dataset(SEQUENCES)),
}


class Crash(Exception):
    """Exception that interrupts a training."""


class CrashAtStep(L.Callback):
    """Callback that raises an error in a hook of a step, or at the end of its epoch; by default after the step."""

    def __init__(self, step: int, hook: str = "on_train_batch_end", error: type[BaseException] = Crash) -> None:
        def crash(trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == step:
                raise error

        setattr(self, hook, crash)


class TerminateAtStep(L.Callback):
    """Callback that sends SIGTERM to this process in a hook of a step."""

    def __init__(self, step: int, hook: str) -> None:
        def terminate(trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step >= step and not self.done:
                self.done = True
                os.kill(os.getpid(), signal.SIGTERM)

        self.done = False
        setattr(self, hook, terminate)


@dataclass
class Run:
    """Result, logged points and checkpoint files of a training; no result if it was interrupted."""

    done: FitResult | None
    points: list[tuple[int | None, dict[str, float]]]
    last: Path
    best: Path


def run(case: tuple[Contender, Dataset], folder: Path, crash: L.Callback | None = None, **options: Any) -> Run:
    """Train, until the crash if there is one."""
    points, last, best = Points(), folder / "last.ckpt", folder / "best.ckpt"
    options = {"seed": SEED, "last_path": last, "best_path": best, "loggers": [points]} | options
    if crash is None:
        return Run(fit(*case, **options), points.logged, last, best)
    with pytest.raises((Crash, KeyboardInterrupt)):
        fit(*case, callbacks=[crash], **options)
    return Run(None, points.logged, last, best)


def every(case: tuple[Contender, Dataset], steps: int | None, **training: Any) -> tuple[Contender, Dataset]:
    """Return the case with a checkpoint every `steps` steps."""
    changed = case[0].training.model_copy(update={"checkpoint_every_n_steps": steps, **training})
    return case[0].model_copy(update={"training": changed}), case[1]


def resume(case: tuple[Contender, Dataset], folder: Path, **options: Any) -> Run:
    """Resume an interrupted training from its last checkpoint, or start again if there is none."""
    torch.manual_seed(999)  # resuming does not depend on the global random state
    last = folder / "last.ckpt"
    options = {"resume_from": last if last.exists() else None, "max_epochs": case[0].training.max_epochs} | options
    return run(case, folder, **options)


Uninterrupted = Callable[[str], Run]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Return a function that trains a case without interruption or periodic checkpoints; each is trained once."""
    folder = tmp_path_factory.mktemp("uninterrupted")

    @cache
    def _train(name: str) -> Run:
        folder.joinpath(name).mkdir()
        return run(CASES[name], folder / name)

    return _train


def assert_same_checkpoint(found: Path, expected: Path) -> None:
    """Assert that two checkpoints are bit-identical, except for the counts in Lightning's loops."""
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


def assert_complete_curve(first: Run, then: Run, whole: Run) -> None:
    """Assert that each run logs each point once, in order, and that together they log all."""
    assert first.points == whole.points[: len(first.points)]
    assert then.points == whole.points[len(whole.points) - len(then.points) :]
    assert len(first.points) + len(then.points) >= len(whole.points)


@pytest.mark.parametrize("name", ["hand_built, windows", "built_in, sequences", "replicas"])
def test_periodic_checkpoints_do_not_change_the_training(
    tmp_path: Path, name: str, uninterrupted: Uninterrupted
) -> None:
    found = run(every(CASES[name], 1), tmp_path)
    assert_same_run(found, uninterrupted(name))
    assert found.points == uninterrupted(name).points
    names = {path.name.removesuffix(".previous") for path in tmp_path.iterdir()}
    assert names <= {"last.ckpt", "best.ckpt"}


# an epoch has 5 steps with windows, and 4 with sequences
@pytest.mark.parametrize(
    ("name", "steps", "crash", "written"),
    [
        ("hand_built, windows", 4, 4, 4),  # at a checkpoint, before the step's point is logged
        ("hand_built, windows", 3, 5, 3),  # the last step of an epoch
        ("hand_built, windows", 6, 6, 6),  # the first step of an epoch
        ("hand_built, windows", 7, 15, 14),  # only an epoch's last step remains
        ("hand_built, windows", 5, 6, 5),  # due with the last step, written when the epoch is complete
        ("built_in, windows", 2, 10, 8),  # before the checkpoint of step 10 is written
        ("hand_built, sequences", 4, 11, 8),
        ("built_in, sequences", 2, 11, 10),
        ("replicas", 5, 7, 5),
        ("unshuffled, without a schedule", 5, 12, 10),
    ],
)
def test_an_interrupted_training_resumes_bit_identically(
    tmp_path: Path, name: str, steps: int, crash: int, written: int, uninterrupted: Uninterrupted
) -> None:
    case, epoch_steps = every(CASES[name], steps), 5 if "windows" in name else 4
    first = run(case, tmp_path, CrashAtStep(crash))
    saved = torch.load(first.last, weights_only=True)
    assert (saved["global_step"], saved["epoch"]) == (written, written // epoch_steps)
    (loader,) = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader["position"] == (written % epoch_steps or epoch_steps)

    then = resume(case, tmp_path)
    assert_same_run(then, uninterrupted(name))
    assert_complete_curve(first, then, uninterrupted(name))


@pytest.mark.parametrize(
    ("step", "hook"),
    [
        (5, "on_train_batch_end"),  # before the checkpoint that is due is written
        (5, "on_validation_end"),
        (5, "on_train_epoch_start"),  # after it is written
        (6, "on_train_batch_start"),
        (5 * EPOCHS, "on_train_end"),
    ],
)
def test_resuming_is_bit_identical_after_a_crash_in_any_hook(
    tmp_path: Path, step: int, hook: str, uninterrupted: Uninterrupted
) -> None:
    case = every(CASES["hand_built, windows"], 5)
    first = run(case, tmp_path, CrashAtStep(step, hook))
    assert first.last.exists() == (step > 5 or hook == "on_train_epoch_start")
    then = resume(case, tmp_path)
    assert_same_run(then, uninterrupted("hand_built, windows"))
    assert_complete_curve(first, then, uninterrupted("hand_built, windows"))


def test_a_training_may_be_interrupted_repeatedly(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    case, whole = every(CASES["built_in, windows"], 1), uninterrupted("built_in, windows")
    runs = [run(case, tmp_path, CrashAtStep(3, error=KeyboardInterrupt))]
    for step in (4, 5, 11):
        runs.append(resume(case, tmp_path, crash=CrashAtStep(step)))
    runs.append(resume(case, tmp_path))
    assert_same_run(runs[-1], whole)
    # with a checkpoint at every step, a point is logged twice only if the crash came after it was logged
    points = [point for part in runs for point in part.points]
    assert [point for n, point in enumerate(points) if point not in points[:n]] == whole.points


def test_training_can_resume_from_the_best_checkpoint(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """It is written after the last step of an epoch, before the epoch is complete."""
    case, whole = CASES["hand_built, windows"], uninterrupted("hand_built, windows")
    assert whole.done is not None
    assert whole.done.best_epoch < EPOCHS
    first = run(case, tmp_path, CrashAtStep(5 * whole.done.best_epoch + 1))
    assert not first.last.exists()
    then = resume(case, tmp_path, resume_from=first.best)
    assert_same_run(then, whole)
    assert_complete_curve(first, then, whole)


@settings(max_examples=4)  # each example trains three times
@given(count=st.integers(1, 7), batch_size=st.integers(1, 8), steps=st.integers(1, 4), data=st.data())
def test_any_training_resumes_bit_identically(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch_size: int, steps: int, data: st.DataObject
) -> None:
    few = in_sample_dataset(Sequences(SEQUENCES.x_BTD[:count], SEQUENCES.y_B[:count]))
    case = contender(batch_size=batch_size, max_epochs=2, log_every_n_steps=1, log_predictions=True), few
    crash = data.draw(st.integers(1, 2 * -(-count // batch_size)), label="crash")
    parted = tmp_path_factory.mktemp("parted")
    whole, first = run(case, tmp_path_factory.mktemp("whole")), run(every(case, steps), parted, CrashAtStep(crash))
    then = resume(every(case, steps), parted)
    assert_same_run(then, whole)
    assert_complete_curve(first, then, whole)


# ---- fine-tuning, patience and the best epoch
def test_an_interrupted_fine_tuning_resumes_bit_identically(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """Fine-tuning searches for the best epoch independently of the initial training, also when it is interrupted."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir(), parted.mkdir()
    case, initial = CASES["hand_built, windows"], uninterrupted("hand_built, windows").last
    expected = run(case, whole, resume_from=initial)
    assert expected.done is not None
    assert expected.done.epochs > EPOCHS

    first = run(every(case, 3), parted, CrashAtStep(19), resume_from=initial)
    then = resume(every(case, 3), parted, max_epochs=None)  # None: fine_tuning.max_epochs
    assert_same_run(then, expected)
    assert_complete_curve(first, then, expected)


def test_n_epochs_and_n_more_equal_2n_also_from_the_middle_of_an_epoch(tmp_path: Path) -> None:
    expected = run(CASES["built_in, sequences"], tmp_path, max_epochs=2 * EPOCHS - 1)
    folder = tmp_path / "parted"
    folder.mkdir()
    case = every(CASES["built_in, sequences"], 2)
    first = run(case, folder, CrashAtStep(7))
    then = resume(case, folder, max_epochs=2 * EPOCHS - 1)
    assert_same_run(then, expected)
    assert_complete_curve(first, then, expected)


@contextmanager
def rejected(path: Path, *parts: object) -> Iterator[None]:
    """Expect a CheckpointError that names the path and all parts."""
    with pytest.raises(CheckpointError) as caught:
        yield
    assert names_all(caught.value, f"{path}: ", *parts)


# at this learning rate no weight changes in float32, so the loss never improves on that of the first epoch
STUCK = contender(batch_size=8, patience=1, learning_rate=1e-30), windows()


@pytest.mark.parametrize(
    ("max_epochs", "epochs", "best_epoch"),
    [(EPOCHS, 2, 1), (EPOCHS + 2, 3, 2)],  # resumed, and fine-tuned
)
def test_patience_and_the_best_epoch_are_restored_only_when_training_is_resumed(
    tmp_path: Path, max_epochs: int, epochs: int, best_epoch: int
) -> None:
    run(every(STUCK, 1), tmp_path, CrashAtStep(7))
    then = resume(every(STUCK, 1), tmp_path, max_epochs=max_epochs)
    assert then.done is not None
    assert (then.done.epochs, then.done.best_epoch) == (epochs, best_epoch)
    assert checkpoint(then.best)["global_step"] == 5 * best_epoch


def test_a_training_that_was_stopped_early_can_not_be_resumed(tmp_path: Path) -> None:
    last = run(STUCK, tmp_path).last
    with rejected(last, "2 epochs", "patience 1", f"max_epochs {EPOCHS}"):
        resume(STUCK, tmp_path)


# ---- when a checkpoint is written
@pytest.mark.parametrize("minutes", [None, 60.0])
def test_without_periodic_checkpoints_one_is_written_only_at_the_end(tmp_path: Path, minutes: float | None) -> None:
    case = every(CASES["hand_built, sequences"], None, checkpoint_every_n_minutes=minutes)
    run(case, tmp_path, CrashAtStep(4 * EPOCHS))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_a_checkpoint_preserves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, uninterrupted: Uninterrupted
) -> None:
    """A crash interrupts the training; a full disk causes a warning."""
    name = "hand_built, sequences"
    case, save, error = every(CASES[name], 3), L.Trainer.save_checkpoint, [Exception()]

    def half(trainer: L.Trainer, path: Path, *args: Any) -> None:
        save(trainer, path, *args)
        if trainer.global_step == 6:
            os.truncate(path, path.stat().st_size // 2)
            raise error[0]

    monkeypatch.setattr(L.Trainer, "save_checkpoint", half)
    error[0] = Crash()
    first = run(case, tmp_path, CrashAtStep(99))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert checkpoint(first.last)["global_step"] == 3

    error[0], written = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), []
    done = run(case, tmp_path, on_checkpoint=lambda: written.append(checkpoint(first.last)["global_step"]))
    (warning,) = caplog.messages
    assert names_all(warning, f"{first.last}: ", "No space left on device")
    assert written == [3, 9]
    assert_same_run(done, uninterrupted(name))
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "last.ckpt.previous"}


@pytest.mark.parametrize(
    ("name", "step", "hook", "written"),
    [
        # an epoch has 5 steps and a validation with windows, and 4 steps with sequences
        ("hand_built, windows", 2, "on_train_batch_start", 3),
        ("hand_built, windows", 2, "on_train_batch_end", 3),  # too late for that step's checkpoint
        ("hand_built, windows", 2, "on_validation_start", 5),
        ("hand_built, windows", 5, "on_train_batch_start", 6),
        ("hand_built, windows", 5, "on_train_batch_end", 5),
        ("hand_built, windows", 14, "on_train_batch_end", 15),  # the training is complete
        ("hand_built, windows", 14, "on_validation_start", 15),
        ("hand_built, sequences", 4, "on_train_batch_end", 4),
        ("hand_built, sequences", 10, "on_train_batch_start", 11),
        ("hand_built, sequences", 11, "on_train_batch_start", 12),
    ],
)
def test_on_sigterm_a_checkpoint_is_written_after_the_step_and_the_handler_is_called(
    tmp_path: Path, name: str, step: int, hook: str, written: int, uninterrupted: Uninterrupted
) -> None:
    """The resumed training ends bit-identically."""
    case, whole, terminates = every(CASES[name], None), uninterrupted(name), TerminateAtStep(step, hook)
    assert whole.done is not None

    def handler(*_: Any) -> None:
        raise Crash

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        first = run(case, tmp_path, terminates)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert terminates.done
    assert checkpoint(first.last)["global_step"] == written
    done = completed_result(first.last, case[0], EPOCHS)
    assert (done is not None) == (written == whole.done.steps)
    if done:
        assert replace(done, loss=0.0) == replace(whole.done, seconds=0.0, loss=0.0)
        assert done.loss == whole.done.loss or case[1].validation is None
        assert_same_checkpoint(first.last, whole.last)
    else:
        then = resume(case, tmp_path)
        assert_same_run(then, whole)
        assert_complete_curve(first, then, whole)


def test_checkpoints_by_minutes_do_not_depend_on_the_system_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Uninterrupted
) -> None:
    """Neither their number nor the training changes if the clock jumps back."""
    name, now = "hand_built, sequences", time.time()
    times = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(times))
    written: list[int] = []
    case = every(CASES[name], None, checkpoint_every_n_minutes=1e-9)
    done = run(case, tmp_path, on_checkpoint=lambda: written.append(checkpoint(tmp_path / "last.ckpt")["global_step"]))
    assert written == [*range(1, 12)]  # the twelfth is the last: it is written at the end of the training
    assert_same_run(done, uninterrupted(name))


def test_no_checkpoint_is_written_after_a_non_finite_loss(tmp_path: Path) -> None:
    """The previous checkpoint stays."""
    y_B = SEQUENCES.y_B.clone()
    y_B[8] = math.inf  # in the third batch
    case = contender(shuffle=False, checkpoint_every_n_steps=1), in_sample_dataset(SEQUENCES._replace(y_B=y_B))
    with pytest.raises(NonFiniteLoss, match="nan in epoch 1"):
        run(case, tmp_path)
    assert checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


class BufferedPoints(Points):
    """Logger that records how many points were logged when the buffer was last persisted."""

    def __init__(self) -> None:
        super().__init__()
        self.persisted = 0

    def persist_buffer(self) -> None:
        self.persisted = len(self.logged)


def test_points_are_persisted_before_the_checkpoint_is_written(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    case, points = every(CASES["built_in, sequences"], 3), BufferedPoints()
    run(case, tmp_path, CrashAtStep(5), loggers=[points])
    assert points.persisted == 2  # the third is in the checkpoint itself
    whole = uninterrupted("built_in, sequences")
    assert points.logged[:2] + resume(case, tmp_path).points == whole.points


# ---- errors
def test_a_position_in_other_batches_is_rejected(tmp_path: Path) -> None:
    case = every(CASES["hand_built, sequences"], 3)
    last = run(case, tmp_path, CrashAtStep(3)).last
    fewer = in_sample_dataset(Sequences(*(part[:9] for part in SEQUENCES)))
    for changed, options, named in (
        (every(case, 3, batch_size=4), {}, ("{'batch_size': 3}", "{'batch_size': 4}")),
        (every(case, 3, shuffle=False), {}, (f"{{'seed': {SEED}}}", "{'seed': None}")),
        (case, {"seed": 12}, (f"{{'seed': {SEED}}}", "{'seed': 12}")),
        ((case[0], fewer), {}, ("{'count': 11}", "{'count': 9}")),
    ):
        with rejected(last, "middle of an epoch", *named):
            resume(changed, tmp_path, **options)
    assert checkpoint(last)["global_step"] == 3


def test_resuming_without_the_best_checkpoint_is_rejected(tmp_path: Path) -> None:
    case = every(CASES["hand_built, windows"], 2)
    first = run(case, tmp_path, CrashAtStep(7))
    first.best.unlink()
    with rejected(first.best, "missing", "epoch 1"):
        resume(case, tmp_path)


def make_older(path: Path) -> None:
    """Rewrite a checkpoint as the previous version of the program wrote it, with a callback for patience."""
    older = torch.load(path, weights_only=True)
    assert older["lstm_flows"]["format_version"] == FORMAT_VERSION
    del older["epoch_state"], older["best"], older["lstm_flows"]["max_epochs"]
    del older["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    older["callbacks"] = {"Patience{'monitor': 'val_loss', 'mode': 'min'}": {"wait_count": 1}}
    torch.save(older, path)


def test_a_checkpoint_of_the_previous_version_is_read(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    case = CASES["hand_built, windows"]
    whole, older = tmp_path / "whole", tmp_path / "older"
    whole.mkdir(), older.mkdir()
    expected = run(case, whole, resume_from=uninterrupted("hand_built, windows").last)
    run(case, older)
    make_older(older / "last.ckpt")
    then = run(case, older, resume_from=older / "last.ckpt")
    assert_same_checkpoint(then.last, expected.last)
    assert then.points == expected.points

    make_older(older / "best.ckpt")
    with rejected(older / "best.ckpt", "older program", "middle of an epoch", "use the last"):
        run(case, older, resume_from=older / "best.ckpt")
