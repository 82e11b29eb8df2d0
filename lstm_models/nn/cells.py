"""Equations of one LSTM time step, and the base class of all cells.

Shapes: B batch, T time, D input_size, H hidden_size, G number of gates of a cell. Tensor names end in their shape.

The four gates, with the letters of nn.LSTM, in the order in which nn.LSTM stores them:

    i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)     input gate
    f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)     forget gate
    g_t = tanh   (W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)     candidate
    o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)     output gate
    c_t = f_t * c_{t-1} + i_t * g_t                          cell state, the long-term memory
    h_t = o_t * tanh(c_t)                                    hidden state, the short-term memory

Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000. The tutorial has
one bias per gate where nn.LSTM has two, b_i and b_h; the result depends only on their sum.

A custom cell is a subclass of Cell with its own `step`; cell_variants.py has examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GATE_LABELS = {
    "i": "input gate", "f": "forget gate", "g": "candidate", "o": "output gate", "c": "cell state", "h": "hidden state",
}  # fmt: skip

Weights = Mapping[str, Tensor]


class LSTMState(NamedTuple):
    """State that an LSTM passes from one time step to the next: `hidden` and `cell`, each (B, H)."""

    hidden: Tensor
    cell: Tensor


class Step(NamedTuple):
    """Results of one time step, each (B, H): activated gates, cell state, and hidden state, (B, P) if projected."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    c: Tensor
    h: Tensor


@dataclass(frozen=True)
class Cell:
    """The standard LSTM cell, and the base class of all other cells.

    Args:
        forget_bias: initial value of the forget gate's bias; None draws it at random. With 1 the cell remembers from
            the beginning (Jozefowicz, Zaremba and Sutskever 2015).
        recurrent_dropout: probability of zeroing an element of h_{t-1} at the input of the gates, in training mode. One
            mask is used for all time steps of a sequence (Gal and Ghahramani 2016).
        zoneout: probability that an element of h_t or c_t keeps its value of the previous step, in training mode; in
            evaluation mode the two values are averaged with these weights (Krueger et al. 2017).

    Raises:
        ValueError: If a probability is outside [0, 1), or forget_bias is set for a cell without a forget gate.
    """

    forget_bias: float | None = None
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0

    gates: ClassVar[str] = "ifgo"  # the gates that have weights and biases, in their stored order

    def __post_init__(self) -> None:
        for name in ("recurrent_dropout", "zoneout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be a probability from 0 to below 1, got {getattr(self, name)!r}")
        if self.forget_bias is not None and "f" not in self.gates:
            raise ValueError(
                f"forget_bias={self.forget_bias}: {type(self).__name__} has no forget gate with a bias; use None"
            )

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the weights that this cell has besides weight_ih, weight_hh and the biases."""
        return {}

    def project_input(self, x_TBD: Tensor, weights: Weights) -> Tensor:
        """Return the input's part of the gate pre-activations, (T, B, G*H), in one matrix product for all steps."""
        return F.linear(x_TBD, weights["weight_ih"], weights.get("bias"))

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step of a batch, without branching on tensor values and without in-place operations.

        Args:
            z_BG: Result of `project_input` for this step, (B, G*H), in the order of `gates`.
            previous: The previous step. For the first step, c and h are the initial state and the gates are 0.
            weights: weight_ih and weight_hh; bias, the sum of all biases, if the layer has any; and the weights named
                by `parameters`.
        """
        i, f, g, o = self.preactivations(z_BG, previous, weights)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * previous.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())

    def preactivations(self, z_BG: Tensor, previous: Step, weights: Weights) -> tuple[Tensor, ...]:
        """Return the pre-activations z_BG + W_h h_{t-1} of each gate, (B, H) each, in the order of `gates`."""
        return (z_BG + F.linear(previous.h, weights["weight_hh"])).chunk(len(self.gates), dim=-1)

    @torch.no_grad()
    def reset(self, weights: Weights) -> None:
        """Overwrite the drawn weights that have a fixed initial value.

        Args:
            weights: The layer's weights by their stored names, that is with bias_ih and bias_hh.
        """
        if self.forget_bias is not None:
            for name in ("bias_ih", "bias_hh"):
                if name in weights:  # only the sum of both matters: bias_ih holds all of it
                    forget = weights[name].chunk(len(self.gates))[self.gates.index("f")]
                    forget.fill_(self.forget_bias if name == "bias_ih" else 0)
