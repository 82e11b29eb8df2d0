"""The ridge regression of windows, against scikit-learn, and equations solved in another way."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor

from lstm_models.evaluation import ridge
from lstm_models.evaluation.ridge import Ridge, ridge_is_feasible

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def windows(W: int, T: int = 5, F: int = 2, S: int = 3, K: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return x and y, float64, where y is a linear function of x plus noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(W, T, F, generator=generator, dtype=torch.float64) + 2
    weight = torch.randn(T * F, S * K, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(W, S * K, generator=generator, dtype=torch.float64)
    return x, (x.flatten(1) @ weight + noise).view(W, S, K) + 7


def windows_of(series: Tensor, T: int, S: int) -> tuple[Tensor, Tensor]:
    """Return all windows of a series (N, F), each of which shares all but one step with the next."""
    both = series.unfold(0, T + S, 1).transpose(1, 2)
    return both[:, :T], both[:, T:]


def in_batches(pair: tuple[Tensor, Tensor], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches, once."""
    yield from zip(torch.split(pair[0], size), torch.split(pair[1], size), strict=True)


@pytest.mark.parametrize(
    ("W", "size", "alpha"),
    [(200, 1, 0.1), (200, 7, 10.0), (200, 200, 10_000.0), (200, 7, 10_000.0), (4, 4, 0.5)],  # 4: fewer than features
)
def test_ridge_equals_scikit_learn_for_any_batch_size(W: int, size: int, alpha: float) -> None:
    training, validation = windows(W), windows(20, seed=1)
    found = Ridge.fit(in_batches(training, size), in_batches(validation, size), alphas=(alpha,))
    x, y = (part.flatten(1).numpy() for part in training)
    expected = SklearnRidge(alpha=alpha).fit(x, y)
    np.testing.assert_allclose(found.weight_PQ.T, expected.coef_, **CLOSE)
    np.testing.assert_allclose(found.bias_Q, expected.intercept_, **CLOSE)
    predicted = expected.predict(validation[0].flatten(1).numpy())
    np.testing.assert_allclose(found.predict(validation[0]).flatten(1), predicted, **CLOSE)


def test_large_batches_are_split_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    training, validation = windows(50), windows(20, seed=1)
    expected = Ridge.fit([training], [validation])
    monkeypatch.setattr(ridge, "CHUNK_SIZE", 8)
    found = Ridge.fit([training], [validation])
    torch.testing.assert_close(found.predict(training[0]), expected.predict(training[0]), **CLOSE)


def test_overlapping_windows_of_a_smooth_series_keep_the_precision_that_the_docstring_states() -> None:
    steps = torch.arange(2000.0, dtype=torch.float64)
    series = torch.stack([(steps / 20).sin(), (steps / 31).cos() + 100], dim=1)
    x, y = windows_of(series, T=24, S=4)  # the columns are nearly dependent: a huge condition number
    found = Ridge.fit(in_batches((x, y), 64), [(x, y)], alphas=(0.1,))
    # least squares with sqrt(alpha) 1 appended to the windows, which does not square the singular values
    x_centred = (x.flatten(1) - x.flatten(1).mean(0)).numpy()
    y_centred = (y.flatten(1) - y.flatten(1).mean(0)).numpy()
    penalty = math.sqrt(0.1) * np.eye(x_centred.shape[1])
    expected, *_ = np.linalg.lstsq(np.vstack([x_centred, penalty]), np.vstack([y_centred, np.zeros((len(penalty), 8))]))
    np.testing.assert_allclose(found.weight_PQ, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_alpha_has_the_lowest_error_on_the_validation_windows() -> None:
    training, validation = windows(15), windows(200, seed=1)
    errors = {}
    for alpha in ridge.ALPHAS:
        model = SklearnRidge(alpha=alpha).fit(training[0].flatten(1).numpy(), training[1].flatten(1).numpy())
        difference = model.predict(validation[0].flatten(1).numpy()) - validation[1].flatten(1).numpy()
        errors[alpha] = (difference**2).mean()
    expected = min(errors, key=lambda alpha: errors[alpha])
    assert expected not in (ridge.ALPHAS[0], ridge.ALPHAS[-1])
    assert Ridge.fit([training], in_batches(validation, 30)).alpha == expected


def test_of_tied_alphas_the_first_is_selected() -> None:
    x, y = windows(20)
    flat = torch.zeros_like(y)  # nothing to learn: every alpha predicts 0
    assert Ridge.fit([(x, flat)], [(x, flat)], alphas=(3.0, 1.0, 2.0)).alpha == 3.0


@given(st.integers(-30, 30), st.integers(-2, 2))
def test_forecasts_are_invariant_to_shifted_windows_and_proportional_to_the_targets(shift: int, power: int) -> None:
    (x, y), by = windows(30), 2.0**power
    found = Ridge.fit([(x + shift, y * by)], [(x, y)], alphas=(1.0,)).predict(x + shift)
    torch.testing.assert_close(found, Ridge.fit([(x, y)], [(x, y)], alphas=(1.0,)).predict(x) * by, **CLOSE)


def test_forecasts_have_the_dtype_of_the_windows() -> None:
    x, y = windows(30)
    found = Ridge.fit([(x.float(), y.float())], [(x.float(), y.float())])
    assert found.weight_PQ.dtype == torch.float64
    assert found.predict(x.float()).dtype == torch.float32
    assert found.predict(x.float()).shape == (30, 3, 2)


@pytest.mark.parametrize("read_only", [False, True])
def test_arrays_are_accepted_like_tensors(read_only: bool) -> None:
    x, y = windows(50)
    x_array, y_array = x.numpy().copy(), y.numpy().copy()
    x_array.flags.writeable = y_array.flags.writeable = not read_only
    found = Ridge.fit([(x_array, y_array)], [(x_array, y_array)])
    assert torch.equal(found.predict(x_array), Ridge.fit([(x, y)], [(x, y)]).predict(x))


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
def test_invalid_windows_and_alphas_raise(
    training: list[ridge.Batch],
    validation: list[ridge.Batch],
    alphas: tuple[float, ...],
    parts: tuple[str, ...],
) -> None:
    with refused(ValueError, *parts):
        Ridge.fit(training, validation, alphas)


def test_a_ridge_is_feasible_if_fit_accepts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = windows(20)
    needed = (5 * 2) * (5 * 2 + 7 * (3 * 2))  # X'X, X'Y, and the weights of six alphas
    monkeypatch.setattr(ridge, "MAX_NUMBERS", needed)
    assert ridge_is_feasible(x[:1], y[:1])
    Ridge.fit([(x, y)], [(x, y)])
    monkeypatch.setattr(ridge, "MAX_NUMBERS", needed - 1)
    assert not ridge_is_feasible(x[:1], y[:1])
    with refused(ValueError, "ridge", f"{needed:,}", f"{needed - 1:,}"):
        Ridge.fit([(x, y)], [(x, y)])
