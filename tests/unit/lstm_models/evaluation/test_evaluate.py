"""Evaluations of networks and baselines, against manual computations, plain loops and scikit-learn."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchmetrics  # noqa: F401  # its import creates matplotlib's folder, which a unit test must not do
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor, nn

from lstm_models.config import BuiltIn, HandBuilt, TableData
from lstm_models.data.builders import build_dataset, in_sample_dataset
from lstm_models.data.dataset import Dataset
from lstm_models.data.sequences import Sequences
from lstm_models.data.synthetic import tutorial
from lstm_models.data.windows import Batch
from lstm_models.evaluation import baselines
from lstm_models.evaluation import evaluate as evaluate_module
from lstm_models.evaluation import ridge as ridge_module
from lstm_models.evaluation.evaluate import (
    PRIMARY_METRIC,
    Evaluation,
    bootstrap_block,
    evaluate,
    evaluate_predictor,
    fit_baselines,
    predict,
)
from lstm_models.nn.network import build_network
from lstm_models.training.module import NonFiniteLoss


def dataset(table: pd.DataFrame, seed: int = 0, **values: Any) -> Dataset:
    return build_dataset(table, TableData(kind="table", path="a.csv", **{"target": "y", **values}), seed)


# ---- networks
class ScaledLast(nn.Module):
    """Network that predicts the last value times a weight, with dropout."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.dropout(self.weight * x_BTD[:, -1, 0])


SEQUENCES = Sequences(torch.tensor([[0.0, 0.5], [0.0, 1.0], [0.0, -2.0]]).unsqueeze(-1), torch.tensor([1.0, 2.0, -3.0]))


def test_an_evaluation_has_targets_predictions_metrics_and_the_number_of_parameters() -> None:
    found = evaluate(ScaledLast(2.0), in_sample_dataset(SEQUENCES))
    evaluation = found.evaluation
    assert evaluation.targets.tolist() == [1.0, 2.0, -3.0]
    assert evaluation.predictions.tolist() == [1.0, 2.0, -4.0]
    assert evaluation.losses_W.tolist() == [0.0, 0.0, 1.0]
    assert evaluation.losses_W.dtype == torch.float64
    assert evaluation.metrics == {"mse": 1 / 3, "mae": 1 / 3, "max_error": 1.0}
    assert (evaluation.by_step, evaluation.confusion) == ({}, [])
    assert (found.parameters, found.replica) == (1, 0)
    assert found.replica_metrics == [{"mse": 1 / 3, "mae": 1 / 3, "max_error": 1.0}]
    assert not evaluation.predictions.requires_grad
    assert not predict(ScaledLast(2.0).eval(), SEQUENCES.x_BTD).requires_grad
    with pytest.raises(FrozenInstanceError):
        found.parameters = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        evaluation.metrics = {}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (HandBuilt(kind="hand_built", double_bias=False), 12),
        (HandBuilt(kind="hand_built", double_bias=True), 16),
        (BuiltIn(kind="built_in"), 16),
        (BuiltIn(kind="built_in", hidden_size=3, num_layers=2, head="linear"), 12 * 6 + 12 * 8 + 4),
    ],
)
def test_parameters_are_counted(config: HandBuilt | BuiltIn, parameters: int) -> None:
    assert evaluate(build_network(config, input_size=1), in_sample_dataset(SEQUENCES)).parameters == parameters


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_network_that_predicts_nan_or_infinity_raises(value: float) -> None:
    one_of_three = SEQUENCES._replace(x_BTD=SEQUENCES.x_BTD.clone())
    one_of_three.x_BTD[1, -1] = value
    for network, sequences in ((ScaledLast(value), SEQUENCES), (ScaledLast(1.0), one_of_three)):
        with refused(NonFiniteLoss, "NaN or infinity", "learning_rate"):
            evaluate(network, in_sample_dataset(sequences))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_the_batch_size_does_not_matter(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluate(ScaledLast(2.0), in_sample_dataset(SEQUENCES)).evaluation
    monkeypatch.setattr(evaluate_module, "BATCH_SIZE", batch_size)
    found = evaluate(ScaledLast(2.0), in_sample_dataset(SEQUENCES)).evaluation
    for part in ("predictions", "targets", "losses_W"):
        assert torch.equal(getattr(found, part), getattr(expected, part))
    assert found.metrics == expected.metrics
    assert torch.equal(predict(ScaledLast(2.0).eval(), SEQUENCES.x_BTD), expected.predictions)

    forecasts = FakeForecaster()(SEQUENCES.x_BTD)  # (3, 2, 1): concatenated along the first dimension
    assert torch.equal(predict(FakeForecaster(), SEQUENCES.x_BTD), forecasts)


class FakeForecaster(nn.Module):
    """Network that predicts the last value, and twice the last value."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.stack([x_BTD[:, -1], 2 * x_BTD[:, -1]], dim=1)


# ---- forecasts
def alternating(**values: Any) -> Dataset:
    """Return training rows 0, 20, 0, 20, 0, 20, with deviation 10 and steps of 20, and test rows 50, 10, 30, 40."""
    table = pd.DataFrame({"y": [0.0, 20.0] * 3 + [50.0, 10.0, 30.0, 40.0]})
    split = {"train": 6, "validation": 0}
    return dataset(table, **{"context_length": 1, "horizon": 2, "split": split, **values})


def last_value(batch: Batch) -> Tensor:
    return batch.x_BTD[:, -1:].expand(-1, 2, -1)


@pytest.mark.parametrize(("scaling", "unit"), [("standard", 10.0), ("minmax", 20.0), ("none", 1.0)])
def test_forecast_evaluation_computed_by_hand(scaling: str, unit: float) -> None:
    """The predictions are 20 20, 50 50, 10 10, the targets 50 10, 10 30, 30 40: errors 30 -10, -40 -20, 20 30."""
    found = evaluate_predictor(last_value, alternating(scaling=scaling))
    assert found.predictions.squeeze(-1).tolist() == [[20, 20], [50, 50], [10, 10]]
    assert found.targets.squeeze(-1).tolist() == [[50, 10], [10, 30], [30, 40]]
    assert found.losses_W.dtype == torch.float64
    assert found.losses_W.tolist() == pytest.approx([500 / unit**2, 1000 / unit**2, 650 / unit**2], rel=1e-12)
    mse, percentages = 4300 / 6, [30 / 70, 10 / 30, 40 / 60, 20 / 80, 20 / 40, 30 / 50]
    expected = {
        "mse": mse,
        "mae": 25,
        "rmse": math.sqrt(mse),
        "scaled_mse": mse / unit**2,
        "scaled_mae": 25 / unit,
        "scaled_rmse": math.sqrt(mse) / unit,
        "mase": 25 / 20,
        "smape": 200 * sum(percentages) / 6,
        "r2": 1 - 43 * 6 / 77,  # in tens: the sum of squares is 61, the sum is 17
    }
    assert found.metrics == pytest.approx(expected, rel=1e-12)
    assert found.by_step["mse"] == pytest.approx([2900 / 3, 1400 / 3], rel=1e-12)
    assert found.by_step["mae"] == pytest.approx([30, 20], rel=1e-12)
    assert found.by_step["mase"] == pytest.approx([1.5, 1], rel=1e-12)
    assert set(found.by_step) == set(found.metrics)
    assert found.confusion == []


def test_mase_of_several_series_uses_the_steps_within_each_series() -> None:
    """The training parts are 0, 1, 3, 4 and 100, 90, the test parts 14 and 80; the second is shorter than a season."""
    table = pd.DataFrame(
        {
            "g": ["a"] * 5 + ["b"] * 3,
            "t": pd.date_range("2020-01-01", periods=5).append(pd.date_range("2020-01-03", periods=3)),
            "y": [0.0, 1.0, 3.0, 4.0, 14.0, 100.0, 90.0, 80.0],
        }
    )
    split = {"train": "2020-01-05", "validation": "2020-01-05"}
    for season, naive in ((None, (1 + 2 + 1 + 10) / 4), (3, 4)):
        data = dataset(table, group="g", time="t", context_length=1, split=split, season_length=season)
        assert [rows_NK.squeeze(1).tolist() for rows_NK in data.training_targets()] == [[0, 1, 3, 4], [100, 90]]
        found = evaluate_predictor(lambda batch: batch.x_BTD[:, -1:], data)
        assert found.metrics["mae"] == 10
        assert found.metrics["mase"] == pytest.approx(10 / naive, rel=1e-12)


@given(
    sizes=st.lists(st.integers(12, 16), min_size=1, max_size=3),
    columns=st.permutations(["a", "b", "c"]),
    targets=st.integers(1, 3),
    horizon=st.integers(1, 3),
    stride=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_forecasts_of_several_targets_and_series_equal_a_loop(
    sizes: list[int], columns: list[str], targets: int, horizon: int, stride: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    table = pd.DataFrame(generator.integers(-9, 10, (sum(sizes), 3)).astype(float), columns=list("abc"))
    table["g"] = np.repeat(np.arange(len(sizes)), sizes)
    target_K = columns[:targets]
    settings: dict[str, Any] = {"target": target_K, "features": ["a", "b", "c"], "group": "g", "context_length": 2}
    split = {"train": 6, "validation": 1}
    data = dataset(table, **settings, horizon=horizon, evaluation_stride=stride, split=split)
    noise = torch.from_numpy(generator.normal(size=(100, horizon, targets))).float()
    found = evaluate_predictor(lambda batch: noise[: len(batch.y)], data)

    expected, trained, steps = [], [], []
    for _, rows in table.groupby("g"):
        values_NK = rows[target_K].to_numpy()
        trained.append(values_NK[:6])
        steps.append(np.abs(np.diff(values_NK[:6], axis=0)))
        expected += [values_NK[first : first + horizon] for first in range(7, len(rows) - horizon + 1, stride)]
    y = np.stack(expected)
    error = noise.numpy()[: len(y)].astype(float) - y
    scale_K, naive_K = np.concatenate(trained).std(0), np.concatenate(steps).mean(0)
    scale_K = np.where(scale_K > 0, scale_K, 1)

    assert found.targets.tolist() == y.tolist()
    # 1e-6: the scale is rounded to float32
    np.testing.assert_allclose(found.losses_W, ((error / scale_K) ** 2).mean((1, 2)), rtol=1e-6)
    assert found.metrics["mse"] == pytest.approx((error**2).mean(), rel=1e-12)
    assert found.metrics["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-12)
    assert found.metrics["scaled_mse"] == pytest.approx(found.losses_W.mean().item(), rel=1e-12)
    if (naive_K > 0).any():
        scaled_K = np.abs(error).mean((0, 1))[naive_K > 0] / naive_K[naive_K > 0]
        assert found.metrics["mase"] == pytest.approx(scaled_K.mean(), rel=1e-12)
    assert found.by_step["mse"] == pytest.approx((error**2).mean((0, 2)).tolist(), rel=1e-12)


# ---- classification and regression
def labelled(count: int = 30, **columns: Any) -> pd.DataFrame:
    """Return groups of 1 to 5 rows of two features, of which one is the label plus noise."""
    generator = np.random.default_rng(1)
    group = np.repeat(np.arange(count), np.arange(count) % 5 + 1)
    table = pd.DataFrame({"g": group, "a": generator.normal(size=len(group)) + group % 3, "b": 3.0})
    table["b"] += generator.normal(size=len(group))
    return table.assign(**columns) if columns else table.assign(y=np.array(["low", "mid", "top"])[group % 3])


def classes(**values: Any) -> Dataset:
    return dataset(labelled(), task="classify", group="g", split={"train": 20, "validation": 4}, **values)


def numbers(scale: float = 1.0, **values: Any) -> Dataset:
    table = labelled(y=lambda rows: scale * (rows["g"] % 7 + 2.0 * rows.groupby("g")["a"].transform("mean")))
    return dataset(table, task="regress", group="g", split={"train": 20, "validation": 4}, **values)


def test_classification_evaluation_computed_by_hand() -> None:
    data = classes()
    assert data.output.classes == ["low", "mid", "top"]
    y = data.test.get_batch(torch.arange(6)).y
    y[:] = torch.tensor([0, 0, 1, 1, 1, 2])
    data = replace(data, test=FixedExamples(data.test.get_batch(torch.arange(6)), y))
    third, half = math.log(1 / 3), math.log(1 / 2)
    logits = torch.tensor(
        [  # up to a constant
            [third, third, third],  # a tie: predicts the first class, low
            [half, 2 * half, 2 * half],
            [5 + 2 * half, 5 + half, 5 + 2 * half],
            [half, 2 * half, 2 * half],
            [2 * half, half, 2 * half],
            [2 * half, half, 2 * half],
        ],
        dtype=torch.float64,
    )
    found = evaluate_predictor(lambda batch: logits, data)
    losses = [math.log(3), math.log(2), math.log(2), math.log(4), math.log(2), math.log(4)]
    assert found.losses_W.dtype == torch.float64
    assert found.losses_W.tolist() == pytest.approx(losses, rel=1e-12)
    assert found.confusion == [[2, 0, 0], [1, 2, 0], [0, 1, 0]]
    assert found.targets.tolist() == [0, 0, 1, 1, 1, 2]
    assert torch.equal(found.predictions, logits)
    assert found.by_step == {}
    # the share of pairs of a positive and a negative in the correct order; a tie counts as a half
    area = ((3 + 3.5) / 8 + (2.5 + 0.5 + 2.5) / 9 + 4 * 0.5 / 5) / 3
    assert found.metrics.pop("auroc") == pytest.approx(area, abs=1e-7)  # torchmetrics computes it in float32
    assert found.metrics == pytest.approx(
        {
            "accuracy": 4 / 6,
            "balanced_accuracy": (1 + 2 / 3 + 0) / 3,
            "f1": (2 * 2 / 5 + 2 * 2 / 6 + 0) / 3,
            "log_loss": sum(losses) / 6,
        },
        rel=1e-12,
    )


class FixedExamples:
    """A batch as examples, with other targets."""

    def __init__(self, batch: Batch, y: Tensor) -> None:
        self.batch = batch._replace(y=y)
        self.count = len(y)

    def get_batch(self, numbers: Tensor) -> Batch:
        x_BTD, y, lengths_B = self.batch
        return Batch(x_BTD[numbers], y[numbers], None if lengths_B is None else lengths_B[numbers])


def test_regression_evaluation_computed_by_hand() -> None:
    data = numbers()
    y = torch.tensor([1.0, 3.0, 5.0, 7.0])
    data = replace(data, test=FixedExamples(data.test.get_batch(torch.arange(4)), y), output=data.output.model_copy(
        update={"scale": 4.0}
    ))  # fmt: skip
    found = evaluate_predictor(lambda batch: torch.tensor([2.0, 3.0, 3.0, 8.0]), data)
    assert found.losses_W.tolist() == [1, 0, 4, 1]
    assert found.losses_W.dtype == torch.float64
    assert found.metrics == pytest.approx(
        {
            "mse": 6 / 4,
            "mae": 1,
            "max_error": 2,
            "rmse": math.sqrt(6 / 4),
            "scaled_mse": 6 / 4 / 16,
            "scaled_mae": 1 / 4,
            "scaled_rmse": math.sqrt(6) / 8,
            "smape": 200 * (1 / 3 + 0 + 2 / 8 + 1 / 15) / 4,
            "r2": 1 - 6 / 20,
        },
        rel=1e-12,
    )
    assert (found.by_step, found.confusion) == ({}, [])


KINDS: dict[str, Callable[[], Dataset]] = {
    "in sample": lambda: in_sample_dataset(SEQUENCES),
    "forecast": alternating,
    "classes": classes,
    "number": numbers,
}


def evaluate_random_predictions(data: Dataset) -> Evaluation:
    generator = torch.Generator().manual_seed(0)
    shape = {"forecast": (2, 1), "classification": (3,), "regression": ()}[data.output.kind]
    return evaluate_predictor(lambda batch: torch.randn(len(batch.y), *shape, generator=generator), data)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_the_losses_is_the_primary_metric(kind: str) -> None:
    data = KINDS[kind]()
    found = evaluate_random_predictions(data)
    assert found.losses_W.shape == (data.test.count,)
    assert found.metrics[PRIMARY_METRIC[data.output.kind]] == pytest.approx(found.losses_W.mean().item(), rel=1e-12)


@pytest.mark.parametrize("name", ["hand_built", "built_in"])
@pytest.mark.parametrize("kind", ["forecast", "classes", "number"])
def test_a_network_is_evaluated_by_its_prediction_for_each_single_example(kind: str, name: str) -> None:
    """This includes examples of different lengths; they are in the order of the test part."""
    data = KINDS[kind]()
    torch.manual_seed(0)
    classes_by_name: dict[str, Any] = {"hand_built": HandBuilt, "built_in": BuiltIn}
    config = classes_by_name[name](kind=name, hidden_size=4, head="linear")
    network = build_network(config, data.input_size, data.output, data.scaler()).eval()
    found = evaluate(network, data).evaluation
    for number in range(data.test.count):
        x_BTD, y, _ = data.test.get_batch(torch.tensor([number]))
        with torch.no_grad():
            # float32, with sums in another order; forecasts are in tens
            torch.testing.assert_close(found.predictions[number], network(x_BTD)[0], rtol=1e-5, atol=1e-5)
            loss = network.losses(network(x_BTD), y)[0] * (
                data.output.scale**2 if data.output.kind == "regression" else 1
            )
        assert found.losses_W[number].item() == pytest.approx(loss.item(), rel=1e-4)
        assert torch.equal(found.targets[number], y[0])


# ---- the block length of intervals
def test_blocks_are_two_horizons_of_windows_or_the_cube_root_of_their_number() -> None:
    table = pd.DataFrame({"y": np.arange(120.0)})

    def block(**values: Any) -> int:
        return bootstrap_block(dataset(table, context_length=1, split={"train": 20, "validation": 0}, **values))

    assert block(horizon=1) == 5  # of 100 windows
    assert block(horizon=3) == 6
    assert block(horizon=4, evaluation_stride=3) == 4  # 8 / 3 are 3; of 33 windows
    assert block(horizon=10, evaluation_stride=3) == 7  # 20 / 3
    assert block(horizon=10, evaluation_stride=100) == 1
    assert bootstrap_block(in_sample_dataset(SEQUENCES)) == 1
    assert bootstrap_block(classes()) == 1
    assert bootstrap_block(numbers()) == 1


# ---- the baselines
def waves(size: int = 160, **values: Any) -> Dataset:
    generator = np.random.default_rng(2)
    n = np.arange(float(size))
    columns = {"a": 50 + 20 * np.sin(n / 3), "b": 1000 * np.cos(n / 5), "c": n % 7}
    table = pd.DataFrame({name: column + generator.normal(size=size) for name, column in columns.items()})
    settings = {
        "target": ["c", "a"],
        "features": ["a", "b", "c"],
        "context_length": 8,
        "horizon": 3,
        "season_length": 7,
    }
    return dataset(table, **{**settings, **values})


def test_the_baselines_of_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    always, seasonal, ridge = {"last_value", "mean"}, {"seasonal_naive"}, {"ridge"}
    assert set(fit_baselines(waves())) == set(fit_baselines(waves(season_length=8))) == always | seasonal | ridge
    assert (
        set(fit_baselines(waves(season_length=9))) == set(fit_baselines(waves(season_length=None))) == always | ridge
    )  # the season is longer than the context
    # no validation part to select a penalty on
    assert set(fit_baselines(waves(split={"train": 100, "validation": 0}))) == always | seasonal
    P, Q = 8 * 3, 3 * 2
    needed = P * (P + 7 * Q)  # X'X, X'Y and six candidates' weights
    monkeypatch.setattr(ridge_module, "MAX_NUMBERS", needed)
    assert set(fit_baselines(waves())) == always | seasonal | ridge
    monkeypatch.setattr(ridge_module, "MAX_NUMBERS", needed - 1)
    assert set(fit_baselines(waves())) == always | seasonal


def test_the_baselines_of_classification_and_regression() -> None:
    assert list(fit_baselines(classes())) == list(baselines.LABELS)
    assert list(fit_baselines(numbers())) == ["mean", "ridge"]
    one = dataset(labelled(3, y=lambda rows: rows["g"]), task="regress", group="g", split={"train": 1, "validation": 0})
    assert list(fit_baselines(one)) == ["mean"]  # one sequence is too few to fit a ridge
    # in sample they are not used, but they don't fail
    table = tutorial.table()
    x_BTD = torch.tensor(table[list(tutorial.COLUMNS.inputs)].to_numpy()).float().unsqueeze(-1)
    in_sample = in_sample_dataset(Sequences(x_BTD, torch.tensor(table["label"].to_numpy()).float()))
    assert list(fit_baselines(in_sample)) == ["mean", "ridge"]


def all_of(data: Dataset, part: str = "test") -> Batch:
    examples = getattr(data, part)
    batch: Batch = examples.get_batch(torch.arange(examples.count))
    return batch


@pytest.mark.parametrize("scaling", ["standard", "minmax", "none"])
def test_forecast_baselines_use_the_targets_and_the_ridge_scaled_windows(scaling: str) -> None:
    data = waves(scaling=scaling)
    batch, targets = all_of(data), [2, 0]  # the targets are c and a, of a, b and c
    found = {name: predictor(batch) for name, predictor in fit_baselines(data).items()}
    assert data.series is not None
    trained_NK = torch.from_numpy(data.series.values[: round(0.7 * 160), targets])
    assert torch.equal(found["last_value"], baselines.last_value(batch.x_BTD[..., targets], 3))
    assert torch.equal(found["seasonal_naive"], baselines.seasonal_naive(batch.x_BTD[..., targets], 3, 7))
    np.testing.assert_allclose(found["mean"], baselines.mean(trained_NK, data.test.count, 3), rtol=1e-6)  # float32's
    mean_D, scale_D = (data.mean_D, data.scale_D) if scaling != "none" else (torch.zeros(3), torch.ones(3))
    assert mean_D is not None
    assert scale_D is not None

    def scaled(part: str) -> tuple[np.ndarray, np.ndarray]:
        x_BTD, y, _ = all_of(data, part)
        return (
            ((x_BTD - mean_D) / scale_D).flatten(1).double().numpy(),
            (y / scale_D[targets]).flatten(1).double().numpy(),
        )

    # the penalty with the lowest error on the validation part, in scaled units
    models = [SklearnRidge(alpha=alpha).fit(*scaled("train")) for alpha in ridge_module.ALPHAS]
    x, y = scaled("validation")
    best = min(models, key=lambda model: ((model.predict(x) - y) ** 2).mean())
    expected = best.predict(scaled("test")[0]).reshape(-1, 3, 2) * scale_D[targets].numpy()
    # float32: inputs and outputs of up to 70 are rounded
    np.testing.assert_allclose(found["ridge"], expected, rtol=1e-4, atol=1e-3)


def test_classification_and_regression_baselines_use_the_sequences_without_padding() -> None:
    def sequences(data: Dataset, part: str) -> list[Tensor]:
        x_BTD, _, lengths_B = all_of(data, part)
        assert lengths_B is not None
        return [x_TD[:length] for x_TD, length in zip(x_BTD, lengths_B.tolist(), strict=True)]

    for data in (classes(), numbers()):
        found = {name: predictor(all_of(data)) for name, predictor in fit_baselines(data).items()}
        (train, test), y_W = (sequences(data, part) for part in ("train", "test")), all_of(data, "train").y
        if data.output.kind == "classification":
            assert torch.equal(found["majority_class"], baselines.majority_class(y_W, 6, 3))
            logistic = baselines.LogisticRegression.fit(train, y_W, 3).predict(test)
            np.testing.assert_allclose(found["logistic_regression"], logistic, rtol=1e-12)
        else:
            assert found["mean"].tolist() == pytest.approx([y_W.double().mean().item()] * 6, rel=1e-6)  # float32
            expected = baselines.SummaryRidge.fit(train, y_W).predict(test)
            np.testing.assert_allclose(found["ridge"], expected, rtol=1e-6)  # float32
            assert expected.max() - expected.min() > 1


@pytest.mark.parametrize("make", [waves, classes, numbers], ids=["forecast", "classes", "number"])
def test_baselines_depend_neither_on_the_targets_nor_on_the_test_part(make: Callable[[], Dataset]) -> None:
    data = make()
    batch = all_of(data)
    blind = batch._replace(y=torch.zeros_like(batch.y))
    emptied = replace(data, test=FixedExamples(blind, blind.y))
    refitted = fit_baselines(emptied)
    assert (batch.lengths_B is None) == (make is waves)
    for name, predictor in fit_baselines(data).items():
        predictions = predictor(batch)
        assert torch.equal(predictor(blind), predictions), name
        assert torch.equal(refitted[name](batch), predictions), name
        alone = torch.cat([predictor(data.test.get_batch(torch.tensor([n]))) for n in range(data.test.count)])
        # products of another shape sum in another order
        torch.testing.assert_close(alone, predictions, rtol=1e-5, atol=1e-5)
        assert all(math.isfinite(value) for value in evaluate_predictor(predictor, data).metrics.values())
        if batch.lengths_B is not None:  # more padding
            padding = torch.full((len(batch.y), 3, 2), 1e6)
            assert torch.equal(predictor(batch._replace(x_BTD=torch.cat([batch.x_BTD, padding], 1))), predictions), name
