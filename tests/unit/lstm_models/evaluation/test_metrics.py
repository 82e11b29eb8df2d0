"""Metrics of regression, forecasts and classification, against scikit-learn, plain loops and manual computations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics  # noqa: F401  # its import creates matplotlib's folder, which a unit test must not do
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from lstm_models.evaluation.classification_metrics import classification_metrics, confusion_matrix
from lstm_models.evaluation.metrics import ForecastMetrics, forecast_metrics, mase_scale, regression_metrics

ONE = torch.tensor([1.0])
sizes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
seeds = st.integers(0, 1000)


def drawn(W: int, S: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return predictions, targets, scale and MASE scale: integers, so that shifts and powers of two are exact."""
    generator = torch.Generator().manual_seed(seed)
    predictions, targets = torch.randint(-20, 21, (2, W, S, K), generator=generator).float()
    scales = torch.randint(1, 9, (2, K), generator=generator).float()
    return predictions, targets, scales[0], scales[1]


def overall(scores: ForecastMetrics) -> dict[str, float | None]:
    return scores.model_dump(exclude={"by_step"})


def assert_close(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-12) -> None:
    close = {"rel": tolerance, "abs": tolerance}
    assert found == {name: None if x is None else pytest.approx(x, **close) for name, x in expected.items()}


# ---- regression
@pytest.mark.parametrize(
    ("predictions", "targets", "expected"),
    [
        ([1.0, 2.0, -1.0, 0.5], [1.0, 0.0, 0.0, 1.0], ((0 + 4 + 1 + 0.25) / 4, (0 + 2 + 1 + 0.5) / 4, 2.0)),
        ([0.1, 0.2], [0.1, 0.2], (0.0, 0.0, 0.0)),
        ([0.5, -2.0, 1.0], [0.0, 0.0, 0.0], (5.25 / 3, 3.5 / 3, 2.0)),  # the largest with either sign
        ([-0.25], [0.5], (0.5625, 0.75, 0.75)),
        ([2.0**100], [0.0], (2.0**200, 2.0**100, 2.0**100)),  # float64: the square is infinite in float32
        ([2.0**24], [-1.0], ((2.0**24 + 1) ** 2, 2.0**24 + 1, 2.0**24 + 1)),  # float32 rounds it to 2^24
    ],
)
def test_regression_metrics_are_means_and_the_maximum(
    predictions: list[float], targets: list[float], expected: tuple[float, float, float]
) -> None:
    a, b = torch.tensor(predictions), torch.tensor(targets)
    found = regression_metrics(a, b)
    assert found == dict(zip(("mse", "mae", "max_error"), expected, strict=True))
    assert regression_metrics(b, a) == found  # invariant to the sign


@pytest.mark.parametrize("predictions", [[math.nan, 0.0], [0.0, math.nan], [math.nan, 9.0]])
def test_a_nan_prediction_makes_regression_metrics_nan(predictions: list[float]) -> None:
    found = regression_metrics(torch.tensor(predictions), torch.zeros(2))
    assert found == pytest.approx({"mse": math.nan, "mae": math.nan, "max_error": math.nan}, nan_ok=True)


# ---- forecasts
def test_forecast_metrics_computed_by_hand() -> None:
    predictions = torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]]])  # two windows, two steps, one target
    targets = torch.tensor([[[2.0], [2.0]], [[1.0], [-4.0]]])  # errors 1, 0, 2, 4
    found = forecast_metrics(predictions, targets, torch.tensor([2.0]), torch.tensor([0.5]))
    assert_close(
        found.flat(),
        {
            "mse": 21 / 4,
            "mae": 7 / 4,
            "rmse": math.sqrt(21 / 4),
            "scaled_mse": 21 / 16,
            "scaled_mae": 7 / 8,
            "scaled_rmse": math.sqrt(21 / 16),
            "mase": 7 / 2,
            "smape": 100 * (2 / 3 + 0 + 1 + 2) / 4,
            "r2": 1 - 21 / (25 - 1 / 4),  # the sum of squares is 25, the sum is 1
        },
    )
    assert found.by_step["mse"] == [2.5, 8.0]
    assert found.by_step["mae"] == [1.5, 2.0]
    assert found.by_step["mase"] == [3.0, 4.0]
    assert found.by_step["r2"] == pytest.approx([1 - 5 / 0.5, 1 - 16 / 18])


@given(sizes, seeds)
def test_forecast_metrics_equal_scikit_learn_and_their_formulas(size: tuple[int, int, int], seed: int) -> None:
    predictions, targets, scale, mase = drawn(*size, seed)
    found = forecast_metrics(predictions, targets, scale, mase)
    p, y = (x.flatten(0, 1).double().numpy() for x in (predictions, targets))
    assert found.mse == pytest.approx(sk.mean_squared_error(y, p))
    assert found.mae == pytest.approx(sk.mean_absolute_error(y, p))
    assert found.rmse == pytest.approx(math.sqrt(found.mse))
    assert found.scaled_mse == pytest.approx(sk.mean_squared_error(y / scale.numpy(), p / scale.numpy()))
    assert found.scaled_mae == pytest.approx(sk.mean_absolute_error(y / scale.numpy(), p / scale.numpy()))
    assert found.scaled_rmse == pytest.approx(math.sqrt(found.scaled_mse))
    assert found.mase == pytest.approx(np.mean(np.abs(p - y).mean(0) / mase.numpy()))
    size_of_both = np.abs(p) + np.abs(y)
    assert found.smape == pytest.approx(np.mean(200 * np.abs(p - y) / np.where(size_of_both > 0, size_of_both, 1)))
    varies = y.std(0) > 0
    if varies.any():
        assert found.r2 == pytest.approx(sk.r2_score(y[:, varies], p[:, varies]))
    else:
        assert found.r2 is None


@given(sizes, seeds)
def test_metrics_by_step_are_those_of_each_step_alone_and_average_to_the_overall_ones(
    size: tuple[int, int, int], seed: int
) -> None:
    predictions, targets, scale, mase = drawn(*size, seed)
    found = forecast_metrics(predictions, targets, scale, mase)
    assert set(found.by_step) == set(overall(found))
    for step in range(size[1]):
        alone = forecast_metrics(predictions[:, [step]], targets[:, [step]], scale, mase)
        assert {name: values[step] for name, values in found.by_step.items()} == overall(alone)
    for name in ("mse", "mae", "scaled_mse", "scaled_mae", "mase", "smape"):
        assert np.mean(found.by_step[name]) == pytest.approx(getattr(found, name))
    # the order of the windows does not matter
    assert_close(overall(forecast_metrics(predictions.flip(0), targets.flip(0), scale, mase)), overall(found))


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [(0, 0, 0), (1, 0, 200), (0, -3, 200), (1, -1, 200), (3, 1, 100), (-3, -1, 100), (3e-30, 1e-30, 100)],
)
def test_smape(prediction: float, target: float, expected: float) -> None:
    found = forecast_metrics(torch.full((1, 1, 1), prediction * 1.0), torch.full((1, 1, 1), target * 1.0), ONE, ONE)
    assert found.smape == (expected if abs(prediction) >= 1 or not prediction else pytest.approx(expected))


def test_mase_scale_against_a_loop() -> None:
    train = drawn(1, 30, 2)[0][0]
    for season in (1, 7, 29):
        expected = [np.mean([abs(train[t, k] - train[t - season, k]) for t in range(season, 30)]) for k in (0, 1)]
        found = mase_scale([train], season)
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("season", [1, 4])
def test_the_seasonal_naive_forecast_of_the_training_part_has_a_mase_of_1(season: int) -> None:
    train = drawn(1, 50, 3)[0][0]
    naive, actual = train[:-season].unsqueeze(1), train[season:].unsqueeze(1)  # one window per row, one step
    assert forecast_metrics(naive, actual, torch.ones(3), mase_scale([train], season)).mase == pytest.approx(1)


def test_a_constant_target_is_excluded_from_r2() -> None:
    predictions, targets, scale, mase = drawn(5, 3, 2)
    targets[..., 0] = 0.1
    found = forecast_metrics(predictions, targets, scale, mase)
    assert found.r2 == forecast_metrics(predictions[..., 1:], targets[..., 1:], scale[1:], mase[1:]).r2
    alone = forecast_metrics(predictions[..., :1], targets[..., :1], scale[:1], mase[:1])
    assert alone.r2 is None
    assert "r2" not in alone.flat()
    equal = torch.full((3, 1, 1), 0.1, dtype=torch.float64)  # the mean has a rounding error
    assert forecast_metrics(equal, equal, ONE, ONE).r2 is None
    # constant within each step only
    targets = torch.tensor([1.0, 3.0]).view(1, 2, 1).expand(4, 2, 1)
    steps = forecast_metrics(targets + 0.5, targets, ONE, ONE)
    assert (steps.r2, steps.by_step["r2"]) == (pytest.approx(1 - 0.25), [None, None])


def test_a_target_that_is_constant_in_the_training_part_is_excluded_from_mase() -> None:
    predictions, targets, scale, mase = drawn(5, 3, 2)
    mase[0] = 0
    found = forecast_metrics(predictions, targets, scale, mase)
    assert found.mase == forecast_metrics(predictions[..., 1:], targets[..., 1:], scale[1:], mase[1:]).mase
    none = forecast_metrics(predictions, targets, scale, torch.zeros(2))
    assert (none.mase, none.by_step["mase"]) == (None, [None] * 3)
    assert "mase" not in none.flat()


def test_sums_are_computed_in_float64() -> None:
    found = forecast_metrics(torch.full((1, 1, 1), 2.0**100), torch.zeros(1, 1, 1), ONE, ONE)  # infinite in float32
    assert found.mse == 2.0**200
    targets = 2.0**23 + torch.arange(4.0).view(4, 1, 1)
    assert forecast_metrics(targets + 1, targets, ONE, ONE).r2 == pytest.approx(1 - 1 / 1.25, rel=1e-12)


def test_a_nan_prediction_makes_metrics_nan_which_flat_omits() -> None:
    predictions, targets, scale, mase = drawn(3, 2, 1)
    predictions[0, 1] = math.nan
    found = forecast_metrics(predictions, targets, scale, mase)
    assert all(math.isnan(value) for value in overall(found).values())
    assert [math.isnan(value) for value in found.by_step["mse"]] == [False, True]
    assert found.flat() == {}


def test_metrics_survive_a_json_round_trip() -> None:
    predictions, targets, scale, mase = drawn(3, 2, 1)
    targets[:, 0], predictions[0, 1] = 0.0, math.inf
    found = forecast_metrics(predictions, targets, scale, mase)
    assert found.by_step["r2"][0] is None
    again = ForecastMetrics.model_validate_json(found.model_dump_json())
    assert repr(again) == repr(found)


def test_predictions_that_require_gradients_are_accepted() -> None:
    predictions, targets, scale, mase = drawn(3, 2, 1)
    found = forecast_metrics(predictions.requires_grad_(), targets, scale, mase)
    assert found == forecast_metrics(predictions.detach(), targets, scale, mase)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"predictions_WSK": torch.zeros(3, 2)}, ("predictions (3, 2)", "targets (3, 2, 1)", "windows")),
        ({"predictions_WSK": torch.zeros(0, 2, 1), "targets_WSK": torch.zeros(0, 2, 1)}, ("(0, 2, 1)", "none", "0")),
        ({"predictions_WSK": torch.zeros(3, 1, 1)}, ("(3, 1, 1)", "(3, 2, 1)")),
        ({"scale_K": torch.ones(2)}, ("scale_K", "(2,)", "1 targets")),
        ({"scale_K": torch.zeros(1)}, ("scale_K", "[0.0]", "above 0")),
        ({"scale_K": -ONE}, ("scale_K", "[-1.0]", "below 0")),
        ({"scale_K": ONE * math.inf}, ("scale_K", "[inf]", "finite")),
        ({"mase_scale_K": ONE * math.nan}, ("mase_scale_K", "[nan]", "finite")),
    ],
)
def test_forecast_metrics_validates_its_arguments(change: dict[str, Tensor], parts: tuple[str, ...]) -> None:
    zeros = torch.zeros(3, 2, 1)
    valid = {"predictions_WSK": zeros, "targets_WSK": zeros, "scale_K": ONE, "mase_scale_K": ONE}
    with refused(ValueError, *parts):
        forecast_metrics(**{**valid, **change})


@pytest.mark.parametrize("season", [0, 5])
def test_mase_scale_validates_the_season(season: int) -> None:
    with refused(ValueError, "season_length", season, "5 rows"):
        mase_scale([torch.zeros(5, 1)], season)


# ---- classification
def classified(W: int, C: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits with few distinct values, so that there are ties, and labels weakly correlated with them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C, (W,), generator=generator)
    logits = torch.randint(-2, 3, (W, C), generator=generator).float() / 2
    return logits + torch.nn.functional.one_hot(labels, C) / 2, labels


@given(st.integers(1, 40), st.integers(2, 4), seeds)
def test_classification_metrics_equal_scikit_learn(W: int, C: int, seed: int) -> None:
    logits, labels = classified(W, C, seed)
    found = classification_metrics(logits, labels)
    chosen, probabilities = logits.argmax(1), logits.double().softmax(1).numpy()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, chosen))
    recall = sk.recall_score(labels, chosen, labels=labels.unique(), average="macro", zero_division=0)
    assert found["balanced_accuracy"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(sk.f1_score(labels, chosen, average="macro"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=range(C)))
    assert confusion_matrix(logits, labels) == sk.confusion_matrix(labels, chosen, labels=range(C)).tolist()
    if len(labels.unique()) < C:
        assert "auroc" not in found
    elif C == 2:
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels, probabilities[:, 1].round(12)), abs=1e-6)
    else:
        area = sk.roc_auc_score(labels, probabilities.round(12), multi_class="ovr", average="macro")
        assert found["auroc"] == pytest.approx(area, abs=1e-6)


def test_classification_metrics_computed_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])  # predicts 0, 1, 0, 1
    labels = torch.tensor([0, 0, 1, 1])
    assert confusion_matrix(logits, labels) == [[1, 1], [1, 1]]
    losses = [math.log1p(math.exp(x)) for x in (-2, 1, 1, -3)]
    assert_close(
        classification_metrics(logits, labels),
        # of the four pairs of a 1 and a 0, log-odds 3 win two, log-odds -1 one
        {"accuracy": 0.5, "balanced_accuracy": 0.5, "f1": 0.5, "auroc": 0.75, "log_loss": sum(losses) / 4},
    )


def test_ratios_are_computed_in_float64() -> None:
    logits = torch.eye(2)[torch.tensor([0] * 9 + [1])]
    assert classification_metrics(logits, torch.zeros(10, dtype=torch.long))["accuracy"] == 0.9


def test_a_predicted_class_that_does_not_occur_has_no_recall() -> None:
    logits, labels = torch.eye(3), torch.tensor([0, 1, 1])
    found = classification_metrics(logits, labels)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert "auroc" not in found


@given(st.integers(1, 20), st.integers(2, 4), seeds)
def test_metrics_are_invariant_to_a_rows_offset_and_to_the_order_of_classes(W: int, C: int, seed: int) -> None:
    logits, labels = classified(W, C, seed)
    logits += torch.rand(W, C, generator=torch.Generator().manual_seed(seed)).round(decimals=1) / 2**10
    logits = (logits * 2**12).round() / 2**12  # sums with integers are exact, and so are the ties
    found = classification_metrics(logits, labels)
    assert_close(classification_metrics(logits + torch.arange(W).unsqueeze(1), labels), found)
    if not (logits == logits.amax(1, keepdim=True)).sum() > W:  # of a tie the first is predicted
        order = torch.arange(C - 1, -1, -1)
        assert_close(classification_metrics(logits[:, order], order[labels]), found, 1e-6)


def test_auroc_depends_on_the_order_even_if_all_probabilities_round_to_1() -> None:
    logits = torch.tensor([[0.0, 100.0], [0.0, 200.0], [0.0, 300.0]])  # as probabilities, all 1
    assert classification_metrics(logits, torch.tensor([0, 1, 1]))["auroc"] == 1
    assert classification_metrics(logits, torch.tensor([1, 0, 0]))["auroc"] == 0
    equal = torch.tensor([[0.3, 0.2, 0.5]]).log().expand(6, 3)
    assert classification_metrics(equal, torch.tensor([0, 1, 2, 2, 1, 0]))["auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("logits", "labels", "parts"),
    [
        (torch.zeros(2, 1), torch.zeros(2), ("logits (2, 1)", "labels (2,)", "two classes")),
        (torch.zeros(2, 2), torch.zeros(3), ("logits (2, 2)", "labels (3,)", "(sequences)")),
        (torch.tensor([[0, 0], [0, math.nan]]), torch.zeros(2), ("sequence 1", "finite")),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ("label", "sequence 1", "3", "0 to 2")),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), ("label", "sequence 0", "-1", "0 to 2")),
        (torch.zeros(2, 3), torch.tensor([0.5, 1.0]), ("label", "sequence 0", "0.5", "0 to 2")),
    ],
)
def test_classification_metrics_and_the_confusion_matrix_validate_their_arguments(
    logits: Tensor, labels: Tensor, parts: tuple[str, ...]
) -> None:
    for function in (classification_metrics, confusion_matrix):
        with refused(ValueError, *parts):
            function(logits, labels)
