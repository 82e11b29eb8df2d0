"""Forecasts, classes and numbers: predictions and losses of networks, and training with validation."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lstm_models.config import RNN, AnyModel, BuiltIn, Contender, FineTuning, HandBuilt, TableData, Training
from lstm_models.data.builders import build_dataset
from lstm_models.data.dataset import Dataset
from lstm_models.data.output import OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.data.windows import Examples
from lstm_models.nn.network import Network, build_network
from lstm_models.training.checkpoint import load_network
from lstm_models.training.module import SequenceModule
from lstm_models.training.trainer import fit, new_network

B, T, D, H, S = 4, 5, 3, 6, 2
SIZES: dict[str, Any] = {"hidden_size": H, "num_layers": 2, "head": "linear"}
MODELS: dict[str, AnyModel] = {
    "hand_built": HandBuilt(kind="hand_built", **SIZES),
    "built_in": BuiltIn(kind="built_in", **SIZES),
    "rnn": RNN(kind="rnn", **SIZES),
}
MEAN_D, SCALE_D = torch.tensor([10.0, -3.0, 0.5]), torch.tensor([2.0, 5.0, 0.25])
TARGETS = [2, 0]  # some of the columns, in another order
LENGTHS_B = torch.tensor([3, 5, 1, 4])
CLOSE: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12}  # float64, different order of summation
FLOAT32: dict[str, float] = {"rtol": 1e-5, "atol": 1e-6}  # float32
every_model = pytest.mark.parametrize("name", MODELS)
both_kinds = pytest.mark.parametrize("name", ["hand_built", "built_in"])


def forecast(residual: bool = True) -> OutputSpec:
    return OutputSpec(kind="forecast", targets=["c", "a"], horizon=S, target_indices=TARGETS, residual=residual)


def built(name: str, output: OutputSpec, scaled: bool = True) -> Network:
    """Return a float64 network, always from the same seed."""
    torch.manual_seed(1)
    return build_network(MODELS[name], D, output, Scaler(MEAN_D, SCALE_D) if scaled else None).double()


def raw() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(B, T, D, dtype=torch.float64) * SCALE_D + MEAN_D


# ---- the network
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@every_model
def test_a_forecast_is_in_the_unit_of_its_targets(name: str, residual: bool, scaled: bool) -> None:
    network, x_BTD = built(name, forecast(residual), scaled), raw()
    mean_D, scale_D = (MEAN_D, SCALE_D) if scaled else (torch.zeros(D), torch.ones(D))
    z_BTD = (x_BTD - mean_D) / scale_D
    inputs_BTD = z_BTD.clone()
    for index in TARGETS if residual else ():
        inputs_BTD[..., index] -= z_BTD[:, -1:, index]
    outputs = network.recurrent(inputs_BTD)[0][:, -1] @ network.head.weight.T + network.head.bias
    expected = torch.empty(B, S, 2, dtype=torch.float64)
    for step in range(S):
        for k, index in enumerate(TARGETS):
            z_B = outputs[:, step * 2 + k] + (z_BTD[:, -1, index] if residual else 0)
            expected[:, step, k] = z_B * scale_D[index] + mean_D[index]
    if not scaled and not residual:
        torch.testing.assert_close(network(x_BTD), expected, **CLOSE)  # in float64
    # intermediate results may be rounded to float32
    torch.testing.assert_close(network(x_BTD), expected, rtol=1e-5, atol=1e-5, check_dtype=False)
    if residual and scaled:  # predicting no change repeats the last value
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)
        torch.testing.assert_close(network(x_BTD), x_BTD[:, -1:, TARGETS].expand(B, S, 2), **CLOSE)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_loss_of_a_forecast_is_the_mean_squared_error_in_scaled_units(scaled: bool) -> None:
    predictions, y = torch.randn(2, B, S, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    scale_K = SCALE_D[TARGETS] if scaled else torch.ones(2)
    expected_B = [
        sum(((predictions[b, s, k] - y[b, s, k]) / scale_K[k]) ** 2 for s in range(S) for k in range(2)) / (S * 2)
        for b in range(B)
    ]
    losses_B = built("hand_built", forecast(), scaled).losses(predictions, y)
    torch.testing.assert_close(losses_B, torch.stack(expected_B), **CLOSE)


def test_the_loss_of_classes_is_the_negative_log_likelihood() -> None:
    network = built("hand_built", OutputSpec(kind="classification", targets=["y"], classes=["a", "b", "c"]))
    logits_BC = network(raw())
    assert logits_BC.shape == (B, 3)
    y_B = torch.tensor([2, 0, 1, 1])
    expected_B = -(logits_BC.exp() / logits_BC.exp().sum(1, keepdim=True)).log()[torch.arange(B), y_B]
    torch.testing.assert_close(network.losses(logits_BC, y_B).double(), expected_B, **FLOAT32)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 2.5), (-3.0, 1.0), (1e6, 1e-6), (-3.0, 2.5)])
@every_model
def test_a_number_is_predicted_in_its_unit_and_its_loss_is_in_scaled_units(
    name: str, mean: float, scale: float
) -> None:
    network, plain = built(name, OutputSpec(mean=mean, scale=scale)).float(), built(name, OutputSpec()).float()
    x_BTD, y_B = raw().float(), torch.tensor([1.0, -2.0, 0.0, 30.0])
    torch.testing.assert_close(network(x_BTD), plain(x_BTD) * scale + mean, rtol=1e-6, atol=1e-6)  # float32
    predictions_B = mean + scale * torch.tensor([0.5, -1.0, 0.0, 2.0])
    losses_B = network.losses(predictions_B, y_B)
    torch.testing.assert_close(losses_B.double(), ((predictions_B.double() - y_B) / scale) ** 2, **FLOAT32)
    assert torch.equal(network.losses(predictions_B.expand(3, -1), y_B), losses_B.expand(3, -1))


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-20, 1e25, 1e38])
def test_the_loss_of_a_number_does_not_depend_on_its_unit(scale: float) -> None:
    """The squares of such numbers are 0 or infinite in float32."""
    network = built("hand_built", OutputSpec(scale=scale)).float()
    predictions_B, y_B = torch.tensor([1.0, 2.0]) * scale, torch.tensor([0.0, 0.5]) * scale
    # 1e-3: float32 has few digits near its smallest number
    torch.testing.assert_close(network.losses(predictions_B, y_B), torch.tensor([1.0, 2.25]), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "output", [OutputSpec(), OutputSpec(kind="classification", classes=["a", "b"])], ids=["number", "classes"]
)
@every_model
def test_padding_has_no_effect_on_predictions(name: str, output: OutputSpec) -> None:
    """Each sequence is predicted as if it were alone; hand-built cores pad, PyTorch's modules pack."""
    network, x_BTD = built(name, output), raw()
    alone = [network(x_BTD[b : b + 1, :length]) for b, length in enumerate(LENGTHS_B.tolist())]
    torch.testing.assert_close(network(x_BTD, LENGTHS_B), torch.cat(alone), **CLOSE)
    if name != "rnn":
        torch.testing.assert_close(built("built_in", output)(x_BTD, LENGTHS_B), torch.cat(alone), **CLOSE)
    for b, length in enumerate(LENGTHS_B.tolist()):
        x_BTD[b, length:] = 1e6
    torch.testing.assert_close(network(x_BTD, LENGTHS_B), torch.cat(alone), **CLOSE)


def test_the_scaling_is_in_the_state_dict_but_is_not_trained() -> None:
    network = built("hand_built", forecast()).float()
    state = network.state_dict()
    assert torch.equal(state["scaler.mean_D"], MEAN_D)
    assert torch.equal(state["scaler.scale_D"], SCALE_D)
    assert not [name for name, _ in network.named_parameters() if "scaler" in name]
    other = build_network(MODELS["hand_built"], D, forecast(), Scaler(torch.zeros(D), torch.ones(D)))
    other.load_state_dict(state)
    assert torch.equal(other(raw().float()), network(raw().float()))


def test_a_head_of_none_becomes_linear_for_several_outputs() -> None:
    bare = HandBuilt(kind="hand_built")
    assert isinstance(build_network(bare, D).head, nn.Identity)
    head = build_network(bare, D, forecast()).head
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (1, 4)


# ---- training
@cache
def waves() -> Dataset:
    """Return a dataset of two unscaled columns and 70 rows: 40 for training, 15 for validation, 15 for the test."""
    n = np.arange(70.0)
    table = pd.DataFrame({"a": 50 + 20 * np.sin(n / 3), "b": 1000 * np.cos(n / 5)})
    return of(
        table, target="a", features=["b", "a"], context_length=6, horizon=2, split={"train": 40, "validation": 15}
    )


def of(table: pd.DataFrame, **values: Any) -> Dataset:
    return build_dataset(table, TableData(kind="table", path="a.csv", **values), seed=0)


def contender(first: int, name: str = "hand_built", replicas: int = 1, **training: Any) -> Contender:
    sizes: dict[str, Any] = {"hidden_size": 4, "head": "linear"}
    settings = {"batch_size": 8, "shuffle": True, "learning_rate": 0.01, "log_every_n_steps": 1} | training
    return Contender(
        model={"hand_built": HandBuilt, "built_in": BuiltIn}[name](kind=name, **sizes),
        training=Training(max_epochs=first, **settings),
        fine_tuning=FineTuning(max_epochs=2 * first),
        replicas=replicas,
    )


def trained(folder: Path, name: str, *args: Any, data: Dataset | None = None, **options: Any) -> Any:
    """Train a contender with seed 3; name.ckpt is its last checkpoint, name.best.ckpt its best."""
    paths = {"last_path": folder / f"{name}.ckpt", "best_path": folder / f"{name}.best.ckpt"}
    fitting = {key: options.pop(key) for key in ("loggers", "resume_from") if key in options}
    return fit(contender(*args, **options), data or waves(), seed=3, **paths, **fitting)


@torch.no_grad()
def loss_of(network: nn.Module, examples: Examples | None) -> float:
    assert examples is not None
    x_BTD, y, lengths_B = examples.get_batch(torch.arange(examples.count))
    return float(network.losses(network(x_BTD, lengths_B), y).mean())


def logged(folder: Path, name: str) -> list[float]:
    table = pd.read_csv(folder / "metrics.csv")
    return table[name].dropna().tolist() if name in table else []


def content(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def assert_same_weights(actual: Path, expected: Path) -> None:
    a, b = content(actual)["state_dict"], content(expected)["state_dict"]
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    unstable: dict[str, Any] = {"learning_rate": 0.2}  # so large that the loss rises and falls
    done = trained(tmp_path, "a", 8, **unstable, loggers=[logger])
    logger.save()
    losses = logged(tmp_path, "val_loss")
    assert len(losses) == 8
    assert 1 <= done.best_epoch < 8  # otherwise the best would be the last
    assert done.best_epoch == 1 + losses.index(min(losses))
    # 1e-6: the CSV has float32; the same sum over the same batch
    assert done.best_loss == pytest.approx(min(losses), rel=1e-6)
    best, last = (loss_of(load_network(tmp_path / name), waves().validation) for name in ("a.best.ckpt", "a.ckpt"))
    assert (best, last) == (pytest.approx(done.best_loss, rel=1e-6), pytest.approx(losses[-1], rel=1e-6))
    assert last > best
    # validation has no effect on training
    fit(contender(done.best_epoch, **unstable), waves(), seed=3, last_path=tmp_path / "until.ckpt")
    assert_same_weights(tmp_path / "a.best.ckpt", tmp_path / "until.ckpt")


@pytest.mark.parametrize("every", [1, 1000])
def test_each_epoch_logs_both_losses_for_any_log_every_n_steps(tmp_path: Path, every: int) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    done = trained(tmp_path, "a", 3, log_every_n_steps=every, loggers=[logger])
    logger.save()
    assert (len(logged(tmp_path, "train_loss_epoch")), len(logged(tmp_path, "val_loss"))) == (3, 3)
    assert logged(tmp_path, "train_loss_epoch")[-1] == pytest.approx(done.loss, rel=1e-6)  # the CSV has float32
    assert len(logged(tmp_path, "train_loss")) == (done.steps if every == 1 else 0)


def test_without_validation_the_last_epoch_is_the_best_and_no_best_checkpoint_is_written(tmp_path: Path) -> None:
    done = trained(tmp_path, "a", 2, patience=1, data=replace(waves(), validation=None))
    assert (done.epochs, done.best_epoch, done.best_loss) == (2, 2, done.loss)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_patience_stops_training_and_starts_again_when_training_continues(tmp_path: Path) -> None:
    # at this learning rate no float32 weight changes, so the first epoch's loss is the lowest
    settings: dict[str, Any] = {"patience": 2, "learning_rate": 1e-30}
    done = trained(tmp_path, "a", 9, **settings)
    assert (done.epochs, done.best_epoch, content(tmp_path / "a.ckpt")["epoch"]) == (3, 1, 3)
    # the first epoch of the continued training counts as its best
    more = trained(tmp_path, "b", 9, **settings, resume_from=tmp_path / "a.ckpt")
    assert (more.epochs, more.best_epoch, more.steps) == (6, 4, 2 * done.steps)


def test_n_epochs_and_n_more_are_2n_with_validation_and_a_schedule(tmp_path: Path) -> None:
    """See test_trainer.py for nn.LSTM, and for training without these."""
    training: dict[str, Any] = {"lr_schedule": "exponential", "lr_gamma": 0.7, "weight_decay": 0.1, "patience": 50}
    straight = trained(tmp_path, "straight", 6, **training)
    trained(tmp_path, "half", 3, **training)
    torch.manual_seed(999)  # the global random state does not matter
    resumed = trained(tmp_path, "resumed", 3, **training, resume_from=tmp_path / "half.ckpt")

    assert straight.best_epoch > 3  # so that the best epoch is in the continued part
    assert [getattr(resumed, name) for name in ("epochs", "steps", "loss", "best_epoch", "best_loss")] == [
        getattr(straight, name) for name in ("epochs", "steps", "loss", "best_epoch", "best_loss")
    ]
    for kind in ("ckpt", "best.ckpt"):
        assert_same_weights(tmp_path / f"resumed.{kind}", tmp_path / f"straight.{kind}")
    a, b = (content(tmp_path / f"{what}.ckpt")["optimizer_states"][0] for what in ("resumed", "straight"))
    for some in (a, b):
        assert some["param_groups"][0]["lr"] == pytest.approx(0.01 * 0.7**6, rel=1e-12)  # six float64 products
    assert all(torch.equal(a["state"][n][key], value) for n, of_n in b["state"].items() for key, value in of_n.items())


def test_weight_decay_is_that_of_adamw(tmp_path: Path) -> None:
    """Decoupled: not added to the gradient, unlike Adam's weight_decay. Two epochs of one batch each."""
    decayed = contender(2, weight_decay=0.5, batch_size=100, shuffle=False)
    fit(decayed, waves(), seed=3, last_path=tmp_path / "last.ckpt")
    network = new_network(decayed, waves(), seed=3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.5)
    x_BTD, y, _ = waves().train.get_batch(torch.arange(waves().train.count))
    for _ in range(2):
        optimizer.zero_grad()
        network.losses(network(x_BTD), y).mean().backward()
        optimizer.step()
    actual, expected = load_network(tmp_path / "last.ckpt").state_dict(), network.state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    undecayed = SequenceModule(new_network(decayed, waves(), seed=3), contender(2).training)
    assert type(undecayed.configure_optimizers()) is torch.optim.Adam


def test_the_cosine_schedule_ends_at_a_learning_rate_of_0(tmp_path: Path) -> None:
    trained(tmp_path, "a", 2, lr_schedule="cosine")
    (group,) = content(tmp_path / "a.ckpt")["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0, abs=1e-12)


@both_kinds
def test_a_loaded_network_equals_the_trained_one_and_returns_float32_under_bf16(tmp_path: Path, name: str) -> None:
    data = waves()
    x_BTD = data.test.get_batch(torch.arange(data.test.count)).x_BTD
    full, half = (trained(tmp_path, kind, 2, name, precision=kind) for kind in ("32", "bf16-mixed"))
    loaded = load_network(tmp_path / "32.ckpt")
    assert isinstance(loaded, Network)
    assert loaded.output == data.output
    assert loaded.scaler is not None
    assert torch.equal(loaded.scaler.mean_D, data.mean_D)
    assert torch.equal(loaded.scaler.scale_D, data.scale_D)
    by_hand = new_network(contender(2, name), data, seed=8).eval()
    weights = content(tmp_path / "32.ckpt")["state_dict"]
    by_hand.load_state_dict({key.removeprefix("network."): value for key, value in weights.items()})
    assert torch.equal(loaded(x_BTD), by_hand(x_BTD))
    assert loaded(x_BTD).shape == (data.test.count, 2, 1)

    assert math.isfinite(half.loss)
    assert half.loss != full.loss  # otherwise nothing was computed in bfloat16
    assert half.loss == pytest.approx(full.loss, rel=0.05)  # bfloat16 has 8 significant bits
    assert {value.dtype for value in content(tmp_path / "bf16-mixed.ckpt")["state_dict"].values()} == {torch.float32}
    network = load_network(tmp_path / "bf16-mixed.ckpt")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        in_half = network(x_BTD)
    assert in_half.dtype == network(x_BTD).dtype == torch.float32
    # the last value is added in float32; bfloat16 affects only the difference from it, whose scale is 14
    torch.testing.assert_close(in_half, network(x_BTD), rtol=0, atol=0.5)


@both_kinds
def test_replicas_equal_the_networks_of_their_seeds(tmp_path: Path, name: str) -> None:
    x_BTD, y_BSK, _ = waves().test.get_batch(torch.arange(waves().test.count))
    replicas = new_network(contender(1, name, replicas=2), waves(), seed=3)
    alone = [new_network(contender(1, name), waves(), seed=seed) for seed in (3, 4)]
    expected = torch.stack([network(x_BTD) for network in alone])
    torch.testing.assert_close(replicas(x_BTD), expected)  # float32, different order of summation
    losses = torch.stack([network.losses(network(x_BTD), y_BSK) for network in alone])
    torch.testing.assert_close(replicas.losses(replicas(x_BTD), y_BSK), losses)
    trained(tmp_path, "a", 1, name, replicas=2)
    assert load_network(tmp_path / "a.ckpt")(x_BTD).shape == (2, waves().test.count, 2, 1)


def test_classes_are_learned_from_sequences_of_different_lengths(tmp_path: Path) -> None:
    """The class is the sign of a sequence's values. The numbers below are learned by nn.LSTM."""
    g = np.repeat(np.arange(20), [2 + g % 4 for g in range(20)])
    table = pd.DataFrame({"g": g, "x": np.where(g % 2, 1.0, -1.0) + 0.1 * np.sin(np.arange(len(g)))})
    data = of(table.assign(y=np.where(g % 2, "up", "down")), task="classify", target="y", group="g")
    done = trained(tmp_path, "a", 15, learning_rate=0.05, data=data)
    network = load_network(tmp_path / "a.best.ckpt")
    assert loss_of(network, data.validation) == pytest.approx(done.best_loss, rel=1e-6)  # float32 sum
    x_BTD, y_B, lengths_B = data.test.get_batch(torch.arange(data.test.count))
    assert torch.equal(network(x_BTD, lengths_B).argmax(1), y_B)


@cache
def of_groups(unit: float = 1.0) -> Dataset:
    """Return a dataset whose target is the sum of a sequence's length and its mean, in any unit."""
    sizes = [2 + g % 4 for g in range(40)]
    g = np.repeat(np.arange(40), sizes)
    table = pd.DataFrame({"g": g, "x": np.sin(g) + 0.1 * np.sin(np.arange(len(g)))})
    table["y"] = unit * (5 + np.repeat(sizes, sizes) + table.groupby("g")["x"].transform("mean").round(3))
    return of(table, task="regress", target="y", group="g")


def test_numbers_are_learned_from_sequences_of_different_lengths(tmp_path: Path) -> None:
    data = of_groups()
    done = trained(tmp_path, "a", 30, "built_in", learning_rate=0.05, data=data)
    network = load_network(tmp_path / "a.best.ckpt")
    assert (network.output.mean, network.output.scale) == (data.output.mean, data.output.scale)
    assert loss_of(network, data.validation) == pytest.approx(done.best_loss, rel=1e-6)  # float32 sum
    assert loss_of(network, data.test) < 0.05  # in scaled units; predicting the mean has a loss of about 1


def test_the_training_does_not_depend_on_the_unit_of_the_numbers(tmp_path: Path) -> None:
    """Bitwise: scaling by powers of two is exact."""
    reference = trained(tmp_path, "reference", 2, data=of_groups())
    x_BTD, _, lengths_B = of_groups().test.get_batch(torch.arange(8))
    for unit in (2.0**-60, 2.0**70):
        other = trained(tmp_path, "other", 2, data=of_groups(unit))
        assert_same_weights(tmp_path / "other.ckpt", tmp_path / "reference.ckpt")
        assert (other.loss, other.best_loss) == (reference.loss, reference.best_loss)
        expected, actual = (
            load_network(tmp_path / f"{name}.best.ckpt")(x_BTD, lengths_B) for name in ("reference", "other")
        )
        assert torch.equal(actual, expected * unit)
