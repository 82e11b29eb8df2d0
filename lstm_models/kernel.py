"""The loop over time. Shapes as in cells.py: B batch, T time, D input_size, H hidden_size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lstm_models.cells import LSTMState, lstm_cell


def unroll(
    x_TBD: Tensor, state: LSTMState, weight_ih: Tensor, weight_hh: Tensor, bias_4H: Tensor
) -> tuple[Tensor, LSTMState]:
    """Run the cell over all time steps of one layer.

    The input's part of the gates does not depend on the state, so it is one matrix product for all steps; what
    remains in the loop is the recurrent product and the cell.

    Args:
        x_TBD: the layer's input, time first.
        state: the state before the first step, each part (B, H).
        weight_ih: (4H, D), rows in the order i, f, g, o.
        weight_hh: (4H, H).
        bias_4H: the sum of all biases.

    Returns:
        The hidden state after every step, (T, B, H), and the state after the last.
    """
    gates_TB4H = F.linear(x_TBD, weight_ih, bias_4H)
    weight_hh_H4H = weight_hh.t()
    hidden_states = []
    for gates_B4H in gates_TB4H.unbind(0):
        state = lstm_cell(torch.addmm(gates_B4H, state.hidden, weight_hh_H4H), state.cell)
        hidden_states.append(state.hidden)
    return torch.stack(hidden_states), state
