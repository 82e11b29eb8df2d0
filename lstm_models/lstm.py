"""The LSTM written by hand: nn.LSTM's interface, parameters and results, from the equations in cells.py."""

import math
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_models.cells import LSTMState
from lstm_models.kernel import unroll

Biases = Literal["one", "two"]
Init = Literal["default", "normal"]


class LSTM(nn.Module):
    """A stack of LSTM layers; with two biases its state dict is nn.LSTM's, in both directions.

    Parameters of layer k, named, shaped and ordered as nn.LSTM's (gates i, f, g, o):
        weight_ih_l{k} (4H, D), or (4H, H) above the first layer; weight_hh_l{k} (4H, H);
        bias_ih_l{k} (4H); and with `biases="two"` bias_hh_l{k} (4H).

    Args:
        input_size: D, the number of features at a time step.
        hidden_size: H.
        num_layers: each layer reads the hidden states of the one below.
        batch_first: whether sequences are (B, T, D) instead of (T, B, D). States are (num_layers, B, H) either way.
        dropout: probability of zeroing a hidden state on its way from one layer to the next, while training.
        biases: "two" as in nn.LSTM, or "one", as in the equations.
        init: "default" draws uniformly from (-1/sqrt(H), 1/sqrt(H)), in nn.LSTM's order; "normal" draws the weights
            from N(0, 1) as the tutorial does: gate by gate in its order f, i, g, o, the recurrent weight before the
            input's, and sets the biases to 0.

    Raises:
        ValueError: for a size below 1, or a dropout outside [0, 1].
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        biases: Biases = "two",
        init: Init = "default",
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        for name, choice, choices in (("biases", biases, get_args(Biases)), ("init", init, get_args(Init))):
            if choice not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {choice!r}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a probability from 0 to 1, got {dropout}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = dropout
        self.biases = biases
        self.init = init
        for layer in range(num_layers):
            size = input_size if layer == 0 else hidden_size
            self.register_parameter(f"weight_ih_l{layer}", nn.Parameter(torch.empty(4 * hidden_size, size)))
            self.register_parameter(f"weight_hh_l{layer}", nn.Parameter(torch.empty(4 * hidden_size, hidden_size)))
            self.register_parameter(f"bias_ih_l{layer}", nn.Parameter(torch.empty(4 * hidden_size)))
            if biases == "two":
                self.register_parameter(f"bias_hh_l{layer}", nn.Parameter(torch.empty(4 * hidden_size)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew, as `init` says."""
        if self.init == "normal":
            for layer in range(self.num_layers):
                self._draw_like_the_tutorial(layer)
            return
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @torch.no_grad()
    def _draw_like_the_tutorial(self, layer: int) -> None:
        weight_ih, weight_hh, *biases = self._parameters_of(layer)
        i, f, g, o = range(4)
        for gate in (f, i, g, o):
            rows = slice(gate * self.hidden_size, (gate + 1) * self.hidden_size)
            for weight in (weight_hh, weight_ih):
                weight[rows] = torch.randn(weight[rows].shape)
        for bias in biases:
            bias.zero_()

    def _parameters_of(self, layer: int) -> list[Tensor]:
        """weight_ih, weight_hh and the biases of one layer."""
        names = ["weight_ih", "weight_hh", "bias_ih"] + ["bias_hh"] * (self.biases == "two")
        return [cast(Tensor, getattr(self, f"{name}_l{layer}")) for name in names]

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, LSTMState]:
        """Run whole sequences.

        Args:
            x: (T, B, D), or (B, T, D) with batch_first; or one sequence, (T, D).
            state: the hidden and the cell state before the first step, each (num_layers, B, H), or (num_layers, H)
                for one sequence; zeros if not given.

        Returns:
            The last layer's hidden state after every step, shaped as x with H in place of D, and the state after
            the last step of each layer, LSTMState(hidden, cell).

        Raises:
            ValueError: if x does not have 2 or 3 dimensions, no time step, or not input_size features, or if
                the state has another shape.
        """
        if x.dim() not in (2, 3):
            raise ValueError(f"x must have 2 dimensions (one sequence) or 3 (a batch), got {x.dim()}")
        if x.size(-1) != self.input_size:
            raise ValueError(
                f"x must have input_size={self.input_size} features in its last dimension, got {x.size(-1)}"
            )
        batch_dim = 1 if x.dim() == 2 or not self.batch_first else 0
        x_TBD = x.unsqueeze(1) if x.dim() == 2 else x.transpose(0, 1) if self.batch_first else x
        if x_TBD.size(0) == 0:
            raise ValueError("x must have at least one time step")
        if state is None:
            zeros = x_TBD.new_zeros(self.num_layers, x_TBD.size(1), self.hidden_size)
            state = (zeros, zeros)
        elif x.dim() == 2:
            state = (state[0].unsqueeze(1), state[1].unsqueeze(1))

        shape = (self.num_layers, x_TBD.size(1), self.hidden_size)
        if any(part.shape != shape for part in state):
            given = [tuple(part.shape) for part in state]
            raise ValueError(f"each part of the state must be (num_layers, B, H) = {shape}, got {given}")

        out_TBH = x_TBD
        last: list[LSTMState] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0:
                out_TBH = F.dropout(out_TBH, self.dropout, self.training)
            weight_ih, weight_hh, *biases = self._parameters_of(layer)
            bias_4H = biases[0] + biases[1] if self.biases == "two" else biases[0]
            before = LSTMState(state[0][layer], state[1][layer])
            out_TBH, after = unroll(out_TBH, before, weight_ih, weight_hh, bias_4H)
            last.append(after)

        hidden_LBH, cell_LBH = (torch.stack(parts) for parts in zip(*last, strict=True))
        if x.dim() == 2:
            return out_TBH.squeeze(1), LSTMState(hidden_LBH.squeeze(1), cell_LBH.squeeze(1))
        return (out_TBH.transpose(0, 1) if batch_dim == 0 else out_TBH), LSTMState(hidden_LBH, cell_LBH)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, batch_first={self.batch_first}, "
            f"dropout={self.dropout}, biases={self.biases}"
        )
