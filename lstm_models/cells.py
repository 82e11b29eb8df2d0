"""The equations of one time step.

Shapes: B batch, T time, D input_size, H hidden_size. Tensor names end in their shape.

The tutorial's four gates (with the letters of nn.LSTM, in whose order they are stored):

    i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)     input gate
    f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)     forget gate
    g_t = tanh   (W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)     candidate
    o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)     output gate
    c_t = f_t * c_{t-1} + i_t * g_t                          cell state, the long memory
    h_t = o_t * tanh(c_t)                                    hidden state, the short memory

Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000. The tutorial has
one bias a gate where nn.LSTM has two, b_i and b_h; only their sum matters to what the cell computes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

GATES = ("input", "forget", "candidate", "output")


class LSTMState(NamedTuple):
    """What an LSTM carries from one time step to the next: `hidden` and `cell`, each (B, H)."""

    hidden: Tensor
    cell: Tensor


def lstm_cell(gates_B4H: Tensor, cell_BH: Tensor) -> LSTMState:
    """One time step, from the four gates' summed inputs before their activation.

    Args:
        gates_B4H: W_i x_t + b_i + W_h h_{t-1} + b_h for the gates i, f, g, o side by side, (B, 4H).
        cell_BH: c_{t-1}, (B, H).

    Returns:
        LSTMState(h_t, c_t).
    """
    i_BH, f_BH, g_BH, o_BH = gates_B4H.chunk(4, dim=-1)
    cell_BH = torch.sigmoid(f_BH) * cell_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH)
    return LSTMState(torch.sigmoid(o_BH) * torch.tanh(cell_BH), cell_BH)
