"""What goes on inside a network: its gates over time, and gradients through time; recorded in MLflow, or looked at."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lstm_models import plots
from lstm_models.config import ConfigError, FigureOptions
from lstm_models.data.dataset import Dataset
from lstm_models.data.windows import Batch
from lstm_models.nn.cells import Step
from lstm_models.nn.introspection import gradients_through_time, has_gates, record_gates
from lstm_models.nn.network import Network
from tasks import tracking
from tasks.tracking.model_loader import ModelError, load_model

GRADIENT_BATCH_SIZE = 256  # sequences: the mean over more looks the same


def log_gates(config: FigureOptions, network: Network, data: Dataset, run_id: str, name: str, place: str = "") -> None:
    """Draw the gates and states of some of the test's sequences over time: the figure gates.png of a run."""
    chosen = _select_examples(data.test.count, config.gate_examples)
    if not has_gates(network.recurrent):
        return
    opened = _record_gates(network, data.test.get_batch(torch.tensor(chosen)))
    called = data.keys().iloc[chosen].astype(str).agg(", ".join, axis=1).tolist()
    figure = plots.gates(name, opened.x_BTD, opened.trace, called)
    tracking.mlflow_client().log_figure(run_id, figure, tracking.join_path(place, "gates.png"))


def _select_examples(count: int, numbers: list[int] | None) -> list[int]:
    """Which examples, from 0."""
    for number in numbers or ():
        if number > count:
            raise ConfigError(f"figures.gate_examples: {number} given, but the data has {count} examples to judge by")
    return list(range(min(count, 2))) if numbers is None else [number - 1 for number in numbers]


class _GateRecord(NamedTuple):
    x_BTD: Tensor
    trace: Step


def _record_gates(network: Network, batch: Batch) -> _GateRecord:
    """What the core reads of these sequences, and its gates and states."""
    assert has_gates(network.recurrent)
    with torch.no_grad():
        seen_BTD, _ = network.preprocess(batch.x_BTD, batch.lengths_B)
        return _GateRecord(seen_BTD, record_gates(network.recurrent, seen_BTD, lengths=batch.lengths_B))


def log_gradients(network: Network, data: Dataset, run_id: str, place: str = "") -> None:
    """Log |dLoss/dh_t|, and |dLoss/dc_t| where there is a cell state, as metrics whose step is the time step t."""
    few = data.test.get_batch(torch.arange(min(data.test.count, GRADIENT_BATCH_SIZE)))
    for name, norm_T in zip(("dloss_dh", "dloss_dc"), gradients_through_time(network, few), strict=True):
        if norm_T is not None:
            points = {step: value for step, value in enumerate(norm_T.tolist(), start=1) if math.isfinite(value)}
            tracking.log_curve(run_id, tracking.join_path(place, name), points)


class GateInspection(NamedTuple):
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
        return plots.gates(self.model.removeprefix("models:/"), self.x_BTD[:4], few, self.names[:4])


def inspect_model(model_uri: str, path: Path) -> GateInspection:
    """Open a registered model on the sequences of a file of new rows.

    Raises:
        ModelError: if there is no such model, or it can't be trusted, or has no gates.
        TableError: if the file can't be used.
    """
    model = load_model(model_uri)
    network = model.network
    if not has_gates(network.recurrent):
        raise ModelError(f"{model_uri}: a model of the kind {model.config.kind} has no gates")
    new = model.read(path)
    return GateInspection(model_uri, new.names, *_record_gates(network, new.batch))
