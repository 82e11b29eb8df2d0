"""Replicas that are trained together: each equals its solo training, and the median replica represents all."""

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
from lstm_models.data.builders import in_sample_dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.data.sequences import Sequences
from lstm_models.data.windows import Batch
from lstm_models.evaluation import evaluate as evaluation
from lstm_models.evaluation.evaluate import evaluate, select_replica
from lstm_models.nn.cell_variants import CELLS
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
# float32 over 60 steps of Adam, with products summed in another order than for a single network: 3e-7 was observed over
# 200 steps, and 1.3e-6 where the single network runs in native code; the largest weight is of order 1
CLOSE = {"rtol": 0, "atol": 5e-6}

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def contender(model: AnyModel, replicas: int, first: int = 2, then: int = 0, **training: Any) -> Contender:
    return any_contender(model, first, then or None, replicas, **training)


def trained(settings: Contender, path: Path, seed: int = SEED, **options: Any) -> tuple[Network | Replicas, FitResult]:
    """Return the network of the checkpoint that a training writes, and the training's result."""
    result = fit(settings, in_sample_dataset(WAVES), seed=seed, last_path=path, **options)
    return load_network(path), result


def replicated(model: AnyModel, count: int, seed: int = 0) -> Replicas:
    network = new_network(contender(model, count), in_sample_dataset(WAVES), seed)
    assert isinstance(network, Replicas)
    return network


def assert_close(found: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    """Compare state dicts, bitwise unless a tolerance is passed."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), **tolerance)


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    """Return the largest difference between two weights."""
    return max((value - b.state_dict()[name]).abs().max().item() for name, value in a.state_dict().items())


@pytest.mark.parametrize(("hidden_size", "gradient_clip_norm"), [(1, None), (16, 0.1)])
def test_hand_built_replica_follows_its_solo_training(
    tmp_path: Path, hidden_size: int, gradient_clip_norm: float | None
) -> None:
    """60 steps; each replica's gradient is clipped by its own norm."""
    model = HandBuilt(kind="hand_built", hidden_size=hidden_size, head="linear")
    training: dict[str, Any] = {"first": 3, "learning_rate": 0.01, "gradient_clip_norm": gradient_clip_norm}
    replicas, result = trained(contender(model, 3, **training), tmp_path / "replicas.ckpt")
    solos = [trained(contender(model, 1, **training), tmp_path / "solo.ckpt", SEED + n) for n in range(3)]

    assert (result.epochs, result.steps) == (3, 60)
    assert result.loss == pytest.approx(sorted(solo.loss for _, solo in solos)[1], abs=1e-6)
    for n, (solo, _) in enumerate(solos):
        assert_close(replicas.member(n), solo, **CLOSE)
        assert 0.1 < max(weight.abs().max().item() for weight in solo.parameters()) < 10
    if gradient_clip_norm is not None:  # clipping has an effect
        unclipped, _ = trained(contender(model, 1, **training | {"gradient_clip_norm": None}), tmp_path / "solo.ckpt")
        assert largest_difference(replicas.member(0), unclipped) > 0.01


@pytest.mark.parametrize(("name", "gradient_clip_norm"), [("built_in", 0.1), ("rnn", None)])
def test_pytorch_replica_equals_its_solo_training_bitwise(
    tmp_path: Path, name: str, gradient_clip_norm: float | None
) -> None:
    """They run one after another."""
    model, training = MODELS[name], {"batch_size": 4, "gradient_clip_norm": gradient_clip_norm}
    replicas, result = trained(contender(model, 3, **training), tmp_path / "replicas.ckpt")
    losses = []
    for n in range(3):
        solo, solo_result = trained(contender(model, 1, **training), tmp_path / "solo.ckpt", SEED + n)
        assert_close(replicas.member(n), solo)
        losses.append(solo_result.loss)
    assert result.loss == sorted(losses)[1]


def train_without_lightning(settings: Contender, seed: int, order_seed: int) -> Network:
    """Train a network without Lightning, on the sequences in the order of another seed."""
    network = new_network(settings, in_sample_dataset(WAVES), seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.training.learning_rate)
    loader = BatchLoader(WAVES, batch_size=settings.training.batch_size, shuffle=True, seed=order_seed)
    for epoch in range(settings.training.max_epochs):
        loader.set_epoch(epoch)
        for x_BTD, y_B, _ in loader:
            optimizer.zero_grad()
            F.mse_loss(network(x_BTD), y_B).backward()
            optimizer.step()
    return network


def test_shuffled_replicas_share_the_order_of_the_first_seed(tmp_path: Path) -> None:
    """Only the first equals its solo training; the others have their own seeds, but the first one's order."""
    shuffled: dict[str, Any] = {"first": 5, "learning_rate": 0.02, "batch_size": 4, "shuffle": True}
    replicas, _ = trained(contender(MODELS["hand_built"], 3, **shuffled), tmp_path / "replicas.ckpt")
    alone = contender(MODELS["hand_built"], 1, **shuffled)
    for n in range(3):
        assert_close(replicas.member(n), train_without_lightning(alone, SEED + n, order_seed=SEED), **CLOSE)

    solos = [trained(alone, tmp_path / "solo.ckpt", SEED + n)[0] for n in range(2)]
    assert_close(replicas.member(0), solos[0], **CLOSE)
    assert largest_difference(replicas.member(1), solos[1]) > 1e-3


@each_model
@pytest.mark.parametrize("seed", [5, 2**32 - 1])
def test_untrained_replicas_equal_the_solo_networks_of_their_seeds(model: AnyModel, seed: int) -> None:
    """The seeds are seed, seed + 1 and so on; after the highest seed comes 0."""
    replicas = replicated(model, 3, seed)
    for n in range(3):
        assert_close(replicas.member(n), new_network(contender(model, 1), in_sample_dataset(WAVES), (seed + n) % 2**32))


def test_one_replica_is_the_network_itself() -> None:
    network = new_network(contender(MODELS["hand_built"], 1), in_sample_dataset(WAVES), SEED)
    assert type(network) is Network
    assert select_replica(network, 0) is network


@each_model
def test_member_and_replicas_share_no_weights(model: AnyModel) -> None:
    """A member has the weights of the time of the call."""
    replicas = replicated(model, 2).train()
    member, expected = replicas.member(1), replicas(WAVES.x_BTD)
    with torch.no_grad():
        for weight in select_replica(replicas, 1).requires_grad_(False).parameters():
            weight.zero_()
    assert torch.equal(replicas(WAVES.x_BTD), expected)
    assert all(module.training for module in replicas.modules())
    assert all(weight.requires_grad for weight in replicas.parameters())
    before = copy.deepcopy(member)
    with torch.no_grad():
        for weight in replicas.parameters():
            weight.add_(1)
    assert_close(member, before)


def gradients_by_replica(replicas: Replicas) -> list[dict[str, Tensor]]:
    """Return the gradients by replica and by a single network's parameter names."""
    if replicas.networks:
        return [{name: w.grad for name, w in network.named_parameters()} for network in replicas.networks]
    stacked = {name.replace("/", "."): weight.grad for name, weight in replicas.weights.items()}
    return [{name: gradient[n] for name, gradient in stacked.items()} for n in range(replicas.count)]


def assert_replicas_equal_solo_networks(model: AnyModel, count: int, x_BTD: Tensor, y_B: Tensor) -> None:
    """Compare predictions and gradients of a training step for each replica and its solo network, in float64."""
    torch.manual_seed(0)
    networks = [build_network(model, x_BTD.size(-1)).double() for _ in range(count)]
    with torch.no_grad():
        for network in networks:
            for weight in network.parameters():
                weight.normal_(0, 0.7)
    replicas = Replicas([copy.deepcopy(network) for network in networks])
    training = Training(max_epochs=1)
    SequenceModule(replicas, training).training_step(Batch(x_BTD, y_B), 0).backward()
    predictions_RB = replicas(x_BTD)
    assert predictions_RB.shape == (count, len(y_B))
    # float64, summed in another order
    close = {"rtol": 1e-10, "atol": 1e-12}
    for network, prediction_B, gradients in zip(networks, predictions_RB, gradients_by_replica(replicas), strict=True):
        SequenceModule(network, training).training_step(Batch(x_BTD, y_B), 0).backward()
        torch.testing.assert_close(prediction_B, network(x_BTD), **close)
        expected = {name: weight.grad for name, weight in network.named_parameters()}
        torch.testing.assert_close(gradients, expected, **close)


DOUBLE = Sequences(WAVES.x_BTD.double(), WAVES.y_B.double())


@pytest.mark.parametrize("name", [*CELLS, "built_in", "rnn"])
def test_replica_gradients_equal_solo_gradients(name: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 3, "num_layers": 2, "head": "linear"}
    pytorchs: dict[str, AnyModel] = {"built_in": BuiltIn(kind="built_in", **sizes), "rnn": RNN(kind="rnn", **sizes)}
    assert_replicas_equal_solo_networks(
        pytorchs.get(name) or HandBuilt(kind="hand_built", cell=name, **sizes), 3, *DOUBLE
    )


@given(
    count=st.integers(2, 5),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    hidden_size=st.integers(1, 4),
    num_layers=st.integers(1, 2),
    biases=st.booleans(),
    cell=st.sampled_from(list(CELLS)),
)
def test_replicas_of_any_number_and_size_equal_solo_networks(
    count: int, shape: tuple[int, int, int], hidden_size: int, num_layers: int, biases: Any, cell: str
) -> None:
    model = HandBuilt(
        kind="hand_built", hidden_size=hidden_size, num_layers=num_layers, head="linear", double_bias=biases, cell=cell
    )
    generator = torch.Generator().manual_seed(sum(shape))
    x_BTD = torch.randn(shape, dtype=torch.float64, generator=generator)
    assert_replicas_equal_solo_networks(
        model, count, x_BTD, torch.randn(shape[0], dtype=torch.float64, generator=generator)
    )


@each_model
def test_gradient_clipping_is_per_replica(model: AnyModel) -> None:
    replicas = replicated(model, 3)
    (replicas(WAVES.x_BTD).square().mean(1) * torch.tensor([1.0, 1e-3, 1e3])).sum().backward()
    before = [
        {name: value.clone() for name, value in gradients.items()} for gradients in gradients_by_replica(replicas)
    ]
    replicas.clip_gradients(0.01)
    for n, (gradients, after) in enumerate(zip(before, gradients_by_replica(replicas), strict=True)):
        alone = replicated(model, 3).member(n)
        for name, weight in alone.named_parameters():
            weight.grad = gradients[name].clone()
        norm = nn.utils.clip_grad_norm_(alone.parameters(), 0.01).item()
        assert (norm > 0.01) == (n != 1)
        # the norm is summed in another order: the last bits of float32 differ
        expected = {name: weight.grad for name, weight in alone.named_parameters()}
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=0)
        if n == 1:
            assert all(torch.equal(after[name], value) for name, value in gradients.items())


STOCHASTIC: dict[str, AnyModel] = {
    "dropout": HandBuilt(kind="hand_built", hidden_size=8, num_layers=2, dropout=0.5, head="linear"),
    "recurrent_dropout": HandBuilt(kind="hand_built", hidden_size=8, recurrent_dropout=0.5, head="linear"),
    "zoneout": HandBuilt(kind="hand_built", hidden_size=8, zoneout=0.5, head="linear"),
    "dropout, built_in": BuiltIn(kind="built_in", hidden_size=8, num_layers=2, dropout=0.5, head="linear"),
    "dropout, rnn": RNN(kind="rnn", hidden_size=8, num_layers=2, dropout=0.5, head="linear"),
}


@pytest.mark.parametrize("model", STOCHASTIC.values(), ids=STOCHASTIC)
def test_replicas_draw_independently_in_training_and_not_in_evaluation(model: AnyModel) -> None:
    """The replicas have equal weights; within a hand-built replica, the draws differ between sequences."""
    torch.manual_seed(0)
    network = build_network(model, input_size=2)
    replicas = Replicas([copy.deepcopy(network) for _ in range(3)])
    first, second = (replicas.train()(WAVES.x_BTD) for _ in range(2))
    every = [*first, *second]
    assert not any(torch.equal(a, b) for n, a in enumerate(every) for b in every[:n])

    torch.manual_seed(1)
    seeded = replicas(WAVES.x_BTD)
    torch.manual_seed(1)
    assert torch.equal(replicas(WAVES.x_BTD), seeded)

    if isinstance(model, HandBuilt) and not model.zoneout:
        predictions_RB = replicas(WAVES.x_BTD[:1].expand(4, -1, -1))
        assert all(len(set(prediction_B.tolist())) == 4 for prediction_B in predictions_RB)

    in_evaluation = replicas.eval()(WAVES.x_BTD)
    assert torch.equal(in_evaluation, in_evaluation[:1].expand_as(in_evaluation))
    # float32: the products of one network and of replicas are summed in different orders
    torch.testing.assert_close(in_evaluation[0], network.eval()(WAVES.x_BTD), rtol=0, atol=1e-6)


def poison(path: Path, *replicas: int) -> None:
    """Set a weight of these replicas to NaN, as a diverging training does."""
    changed = content(path)
    weights = changed["state_dict"]
    for n in replicas:
        stacked = weights.get("network.weights.recurrent/weight_ih_l0")
        (weights[f"network.networks.{n}.recurrent.weight_ih_l0"] if stacked is None else stacked[n])[0] = torch.nan
    torch.save(changed, path)


@pytest.mark.parametrize(("name", "gradient_clip_norm"), [("hand_built", None), ("hand_built", 0.1), ("built_in", 0.1)])
def test_diverging_replica_does_not_affect_the_others(
    tmp_path: Path, name: str, gradient_clip_norm: float | None
) -> None:
    model = MODELS[name]
    two_phases = contender(model, 3, first=1, then=2, batch_size=4, gradient_clip_norm=gradient_clip_norm)
    trained(two_phases, tmp_path / "half.ckpt")
    expected, _ = trained(two_phases, tmp_path / "healthy.ckpt", resume_from=tmp_path / "half.ckpt")
    poison(tmp_path / "half.ckpt", 1)
    found, result = trained(two_phases, tmp_path / "last.ckpt", resume_from=tmp_path / "half.ckpt")

    for n in (0, 2):
        assert_close(found.member(n), expected.member(n))
    assert any(weight.isnan().any() for weight in found.member(1).parameters())

    score = evaluate(found, in_sample_dataset(WAVES))
    healthy = evaluate(expected, in_sample_dataset(WAVES))
    assert score.replica_metrics == [healthy.replica_metrics[0], None, healthy.replica_metrics[2]]
    # with one of three NaN, the median is the worse of the other two
    assert score.evaluation.metrics == max(
        (score.replica_metrics[0], score.replica_metrics[2]), key=lambda metrics: metrics["mse"]
    )
    assert result.loss > 0


def test_loss_is_the_worse_of_two_if_a_third_replica_fails(tmp_path: Path) -> None:
    two_phases, alone = (contender(MODELS["rnn"], count, first=1, then=2, batch_size=4) for count in (3, 1))
    trained(two_phases, tmp_path / "half.ckpt")
    poison(tmp_path / "half.ckpt", 2)
    _, result = trained(two_phases, tmp_path / "last.ckpt", resume_from=tmp_path / "half.ckpt")
    losses = []
    for n in range(2):
        trained(alone, tmp_path / "solo.ckpt", SEED + n)
        losses.append(trained(alone, tmp_path / "resumed.ckpt", SEED + n, resume_from=tmp_path / "solo.ckpt")[1].loss)
    assert result.loss == max(losses)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_training_fails_if_the_median_replica_fails(tmp_path: Path, name: str) -> None:
    two_phases = contender(MODELS[name], 3, first=1, then=2, batch_size=4, learning_rate=0.02)
    trained(two_phases, tmp_path / "half.ckpt")
    poison(tmp_path / "half.ckpt", 0, 2)
    with pytest.raises(NonFiniteLoss) as caught:
        trained(two_phases, tmp_path / "last.ckpt", resume_from=tmp_path / "half.ckpt")
    assert names_all(caught.value, "nan", "epoch 2;", "learning_rate", "0.02")
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("count", [3, 4])
def test_curves_are_those_of_the_median_replica_at_every_point(tmp_path: Path, count: int) -> None:
    """Of an even number, it is the better of the two in the middle; for predictions the lower."""

    def curves(replicas: int, seed: int) -> list[dict[str, Any]]:
        points = Points()
        settings = contender(MODELS["rnn"], replicas, first=2, batch_size=2, log_every_n_steps=3, log_predictions=True)
        trained(settings, tmp_path / "last.ckpt", seed, loggers=[points])
        return [{"step": step, **point} for step, point in points.logged]

    found = curves(count, SEED)
    solos = [curves(1, SEED + n) for n in range(count)]  # the replicas of an RNN equal their solo trainings bitwise
    assert any("out_1" in point for point in found)
    for point, *alone in zip(found, *solos, strict=True):
        assert point == {name: sorted(solo[name] for solo in alone)[(count - 1) // 2] for name in alone[0]}


class ScaledLast(Replicas):
    """Replicas that predict the last value times different weights."""

    def __init__(self, *weights: float) -> None:
        nn.Module.__init__(self)
        self._template = []
        self.weight_R = nn.Parameter(torch.tensor(weights))

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        return self.weight_R.unsqueeze(1) * x_BTD[:, -1, 0]


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
def test_median_replica_is_the_better_of_the_middle_two_with_failures_last(weights: list[float], median: int) -> None:
    score, weight = evaluate(ScaledLast(*weights), ONES), weights[median]
    assert (score.parameters, score.replica) == (1, median)
    assert score.evaluation.metrics == errors_of(weight)
    assert score.evaluation.predictions.tolist() == [weight, -weight]
    assert score.evaluation.losses_W.tolist() == [weight**2] * 2
    assert score.replica_metrics == [errors_of(weight) if math.isfinite(weight) else None for weight in weights]


@pytest.mark.parametrize("weights", [[NAN], [NAN, NAN], [INFINITY, 1.0, NAN], [NAN, 2.0, NAN, NAN, 1.0]])
def test_evaluation_fails_if_the_median_replica_fails(weights: list[float]) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        evaluate(ScaledLast(*weights), ONES)
    assert names_all(caught.value, "predicts NaN or infinity", "learning_rate")


@each_model
@pytest.mark.parametrize("batch_size", [8, 1000])
def test_evaluation_of_replicas_equals_evaluation_of_each_member(
    model: AnyModel, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result does not depend on the batch size."""
    replicas = replicated(model, 3)
    alone = [evaluate(replicas.member(n), in_sample_dataset(WAVES)) for n in range(3)]
    monkeypatch.setattr(evaluation, "BATCH_SIZE", batch_size)
    score = evaluate(replicas, in_sample_dataset(WAVES))
    median = alone[score.replica]
    assert score.parameters == median.parameters
    # float32: the products of one network and of replicas are summed in different orders
    close: dict[str, float] = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(score.evaluation.predictions, median.evaluation.predictions, **close)
    torch.testing.assert_close(score.evaluation.losses_W, median.evaluation.losses_W, **close)
    assert not score.evaluation.predictions.requires_grad
    assert torch.equal(score.evaluation.targets, WAVES.y_B)
    in_order = sorted((each.evaluation.metrics for each in alone), key=lambda metrics: metrics["mse"])
    assert score.evaluation.metrics == pytest.approx(in_order[1], abs=1e-6)
    for metrics, solo in zip(score.replica_metrics, alone, strict=True):
        assert metrics == pytest.approx(solo.evaluation.metrics, abs=1e-6)


# ---- checkpoints
@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return checkpoints of two replicas, by the model's name."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("hand_built", "built_in"):
        trained(contender(MODELS[name], 2, first=1, batch_size=20), folder / name)
    return {name: folder / name for name in ("hand_built", "built_in")}


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
def test_loaded_replicas_and_members_are_in_evaluation_mode(two_replicas: dict[str, Path], name: str) -> None:
    found = load_network(two_replicas[name])
    assert not any(module.training for module in [*found.modules(), *found.member(1).modules()])
    assert not any(module.training for module in select_replica(found.train(), 1).modules())


def test_checkpoint_with_another_number_of_replicas_is_another_network(
    tmp_path: Path, two_replicas: dict[str, Path]
) -> None:
    trained(contender(MODELS["hand_built"], 1, first=1, batch_size=20), tmp_path / "one")
    for path, theirs, ours in (
        (two_replicas["hand_built"], 2, 3),
        (two_replicas["hand_built"], 2, 1),
        (tmp_path / "one", 1, 2),
    ):
        with pytest.raises(CheckpointError) as caught:
            trained(contender(MODELS["hand_built"], ours, first=1), tmp_path / "next.ckpt", resume_from=path)
        assert names_all(caught.value, f"{path}: ", "another network", f"{{'replicas': {theirs}}}")
    assert not (tmp_path / "next.ckpt").exists()


@pytest.mark.parametrize(("name", "count"), [("hand_built", 3), ("hand_built", 1), ("hand_built", 0), ("built_in", 3)])
def test_checkpoint_with_a_wrong_number_of_replicas_is_damaged(
    tmp_path: Path, two_replicas: dict[str, Path], name: str, count: int
) -> None:
    path, changed = tmp_path / "last.ckpt", content(two_replicas[name])
    changed["lstm_flows"]["replicas"] = count
    torch.save(changed, path)
    with pytest.raises(CheckpointError) as caught:
        load_network(path)
    assert names_all(caught.value, f"{path}: ", "damaged")
