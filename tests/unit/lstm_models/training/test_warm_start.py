"""Fine-tuning on a table that has grown: bit-identical to a plain training loop; warm starts; other networks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.errors import names_all
from helpers.recording_logger import Points
from helpers.trainings import contender as any_contender
from helpers.trainings import content

from lstm_models.config import AnyModel, BuiltIn, Contender, HandBuilt, Split, TableData
from lstm_models.data.builders import build_dataset, in_sample_dataset
from lstm_models.data.dataset import Dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.data.sequences import Sequences
from lstm_models.nn.network import Network
from lstm_models.training import trainer
from lstm_models.training.checkpoint import CheckpointError, load_network
from lstm_models.training.trainer import fit, new_network

SMALL: dict[str, Any] = {"hidden_size": 3, "head": "linear"}
DEEP: dict[str, Any] = {**SMALL, "num_layers": 2, "dropout": 0.5}
INITIAL, MORE = 3, 2  # epochs
WAVES = in_sample_dataset(
    Sequences(torch.arange(5 * 6 * 2.0).sin().reshape(5, 6, 2), torch.tensor([0.3, -0.2, 0.8, 0.1, 0.5]))
)


def forecast(count: int, **changes: Any) -> Dataset:
    """Return a forecast of one of two columns, whose mean and spread grow over time."""
    t = np.arange(count)
    table = pd.DataFrame({"y": np.sin(t / 3) * (5 + t / 9) + t, "x": np.cos(t / 5) - t / 50})
    values = {"target": "y", "features": ["y", "x"], "context_length": 5, "horizon": 2, "split": Split()} | changes
    return build_dataset(table, TableData(kind="table", path="a.csv", **values), 0)


def labelled(task: str, count: int, **changes: Any) -> Dataset:
    """Return groups of three to five daily rows with a label; numbers to predict grow."""
    sizes = [3 + g % 3 for g in range(count)]
    g = np.repeat(np.arange(count), sizes)
    table = pd.DataFrame({"g": g, "t": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(len(g)), unit="D")})
    table["x"] = np.sin(np.arange(len(g))) * (1 + g)
    table["label"] = np.where(g % 2, "odd", "even") if task == "classify" else 10.0 + g**2
    values = {"target": "label", "features": ["x"], "group": "g", "split": Split(train=0.6, validation=0.2)} | changes
    return build_dataset(table, TableData(kind="table", path="a.csv", task=task, time="t", **values), 0)


DATA = {
    "forecast": lambda count: forecast(4 * count),
    "regress": lambda count: labelled("regress", count),
    "classify": lambda count: labelled("classify", count),
}
MODELS: dict[str, AnyModel] = {
    "hand_built": HandBuilt(kind="hand_built", **SMALL),
    "built_in": BuiltIn(kind="built_in", **SMALL),
}


def contender(model: AnyModel, replicas: int = 1, **settings: Any) -> Contender:
    values = {"batch_size": 4, "shuffle": True, "learning_rate": 0.01} | settings
    return any_contender(model, MORE, INITIAL + MORE, replicas, **values)


def trained(of: Contender, data: Dataset, path: Path, **settings: Any) -> dict[str, Any]:
    """Train, and return the content of the checkpoint."""
    fit(of, data, last_path=path, **{"seed": 1, "max_epochs": INITIAL, **settings})
    return content(path)


def assert_equal(found: Any, expected: Any) -> None:
    """Assert that nested mappings and lists are equal, with tensors bit-identical."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def train_by_hand(
    network: Network, data: Dataset, seed: int, epochs: range, rate: float, state: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train with a plain loop: Adam on the mean loss of each batch, with a fresh or a given optimizer state."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    if state:
        optimizer.load_state_dict(state)
    batches = BatchLoader(data.train, batch_size=4, shuffle=True, seed=seed)
    for epoch in epochs:
        batches.set_epoch(epoch)
        for x_BTD, y, lengths_B in batches:
            optimizer.zero_grad()
            network.losses(network(x_BTD, lengths_B), y).mean().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    return {"state_dict": weights, "optimizer_states": [optimizer.state_dict()]}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of the hand-built contender on the forecast data."""
    path = tmp_path_factory.mktemp("forecasts") / "first.ckpt"
    trained(contender(MODELS["hand_built"]), forecast(40), path)
    return path


# ---- bit-identical to a loop
@pytest.mark.parametrize(
    ("kind", "name"), [("forecast", "hand_built"), ("regress", "built_in"), ("classify", "hand_built")]
)
def test_fine_tuning_on_new_rows_equals_a_plain_loop(tmp_path: Path, kind: str, name: str) -> None:
    """A warm start has a fresh optimizer and its own learning rate; resuming keeps the optimizer and the epoch.

    The scaling and the unit stay the checkpoint's, although those of the data have changed.
    """
    first, best = tmp_path / "first.ckpt", tmp_path / "best.ckpt"
    small, large, settings = DATA[kind](10), DATA[kind](16), contender(MODELS[name], gradient_clip_norm=0.5)
    before = trained(settings, small, first)
    bytes_before, (state,) = first.read_bytes(), before["optimizer_states"]

    def check(after: dict[str, Any], epochs: range, rate: float, state: dict[str, Any] | None) -> None:
        expected = train_by_hand(load_network(first).train(), large, 5, epochs, rate, state)
        assert_equal({key: after[key] for key in expected}, expected)
        changed = [name for name, value in before["state_dict"].items() if not value.equal(after["state_dict"][name])]
        assert changed == [name for name in before["state_dict"] if "scaler" not in name]
        assert after["epoch"] == epochs.stop
        for checkpoint in (after, content(best)):
            assert checkpoint["lstm_flows"]["output"] == small.output.model_dump(mode="json")
        for path in (tmp_path / "last.ckpt", best):
            network = load_network(path)
            assert isinstance(network, Network)
            assert network.scaler is not None
            assert network.output == small.output
            assert torch.equal(network.scaler.mean_D, small.mean_D)
            assert torch.equal(network.scaler.scale_D, small.scale_D)

    assert not torch.equal(small.mean_D, large.mean_D)
    options = {"path": tmp_path / "last.ckpt", "best_path": best, "seed": 5}
    warm = trained(
        contender(MODELS[name], gradient_clip_norm=0.5, learning_rate=0.03),
        large,
        **options,
        init_from=first,
        max_epochs=MORE,
    )
    check(warm, range(MORE), 0.03, None)
    resumed = trained(settings, large, **options, resume_from=first, max_epochs=None)
    check(resumed, range(INITIAL, INITIAL + MORE), 0.01, state)
    assert first.read_bytes() == bytes_before


@pytest.mark.parametrize(
    ("settings", "of"),
    [
        (contender(HandBuilt(kind="hand_built", **DEEP), lr_schedule="cosine", weight_decay=0.1), DATA["forecast"]),
        (contender(HandBuilt(kind="hand_built", **SMALL, zoneout=0.3), fused=True), DATA["classify"]),
        (contender(HandBuilt(kind="hand_built", **DEEP), replicas=3), lambda _: WAVES),
    ],
    ids=["weight decay, cosine, dropout", "fused, zoneout", "replicas"],
)
def test_a_warm_start_is_a_training_from_the_seed_with_other_initial_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Contender, of: Any
) -> None:
    """The random state of dropout, the schedule and the best epoch do not depend on the checkpoint."""
    first, warm, best, other, other_best = (tmp_path / f"{number}.ckpt" for number in range(5))
    trained(settings, of(10), first)
    done = fit(settings, of(16), seed=5, last_path=warm, best_path=best, init_from=first)

    def network_with_those_weights(of_contender: Contender, data: Dataset, seed: int) -> Any:
        network = load_network(first).train()
        new_network(of_contender, data, seed)  # sets the random state as at the start of a training
        return network

    monkeypatch.setattr(trainer, "new_network", network_with_those_weights)
    expected = fit(settings, of(16), seed=5, last_path=other, best_path=other_best)
    assert replace(done, seconds=0) == replace(expected, seconds=0)
    assert best.exists() == other_best.exists() == (of(16).validation is not None)
    for path, reference in ((warm, other), (best, other_best))[: 1 + best.exists()]:
        found, wanted = content(path), content(reference)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "epoch_state", "loops"):
            assert_equal(found[key], wanted[key])
        assert_equal(found["lstm_flows"]["random_state"]["torch"], wanted["lstm_flows"]["random_state"]["torch"])
        assert found.get("best") == wanted.get("best")


# ---- epochs
def test_the_epochs_of_a_warm_start_are_counted_from_1(tmp_path: Path) -> None:
    """max_epochs may be below the epoch of the checkpoint, which may have been stopped early."""
    first, last, best = (tmp_path / f"{name}.ckpt" for name in ("first", "last", "best"))
    stopped = contender(MODELS["hand_built"], patience=1, learning_rate=10.0)
    ended = fit(stopped, forecast(40), seed=1, last_path=first, max_epochs=40)
    assert MORE < ended.epochs < 40
    # the first batch sees the checkpoint's weights, at step 0 of epoch 0
    batches = -(-forecast(64).train.count // 4)
    logger = Points()
    settings = contender(MODELS["hand_built"], log_every_n_steps=1, shuffle=False)
    done = fit(settings, forecast(64), seed=1, last_path=last, best_path=best, init_from=first, loggers=[logger])
    assert (done.epochs, done.steps) == (MORE, MORE * batches)
    assert 1 <= done.best_epoch <= MORE
    points = [(step, point["epoch"]) for step, point in logger.logged if "train_loss" in point]
    assert points == [(step, step // batches) for step in range(MORE * batches)]
    network, batch = load_network(first), forecast(64).train.get_batch(torch.arange(4))
    with torch.no_grad():
        expected = network.losses(network(batch.x_BTD), batch.y).mean().item()
    assert logger.logged[0][1]["train_loss"] == expected
    after = content(last)
    assert (after["epoch"], after["global_step"], after["lstm_flows"]["max_epochs"]) == (MORE, MORE * batches, MORE)
    (optimizer,) = after["optimizer_states"]
    assert {state["step"].item() for state in optimizer["state"].values()} == {MORE * batches}
    assert [group["lr"] for group in optimizer["param_groups"]] == [0.01]


@pytest.mark.parametrize("max_epochs", [1, None, 7])
def test_a_warm_start_has_the_epochs_of_the_initial_training_by_default(
    tmp_path: Path, first: Path, max_epochs: int | None
) -> None:
    settings = contender(MODELS["hand_built"], batch_size=64)
    done = fit(settings, forecast(64), seed=1, last_path=tmp_path / "last.ckpt", init_from=first, max_epochs=max_epochs)
    assert done.epochs == (max_epochs or settings.training.max_epochs)


# ---- errors
HAND_BUILT = contender(MODELS["hand_built"])
NETWORK, OUTPUT = ("'network'", str(MODELS["hand_built"].model_dump(mode="json"))), ("'output'", "'horizon': 2")
OTHERS: dict[str, tuple[Contender, Dataset, tuple[str, ...]]] = {
    "a larger one": (contender(MODELS["hand_built"].model_copy(update={"hidden_size": 4})), forecast(40), NETWORK),
    "another kind": (contender(MODELS["built_in"]), forecast(40), NETWORK),
    "other columns": (HAND_BUILT, forecast(40, features=["y"]), ("{'input_size': 2}",)),
    "another horizon": (HAND_BUILT, forecast(40, horizon=3), OUTPUT),
    "another target": (HAND_BUILT, forecast(40, target="x"), ("'targets': ['y']",)),
    "unscaled": (HAND_BUILT, forecast(40, scaling="none"), ("{'scaled': True}",)),
    "another task": (HAND_BUILT, labelled("regress", 10), ("'input_size': 2", *OUTPUT)),
}


@pytest.mark.parametrize(("ours", "data", "named"), OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_another_network_is_rejected(
    tmp_path: Path, first: Path, ours: Contender, data: Dataset, named: tuple[str, ...]
) -> None:
    for how in ("init_from", "resume_from"):
        with pytest.raises(CheckpointError) as caught:
            trained(
                ours, data, tmp_path / "last.ckpt", best_path=tmp_path / "best.ckpt", max_epochs=None, **{how: first}
            )
        assert names_all(caught.value, f"{first}: ", "another network", *named)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_other_classes_is_rejected(tmp_path: Path) -> None:
    path, data = tmp_path / "first.ckpt", labelled("classify", 10)
    before = trained(HAND_BUILT, data, path)
    for classes in (["a", "b"], ["even", "more", "odd"], ["odd", "even"]):
        before["lstm_flows"]["output"]["classes"] = classes
        torch.save(before, path)
        with pytest.raises(CheckpointError) as caught:
            trained(HAND_BUILT, data, tmp_path / "last.ckpt", init_from=path)
        assert names_all(caught.value, f"{path}: ", "another network", "'output'", str(classes))


@pytest.mark.parametrize("output", [None, [], "number"])
def test_a_checkpoint_with_an_invalid_output_is_rejected(tmp_path: Path, first: Path, output: object) -> None:
    path, before = tmp_path / "first.ckpt", content(first)
    before["lstm_flows"]["output"] = output
    torch.save(before, path)
    with pytest.raises(CheckpointError) as caught:
        trained(HAND_BUILT, forecast(40), tmp_path / "last.ckpt", init_from=path)
    assert names_all(caught.value, f"{path}: ", "another network", f"{{'output': {output!r}}}")


@pytest.mark.parametrize("how", ["init_from", "resume_from"])
def test_a_file_that_is_not_a_checkpoint_is_rejected(tmp_path: Path, how: str) -> None:
    path = tmp_path / "first.ckpt"
    path.write_text("weights: none\n")
    with pytest.raises(CheckpointError) as caught:
        trained(HAND_BUILT, forecast(40), tmp_path / "last.ckpt", **{how: path})
    assert names_all(caught.value, f"{path}: not a checkpoint of lstm-flows ")
    assert list(tmp_path.iterdir()) == [path]


def test_fine_tuning_may_add_the_epochs_that_early_stopping_saved(tmp_path: Path) -> None:
    """The same max_epochs looks like the training that was stopped early; is_fine_tuning says it is a new one."""
    impatient = contender(MODELS["built_in"], patience=1, learning_rate=0.3)
    first = {"seed": 0, "last_path": tmp_path / "first", "best_path": tmp_path / "first best"}
    before = fit(impatient, forecast(60), max_epochs=10, **first)
    assert before.epochs < 10
    on = {"seed": 0, "resume_from": tmp_path / "first", "max_epochs": 10, "best_path": tmp_path / "best"}
    with pytest.raises(CheckpointError, match=r"patience 1.*max_epochs 10"):
        fit(impatient, forecast(90), last_path=tmp_path / "second", **on)
    after = fit(impatient, forecast(90), last_path=tmp_path / "second", is_fine_tuning=True, **on)
    assert before.epochs < after.best_epoch <= after.epochs <= 10


def test_resume_from_and_init_from_exclude_each_other(tmp_path: Path) -> None:
    options = {"seed": 0, "last_path": tmp_path / "a", "resume_from": tmp_path, "init_from": tmp_path}
    with pytest.raises(ValueError, match=r"resume_from.*init_from"):
        fit(HAND_BUILT, forecast(60), **options)  # type: ignore[arg-type]
