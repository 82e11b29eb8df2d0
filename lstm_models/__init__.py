"""Recurrent models, data, training and evaluation, without Prefect or MLflow."""

from importlib import import_module
from typing import Any

# module of each public name: imported at first use, so that reading a configuration does not import torch
_LOCATIONS = {
    "LSTM": "lstm_models.nn.lstm",
    "Cell": "lstm_models.nn.cells",
    "backend": "lstm_models.nn.kernels.native_library",
    "record_gates": "lstm_models.nn.introspection",
}
__all__ = ["LSTM", "Cell", "backend", "record_gates"]  # see _LOCATIONS


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _LOCATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOCATIONS[name]), name)
