"""Baselines: against plain loops, scikit-learn, and equations solved another way."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchmetrics  # noqa: F401  # here, for its import makes matplotlib's folder, which no unit test may
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lstm_models.evaluation import baselines
from lstm_models.evaluation.baselines import (
    LogisticRegression,
    Ridge,
    SummaryRidge,
    last_value,
    majority_class,
    ridge_is_feasible,
    seasonal_naive,
)
from lstm_models.evaluation.classification_metrics import classification_metrics

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def windows(W: int, T: int = 5, F: int = 2, S: int = 3, K: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and y, float64, where y follows from x but for noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(W, T, F, generator=generator, dtype=torch.float64) + 2
    weight = torch.randn(T * F, S * K, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(W, S * K, generator=generator, dtype=torch.float64)
    return x, (x.flatten(1) @ weight + noise).view(W, S, K) + 7


def of_series(series: Tensor, T: int, S: int) -> tuple[Tensor, Tensor]:
    """All windows of a series (N, F): each shares all but one step with the next."""
    both = series.unfold(0, T + S, 1).transpose(1, 2)
    return both[:, :T], both[:, T:]


def in_batches(pair: tuple[Tensor, Tensor], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An iterator that can be gone through once."""
    yield from zip(torch.split(pair[0], size), torch.split(pair[1], size), strict=True)


# Forecasts that are not learnt


@given(st.integers(0, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), st.data())
def test_naive_forecasts_against_a_loop(W: int, T: int, K: int, horizon: int, data: st.DataObject) -> None:
    season = data.draw(st.integers(1, T))
    x = torch.arange(float(W * T * K)).view(W, T, K)
    last, seasonal = last_value(x, horizon), seasonal_naive(x, horizon, season)
    assert last.shape == seasonal.shape == (W, horizon, K)
    for w in range(W):
        for step in range(horizon):
            assert torch.equal(last[w, step], x[w, T - 1])
            back = T + step  # where the step lies; then back by seasons into the context
            while back >= T:
                back -= season
            assert torch.equal(seasonal[w, step], x[w, back])


@pytest.mark.parametrize("season", [0, -1, 6])
def test_a_context_shorter_than_the_season_is_refused(season: int) -> None:
    with refused(ValueError, "season_length", season, "5 steps"):
        seasonal_naive(torch.zeros(2, 5, 1), 3, season)


def test_the_mean_of_the_training_part_is_summed_in_float64() -> None:
    train = torch.tensor([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])
    found = baselines.mean(train, 4, 2)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor([3.0, 30.0]).expand(4, 2, 2))
    assert baselines.mean(torch.full((4, 1), 2.0**127), 1, 1).item() == 2.0**127  # the sum is infinite in float32


@pytest.mark.parametrize("read_only", [False, True])
def test_arrays_are_taken_as_tensors_are(read_only: bool) -> None:
    x, y = windows(50)
    x_array, y_array = x.numpy().copy(), y.numpy().copy()
    x_array.flags.writeable = y_array.flags.writeable = not read_only
    assert torch.equal(last_value(x_array, 3), last_value(x, 3))
    assert torch.equal(seasonal_naive(x_array[:, ::-1], 3, 2), seasonal_naive(x.flip(1), 3, 2))
    assert torch.equal(baselines.mean(x_array[0], 2, 3), baselines.mean(x[0], 2, 3))
    found = Ridge.fit([(x_array, y_array)], [(x_array, y_array)])
    assert torch.equal(found.predict(x_array), Ridge.fit([(x, y)], [(x, y)]).predict(x))
    labels = (x[:, 0, 0] > 2).long()
    fitted = LogisticRegression.fit(x_array, labels.numpy(), 2)
    assert torch.equal(fitted.predict(x_array), LogisticRegression.fit(x, labels, 2).predict(x))
    assert torch.equal(majority_class(labels.numpy(), 3, 2), majority_class(labels, 3, 2))


def test_the_reports_names_are_those_of_the_baselines() -> None:
    assert list(baselines.FORECASTS) == ["last_value", "seasonal_naive", "mean", "ridge"]
    assert list(baselines.LABELS) == ["majority_class", "logistic_regression"]


# Ridge


@pytest.mark.parametrize(
    ("W", "size", "alpha"),
    [(200, 1, 0.1), (200, 7, 10.0), (200, 200, 10_000.0), (200, 7, 10_000.0), (4, 4, 0.5)],  # 4: fewer than features
)
def test_ridge_is_that_of_scikit_learn_however_it_is_batched(W: int, size: int, alpha: float) -> None:
    training, validation = windows(W), windows(20, seed=1)
    found = Ridge.fit(in_batches(training, size), in_batches(validation, size), alphas=(alpha,))
    x, y = (part.flatten(1).numpy() for part in training)
    expected = SklearnRidge(alpha=alpha).fit(x, y)
    np.testing.assert_allclose(found.weight_PQ.T, expected.coef_, **CLOSE)
    np.testing.assert_allclose(found.bias_Q, expected.intercept_, **CLOSE)
    predicted = expected.predict(validation[0].flatten(1).numpy())
    np.testing.assert_allclose(found.predict(validation[0]).flatten(1), predicted, **CLOSE)


def test_large_batches_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    training, validation = windows(50), windows(20, seed=1)
    whole = Ridge.fit([training], [validation])
    monkeypatch.setattr(baselines, "CHUNK_SIZE", 8)
    parts = Ridge.fit([training], [validation])
    torch.testing.assert_close(parts.predict(training[0]), whole.predict(training[0]), **CLOSE)


def test_overlapping_windows_of_a_smooth_series_cost_no_more_digits_than_the_docstring_says() -> None:
    steps = torch.arange(2000.0, dtype=torch.float64)
    series = torch.stack([(steps / 20).sin(), (steps / 31).cos() + 100], dim=1)
    x, y = of_series(series, T=24, S=4)  # the columns lie in a few directions: condition number without bounds
    found = Ridge.fit(in_batches((x, y), 64), [(x, y)], alphas=(0.1,))
    # least squares of the windows with sqrt(alpha) 1 below them: the singular values are not squared
    left = (x.flatten(1) - x.flatten(1).mean(0)).numpy()
    right = (y.flatten(1) - y.flatten(1).mean(0)).numpy()
    below = math.sqrt(0.1) * np.eye(left.shape[1])
    expected, *_ = np.linalg.lstsq(np.vstack([left, below]), np.vstack([right, np.zeros((len(below), 8))]))
    np.testing.assert_allclose(found.weight_PQ, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_alpha_is_the_one_that_errs_least_on_the_validation_windows() -> None:
    training, validation = windows(15), windows(200, seed=1)
    errors = {}
    for alpha in baselines.ALPHAS:
        model = SklearnRidge(alpha=alpha).fit(training[0].flatten(1).numpy(), training[1].flatten(1).numpy())
        difference = model.predict(validation[0].flatten(1).numpy()) - validation[1].flatten(1).numpy()
        errors[alpha] = (difference**2).mean()
    expected = min(errors, key=lambda alpha: errors[alpha])
    assert expected not in (baselines.ALPHAS[0], baselines.ALPHAS[-1])
    assert Ridge.fit([training], in_batches(validation, 30)).alpha == expected


def test_of_equal_alphas_the_first_is_taken() -> None:
    x, y = windows(20)
    flat = torch.zeros_like(y)  # nothing to learn: all alphas say 0
    assert Ridge.fit([(x, flat)], [(x, flat)], alphas=(3.0, 1.0, 2.0)).alpha == 3.0


@given(st.integers(-30, 30), st.integers(-2, 2))
def test_shifted_windows_shift_nothing_and_scaled_targets_scale_the_forecast(shift: int, power: int) -> None:
    (x, y), by = windows(30), 2.0**power
    found = Ridge.fit([(x + shift, y * by)], [(x, y)], alphas=(1.0,)).predict(x + shift)
    torch.testing.assert_close(found, Ridge.fit([(x, y)], [(x, y)], alphas=(1.0,)).predict(x) * by, **CLOSE)


def test_forecasts_come_in_the_type_of_the_windows() -> None:
    x, y = windows(30)
    found = Ridge.fit([(x.float(), y.float())], [(x.float(), y.float())])
    assert found.weight_PQ.dtype == torch.float64
    assert found.predict(x.float()).dtype == torch.float32
    assert found.predict(x.float()).shape == (30, 3, 2)


NAN, INFINITE = torch.full((3, 5, 2), math.nan), torch.full((3, 3, 2), math.inf)
X, Y = torch.zeros(3, 5, 2), torch.zeros(3, 3, 2)


@pytest.mark.parametrize(
    ("training", "validation", "alphas", "parts"),
    [
        ([], [windows(3)], (1.0,), ("ridge", "no training windows")),
        ([windows(3)], [], (1.0,), ("ridge", "no validation windows")),
        ([windows(3)], [windows(3)], (), ("alphas", "none", "above 0")),
        ([windows(3)], [windows(3)], (1.0, 0.0), ("alphas", "1.0, 0.0", "above 0")),
        ([(NAN, Y)], [windows(3)], (1.0,), ("ridge", "training", "NaN")),
        ([(X, INFINITE)], [windows(3)], (1.0,), ("ridge", "training", "infinity")),
        ([windows(3)], [(X, INFINITE)], (1.0,), ("ridge", "validation", "infinity")),
        (
            [(torch.zeros(1, 512, 321), torch.zeros(1, 96, 321))],
            [],
            (1.0,),
            ("512 steps of 321", "96 steps of 321", "37,140,922,368", "250,000,000", "shorter context"),
        ),
    ],
)
def test_what_ridge_refuses(
    training: list[baselines.Batch],
    validation: list[baselines.Batch],
    alphas: tuple[float, ...],
    parts: tuple[str, ...],
) -> None:
    with refused(ValueError, *parts):
        Ridge.fit(training, validation, alphas)


def test_whether_it_fits_is_what_fit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = windows(20)
    held = (5 * 2) * (5 * 2 + 7 * (3 * 2))  # X'X, X'Y, and the weights of six alphas
    monkeypatch.setattr(baselines, "MAX_NUMBERS", held)
    assert ridge_is_feasible(x[:1], y[:1])
    Ridge.fit([(x, y)], [(x, y)])
    monkeypatch.setattr(baselines, "MAX_NUMBERS", held - 1)
    assert not ridge_is_feasible(x[:1], y[:1])
    with refused(ValueError, "ridge", f"{held:,}", f"{held - 1:,}"):
        Ridge.fit([(x, y)], [(x, y)])


# Labels


def labelled(W: int, classes: int, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Sequences of 1 to 6 steps of two features, one of them constant, which tell their class but for noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(W) % classes
    lengths = torch.randint(1, 7, (W,), generator=generator).tolist()
    noise = [torch.randn(length, 1, generator=generator) for length in lengths]
    return [torch.cat([x + label, torch.full_like(x, 3)], 1) for x, label in zip(noise, labels, strict=True)], labels


def test_the_features_of_a_sequence_do_not_depend_on_the_others_or_on_padding() -> None:
    sequences, _ = labelled(20, 2)
    rows = []
    for sequence in sequences:
        x = sequence.double().numpy()
        rows.append([*x.mean(0), *x.std(0), *x[0], *x[-1], *x.min(0), *x.max(0)])
    found = baselines.sequence_features(iter(sequences))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, rows, rtol=1e-12, atol=1e-12)


def test_the_majority_class_and_how_likely_each_is() -> None:
    found = majority_class(torch.tensor([2, 0, 2, 2]), 5, 4)  # class 1 and class 3 don't occur
    torch.testing.assert_close(found.exp(), torch.tensor([2 / 8, 1 / 8, 4 / 8, 1 / 8]).double().expand(5, 4), **CLOSE)
    assert found.argmax(1).tolist() == [2] * 5
    # of classes that are as frequent the first
    assert majority_class(torch.tensor([1, 2, 2, 1]), 2, 3).argmax(1).tolist() == [1, 1]
    labels = torch.tensor([0, 1, 1, 1])
    scores = classification_metrics(majority_class(labels, 4, 2), labels)
    assert (scores["accuracy"], scores["balanced_accuracy"], scores["auroc"]) == (0.75, 0.5, 0.5)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_that_of_scikit_learn(classes: int) -> None:
    training, others = labelled(60, classes), labelled(20, classes, seed=1)
    found = LogisticRegression.fit(iter(training[0]), training[1], classes).predict(iter(others[0]))
    reference = make_pipeline(StandardScaler(), SklearnLogistic(max_iter=10_000))
    reference.fit(baselines.sequence_features(training[0]).numpy(), training[1].numpy())
    expected = reference.predict_log_proba(baselines.sequence_features(others[0]).numpy())
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert classification_metrics(found, others[1])["accuracy"] > 1.3 / classes  # it learns


@pytest.mark.parametrize(("noise", "alpha"), [(1e-3, 0.1), (3.0, None), (1e3, 10_000.0)])
def test_the_ridge_of_numbers_is_that_of_scikit_learn(noise: float, alpha: float | None) -> None:
    """The penalty is chosen by leaving one out: small where there is little noise, large where there is much."""
    (sequences, labels), (others, _) = labelled(60, 5), labelled(20, 5, seed=1)
    y_W = 3 * baselines.sequence_features(sequences)[:, 0] - 50 + labels
    y_W += noise * torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = SummaryRidge.fit(iter(sequences), y_W).predict(iter(others))
    reference = make_pipeline(StandardScaler(), RidgeCV(baselines.ALPHAS))
    reference.fit(baselines.sequence_features(sequences).numpy(), y_W.numpy())
    assert alpha is None or reference[-1].alpha_ == alpha
    assert found.dtype == torch.float32
    expected = reference.predict(baselines.sequence_features(others).numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # rounded to float32


def test_the_ridge_of_numbers_takes_arrays_and_numbers_far_from_0() -> None:
    sequences, labels = labelled(30, 3)
    arrays = [sequence.numpy() for sequence in sequences]
    fitted, near = SummaryRidge.fit(arrays, labels.float().numpy() + 1e6), SummaryRidge.fit(sequences, labels)
    # a number of 1e6 is rounded to 1/16 in float32
    torch.testing.assert_close(fitted.predict(arrays) - 1e6, near.predict(sequences), rtol=0, atol=1 / 16)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_class_that_does_not_occur_is_as_likely_as_if_it_had_once(absent: int) -> None:
    sequences, labels = labelled(9, 2)
    classes = [one for one in range(3) if one != absent]
    found = LogisticRegression.fit(sequences, torch.tensor(classes)[labels], 3).predict(sequences).exp()
    without = LogisticRegression.fit(sequences, labels, 2).predict(sequences).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(9, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(found[:, absent], torch.full((9,), 0.1, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(found[:, classes], without * 0.9, **CLOSE)


def test_what_is_refused_of_labels_and_sequences() -> None:
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
    for wrong, parts in (
        ([], ("no sequences",)),
        ([torch.zeros(2, 1), torch.zeros(0, 1)], ("sequence 1", "no steps")),
        ([torch.tensor([[math.nan]])], ("sequence 0", "NaN")),
    ):
        with refused(ValueError, *parts):
            baselines.sequence_features(wrong)
