"""Copies that are trained at once: each is what it would be alone, and the median copy speaks for all."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import names_all
from helpers.recording_logger import Points
from helpers.trainings import contender as any_contender
from helpers.trainings import content
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm_models.config import RNN, AnyModel, BuiltIn, Contender, HandBuilt, Training
from lstm_models.data.dataset import in_sample_dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.data.sequences import Sequences
from lstm_models.data.windows import Batch
from lstm_models.evaluation import evaluate as evaluation
from lstm_models.evaluation.evaluate import evaluate, select_replica
from lstm_models.nn.cells import CELLS
from lstm_models.nn.network import Network, build_network
from lstm_models.nn.replicas import Replicas
from lstm_models.training.checkpoint import CheckpointError, load_network
from lstm_models.training.module import NonFiniteLoss, SequenceModule
from lstm_models.training.trainer import FitResult, fit, new_network

WAVES = Sequences((torch.arange(20 * 6 * 2) * 0.7).sin().reshape(20, 6, 2), torch.arange(20.0).cos())
SEED = 7
MODELS: dict[str, AnyModel] = {
    "hand_built": HandBuilt(kind="hand_built", hidden_size=3, head="linear"),
    "built_in": BuiltIn(kind="built_in", hidden_size=3, head="linear"),
    "rnn": RNN(kind="rnn", hidden_size=3, head="linear"),
}
# float32 over 60 steps of Adam, the copies' products summed in another order than one network's: 3e-7 was seen over
# 200, and 1.3e-6 where the one network runs natively and the copies do not; the largest weight is of order 1
CLOSE = {"rtol": 0, "atol": 5e-6}

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def contender(model: AnyModel, replicas: int, first: int = 2, then: int = 0, **training: Any) -> Contender:
    return any_contender(model, first, then or None, replicas, **training)


def trained(settings: Contender, path: Path, seed: int = SEED, **options: Any) -> tuple[Network | Replicas, FitResult]:
    """The network of the checkpoint that the training has written."""
    done = fit(settings, in_sample_dataset(WAVES), seed=seed, last_path=path, **options)
    return load_network(path), done


def replicated(model: AnyModel, count: int, seed: int = 0) -> Replicas:
    network = new_network(contender(model, count), in_sample_dataset(WAVES), seed)
    assert isinstance(network, Replicas)
    return network


def assert_close(found: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    """Equal state dicts; without a tolerance to the last bit."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), **tolerance)


def apart(a: nn.Module, b: nn.Module) -> float:
    """The largest difference between two weights."""
    return max((value - b.state_dict()[name]).abs().max().item() for name, value in a.state_dict().items())


@pytest.mark.parametrize(("hidden_size", "gradient_clip_norm"), [(1, None), (16, 0.1)])
def test_each_hand_built_copy_follows_its_solo_training(
    tmp_path: Path, hidden_size: int, gradient_clip_norm: float | None
) -> None:
    """60 steps; with gradient_clip_norm each copy's gradient is held against its own norm."""
    model = HandBuilt(kind="hand_built", hidden_size=hidden_size, head="linear")
    training: dict[str, Any] = {"first": 3, "learning_rate": 0.01, "gradient_clip_norm": gradient_clip_norm}
    copies, done = trained(contender(model, 3, **training), tmp_path / "copies.ckpt")
    solos = [trained(contender(model, 1, **training), tmp_path / "solo.ckpt", SEED + n) for n in range(3)]

    assert (done.epochs, done.steps) == (3, 60)
    assert done.loss == pytest.approx(sorted(solo.loss for _, solo in solos)[1], abs=1e-6)
    for n, (solo, _) in enumerate(solos):
        assert_close(copies.member(n), solo, **CLOSE)
        assert 0.1 < max(weight.abs().max().item() for weight in solo.parameters()) < 10
    if gradient_clip_norm is not None:  # it did clip
        unclipped, _ = trained(contender(model, 1, **training | {"gradient_clip_norm": None}), tmp_path / "solo.ckpt")
        assert apart(copies.member(0), unclipped) > 0.01


@pytest.mark.parametrize(("name", "gradient_clip_norm"), [("built_in", 0.1), ("rnn", None)])
def test_each_copy_of_pytorchs_own_is_its_solo_training_to_the_last_bit(
    tmp_path: Path, name: str, gradient_clip_norm: float | None
) -> None:
    """They run one after another, each as alone."""
    model, training = MODELS[name], {"batch_size": 4, "gradient_clip_norm": gradient_clip_norm}
    copies, done = trained(contender(model, 3, **training), tmp_path / "copies.ckpt")
    losses = []
    for n in range(3):
        solo, alone = trained(contender(model, 1, **training), tmp_path / "solo.ckpt", SEED + n)
        assert_close(copies.member(n), solo)
        losses.append(alone.loss)
    assert done.loss == sorted(losses)[1]


def by_hand(settings: Contender, seed: int, order_of: int) -> Network:
    """A network trained without Lightning, on the sequences in the order of a seed of its own."""
    network = new_network(settings, in_sample_dataset(WAVES), seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.training.learning_rate)
    loader = BatchLoader(WAVES, batch_size=settings.training.batch_size, shuffle=True, seed=order_of)
    for epoch in range(settings.training.max_epochs):
        loader.set_epoch(epoch)
        for x_BTD, y_B, _ in loader:
            optimizer.zero_grad()
            F.mse_loss(network(x_BTD), y_B).backward()
            optimizer.step()
    return network


def test_shuffled_all_copies_see_the_order_of_the_first_seed(tmp_path: Path) -> None:
    """So that only the first is its solo training; another is a network of its own seed in the first one's order."""
    shuffled: dict[str, Any] = {"first": 5, "learning_rate": 0.02, "batch_size": 4, "shuffle": True}
    copies, _ = trained(contender(MODELS["hand_built"], 3, **shuffled), tmp_path / "copies.ckpt")
    alone = contender(MODELS["hand_built"], 1, **shuffled)
    for n in range(3):
        assert_close(copies.member(n), by_hand(alone, SEED + n, order_of=SEED), **CLOSE)

    solos = [trained(alone, tmp_path / "solo.ckpt", SEED + n)[0] for n in range(2)]
    assert_close(copies.member(0), solos[0], **CLOSE)
    assert apart(copies.member(1), solos[1]) > 1e-3


@each_model
@pytest.mark.parametrize("seed", [5, 2**32 - 1])
def test_untrained_copies_are_the_solo_networks_of_their_seeds(model: AnyModel, seed: int) -> None:
    """The seed, the seed + 1 and so on; after the highest seed comes 0."""
    copies = replicated(model, 3, seed)
    for n in range(3):
        assert_close(copies.member(n), new_network(contender(model, 1), in_sample_dataset(WAVES), (seed + n) % 2**32))


def test_one_replica_is_the_network_itself() -> None:
    network = new_network(contender(MODELS["hand_built"], 1), in_sample_dataset(WAVES), SEED)
    assert type(network) is Network
    assert select_replica(network, 0) is network


@each_model
def test_a_member_and_the_copies_do_not_change_each_other(model: AnyModel) -> None:
    """A member's weights are those at the moment when it was asked for."""
    copies = replicated(model, 2).train()
    member, expected = copies.member(1), copies(WAVES.x_BTD)
    with torch.no_grad():
        for weight in select_replica(copies, 1).requires_grad_(False).parameters():
            weight.zero_()
    assert torch.equal(copies(WAVES.x_BTD), expected)
    assert all(module.training for module in copies.modules())
    assert all(weight.requires_grad for weight in copies.parameters())
    before = copy.deepcopy(member)
    with torch.no_grad():
        for weight in copies.parameters():
            weight.add_(1)
    assert_close(member, before)


def of_all_copies(copies: Replicas) -> list[dict[str, Tensor]]:
    """The gradients by copy and by parameter, as a network alone names it."""
    if copies.networks:
        return [{name: w.grad for name, w in one.named_parameters()} for one in copies.networks]
    stacked = {name.replace("/", "."): weight.grad for name, weight in copies.weights.items()}
    return [{name: gradient[n] for name, gradient in stacked.items()} for n in range(copies.count)]


def assert_each_is_alone(model: AnyModel, count: int, x_BTD: Tensor, y_B: Tensor) -> None:
    """What a training step predicts and derives, for each copy as for its network alone; in float64."""
    torch.manual_seed(0)
    networks = [build_network(model, x_BTD.size(-1)).double() for _ in range(count)]
    with torch.no_grad():
        for network in networks:
            for weight in network.parameters():
                weight.normal_(0, 0.7)
    copies = Replicas([copy.deepcopy(network) for network in networks])
    training = Training(max_epochs=1)
    SequenceModule(copies, training).training_step(Batch(x_BTD, y_B), 0).backward()
    predictions_RB = copies(x_BTD)
    assert predictions_RB.shape == (count, len(y_B))
    # float64, sums in another order
    close = {"rtol": 1e-10, "atol": 1e-12}
    for network, prediction_B, gradients in zip(networks, predictions_RB, of_all_copies(copies), strict=True):
        SequenceModule(network, training).training_step(Batch(x_BTD, y_B), 0).backward()
        torch.testing.assert_close(prediction_B, network(x_BTD), **close)
        expected = {name: weight.grad for name, weight in network.named_parameters()}
        torch.testing.assert_close(gradients, expected, **close)


DOUBLE = Sequences(WAVES.x_BTD.double(), WAVES.y_B.double())


@pytest.mark.parametrize("name", [*CELLS, "built_in", "rnn"])
def test_each_copy_has_the_gradient_that_it_has_alone(name: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 3, "num_layers": 2, "head": "linear"}
    pytorchs: dict[str, AnyModel] = {"built_in": BuiltIn(kind="built_in", **sizes), "rnn": RNN(kind="rnn", **sizes)}
    assert_each_is_alone(pytorchs.get(name) or HandBuilt(kind="hand_built", cell=name, **sizes), 3, *DOUBLE)


@given(
    count=st.integers(2, 5),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    hidden_size=st.integers(1, 4),
    num_layers=st.integers(1, 2),
    biases=st.booleans(),
    cell=st.sampled_from(list(CELLS)),
)
def test_any_number_of_copies_of_any_size_are_each_alone(
    count: int, shape: tuple[int, int, int], hidden_size: int, num_layers: int, biases: Any, cell: str
) -> None:
    model = HandBuilt(
        kind="hand_built", hidden_size=hidden_size, num_layers=num_layers, head="linear", double_bias=biases, cell=cell
    )
    generator = torch.Generator().manual_seed(sum(shape))
    x_BTD = torch.randn(shape, dtype=torch.float64, generator=generator)
    assert_each_is_alone(model, count, x_BTD, torch.randn(shape[0], dtype=torch.float64, generator=generator))


@each_model
def test_a_gradient_longer_than_clip_norm_is_scaled_down_and_no_other_copys(model: AnyModel) -> None:
    copies = replicated(model, 3)
    (copies(WAVES.x_BTD).square().mean(1) * torch.tensor([1.0, 1e-3, 1e3])).sum().backward()
    before = [{name: value.clone() for name, value in own.items()} for own in of_all_copies(copies)]
    copies.clip_gradients(0.01)
    for n, (own, after) in enumerate(zip(before, of_all_copies(copies), strict=True)):
        alone = replicated(model, 3).member(n)
        for name, weight in alone.named_parameters():
            weight.grad = own[name].clone()
        norm = nn.utils.clip_grad_norm_(alone.parameters(), 0.01).item()
        assert (norm > 0.01) == (n != 1)
        # a norm summed in another order: float32's last bits
        expected = {name: weight.grad for name, weight in alone.named_parameters()}
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=0)
        if n == 1:
            assert all(torch.equal(after[name], value) for name, value in own.items())


STOCHASTIC: dict[str, AnyModel] = {
    "dropout": HandBuilt(kind="hand_built", hidden_size=8, num_layers=2, dropout=0.5, head="linear"),
    "recurrent_dropout": HandBuilt(kind="hand_built", hidden_size=8, recurrent_dropout=0.5, head="linear"),
    "zoneout": HandBuilt(kind="hand_built", hidden_size=8, zoneout=0.5, head="linear"),
    "dropout, built_in": BuiltIn(kind="built_in", hidden_size=8, num_layers=2, dropout=0.5, head="linear"),
    "dropout, rnn": RNN(kind="rnn", hidden_size=8, num_layers=2, dropout=0.5, head="linear"),
}


@pytest.mark.parametrize("model", STOCHASTIC.values(), ids=STOCHASTIC)
def test_each_copy_has_draws_of_its_own_in_training_and_none_in_evaluation(model: AnyModel) -> None:
    """Copies of equal weights tell it; within a hand-built copy each sequence has draws of its own."""
    torch.manual_seed(0)
    network = build_network(model, input_size=2)
    copies = Replicas([copy.deepcopy(network) for _ in range(3)])
    first, again = (copies.train()(WAVES.x_BTD) for _ in range(2))
    every = [*first, *again]
    assert not any(torch.equal(a, b) for n, a in enumerate(every) for b in every[:n])

    torch.manual_seed(1)
    one = copies(WAVES.x_BTD)
    torch.manual_seed(1)
    assert torch.equal(copies(WAVES.x_BTD), one)

    if isinstance(model, HandBuilt) and not model.zoneout:
        predictions_RB = copies(WAVES.x_BTD[:1].expand(4, -1, -1))
        assert all(len(set(of_one.tolist())) == 4 for of_one in predictions_RB)

    in_evaluation = copies.eval()(WAVES.x_BTD)
    assert torch.equal(in_evaluation, in_evaluation[:1].expand_as(in_evaluation))
    # float32: one network's products are summed in another order than the copies'
    torch.testing.assert_close(in_evaluation[0], network.eval()(WAVES.x_BTD), rtol=0, atol=1e-6)


def poison(path: Path, *copies: int) -> None:
    """Make a weight of these copies NaN, as a diverging training does."""
    changed = content(path)
    weights = changed["state_dict"]
    for n in copies:
        stacked = weights.get("network.weights.recurrent/weight_ih_l0")
        (weights[f"network.networks.{n}.recurrent.weight_ih_l0"] if stacked is None else stacked[n])[0] = torch.nan
    torch.save(changed, path)


@pytest.mark.parametrize(("name", "gradient_clip_norm"), [("hand_built", None), ("hand_built", 0.1), ("built_in", 0.1)])
def test_a_copy_that_diverges_leaves_the_others_alone(
    tmp_path: Path, name: str, gradient_clip_norm: float | None
) -> None:
    model = MODELS[name]
    parted = contender(model, 3, first=1, then=2, batch_size=4, gradient_clip_norm=gradient_clip_norm)
    trained(parted, tmp_path / "half.ckpt")
    expected, _ = trained(parted, tmp_path / "healthy.ckpt", resume_from=tmp_path / "half.ckpt")
    poison(tmp_path / "half.ckpt", 1)
    found, done = trained(parted, tmp_path / "last.ckpt", resume_from=tmp_path / "half.ckpt")

    for n in (0, 2):
        assert_close(found.member(n), expected.member(n))
    assert any(weight.isnan().any() for weight in found.member(1).parameters())

    judged = evaluate(found, in_sample_dataset(WAVES))
    healthy = evaluate(expected, in_sample_dataset(WAVES))
    assert judged.replica_metrics == [healthy.replica_metrics[0], None, healthy.replica_metrics[2]]
    # of three, one of which is NaN, the median is the worse of the two others
    assert judged.evaluation.metrics == max(
        (judged.replica_metrics[0], judged.replica_metrics[2]), key=lambda one: one["mse"]
    )
    assert done.loss > 0


def test_the_loss_is_the_worse_of_two_where_a_third_copy_fails(tmp_path: Path) -> None:
    parted, alone = (contender(MODELS["rnn"], count, first=1, then=2, batch_size=4) for count in (3, 1))
    trained(parted, tmp_path / "half.ckpt")
    poison(tmp_path / "half.ckpt", 2)
    _, done = trained(parted, tmp_path / "last.ckpt", resume_from=tmp_path / "half.ckpt")
    losses = []
    for n in range(2):
        trained(alone, tmp_path / "solo.ckpt", SEED + n)
        losses.append(trained(alone, tmp_path / "on.ckpt", SEED + n, resume_from=tmp_path / "solo.ckpt")[1].loss)
    assert done.loss == max(losses)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_a_training_ends_where_the_median_copy_fails(tmp_path: Path, name: str) -> None:
    parted = contender(MODELS[name], 3, first=1, then=2, batch_size=4, learning_rate=0.02)
    trained(parted, tmp_path / "half.ckpt")
    poison(tmp_path / "half.ckpt", 0, 2)
    with pytest.raises(NonFiniteLoss) as caught:
        trained(parted, tmp_path / "last.ckpt", resume_from=tmp_path / "half.ckpt")
    assert names_all(caught.value, "nan", "epoch 2;", "learning_rate", "0.02")
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("count", [3, 4])
def test_the_curves_are_the_median_copys_at_every_point(tmp_path: Path, count: int) -> None:
    """Of an even number the better of the two in the middle; of predictions the lower."""

    def curves(replicas: int, seed: int) -> list[dict[str, Any]]:
        points = Points()
        settings = contender(MODELS["rnn"], replicas, first=2, batch_size=2, log_every_n_steps=3, log_predictions=True)
        trained(settings, tmp_path / "last.ckpt", seed, loggers=[points])
        return [{"step": step, **point} for step, point in points.logged]

    found = curves(count, SEED)
    solos = [curves(1, SEED + n) for n in range(count)]  # an RNN's copies are their solo trainings to the last bit
    assert any("out_1" in point for point in found)
    for point, *alone in zip(found, *solos, strict=True):
        assert point == {name: sorted(solo[name] for solo in alone)[(count - 1) // 2] for name in alone[0]}


class ScaledLast(Replicas):
    """Copies that predict the last value times a weight of their own."""

    def __init__(self, *weights: float) -> None:
        nn.Module.__init__(self)
        self._shape = []
        self.own_R = nn.Parameter(torch.tensor(weights))

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        return self.own_R.unsqueeze(1) * x_BTD[:, -1, 0]


ONES = in_sample_dataset(Sequences(torch.tensor([[0.0, 1.0], [0.0, -1.0]]).unsqueeze(-1), torch.tensor([0.0, 0.0])))


def errors_of(weight: float) -> dict[str, float]:
    return {"mse": weight**2, "mae": weight, "max_error": weight}


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("weights", "median"),
    [
        ([5.0], 0),
        ([3.0, 1.0, 2.0], 2),
        ([4.0, 2.0], 1),
        ([1.0, 2.0], 0),
        ([4.0, 3.0, 1.0, 2.0], 3),
        ([2.0, 2.0, 2.0], 1),
        ([2.0, 2.0, 2.0, 2.0], 1),
        ([1.0, NAN], 0),
        ([NAN, 1.0], 1),
        ([3.0, NAN, 1.0], 0),
        ([INFINITY, 3.0, 1.0], 1),
        ([NAN, NAN, 3.0, 1.0], 2),
    ],
)
def test_the_median_copy_is_the_better_of_two_in_the_middle_failures_last(weights: list[float], median: int) -> None:
    judged, weight = evaluate(ScaledLast(*weights), ONES), weights[median]
    assert (judged.parameters, judged.replica) == (1, median)
    assert judged.evaluation.metrics == errors_of(weight)
    assert judged.evaluation.predictions.tolist() == [weight, -weight]
    assert judged.evaluation.losses_W.tolist() == [weight**2] * 2
    assert judged.replica_metrics == [errors_of(weight) if math.isfinite(weight) else None for weight in weights]


@pytest.mark.parametrize("weights", [[NAN], [NAN, NAN], [INFINITY, 1.0, NAN], [NAN, 2.0, NAN, NAN, 1.0]])
def test_an_evaluation_ends_where_the_median_copy_fails(weights: list[float]) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        evaluate(ScaledLast(*weights), ONES)
    assert names_all(caught.value, "predicts NaN or infinity", "learning_rate")


@each_model
@pytest.mark.parametrize("at_once", [8, 1000])
def test_an_evaluation_tells_of_each_copy_what_it_tells_of_the_member_alone(
    model: AnyModel, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sequences are taken at once."""
    copies = replicated(model, 3)
    alone = [evaluate(copies.member(n), in_sample_dataset(WAVES)) for n in range(3)]
    monkeypatch.setattr(evaluation, "BATCH_SIZE", at_once)
    judged = evaluate(copies, in_sample_dataset(WAVES))
    median = alone[judged.replica]
    assert judged.parameters == median.parameters
    # float32: one network's products are summed in another order than the copies'
    close: dict[str, float] = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(judged.evaluation.predictions, median.evaluation.predictions, **close)
    torch.testing.assert_close(judged.evaluation.losses_W, median.evaluation.losses_W, **close)
    assert not judged.evaluation.predictions.requires_grad
    assert torch.equal(judged.evaluation.targets, WAVES.y_B)
    in_order = sorted((one.evaluation.metrics for one in alone), key=lambda metrics: metrics["mse"])
    assert judged.evaluation.metrics == pytest.approx(in_order[1], abs=1e-6)
    for own, one in zip(judged.replica_metrics, alone, strict=True):
        assert own == pytest.approx(one.evaluation.metrics, abs=1e-6)


# ---- checkpoints
@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of two copies, by the model's name."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("hand_built", "built_in"):
        trained(contender(MODELS[name], 2, first=1, batch_size=20), folder / name)
    return {name: folder / name for name in ("hand_built", "built_in")}


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_loaded_copies_are_in_evaluation_mode_and_so_are_their_members(two: dict[str, Path], name: str) -> None:
    found = load_network(two[name])
    assert not any(module.training for module in [*found.modules(), *found.member(1).modules()])
    assert not any(module.training for module in select_replica(found.train(), 1).modules())


def test_a_checkpoint_of_another_number_of_copies_is_of_another_network(tmp_path: Path, two: dict[str, Path]) -> None:
    trained(contender(MODELS["hand_built"], 1, first=1, batch_size=20), tmp_path / "one")
    for path, theirs, ours in ((two["hand_built"], 2, 3), (two["hand_built"], 2, 1), (tmp_path / "one", 1, 2)):
        with pytest.raises(CheckpointError) as caught:
            trained(contender(MODELS["hand_built"], ours, first=1), tmp_path / "next.ckpt", resume_from=path)
        assert names_all(caught.value, f"{path}: ", "another network", f"{{'replicas': {theirs}}}")
    assert not (tmp_path / "next.ckpt").exists()


@pytest.mark.parametrize(("name", "count"), [("hand_built", 3), ("hand_built", 1), ("hand_built", 0), ("built_in", 3)])
def test_a_checkpoint_with_another_number_of_copies_than_it_says_is_damaged(
    tmp_path: Path, two: dict[str, Path], name: str, count: int
) -> None:
    path, changed = tmp_path / "last.ckpt", content(two[name])
    changed["lstm_flows"]["replicas"] = count
    torch.save(changed, path)
    with pytest.raises(CheckpointError) as caught:
        load_network(path)
    assert names_all(caught.value, f"{path}: ", "damaged")
