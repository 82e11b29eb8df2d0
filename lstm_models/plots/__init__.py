"""All figures, in one style: the title states one finding; each contender has the same color in every figure."""

from lstm_models.plots.forecasts import Forecast, errors_by_step, forecasts
from lstm_models.plots.gates import gates, gradients_through_time
from lstm_models.plots.losses import Curve, ReplicaErrors, loss_curves, replica_errors
from lstm_models.plots.predictions import PredictionPairs, confusion_matrices, predictions_against_targets
from lstm_models.plots.style import ACTUAL, BLUE, DASHES, DOTTED, GREY, ORANGE, OTHERS

__all__ = [
    "ACTUAL",
    "BLUE",
    "DASHES",
    "DOTTED",
    "GREY",
    "ORANGE",
    "OTHERS",
    "Curve",
    "Forecast",
    "PredictionPairs",
    "ReplicaErrors",
    "confusion_matrices",
    "errors_by_step",
    "forecasts",
    "gates",
    "gradients_through_time",
    "loss_curves",
    "predictions_against_targets",
    "replica_errors",
]
