"""Baselines, against plain loops and scikit-learn."""

import math

import numpy as np
import pytest
import torch
import torchmetrics  # noqa: F401  # its import creates matplotlib's folder, which a unit test must not do
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lstm_models.evaluation import baselines
from lstm_models.evaluation.baselines import (
    LogisticRegression,
    SummaryRidge,
    last_value,
    majority_class,
    seasonal_naive,
)
from lstm_models.evaluation.classification_metrics import classification_metrics
from lstm_models.evaluation.ridge import ALPHAS

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


# ---- forecasts
@given(st.integers(0, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), st.data())
def test_naive_forecasts_equal_a_loop(W: int, T: int, K: int, horizon: int, data: st.DataObject) -> None:
    season = data.draw(st.integers(1, T))
    x = torch.arange(float(W * T * K)).view(W, T, K)
    last, seasonal = last_value(x, horizon), seasonal_naive(x, horizon, season)
    assert last.shape == seasonal.shape == (W, horizon, K)
    for w in range(W):
        for step in range(horizon):
            assert torch.equal(last[w, step], x[w, T - 1])
            back = T + step  # the step's index, then moved back by seasons into the context
            while back >= T:
                back -= season
            assert torch.equal(seasonal[w, step], x[w, back])


@pytest.mark.parametrize("season", [0, -1, 6])
def test_a_context_shorter_than_the_season_raises(season: int) -> None:
    with refused(ValueError, "season_length", season, "5 steps"):
        seasonal_naive(torch.zeros(2, 5, 1), 3, season)


def test_the_training_mean_is_summed_in_float64() -> None:
    train = torch.tensor([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])
    found = baselines.mean(train, 4, 2)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor([3.0, 30.0]).expand(4, 2, 2))
    assert baselines.mean(torch.full((4, 1), 2.0**127), 1, 1).item() == 2.0**127  # the sum is infinite in float32


@pytest.mark.parametrize("read_only", [False, True])
def test_arrays_are_accepted_like_tensors(read_only: bool) -> None:
    x = torch.randn(50, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    x_array = x.numpy().copy()
    x_array.flags.writeable = not read_only
    assert torch.equal(last_value(x_array, 3), last_value(x, 3))
    assert torch.equal(seasonal_naive(x_array[:, ::-1], 3, 2), seasonal_naive(x.flip(1), 3, 2))
    assert torch.equal(baselines.mean(x_array[0], 2, 3), baselines.mean(x[0], 2, 3))
    labels = (x[:, 0, 0] > 2).long()
    fitted = LogisticRegression.fit(x_array, labels.numpy(), 2)
    assert torch.equal(fitted.predict(x_array), LogisticRegression.fit(x, labels, 2).predict(x))
    assert torch.equal(majority_class(labels.numpy(), 3, 2), majority_class(labels, 3, 2))


def test_names_of_the_baselines() -> None:
    assert list(baselines.FORECASTS) == ["last_value", "seasonal_naive", "mean", "ridge"]
    assert list(baselines.LABELS) == ["majority_class", "logistic_regression"]


# ---- labels
def labelled(W: int, classes: int, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Return sequences of 1 to 6 steps of two features: the label plus noise, and a constant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(W) % classes
    lengths = torch.randint(1, 7, (W,), generator=generator).tolist()
    noise = [torch.randn(length, 1, generator=generator) for length in lengths]
    return [torch.cat([x + label, torch.full_like(x, 3)], 1) for x, label in zip(noise, labels, strict=True)], labels


def test_the_features_of_a_sequence_are_those_of_numpy() -> None:
    sequences, _ = labelled(20, 2)
    rows = []
    for sequence in sequences:
        x = sequence.double().numpy()
        rows.append([*x.mean(0), *x.std(0), *x[0], *x[-1], *x.min(0), *x.max(0)])
    found = baselines.sequence_features(iter(sequences))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, rows, rtol=1e-12, atol=1e-12)


def test_the_majority_class_predicts_the_shares_of_the_classes() -> None:
    found = majority_class(torch.tensor([2, 0, 2, 2]), 5, 4)  # class 1 and class 3 don't occur
    torch.testing.assert_close(found.exp(), torch.tensor([2 / 8, 1 / 8, 4 / 8, 1 / 8]).double().expand(5, 4), **CLOSE)
    assert found.argmax(1).tolist() == [2] * 5
    # of equally frequent classes, the first
    assert majority_class(torch.tensor([1, 2, 2, 1]), 2, 3).argmax(1).tolist() == [1, 1]
    labels = torch.tensor([0, 1, 1, 1])
    scores = classification_metrics(majority_class(labels, 4, 2), labels)
    assert (scores["accuracy"], scores["balanced_accuracy"], scores["auroc"]) == (0.75, 0.5, 0.5)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_equals_scikit_learn(classes: int) -> None:
    training, others = labelled(60, classes), labelled(20, classes, seed=1)
    found = LogisticRegression.fit(iter(training[0]), training[1], classes).predict(iter(others[0]))
    reference = make_pipeline(StandardScaler(), SklearnLogistic(max_iter=10_000))
    reference.fit(baselines.sequence_features(training[0]).numpy(), training[1].numpy())
    expected = reference.predict_log_proba(baselines.sequence_features(others[0]).numpy())
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert classification_metrics(found, others[1])["accuracy"] > 1.3 / classes  # better than chance


@pytest.mark.parametrize(("noise", "alpha"), [(1e-3, 0.1), (3.0, None), (1e3, 10_000.0)])
def test_the_ridge_of_sequence_features_equals_scikit_learn(noise: float, alpha: float | None) -> None:
    """Leave-one-out selects a small penalty for little noise and a large one for much noise."""
    (sequences, labels), (others, _) = labelled(60, 5), labelled(20, 5, seed=1)
    y_W = 3 * baselines.sequence_features(sequences)[:, 0] - 50 + labels
    y_W += noise * torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = SummaryRidge.fit(iter(sequences), y_W).predict(iter(others))
    reference = make_pipeline(StandardScaler(), RidgeCV(ALPHAS))
    reference.fit(baselines.sequence_features(sequences).numpy(), y_W.numpy())
    assert alpha is None or reference[-1].alpha_ == alpha
    assert found.dtype == torch.float32
    expected = reference.predict(baselines.sequence_features(others).numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # rounded to float32


def test_the_ridge_of_sequence_features_accepts_arrays_and_targets_far_from_0() -> None:
    sequences, labels = labelled(30, 3)
    arrays = [sequence.numpy() for sequence in sequences]
    fitted, near = SummaryRidge.fit(arrays, labels.float().numpy() + 1e6), SummaryRidge.fit(sequences, labels)
    # a number of 1e6 is rounded to 1/16 in float32
    torch.testing.assert_close(fitted.predict(arrays) - 1e6, near.predict(sequences), rtol=0, atol=1 / 16)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_class_that_does_not_occur_has_the_probability_of_one_occurrence(absent: int) -> None:
    sequences, labels = labelled(9, 2)
    classes = [label for label in range(3) if label != absent]
    found = LogisticRegression.fit(sequences, torch.tensor(classes)[labels], 3).predict(sequences).exp()
    without = LogisticRegression.fit(sequences, labels, 2).predict(sequences).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(9, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(found[:, absent], torch.full((9,), 0.1, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(found[:, classes], without * 0.9, **CLOSE)


def test_invalid_labels_and_sequences_raise() -> None:
    sequences, _ = labelled(3, 2)
    for labels, parts in (
        ([0, 1, 2], ("label 2", "2 classes", "0 to 1")),
        ([0, -1, 1], ("label -1", "2 classes", "0 to 1")),
        ([1, 1, 1], ("one class", "two or more")),
        ([0, 1], ("3 sequences", "2 labels")),
    ):
        with refused(ValueError, *parts):
            LogisticRegression.fit(sequences, torch.tensor(labels), 2)
    with refused(ValueError, "label 5", "2 classes", "0 to 1"):
        majority_class(torch.tensor([0, 5]), 1, 2)
    for invalid, parts in (
        ([], ("no sequences",)),
        ([torch.zeros(2, 1), torch.zeros(0, 1)], ("sequence 1", "no steps")),
        ([torch.tensor([[math.nan]])], ("sequence 0", "NaN")),
    ):
        with refused(ValueError, *parts):
            baselines.sequence_features(invalid)
