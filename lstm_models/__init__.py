"""The library: recurrent models, data, training and evaluation. It knows neither Prefect nor MLflow."""

from typing import Any

__all__ = ["LSTM"]


def __getattr__(name: str) -> Any:
    """`from lstm_models import LSTM`, without importing torch for those who only need the configuration."""
    if name == "LSTM":
        from lstm_models.lstm import LSTM

        return LSTM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
