"""Training: bit-identical resuming, losses and curves, non-finite losses, and the state of the process."""

import logging
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.errors import names_all
from helpers.recording_logger import Points
from helpers.trainings import assert_same_state, contender, content

from flows import recipes
from lstm_models.config import BuiltIn, Contender, HandBuilt
from lstm_models.data.builders import in_sample_dataset
from lstm_models.data.sequences import Sequences, to_sequences
from lstm_models.data.synthetic import tutorial
from lstm_models.evaluation.evaluate import evaluate
from lstm_models.nn.kernels import native_library
from lstm_models.training.checkpoint import CheckpointError
from lstm_models.training.module import NonFiniteLoss
from lstm_models.training.trainer import fit, new_network

WAVES = Sequences(torch.arange(5 * 6 * 2.0).sin().reshape(5, 6, 2), torch.tensor([0.3, -0.2, 0.8, 0.1, 0.5]))
DATA = in_sample_dataset(WAVES)
PLAIN = HandBuilt(kind="hand_built")
BIG: dict[str, Any] = {"hidden_size": 3, "num_layers": 2, "dropout": 0.5, "head": "linear"}
SHUFFLED: dict[str, Any] = {"shuffle": True, "batch_size": 2, "learning_rate": 0.01}


def tutorials(name: str, first: int, then: int) -> Contender:
    """Return a contender of the tutorial with fewer epochs."""
    changes = [f"contenders.{name}.training.max_epochs={first}", f"contenders.{name}.fine_tuning.max_epochs={then}"]
    return recipes.load("tutorial", changes).contenders[name]


def shuffled(kind: str, first: int, then: int) -> Contender:
    model = HandBuilt(kind="hand_built", **BIG) if kind == "hand_built" else BuiltIn(kind="built_in", **BIG)
    return contender(model, first, then, **SHUFFLED)


@pytest.mark.parametrize("make", [tutorials, shuffled])
@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_n_epochs_and_n_more_are_bit_identical_to_2n(tmp_path: Path, make: Any, name: str) -> None:
    uninterrupted, half, resumed = (tmp_path / f"{name}.ckpt" for name in ("uninterrupted", "half", "resumed"))
    in_one = fit(make(name, 6, 7), DATA, seed=11, last_path=uninterrupted)
    fit(make(name, 3, 6), DATA, seed=11, last_path=half)
    torch.manual_seed(999)  # resuming does not depend on the global random state
    in_two = fit(make(name, 3, 6), DATA, seed=11, last_path=resumed, resume_from=half)

    assert_same_state(resumed, uninterrupted)
    assert (in_two.epochs, in_two.steps, in_two.loss) == (in_one.epochs, in_one.steps, in_one.loss)
    before, after = (content(path)["state_dict"] for path in (half, resumed))
    assert not any(torch.equal(before[name], after[name]) for name in before)  # training continued


@pytest.mark.skipif(native_library.library().cdll is None, reason=native_library.backend())
@pytest.mark.parametrize("order", [("native", "python"), ("python", "native")], ids="-".join)
def test_a_checkpoint_of_one_backend_resumes_on_the_other(
    order: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = shuffled("hand_built", 3, 6)
    backends = {"native": native_library.library(), "python": native_library.Library("python: set by the test")}
    used = []

    def train(backend: str, last_path: str, resume_from: Path | None = None) -> Path:
        monkeypatch.setattr(native_library, "library", lambda: backends[backend])
        used.append(native_library.backend())
        fit(settings, DATA, seed=11, last_path=tmp_path / last_path, resume_from=resume_from)
        return tmp_path / last_path

    train(order[1], "mixed", train(order[0], "half mixed"))
    train("native", "all", train("native", "half"))
    assert used[:2] == [backends[name].name for name in order]
    mixed, alone = (content(tmp_path / name) for name in ("mixed", "all"))
    assert (mixed["epoch"], mixed["global_step"]) == (alone["epoch"], alone["global_step"])
    for name, value in alone["state_dict"].items():  # Adam divides by small gradients, which amplifies rounding
        torch.testing.assert_close(mixed["state_dict"][name], value, rtol=1e-3, atol=1e-4)


def test_resuming_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    """Without shuffling, the checkpoint contains all random state, including that of dropout."""
    settings = contender(HandBuilt(kind="hand_built", **BIG), 2, 4)
    half = tmp_path / "half.ckpt"
    fit(settings, DATA, seed=11, last_path=half)
    for seed in (11, 12):
        fit(settings, DATA, seed=seed, last_path=tmp_path / f"{seed}.ckpt", resume_from=half)
    assert_same_state(tmp_path / "12.ckpt", tmp_path / "11.ckpt")


def test_each_contender_is_seeded_independently(tmp_path: Path) -> None:
    settings = shuffled("hand_built", 2, 3)
    untrained = new_network(settings, DATA, seed=5).state_dict()
    fit(settings, DATA, seed=5, last_path=tmp_path / "alone.ckpt")

    fit(shuffled("built_in", 2, 3), DATA, seed=6, last_path=tmp_path / "other.ckpt")
    again = new_network(settings, DATA, seed=5).state_dict()
    fit(settings, DATA, seed=5, last_path=tmp_path / "after.ckpt")
    torch.testing.assert_close(again, untrained, rtol=0, atol=0)
    assert_same_state(tmp_path / "after.ckpt", tmp_path / "alone.ckpt")


def test_seed_and_shuffling_change_the_training(tmp_path: Path) -> None:
    trainings = [(shuffled("built_in", 1, 2), seed) for seed in range(3)]
    trainings += [(contender(PLAIN, shuffle=shuffle), 1) for shuffle in (False, True)]
    losses = {fit(settings, DATA, seed=seed, last_path=tmp_path / "a.ckpt").loss for settings, seed in trainings}
    assert len(losses) == len(trainings)


def test_fit_returns_epochs_steps_and_the_last_epochs_mean_loss(tmp_path: Path) -> None:
    # at a learning rate of 1e-30 no weight changes in float32, so each batch sees the untrained network; with a batch
    # size of 2 the last batch is smaller, and must have less weight
    for training, epochs, steps in (
        ({"batch_size": 5}, 1, 1),
        ({"batch_size": 2, "learning_rate": 1e-30}, 1, 3),
        ({"batch_size": 2}, 2, 6),
    ):
        settings = contender(PLAIN, epochs, **training)
        done = fit(settings, DATA, seed=0, last_path=tmp_path / "a.ckpt")
        assert (done.epochs, done.steps, done.seconds > 0) == (epochs, steps, True)
        if epochs == 1:
            untrained = evaluate(new_network(settings, DATA, seed=0), DATA).evaluation.metrics["mse"]
            assert done.loss == pytest.approx(untrained, rel=1e-6)  # the sum is in float32


# ---- non-finite losses
def with_targets(*values: float) -> Any:
    return in_sample_dataset(WAVES._replace(y_B=torch.tensor(values)))


@pytest.mark.parametrize(
    ("settings", "data", "named"),
    [
        (tutorials("hand_built", 2, 3), with_targets(0.3, -0.2, 0.8, 0.1, 1e30), ("inf", "epoch 1;", "0.001")),
        (tutorials("hand_built", 2, 3), with_targets(0.3, -0.2, 0.8, 0.1, torch.nan), ("nan", "epoch 1;", "0.001")),
        # the first step sets weights to 1e30; the square of the prediction is infinite in float32
        (
            contender(BuiltIn(kind="built_in", **BIG | {"dropout": 0.0}), 3, batch_size=5, learning_rate=1e30),
            DATA,
            ("inf", "epoch 2;", "1e+30"),
        ),
    ],
)
def test_a_non_finite_loss_stops_the_training(
    tmp_path: Path, settings: Contender, data: Any, named: tuple[str, ...]
) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        fit(settings, data, seed=0, last_path=tmp_path / "last.ckpt")
    assert names_all(caught.value, "loss", "learning_rate", *named)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_training_counts_epochs_from_the_start(tmp_path: Path) -> None:
    settings, half, last = contender(PLAIN, 2, 4), tmp_path / "half.ckpt", tmp_path / "last.ckpt"
    fit(settings, DATA, seed=0, last_path=half)
    with pytest.raises(NonFiniteLoss) as caught:
        fit(settings, with_targets(*[1e30] * 5), seed=0, last_path=last, resume_from=half)
    assert names_all(caught.value, "inf", "epoch 3;")
    with pytest.raises(CheckpointError) as refused:
        fit(settings, DATA, seed=0, last_path=last, resume_from=half, max_epochs=2)
    assert names_all(refused.value, f"{half}: ", "2 epochs", "max_epochs 2")
    assert not last.exists()


# ---- the state of the process
class PressesCtrlC(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_stops_the_training_and_its_handler_is_restored(tmp_path: Path) -> None:
    handler = signal.default_int_handler
    before = signal.signal(signal.SIGINT, handler)  # a test run in the background ignores SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(contender(PLAIN, 2), DATA, seed=0, last_path=tmp_path / "last.ckpt", callbacks=[PressesCtrlC()])
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == []


class Exits(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise SystemExit(3)


def test_system_exit_is_not_converted_to_keyboard_interrupt(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        fit(contender(PLAIN, 2), DATA, seed=0, last_path=tmp_path / "last.ckpt", callbacks=[Exits()])
    assert caught.value.code == 3


def test_training_prints_nothing_and_restores_log_levels_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Threads(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            threads_in_fit.append(torch.get_num_threads())

    def state() -> list[int]:
        levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "pytorch_lightning")]
        return [*levels, torch.get_num_threads()]

    monkeypatch.chdir(tmp_path)
    threads_in_fit: list[int] = []
    before = state()
    for threads in (2, None):
        settings = contender(PLAIN, num_threads=threads)
        fit(settings, DATA, seed=0, last_path=tmp_path / "last.ckpt", callbacks=[Threads()])
        assert state() == before
    assert threads_in_fit == [2, before[-1]]
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "last.ckpt.previous"}


def test_curves_have_the_tutorials_names_and_a_point_at_every_nth_step(tmp_path: Path) -> None:
    companies = in_sample_dataset(to_sequences(tutorial.table(), tutorial.COLUMNS))
    settings, points = contender(PLAIN, 3, log_every_n_steps=4, log_predictions=True), Points()
    done = fit(settings, companies, seed=0, last_path=tmp_path / "last.ckpt", loggers=[points])
    # 2 sequences, 3 epochs: steps 0 to 5; the 4th is step 3, the last of epoch 1; the last epoch also logs its mean
    assert [(step, sorted(point)) for step, point in points.logged] == [
        (3, ["epoch", "out_0", "out_1", "train_loss"]),
        (3, ["epoch", "train_loss_epoch"]),
        (5, ["epoch", "train_loss_epoch"]),
    ]
    (_, step), (_, epoch), (_, last) = points.logged
    assert [point["epoch"] for point in (step, epoch, last)] == [1, 1, 2]
    loss_of_A, loss_of_B = step["out_0"] ** 2, (step["out_1"] - 1) ** 2
    # the square is in float32
    assert step["train_loss"] == pytest.approx(loss_of_B, rel=1e-6)
    assert epoch["train_loss_epoch"] == pytest.approx((loss_of_A + loss_of_B) / 2, rel=1e-6)
    assert last["train_loss_epoch"] == pytest.approx(done.loss, rel=1e-6)
