"""Every figure, alike: one finding each, in the title; a contender has one colour everywhere, and one line style."""

from lstm_models.plots.forecasts import Forecast, errors_by_step, forecasts
from lstm_models.plots.gates import gates, gradients_through_time
from lstm_models.plots.losses import Curve, ReplicaErrors, loss_curves, replica_errors
from lstm_models.plots.predictions import PredictionPairs, confusion_matrices, predictions_against_targets
from lstm_models.plots.style import BLUE, DASHES, DOTTED, GREY, ORANGE, OTHERS, TRUTH

__all__ = [
    "BLUE",
    "DASHES",
    "DOTTED",
    "GREY",
    "ORANGE",
    "OTHERS",
    "TRUTH",
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
