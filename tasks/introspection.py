"""Gates and states of a network over time, and gradients through time: log them to MLflow or show them."""

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

GRADIENT_BATCH_SIZE = 256  # sequences; the mean over more looks the same


def log_gates(
    config: FigureOptions, network: Network, data: Dataset, run_id: str, name: str, artifact_dir: str = ""
) -> None:
    """Log gates.png to a run: the gates and states of some test sequences over time.

    Does nothing for a network without gates.

    Raises:
        ConfigError: If config.gate_examples names a sequence that the test part doesn't have.
    """
    indices = _select_examples(data.test.count, config.gate_examples)
    if not has_gates(network.recurrent):
        return
    record = _record_gates(network, data.test.get_batch(torch.tensor(indices)))
    sequence_names = data.keys().iloc[indices].astype(str).agg(", ".join, axis=1).tolist()
    figure = plots.gates(name, record.x_BTD, record.trace, sequence_names)
    tracking.mlflow_client().log_figure(run_id, figure, tracking.join_path(artifact_dir, "gates.png"))


def _select_examples(count: int, numbers: list[int] | None) -> list[int]:
    """Return the indices, from 0, of the test sequences with these numbers, from 1; of the first two for None."""
    for number in numbers or ():
        if number > count:
            raise ConfigError(f"figures.gate_examples: {number} given, but the test part has only {count} examples")
    return list(range(min(count, 2))) if numbers is None else [number - 1 for number in numbers]


class _GateRecord(NamedTuple):
    x_BTD: Tensor
    trace: Step


def _record_gates(network: Network, batch: Batch) -> _GateRecord:
    """Return the recurrent layers' preprocessed input, and their gates and states, for a batch."""
    assert has_gates(network.recurrent)
    with torch.no_grad():
        input_BTD, _ = network.preprocess(batch.x_BTD, batch.lengths_B)
        return _GateRecord(input_BTD, record_gates(network.recurrent, input_BTD, lengths=batch.lengths_B))


def log_gradients(network: Network, data: Dataset, run_id: str, prefix: str = "") -> None:
    """Log |dLoss/dh_t|, and |dLoss/dc_t| if there is a cell state, as metrics whose step is the time step t."""
    batch = data.test.get_batch(torch.arange(min(data.test.count, GRADIENT_BATCH_SIZE)))
    for name, norm_T in zip(("dloss_dh", "dloss_dc"), gradients_through_time(network, batch), strict=True):
        if norm_T is not None:
            points = {step: value for step, value in enumerate(norm_T.tolist(), start=1) if math.isfinite(value)}
            tracking.log_curve(run_id, tracking.join_path(prefix, name), points)


class GateInspection(NamedTuple):
    """Sequences x_BTD, their names, and a model's gates and states for them, (layers, B, T, H) each."""

    model: str
    names: list[str]
    x_BTD: Tensor
    trace: Step

    def table(self) -> pd.DataFrame:
        """Return the gates and states as strings, a row per sequence, layer and step; several units as their mean."""
        layers, _, steps, units = self.trace.c.shape
        rows = []
        for number, name in enumerate(self.names):
            for layer in range(layers):
                for step in range(steps):
                    means = {
                        letter + (", mean" if units > 1 else ""): f"{part[layer, number, step].mean().item():.4f}"
                        for letter, part in zip(Step._fields, self.trace, strict=True)
                    }
                    layer_column = {"layer": str(layer + 1)} if layers > 1 else {}
                    rows.append({"sequence": name, **layer_column, "step": str(step + 1), **means})
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """Return a JSON object with, per sequence and gate or state, nested lists [layer][step][unit]."""
        sequences = [
            {"sequence": name, **{letter: part[:, number].tolist() for letter, part in self.trace._asdict().items()}}
            for number, name in enumerate(self.names)
        ]
        return json.dumps({"model": self.model, "sequences": sequences})

    def figure(self) -> Figure:
        """Plot the gates and states of the first four sequences."""
        first_four = Step(*(part[:, :4] for part in self.trace))
        return plots.gates(self.model.removeprefix("models:/"), self.x_BTD[:4], first_four, self.names[:4])


def inspect_model(model_uri: str, path: Path) -> GateInspection:
    """Run a registered model on the sequences of a file and return its gates and states.

    Raises:
        ModelError: If there is no such model, it can't be trusted, or it has no gates.
        TableError: If the file is invalid.
    """
    model = load_model(model_uri)
    network = model.network
    if not has_gates(network.recurrent):
        raise ModelError(f"{model_uri}: a model of kind {model.config.kind} has no gates")
    new = model.read(path)
    return GateInspection(model_uri, new.names, *_record_gates(network, new.batch))
