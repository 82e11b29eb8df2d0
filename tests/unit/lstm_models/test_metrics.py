"""Errors, on numbers that can be checked by hand."""

import pytest
import torch

from lstm_models.metrics import errors


def test_errors_are_means_over_the_sequences_and_the_largest() -> None:
    found = errors(torch.tensor([1.0, 2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert found == {"mse": (0 + 4 + 1 + 0.25) / 4, "mae": (0 + 2 + 1 + 0.5) / 4, "max_error": 2.0}


def test_perfect_predictions_have_no_error() -> None:
    assert errors(torch.tensor([0.1, 0.2]), torch.tensor([0.1, 0.2])) == {"mse": 0.0, "mae": 0.0, "max_error": 0.0}


def test_the_sign_of_a_difference_does_not_matter() -> None:
    a, b = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 4.0])
    assert errors(a, b) == errors(b, a)


def test_squares_are_taken_in_float64() -> None:
    found = errors(torch.tensor([2.0**100]), torch.tensor([0.0]))  # its square is infinite in float32
    assert found == {"mse": 2.0**200, "mae": 2.0**100, "max_error": 2.0**100}


def test_a_prediction_that_is_no_number_is_not_hidden() -> None:
    nan = float("nan")
    for predictions in ([nan, 0.0], [0.0, nan], [nan, 9.0]):
        found = errors(torch.tensor(predictions), torch.tensor([0.0, 0.0]))
        assert found == pytest.approx({"mse": nan, "mae": nan, "max_error": nan}, nan_ok=True)


def test_the_largest_error_is_the_farthest_on_either_side() -> None:
    targets = torch.tensor([0.0, 0.0, 0.0])
    assert errors(torch.tensor([0.5, -2.0, 1.0]), targets)["max_error"] == 2.0
    assert errors(torch.tensor([0.5, -1.0, 2.0]), targets)["max_error"] == 2.0
    assert errors(torch.tensor([-0.25]), torch.tensor([0.5]))["max_error"] == 0.75


def test_the_largest_error_is_taken_in_float64() -> None:
    """In float32 2^24 + 1 is 2^24."""
    assert errors(torch.tensor([2.0**24]), torch.tensor([-1.0]))["max_error"] == 2.0**24 + 1
