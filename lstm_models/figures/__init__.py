"""Every figure, alike: one finding each, in the title; a contender has one colour everywhere, and one line style."""

from lstm_models.figures.horizon import Forecast, errors_by_step, forecasts
from lstm_models.figures.inside import gates, gradients_through_time
from lstm_models.figures.judged import Points, confusion, predictions_against_targets
from lstm_models.figures.style import BLUE, DASHES, DOTTED, GREY, ORANGE, OTHERS, TRUTH
from lstm_models.figures.training import Copies, Curve, errors_of_copies, loss_curves

__all__ = [
    "BLUE",
    "DASHES",
    "DOTTED",
    "GREY",
    "ORANGE",
    "OTHERS",
    "TRUTH",
    "Copies",
    "Curve",
    "Forecast",
    "Points",
    "confusion",
    "errors_by_step",
    "errors_of_copies",
    "forecasts",
    "gates",
    "gradients_through_time",
    "loss_curves",
    "predictions_against_targets",
]
