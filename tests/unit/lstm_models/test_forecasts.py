"""Forecasts and classes: what the network makes of its head's numbers, and training with validation."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lstm_models.checkpoint import load_network
from lstm_models.config import (
    RNN,
    AnyModel,
    BuiltIn,
    Contender,
    FineTuning,
    HandBuilt,
    Output,
    Split,
    TableData,
    Training,
)
from lstm_models.data.dataset import Dataset, of_table
from lstm_models.data.examples import Examples
from lstm_models.module import SequenceModule
from lstm_models.network import Network, Scaling, build_network
from lstm_models.training import fit, new_network

B, T, D, H, S = 4, 5, 3, 6, 2
SIZES: dict[str, Any] = {"hidden_size": H, "num_layers": 2, "head": "linear"}
MODELS: dict[str, AnyModel] = {
    "hand_built": HandBuilt(kind="hand_built", **SIZES),
    "built_in": BuiltIn(kind="built_in", **SIZES),
    "rnn": RNN(kind="rnn", **SIZES),
}
CENTER_D, SPREAD_D = torch.tensor([10.0, -3.0, 0.5]), torch.tensor([2.0, 5.0, 0.25])
PLACES = [2, 0]  # the targets are not in the columns' order, and not all of them
LENGTHS_B = torch.tensor([3, 5, 1, 4])
CLOSE: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums in another order


def forecast(residual: bool = True) -> Output:
    return Output(kind="forecast", targets=["c", "a"], steps=S, places=PLACES, residual=residual)


def built(name: str, output: Output, scaled: bool = True) -> Network:
    """In float64, from the same seed."""
    torch.manual_seed(1)
    return build_network(MODELS[name], D, output, Scaling(CENTER_D, SPREAD_D) if scaled else None).double()


def raw() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(B, T, D, dtype=torch.float64) * SPREAD_D + CENTER_D


# ---- the network
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_forecast_is_in_the_targets_own_unit(name: str, residual: bool, scaled: bool) -> None:
    network, x_BTD = built(name, forecast(residual), scaled), raw()
    center_D, spread_D = (CENTER_D, SPREAD_D) if scaled else (torch.zeros(D), torch.ones(D))
    z_BTD = (x_BTD - center_D) / spread_D
    seen_BTD = z_BTD.clone()
    for place in PLACES if residual else ():
        seen_BTD[..., place] -= z_BTD[:, -1:, place]
    last_BH = network.recurrent(seen_BTD)[0][:, -1]
    told = last_BH @ network.head.weight.T + network.head.bias
    expected = torch.empty(B, S, 2, dtype=torch.float64)
    for step in range(S):
        for k, place in enumerate(PLACES):
            z_B = told[:, step * 2 + k] + (z_BTD[:, -1, place] if residual else 0)
            expected[:, step, k] = z_B * spread_D[place] + center_D[place]
    # 1e-5: what is told may be rounded to float32 on its way
    torch.testing.assert_close(network(x_BTD), expected, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_a_network_in_float64_forecasts_in_float64() -> None:
    network, x_BTD = built("built_in", forecast(residual=False), scaled=False), raw()
    expected = network.head(network.recurrent(x_BTD)[0][:, -1]).reshape(B, S, 2)
    torch.testing.assert_close(network(x_BTD), expected, **CLOSE)


def test_a_network_that_tells_no_change_repeats_the_last_value() -> None:
    network, x_BTD = built("hand_built", forecast()), raw()
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    expected = x_BTD[:, -1:, PLACES].expand(B, S, 2)
    torch.testing.assert_close(network(x_BTD), expected, **CLOSE)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_forecasts_loss_is_its_mean_squared_error_in_scaled_units(scaled: bool) -> None:
    told, y = torch.randn(2, B, S, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    scale_K = SPREAD_D[PLACES] if scaled else torch.ones(2)
    expected_B = [
        sum(((told[b, s, k] - y[b, s, k]) / scale_K[k]) ** 2 for s in range(S) for k in range(2)) / (S * 2)
        for b in range(B)
    ]
    losses_B = built("hand_built", forecast(), scaled).losses(told, y)
    torch.testing.assert_close(losses_B, torch.stack(expected_B), **CLOSE)


def test_of_classes_the_loss_is_the_negative_log_likelihood() -> None:
    network = built("hand_built", Output(kind="classes", targets=["y"], classes=["a", "b", "c"]))
    told_BC = network(raw())
    assert told_BC.shape == (B, 3)
    y_B = torch.tensor([2, 0, 1, 1])
    expected_B = -(told_BC.exp() / told_BC.exp().sum(1, keepdim=True)).log()[torch.arange(B), y_B]
    # 1e-5: computed in float32
    torch.testing.assert_close(network.losses(told_BC, y_B).double(), expected_B, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("center", "spread"), [(0.0, 2.5), (-3.0, 1.0), (1e6, 1e-6), (-3.0, 2.5)])
@pytest.mark.parametrize("name", MODELS)
def test_a_number_is_told_in_its_own_unit_and_its_loss_in_scaled_ones(name: str, center: float, spread: float) -> None:
    network, plain = built(name, Output(center=center, spread=spread)).float(), built(name, Output()).float()
    x_BTD, y_B = raw().float(), torch.tensor([1.0, -2.0, 0.0, 30.0])
    head_B = plain(x_BTD)
    # float32
    torch.testing.assert_close(network(x_BTD), head_B * spread + center, rtol=1e-6, atol=1e-6)
    told_B = center + spread * torch.tensor([0.5, -1.0, 0.0, 2.0])
    expected_B = ((told_B.double() - y_B) / spread) ** 2
    torch.testing.assert_close(network.losses(told_B, y_B).double(), expected_B, rtol=1e-5, atol=1e-6)
    copies_RB = network.losses(told_B.expand(3, -1), y_B)
    assert torch.equal(copies_RB, network.losses(told_B, y_B).expand(3, -1))


@pytest.mark.parametrize("spread", [1e-40, 1e-30, 1e-20, 1e25, 1e38])
def test_the_loss_of_a_number_is_one_whatever_its_unit(spread: float) -> None:
    """The squares of such numbers are 0 or infinite in float32."""
    network = built("hand_built", Output(spread=spread)).float()
    told_B, y_B = torch.tensor([1.0, 2.0]) * spread, torch.tensor([0.0, 0.5]) * spread
    # 1e-3: near the smallest number there is, float32 has few digits
    torch.testing.assert_close(network.losses(told_B, y_B), torch.tensor([1.0, 2.25]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("output", [Output(), Output(kind="classes", classes=["a", "b"])], ids=["number", "classes"])
@pytest.mark.parametrize("name", MODELS)
def test_with_lengths_each_sequence_is_told_as_if_it_were_alone(name: str, output: Output) -> None:
    """Padded in a hand-built core, packed in PyTorch's own; what stands after an end is not seen."""
    network, x_BTD = built(name, output), raw()
    alone = [network(x_BTD[b : b + 1, :length]) for b, length in enumerate(LENGTHS_B.tolist())]
    torch.testing.assert_close(network(x_BTD, LENGTHS_B), torch.cat(alone), **CLOSE)
    for b, length in enumerate(LENGTHS_B.tolist()):
        x_BTD[b, length:] = 1e6
    torch.testing.assert_close(network(x_BTD, LENGTHS_B), torch.cat(alone), **CLOSE)


def test_hand_built_and_built_in_agree_on_a_padded_batch() -> None:
    ours, theirs = built("hand_built", Output()), built("built_in", Output())
    torch.testing.assert_close(ours(raw(), LENGTHS_B), theirs(raw(), LENGTHS_B), **CLOSE)


def test_the_scaling_is_part_of_the_weights_but_is_not_learnt() -> None:
    network = built("hand_built", forecast()).float()
    state = network.state_dict()
    assert torch.equal(state["scaling.center_D"], CENTER_D)
    assert torch.equal(state["scaling.spread_D"], SPREAD_D)
    assert not [name for name, _ in network.named_parameters() if "scaling" in name]

    other = build_network(MODELS["hand_built"], D, forecast(), Scaling(torch.zeros(D), torch.ones(D)))
    other.load_state_dict(state)
    assert torch.equal(other(raw().float()), network(raw().float()))


def test_a_head_of_none_is_a_linear_one_where_more_than_a_number_is_told() -> None:
    bare = HandBuilt(kind="hand_built")
    assert isinstance(build_network(bare, D).head, nn.Identity)
    head = build_network(bare, D, forecast()).head
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (1, 4)


# ---- training
def waves() -> Dataset:
    """Two columns of 70 rows, of sizes far from 1; 40 train, 15 validate, 15 test."""
    n = np.arange(70.0)
    table = pd.DataFrame({"a": 50 + 20 * np.sin(n / 3), "b": 1000 * np.cos(n / 5)})
    config = TableData(
        kind="table",
        path="a.csv",
        target="a",
        features=["b", "a"],
        context_length=6,
        horizon=2,
        split=Split(train=40, validation=15),
    )
    return of_table(table, config, seed=0)


def contender(first: int, then: int, name: str = "hand_built", replicas: int = 1, **training: Any) -> Contender:
    sizes: dict[str, Any] = {"hidden_size": 4, "head": "linear"}
    kinds = {"hand_built": HandBuilt, "built_in": BuiltIn}
    return Contender(
        model=kinds[name](kind=name, **sizes),
        training=Training(
            max_epochs=first,
            **{"batch_size": 8, "shuffle": True, "learning_rate": 0.01, "log_every_n_steps": 1} | training,
        ),
        fine_tuning=FineTuning(max_epochs=then),
        replicas=replicas,
    )


@torch.no_grad()
def loss_of(network: nn.Module, examples: Examples) -> float:
    x_BTD, y, lengths_B = examples.take(torch.arange(examples.count))
    return float(network.losses(network(x_BTD, lengths_B), y).mean())


def logged(folder: Path, name: str) -> list[float]:
    table = pd.read_csv(folder / "metrics.csv")
    return table[name].dropna().tolist() if name in table else []


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def assert_same_weights(found: Path, expected: Path) -> None:
    a, b = content(found)["state_dict"], content(expected)["state_dict"]
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(tmp_path: Path, name: str) -> None:
    data, last, best = waves(), tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    assert data.validation is not None
    logger = CSVLogger(tmp_path, name="", version="")
    # a step so large that the loss goes up and down
    settings = contender(8, 9, name, learning_rate=0.2)
    done = fit(settings, data, seed=3, save_to=last, best_to=best, loggers=[logger])
    logger.save()

    losses = logged(tmp_path, "val_loss")
    assert len(losses) == 8
    assert 1 <= done.best_epoch < 8  # else this test would not tell the best from the last
    assert done.best_epoch == 1 + losses.index(min(losses))
    # 1e-6: the CSV holds float32; the same sum, of the same batch
    assert done.best_loss == pytest.approx(min(losses), rel=1e-6)
    assert loss_of(load_network(best), data.validation) == pytest.approx(done.best_loss, rel=1e-6)
    assert loss_of(load_network(last), data.validation) == pytest.approx(losses[-1], rel=1e-6)
    assert loss_of(load_network(last), data.validation) > done.best_loss

    fit(contender(done.best_epoch, 9, name, learning_rate=0.2), data, seed=3, save_to=tmp_path / "until.ckpt")
    assert_same_weights(best, tmp_path / "until.ckpt")  # looking at the validation data changes nothing


@pytest.mark.parametrize("every", [1, 1000])
def test_with_validation_each_epoch_has_both_losses_however_rarely_a_step_is_logged(tmp_path: Path, every: int) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    settings = contender(3, 4, log_every_n_steps=every)
    done = fit(settings, waves(), seed=3, save_to=tmp_path / "last.ckpt", best_to=tmp_path / "b.ckpt", loggers=[logger])
    logger.save()
    assert (len(logged(tmp_path, "train_loss_epoch")), len(logged(tmp_path, "val_loss"))) == (3, 3)
    assert logged(tmp_path, "train_loss_epoch")[-1] == pytest.approx(done.loss, rel=1e-6)  # the CSV holds float32
    assert len(logged(tmp_path, "train_loss")) == (done.steps if every == 1 else 0)


def test_without_validation_the_last_epoch_is_the_best_and_no_best_checkpoint_is_written(tmp_path: Path) -> None:
    data = replace(waves(), validation=None)
    done = fit(contender(2, 3, patience=1), data, seed=3, save_to=tmp_path / "last.ckpt", best_to=tmp_path / "b.ckpt")
    assert (done.epochs, done.best_epoch, done.best_loss) == (2, 2, done.loss)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_patience_ends_the_training_and_begins_anew_on_resuming(tmp_path: Path) -> None:
    data, first, second = waves(), tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    # at this learning rate no weight moves in float32: the loss never falls below that of the first epoch
    settings = contender(9, 20, patience=2, learning_rate=1e-30)
    done = fit(settings, data, seed=3, save_to=first, best_to=tmp_path / "best.ckpt")
    assert (done.epochs, done.best_epoch) == (3, 1)
    assert content(first)["epoch"] == 3

    # anew: the first epoch of the resumed training counts as its best
    more = fit(settings, data, seed=3, save_to=second, best_to=tmp_path / "best2.ckpt", resume_from=first)
    assert (more.epochs, more.best_epoch) == (6, 4)
    assert more.steps == 2 * done.steps


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_n_epochs_and_n_more_are_2n_with_validation_and_a_schedule(tmp_path: Path, name: str) -> None:
    training: dict[str, Any] = {"schedule": "exponential", "decay": 0.7, "weight_decay": 0.1, "patience": 50}
    straight, half, resumed = (tmp_path / f"{what}.ckpt" for what in ("straight", "half", "resumed"))
    best = {what: tmp_path / f"{what}.best.ckpt" for what in ("straight", "half", "resumed")}
    data = waves()
    in_one = fit(contender(6, 7, name, **training), data, seed=3, save_to=straight, best_to=best["straight"])
    fit(contender(3, 6, name, **training), data, seed=3, save_to=half, best_to=best["half"])
    torch.manual_seed(999)  # whatever else happens in between
    in_two = fit(
        contender(3, 6, name, **training), data, seed=3, save_to=resumed, best_to=best["resumed"], resume_from=half
    )

    assert_same_weights(resumed, straight)
    assert (in_two.epochs, in_two.steps, in_two.loss) == (in_one.epochs, in_one.steps, in_one.loss)
    for path in (straight, resumed):
        (group,) = content(path)["optimizer_states"][0]["param_groups"]
        assert group["lr"] == pytest.approx(0.01 * 0.7**6, rel=1e-12)  # six products in float64
    a, b = (content(path)["optimizer_states"][0]["state"] for path in (resumed, straight))
    assert all(torch.equal(a[number][key], b[number][key]) for number in b for key in b[number])
    assert in_one.best_epoch > 3  # so that the resumed training's best is the straight one's
    assert (in_two.best_epoch, in_two.best_loss) == (in_one.best_epoch, in_one.best_loss)
    assert_same_weights(best["resumed"], best["straight"])


def by_hand(settings: Contender, data: Dataset, weight_decay: float) -> nn.Module:
    """Two epochs of the whole training part at once."""
    network = new_network(settings, data, seed=3)
    stepper = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=weight_decay)
    x_BTD, y, _ = data.train.take(torch.arange(data.train.count))
    for _ in range(2):
        stepper.zero_grad()
        network.losses(network(x_BTD), y).mean().backward()
        stepper.step()
    return network


def test_weight_decay_is_adamws(tmp_path: Path) -> None:
    """Decoupled: not added to the gradient, as Adam's own weight_decay is."""
    data, whole = waves(), {"batch_size": 100, "shuffle": False}
    decayed = contender(2, 3, weight_decay=0.5, **whole)
    fit(decayed, data, seed=3, save_to=tmp_path / "last.ckpt")
    found = load_network(tmp_path / "last.ckpt").state_dict()
    expected = by_hand(decayed, data, weight_decay=0.5).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    undecayed = SequenceModule(new_network(decayed, data, seed=3), contender(2, 3).training)
    assert type(undecayed.configure_optimizers()) is torch.optim.Adam


def test_the_cosine_schedule_ends_at_a_step_of_0(tmp_path: Path) -> None:
    fit(contender(4, 5, schedule="cosine"), waves(), seed=3, save_to=tmp_path / "last.ckpt")
    (group,) = content(tmp_path / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_a_loaded_network_forecasts_as_the_trained_one(tmp_path: Path, name: str) -> None:
    data, path = waves(), tmp_path / "last.ckpt"
    fit(contender(2, 3, name), data, seed=3, save_to=path)
    loaded = load_network(path)
    assert isinstance(loaded, Network)
    assert loaded.output == data.output
    assert loaded.scaling is not None
    assert data.center_D is not None
    assert data.spread_D is not None
    assert torch.equal(loaded.scaling.center_D, data.center_D)
    assert torch.equal(loaded.scaling.spread_D, data.spread_D)

    trained = new_network(contender(2, 3, name), data, seed=8).eval()
    weights = {key.removeprefix("network."): value for key, value in content(path)["state_dict"].items()}
    trained.load_state_dict(weights)
    x_BTD = data.test.take(torch.arange(data.test.count)).x_BTD
    assert torch.equal(loaded(x_BTD), trained(x_BTD))
    assert loaded(x_BTD).shape == (data.test.count, 2, 1)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_in_bf16_it_trains_and_forecasts_in_float32(tmp_path: Path, name: str) -> None:
    data, path = waves(), tmp_path / "last.ckpt"
    done = fit(contender(2, 3, name, precision="bf16-mixed"), data, seed=3, save_to=path, best_to=tmp_path / "b.ckpt")
    assert math.isfinite(done.loss)
    full = fit(contender(2, 3, name), data, seed=3, save_to=tmp_path / "full.ckpt")
    assert done.loss != full.loss  # else nothing was computed in bfloat16
    assert done.loss == pytest.approx(full.loss, rel=0.05)  # bfloat16 keeps 8 bits
    assert {value.dtype for value in content(path)["state_dict"].values()} == {torch.float32}
    x_BTD = data.test.take(torch.arange(3)).x_BTD
    network = load_network(path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        in_half = network(x_BTD)
    assert in_half.dtype == network(x_BTD).dtype == torch.float32
    # a repeated last value loses nothing on its way: bfloat16 is in the change alone, of the size of the spread, 14
    torch.testing.assert_close(in_half, network(x_BTD), rtol=0, atol=0.5)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_copies_forecast_as_the_networks_of_their_seeds_alone(tmp_path: Path, name: str) -> None:
    data, path = waves(), tmp_path / "copies.ckpt"
    x_BTD, y_BSK, _ = data.test.take(torch.arange(data.test.count))
    copies = new_network(contender(2, 3, name, replicas=2), data, seed=3)
    alone = [new_network(contender(2, 3, name), data, seed=seed) for seed in (3, 4)]
    told = torch.stack([network(x_BTD) for network in alone])
    torch.testing.assert_close(copies(x_BTD), told)  # float32, sums in another order
    losses = torch.stack([network.losses(network(x_BTD), y_BSK) for network in alone])
    torch.testing.assert_close(copies.losses(copies(x_BTD), y_BSK), losses)

    fit(contender(2, 3, name, replicas=2), data, seed=3, save_to=path)
    assert load_network(path)(x_BTD).shape == (2, data.test.count, 2, 1)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_classes_are_learnt_from_series_of_different_lengths(tmp_path: Path, name: str) -> None:
    """The sign of a series' numbers."""
    sizes = [2 + g % 4 for g in range(20)]
    g = np.repeat(np.arange(20), sizes)
    table = pd.DataFrame({"g": g, "x": np.where(g % 2, 1.0, -1.0) + 0.1 * np.sin(np.arange(len(g)))})
    table["y"] = np.where(g % 2, "up", "down")
    config = TableData(kind="table", path="a.csv", task="classify", target="y", group="g")
    data = of_table(table, config, seed=0)
    assert data.validation is not None
    path = tmp_path / "best.ckpt"
    done = fit(contender(15, 16, name, learning_rate=0.05), data, seed=3, save_to=tmp_path / "a.ckpt", best_to=path)
    network = load_network(path)
    assert loss_of(network, data.validation) == pytest.approx(done.best_loss, rel=1e-6)  # float32's sum
    x_BTD, y_B, lengths_B = data.test.take(torch.arange(data.test.count))
    assert torch.equal(network(x_BTD, lengths_B).argmax(1), y_B)


def of_groups(unit: float = 1.0) -> Dataset:
    """The length of a series and its mean, together, in a unit of one's choice."""
    sizes = [2 + g % 4 for g in range(40)]
    g = np.repeat(np.arange(40), sizes)
    table = pd.DataFrame({"g": g, "x": np.sin(g) + 0.1 * np.sin(np.arange(len(g)))})
    table["y"] = unit * (5 + np.repeat(sizes, sizes) + table.groupby("g")["x"].transform("mean").round(3))
    return of_table(table, TableData(kind="table", path="a.csv", task="regress", target="y", group="g"), seed=0)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_numbers_are_learnt_from_series_of_different_lengths(tmp_path: Path, name: str) -> None:
    data, path = of_groups(), tmp_path / "best.ckpt"
    assert data.validation is not None
    done = fit(contender(60, 61, name, learning_rate=0.03), data, seed=3, save_to=tmp_path / "a.ckpt", best_to=path)
    network = load_network(path)
    assert (network.output.center, network.output.spread) == (data.output.center, data.output.spread)
    assert loss_of(network, data.validation) == pytest.approx(done.best_loss, rel=1e-6)  # float32's sum
    assert loss_of(network, data.test) < 0.05  # in scaled units; who tells the mean has 1 or so


@pytest.mark.parametrize("unit", [2.0**-60, 2.0**10, 2.0**70])
def test_what_is_learnt_does_not_depend_on_the_unit_of_the_numbers(tmp_path: Path, unit: float) -> None:
    """To the last bit: with powers of two nothing is rounded."""
    settings = contender(2, 3)
    one = fit(settings, of_groups(), seed=3, save_to=tmp_path / "one.ckpt", best_to=tmp_path / "one.best.ckpt")
    other = fit(settings, of_groups(unit), seed=3, save_to=tmp_path / "b.ckpt", best_to=tmp_path / "b.best.ckpt")
    assert_same_weights(tmp_path / "b.ckpt", tmp_path / "one.ckpt")
    assert (other.loss, other.best_loss) == (one.loss, one.best_loss)
    x_BTD, _, lengths_B = of_groups().test.take(torch.arange(8))
    told = [load_network(tmp_path / path)(x_BTD, lengths_B) for path in ("one.ckpt", "b.ckpt")]
    assert torch.equal(told[1], told[0] * unit)
