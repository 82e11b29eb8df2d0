"""Errors, on numbers that can be checked by hand."""

import math

import pytest
import torch

from lstm_models.evaluation.regression_metrics import regression_metrics


@pytest.mark.parametrize(
    ("predictions", "targets", "expected"),
    [
        ([1.0, 2.0, -1.0, 0.5], [1.0, 0.0, 0.0, 1.0], ((0 + 4 + 1 + 0.25) / 4, (0 + 2 + 1 + 0.5) / 4, 2.0)),
        ([0.1, 0.2], [0.1, 0.2], (0.0, 0.0, 0.0)),
        ([0.5, -2.0, 1.0], [0.0, 0.0, 0.0], (5.25 / 3, 3.5 / 3, 2.0)),  # the largest on either side
        ([-0.25], [0.5], (0.5625, 0.75, 0.75)),
        ([2.0**100], [0.0], (2.0**200, 2.0**100, 2.0**100)),  # float64: the square is infinite in float32
        ([2.0**24], [-1.0], ((2.0**24 + 1) ** 2, 2.0**24 + 1, 2.0**24 + 1)),  # which float32 rounds to 2^24
    ],
)
def test_errors_are_means_over_the_sequences_and_the_largest(
    predictions: list[float], targets: list[float], expected: tuple[float, float, float]
) -> None:
    one, other = torch.tensor(predictions), torch.tensor(targets)
    found = regression_metrics(one, other)
    assert found == dict(zip(("mse", "mae", "max_error"), expected, strict=True))
    assert regression_metrics(other, one) == found  # the sign does not matter


@pytest.mark.parametrize("predictions", [[math.nan, 0.0], [0.0, math.nan], [math.nan, 9.0]])
def test_a_prediction_that_is_no_number_is_not_hidden(predictions: list[float]) -> None:
    found = regression_metrics(torch.tensor(predictions), torch.zeros(2))
    assert found == pytest.approx({"mse": math.nan, "mae": math.nan, "max_error": math.nan}, nan_ok=True)
