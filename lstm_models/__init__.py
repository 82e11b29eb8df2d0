"""The library: recurrent models, data, training and evaluation. It knows neither Prefect nor MLflow."""

from typing import Any

__all__ = ["LSTM", "Cell", "backend", "trace"]


def __getattr__(name: str) -> Any:
    """`from lstm_models import LSTM`, without importing torch for those who only need the configuration."""
    match name:
        case "LSTM":
            from lstm_models.lstm import LSTM

            return LSTM
        case "Cell":
            from lstm_models.cells import Cell

            return Cell
        case "backend":
            from lstm_models.native import backend

            return backend
        case "trace":
            from lstm_models.tracing import trace

            return trace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
