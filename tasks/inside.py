"""What goes on inside a network: its gates over time, and gradients through time; recorded in MLflow, or looked at."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lstm_models import figures
from lstm_models.cells import Step
from lstm_models.config import ConfigError, Figures
from lstm_models.data.tables import Sequences, inputs, read_inputs
from lstm_models.network import Network
from lstm_models.tracing import gradients_through_time, has_gates, trace
from tasks import tracking
from tasks.data import load_table
from tasks.references import DatasetRef
from tasks.registry import ModelError, load_model

GRADIENT_OF = 256  # sequences: the mean over more looks the same


def log_gates(config: Figures, network: Network, dataset: DatasetRef, run_id: str, name: str, prefix: str = "") -> None:
    """Draw the gates and states of some sequences over time: the figure gates.png of a run."""
    chosen = _chosen(load_table(dataset), config.gates_of)
    if not has_gates(network.recurrent):
        return
    x_BTD = inputs(chosen, dataset.columns)
    figure = figures.gates(name, x_BTD, trace(network.recurrent, x_BTD), chosen[dataset.key].astype(str).tolist())
    tracking.client().log_figure(run_id, figure, f"{prefix}gates.png")


def _chosen(table: pd.DataFrame, rows: list[int] | None) -> pd.DataFrame:
    for row in rows or ():
        if row > len(table):
            raise ConfigError(f"figures.gates_of: {row} given, but the data has {len(table)} rows")
    return table.head(2) if rows is None else table.iloc[[row - 1 for row in rows]]


def log_gradients(network: Network, sequences: Sequences, run_id: str, prefix: str = "") -> None:
    """Log |dLoss/dh_t|, and |dLoss/dc_t| where there is a cell state, as metrics whose step is the time step t."""
    few = Sequences(sequences.x_BTD[:GRADIENT_OF], sequences.y_B[:GRADIENT_OF])
    for name, norm_T in zip(("dloss_dh", "dloss_dc"), gradients_through_time(network, few), strict=True):
        if norm_T is not None:
            points = {step: value for step, value in enumerate(norm_T.tolist(), start=1) if math.isfinite(value)}
            tracking.log_curve(run_id, f"{prefix}{name}", points)


class Opened(NamedTuple):
    """Sequences in a model: (B, T, D), their names, and gates and states, (layers, B, T, H) each."""

    model: str
    names: list[str]
    x_BTD: Tensor
    trace: Step

    def table(self) -> pd.DataFrame:
        """A line for each sequence, layer and step, as text; of several units the mean."""
        layers, _, steps, units = self.trace.c.shape
        rows = []
        for number, name in enumerate(self.names):
            for layer in range(layers):
                for step in range(steps):
                    means = {
                        letter + (", mean" if units > 1 else ""): f"{part[layer, number, step].mean().item():.4f}"
                        for letter, part in zip(Step._fields, self.trace, strict=True)
                    }
                    inner = {"layer": str(layer + 1)} if layers > 1 else {}
                    rows.append({"sequence": name, **inner, "step": str(step + 1), **means})
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """For each sequence and letter a list of layers, of steps, of units."""
        sequences = [
            {"sequence": name, **{letter: part[:, number].tolist() for letter, part in self.trace._asdict().items()}}
            for number, name in enumerate(self.names)
        ]
        return json.dumps({"model": self.model, "sequences": sequences})

    def figure(self) -> Figure:
        """Of the first four sequences."""
        few = Step(*(part[:, :4] for part in self.trace))
        return figures.gates(self.model.removeprefix("models:/"), self.x_BTD[:4], few, self.names[:4])


def inspect(model_uri: str, path: Path) -> Opened:
    """Open a registered model on the sequences of a CSV file.

    A sequence is called what stands in the first column, or its row's number where that column is an input.

    Raises:
        ModelError: if there is no such model, or it can't be trusted, or has no gates.
        TableError: if the file can't be used.
    """
    model = load_model(model_uri)
    network = model.network()
    if not has_gates(network.recurrent):
        raise ModelError(f"{model_uri}: a model of the kind {model.config.kind} has no gates")
    table, x_BTD = read_inputs(path, model.columns)
    first = str(table.columns[0])
    names = table.index + 1 if first in model.columns.inputs else table[first]
    with torch.no_grad():
        return Opened(model_uri, names.astype(str).tolist(), x_BTD, trace(network.recurrent, x_BTD))
