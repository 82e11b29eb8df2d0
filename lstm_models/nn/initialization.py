"""Shapes and initial values of an LSTM's parameters."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lstm_models.nn.cells import Cell

Init = Literal["default", "normal"]


def check_init(init: str) -> None:
    """Raise a ValueError if there is no such initialization."""
    if init not in get_args(Init):
        raise ValueError(f"init must be {' or '.join(get_args(Init))}, got {init!r}")


def weight_shapes(
    cell: Cell, input_size: int, hidden_size: int, proj_size: int, num_biases: int
) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights of one layer and direction, in nn.LSTM's order.

    Args:
        cell: The cell, which may add weights.
        input_size: Number of features that the layer reads.
        hidden_size: H.
        proj_size: Size of the projection, 0 for none.
        num_biases: Number of bias vectors, 0 to 2.
    """
    gates = len(cell.gates) * hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (gates, input_size),
        "weight_hh": (gates, proj_size or hidden_size),
    }
    shapes |= dict.fromkeys(("bias_ih", "bias_hh")[:num_biases], (gates,))
    if proj_size:
        shapes |= {"weight_hr": (proj_size, hidden_size)}
    return shapes | cell.parameters(hidden_size)


@torch.no_grad()
def draw_normal(weights: dict[str, Tensor], gates: str) -> None:
    """Draw the weights of one layer and direction in the order of the tutorial, and set the biases to 0.

    Args:
        weights: The weights by their names without layer and direction.
        gates: The gates in their stored order.
    """
    by_gate = {kind: weights[kind].chunk(len(gates)) for kind in ("weight_hh", "weight_ih")}
    for gate in filter(gates.__contains__, "figo"):
        for rows in by_gate.values():
            rows[gates.index(gate)].normal_()
    for kind, weight in weights.items():
        if kind.startswith("bias"):
            weight.zero_()
        elif kind not in by_gate:
            weight.normal_()
