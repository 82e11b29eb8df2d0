"""The seam between the LSTM and whatever runs its loop over time. Shapes as in cells.py, P the size of h_t.

What runs is chosen here and nowhere else:
    loops.plain_loop            a cell's `step` after another: any cell, and whatever differentiates in its own way
    loops.scanned_loop          what torch.export stores
    native.every_state          compiled, for the LSTM's own cell in float32 on the CPU
    through_time.ThroughTime    the same numbers in PyTorch's operations, wherever else the LSTM's own cell runs
"""

import torch
from torch import Tensor

from lstm_models.nn.cells import Cell, LSTMState, Weights
from lstm_models.nn.kernels import native
from lstm_models.nn.kernels.bptt import LSTMFunction, under_transform
from lstm_models.nn.kernels.reference import (
    STANDARD_CELL,
    STANDARD_WEIGHTS,
    Loop,
    merge_biases,
    reference_loop,
    run_direction,
    scan_loop,
)


def unroll(
    x: Tensor,
    state: LSTMState,
    weights: Weights,
    cell: Cell = STANDARD_CELL,
    *,
    training: bool = False,
    backwards: bool = False,
    batch_sizes: Tensor | None = None,
    lengths_B: Tensor | None = None,
    loop: Loop | None = None,
) -> tuple[Tensor, LSTMState]:
    """Run the cell over all time steps of one layer, in one direction.

    Whatever stands behind this function keeps to it: nothing given is changed, all tensors share one device and one
    floating-point type, and gradients of all results go to every argument. T is 1 or more; B may be 0.

    Args:
        x: the layer's input, time first, (T, B, D), of any strides; with batch_sizes, the rows of a PackedSequence.
        state: the state before the first step, hidden (B, P) and cell (B, H).
        weights: weight_ih (4H, D) and weight_hh (4H, P), rows in the order i, f, g, o; bias_ih, or bias_ih and bias_hh,
            (4H) each, if there are biases; if o_t * tanh(c_t) is projected to h_t, weight_hr (P, H), and else P = H.
            Another cell may have other gates, and weights of its own.
        cell: the equations of a step.
        training: whether the cell's dropout and zoneout draw at random.
        backwards: whether the sequences are read from their ends to their beginnings.
        batch_sizes: a PackedSequence's own, how many sequences have each step, (T), on the CPU.
        lengths_B: of a padded batch, how many steps each sequence has, 1 to T.
        loop: what is to run, rather than what is chosen here; it is given the sum of the biases, as `bias`.

    Returns:
        The hidden state after every step, each where the input that it read lies: (T, B, P), or rows of P numbers; past
        a sequence's length something. And the state after each sequence's last step, hidden (1, B, P), cell (1, B, H).

    Raises:
        RuntimeError: in native code, for batch_sizes that no PackedSequence of so many rows can have; elsewhere what
            PyTorch makes of them.
    """
    if loop is None:
        loop = select_loop(x, state, weights, cell, training)
        if loop is native.forward_all_states and lengths_B is None:  # no need to pad, to pack or to turn anything round
            return native.unroll(x, state, weights, backwards, batch_sizes)
    states, after = run_direction(
        loop, x, state, merge_biases(weights), cell, training, backwards, batch_sizes, lengths_B
    )
    return states.hidden, after


def select_loop(x: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> Loop:
    """What runs on the arguments of `unroll`."""
    if not is_standard_cell(x, cell, training):
        return scan_loop if torch.compiler.is_exporting() else reference_loop
    return native.forward_all_states if native.supports(x, state, weights) else bptt_loop


def is_standard_cell(x: Tensor, cell: Cell, training: bool) -> bool:
    """Whether the LSTM's own equations are all that the cell does, on real numbers, and nobody looks on."""
    return (
        type(cell) is Cell
        and cell.zoneout == 0
        and not (training and cell.recurrent_dropout > 0)
        and not (torch.compiler.is_compiling() or under_transform() or x.is_complex())
    )


def bptt_loop(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> LSTMState:
    """The LSTM's own cell by through_time.ThroughTime: the loop where there is no native code."""
    given = (weights.get(name) for name in STANDARD_WEIGHTS)
    return LSTMState(*LSTMFunction.apply(x_TBD, *state, *given))  # type: ignore[no-untyped-call]
