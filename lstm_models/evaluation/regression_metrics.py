"""Errors of predictions: tensors in, floats out."""

from torch import Tensor


def regression_metrics(predictions_B: Tensor, targets_B: Tensor) -> dict[str, float]:
    """How far off predictions are, computed in float64.

    Returns:
        mse: mean squared error, in the target's unit squared.
        mae: mean absolute error, in the target's unit.
        max_error: the largest absolute error, in the target's unit.
    """
    difference_B = predictions_B.double() - targets_B.double()
    return {
        "mse": difference_B.square().mean().item(),
        "mae": difference_B.abs().mean().item(),
        "max_error": difference_B.abs().max().item(),
    }
