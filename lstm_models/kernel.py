"""The seam between the LSTM and whatever runs its loop over time. Shapes as in cells.py, P the size of h_t.

What runs is chosen here and nowhere else:
    loops.plain_loop            a cell's `step` after another: any cell, and whatever differentiates in its own way
    loops.scanned_loop          what torch.export stores
    native.unroll               compiled, for the LSTM's own cell in float32 on the CPU
    through_time.ThroughTime    the same numbers in PyTorch's operations, wherever else the LSTM's own cell runs
"""

import torch
from torch import Tensor

from lstm_models import native
from lstm_models.cells import Cell, LSTMState, Weights
from lstm_models.loops import BASE, BASE_WEIGHTS, Loop, either_way, plain_loop, scanned_loop
from lstm_models.through_time import ThroughTime, is_transformed


def unroll(
    x: Tensor,
    state: LSTMState,
    weights: Weights,
    cell: Cell = BASE,
    *,
    training: bool = False,
    backwards: bool = False,
    batch_sizes: Tensor | None = None,
    loop: Loop | None = None,
) -> LSTMState:
    """Run the cell over all time steps of one layer, in one direction.

    Whatever stands behind this function keeps to it: nothing given is changed, all tensors share one device and one
    floating-point type, and gradients of both results go to every argument. T is 1 or more; B may be 0.

    Args:
        x: the layer's input, time first, (T, B, D), of any strides; with batch_sizes, the rows of a PackedSequence.
        state: the state before the first step, hidden (B, P) and cell (B, H).
        weights: weight_ih (4H, D) and weight_hh (4H, P), rows in the order i, f, g, o; if there are biases, bias, their
            sum (4H); if o_t * tanh(c_t) is projected to h_t, weight_hr (P, H), and else P = H. Another cell may have
            other gates, and weights of its own.
        cell: the equations of a step.
        training: whether the cell's dropout and zoneout draw at random.
        backwards: whether the sequences are read from their ends to their beginnings.
        batch_sizes: a PackedSequence's own, how many sequences have each step, (T), on the CPU.
        loop: what is to run, rather than what is chosen here.

    Returns:
        The states after every step, each where the input that it read lies: hidden (T, B, P) and cell (T, B, H), or
        rows of P and H numbers.

    Raises:
        RuntimeError: in native code, for batch_sizes that no PackedSequence of so many rows can have; elsewhere what
            PyTorch makes of them.
    """
    if loop is None:
        if not _is_dull(x, cell, training):
            loop = scanned_loop if torch.compiler.is_exporting() else plain_loop
        elif native.takes(x, state, weights):
            return native.unroll(x, state, weights, backwards, batch_sizes)
        else:
            loop = in_operations
    return either_way(loop, x, state, weights, cell, training, backwards, batch_sizes)


def _is_dull(x: Tensor, cell: Cell, training: bool) -> bool:
    """Whether the LSTM's own equations are all that the cell does, on real numbers, and nobody looks on."""
    return (
        type(cell) is Cell
        and cell.zoneout == 0
        and not (training and cell.recurrent_dropout > 0)
        and not (torch.compiler.is_compiling() or is_transformed() or x.is_complex())
    )


def in_operations(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> LSTMState:
    """The LSTM's own cell by through_time.ThroughTime: the loop where there is no native code."""
    given = (weights.get(name) for name in BASE_WEIGHTS)
    return LSTMState(*ThroughTime.apply(x_TBD, *state, *given))  # type: ignore[no-untyped-call]
