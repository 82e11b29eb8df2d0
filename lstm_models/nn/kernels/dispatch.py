"""Selection of the implementation of the loop over time. Shapes as in cells.py; P is the size of h_t.

reference.reference_loop    one call of a cell's `step` per time step: for custom cells and function transforms
reference.scan_loop         one scan operator: for torch.export
native.unroll               compiled code: for the standard cell in float32 on the CPU
bptt.LSTMFunction           the same computation in PyTorch's operations: for the standard cell in all other cases
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

    Every implementation leaves its arguments unchanged, requires all tensors on one device and in one floating-point
    type, and propagates the gradients of all results to all arguments. T is at least 1; B may be 0.

    Args:
        x: The layer's input, time first, (T, B, D), with any strides; with batch_sizes, the rows of a PackedSequence.
        state: The state before the first step, hidden (B, P) and cell (B, H).
        weights: weight_ih (4H, D) and weight_hh (4H, P), rows in the order i, f, g, o; optionally bias_ih, or bias_ih
            and bias_hh, (4H) each; weight_hr (P, H) if o_t * tanh(c_t) is projected to h_t, otherwise P = H. A custom
            cell may have other gates and additional weights.
        cell: The equations of one time step.
        training: Whether the cell's recurrent dropout and zoneout draw at random.
        backwards: Whether the sequences are read from their last step to their first.
        batch_sizes: The batch sizes of a PackedSequence, (T), on the CPU.
        lengths_B: The sequence lengths of a padded batch, 1 to T.
        loop: The implementation to run; None selects one. It receives the sum of the biases as `bias`.

    Returns:
        The hidden state after every step, at the position of the input of that step: (T, B, P), or rows of P numbers;
        undefined after a sequence's length. And the state after each sequence's last step, hidden (1, B, P) and cell
        (1, B, H).

    Raises:
        RuntimeError: If the native code gets batch_sizes that do not match a PackedSequence with this number of rows;
            the other implementations raise PyTorch's errors.
    """
    if loop is None:
        loop = select_loop(x, state, weights, cell, training)
        if loop is native.forward_all_states and lengths_B is None:  # reads packed and reversed sequences directly
            return native.unroll(x, state, weights, backwards, batch_sizes)
    states, final = run_direction(
        loop, x, state, merge_biases(weights), cell, training, backwards, batch_sizes, lengths_B
    )
    return states.hidden, final


def select_loop(x: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> Loop:
    """Return the implementation that runs on these arguments of `unroll`."""
    if not is_standard_cell(x, cell, training):
        return scan_loop if torch.compiler.is_exporting() else reference_loop
    return native.forward_all_states if native.supports(x, state, weights) else bptt_loop


def is_standard_cell(x: Tensor, cell: Cell, training: bool) -> bool:
    """Return whether the cell computes only the standard equations, on real numbers, untraced and untransformed."""
    return (
        type(cell) is Cell
        and cell.zoneout == 0
        and not (training and cell.recurrent_dropout > 0)
        and not (torch.compiler.is_compiling() or under_transform() or x.is_complex())
    )


def bptt_loop(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> LSTMState:
    """Run the standard cell by bptt.LSTMFunction, where native code does not support the arguments."""
    tensors = (weights.get(name) for name in STANDARD_WEIGHTS)
    return LSTMState(*LSTMFunction.apply(x_TBD, *state, *tensors))  # type: ignore[no-untyped-call]
