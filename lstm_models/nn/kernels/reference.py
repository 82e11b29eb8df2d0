"""Reference implementations of the loop over time. Shapes as in cells.py; P is the size of h_t.

    reference_loop      one call of a cell's `step` per time step, differentiable by autograd any number of times: the
                        reference for all other implementations
    scan_loop           one scan operator for any number of time steps: for torch.export

Both read a dense batch from its first step; `run_direction` adapts them to packed, padded and reversed sequences.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan_op

from lstm_models.nn import padding
from lstm_models.nn.cells import Cell, LSTMState, Step, Weights

STANDARD_CELL = Cell()
STANDARD_WEIGHTS = ("weight_ih", "weight_hh", "bias", "weight_hr")  # all weights that the standard cell can have

# x (T, B, D), the initial state, the weights, the cell, training or not -> the states after every step
Loop = Callable[[Tensor, LSTMState, Weights, Cell, bool], LSTMState]


def reference_loop(
    x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell = STANDARD_CELL, training: bool = False
) -> LSTMState:
    """Run the cell step by step; arguments as in `dispatch.unroll`."""
    hidden, cells = zip(
        *((step.h, step.c) for step in iterate_steps(x_TBD, state, weights, cell, training)), strict=True
    )
    return LSTMState(torch.stack(hidden), torch.stack(cells))


def iterate_steps(
    x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell = STANDARD_CELL, training: bool = False
) -> Iterator[Step]:
    """Yield the gates and states of each time step.

    The input's part of the gates does not depend on the state, so one matrix product computes it for all steps; the
    recurrent product and the cell remain in the loop.
    """
    step = _initial_step(state)
    draws = training and cell.recurrent_dropout > 0
    mask_BP = F.dropout(torch.ones_like(state.hidden), cell.recurrent_dropout) if draws else None
    for z_BG in cell.project_input(x_TBD, weights).unbind(0):
        step = _one_step(z_BG, step, weights, cell, training, mask_BP)
        yield step


def _initial_step(state: LSTMState) -> Step:
    zeros = torch.zeros_like(state.cell)
    return Step(zeros, zeros, zeros, zeros, state.cell, state.hidden)


def _one_step(
    z_BG: Tensor, previous: Step, weights: Weights, cell: Cell, training: bool, mask_BP: Tensor | None
) -> Step:
    """Run a cell's step with the options of all cells: recurrent dropout, projection and zoneout."""
    dropped = previous if mask_BP is None else previous._replace(h=previous.h * mask_BP)
    step = cell.step(z_BG, dropped, weights)
    if "weight_hr" in weights:
        step = step._replace(h=F.linear(step.h, weights["weight_hr"]))
    if cell.zoneout > 0:
        c = _apply_zoneout(step.c, previous.c, cell.zoneout, training)
        step = step._replace(c=c, h=_apply_zoneout(step.h, previous.h, cell.zoneout, training))
    return step


def _apply_zoneout(current: Tensor, previous: Tensor, probability: float, training: bool) -> Tensor:
    """Keep previous values at random, or return the expected value in evaluation mode (Krueger et al. 2017)."""
    share = torch.bernoulli(torch.full_like(current, probability)) if training else probability
    return share * previous + (1 - share) * current


def scan_loop(
    x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell = STANDARD_CELL, training: bool = False
) -> LSTMState:
    """Run the cell in one scan operator, so that an exported program accepts any number of time steps.

    Arguments as in `dispatch.unroll`.

    Raises:
        RuntimeError: In training mode, if the cell has dropout or zoneout: an exported program draws nothing at random.
    """
    if training and (cell.recurrent_dropout > 0 or cell.zoneout > 0):
        raise RuntimeError("call eval() before the export: recurrent dropout and zoneout draw at random in training")

    def one_step(*tensors: Tensor) -> list[Tensor]:
        previous, z_BG, values = Step(*tensors[:6]), tensors[6], tensors[7:]
        step = _one_step(z_BG, previous, dict(zip(weights, values, strict=True)), cell, False, None)
        carry = (part.contiguous() for part in step)  # g may be a view of the gates' sums; scan requires one layout
        return [*carry, step.h.clone(), step.c.clone()]  # cloned: scan requires outputs that do not alias the carry

    first = [part.clone() for part in _initial_step(state)]
    *_, hidden_TBP, cell_TBH = scan_op(one_step, first, [cell.project_input(x_TBD, weights)], tuple(weights.values()))
    return LSTMState(hidden_TBP, cell_TBH)


def run_direction(
    loop: Loop,
    x: Tensor,
    state: LSTMState,
    weights: Weights,
    cell: Cell,
    training: bool,
    backwards: bool,
    batch_sizes: Tensor | None,
    lengths_B: Tensor | None,
) -> tuple[LSTMState, LSTMState]:
    """Run a loop over a batch that may be packed or padded, in either direction; arguments as in `dispatch.unroll`.

    Returns:
        The states after every step, at the position of the input of that step; and the states after each sequence's
        last step, (1, B, ...).
    """
    if batch_sizes is not None:
        x, lengths_B, rows = padding.pad(x, batch_sizes)
    states = loop(padding.reverse(x, lengths_B) if backwards else x, state, weights, cell, training)
    final = LSTMState(*(padding.last_step(part, lengths_B) for part in states))
    if backwards:
        states = LSTMState(*(padding.reverse(part, lengths_B) for part in states))
    if batch_sizes is not None:
        states = LSTMState(*(padding.pack(part, rows) for part in states))
    return states, final


def merge_biases(weights: Weights) -> Weights:
    """Return the weights with `bias`, the sum of bias_ih and bias_hh, in their place."""
    others = dict(weights)
    biases = [others.pop(name) for name in ("bias_ih", "bias_hh") if name in others]
    return {**others, "bias": biases[0] + biases[1] if len(biases) == 2 else biases[0]} if biases else others


def named_weights(names: Sequence[str], weights: Sequence[Tensor | None]) -> Weights:
    """Return the weights that are not None by their names."""
    return {name: weight for name, weight in zip(names, weights, strict=True) if weight is not None}


def gradient(
    function: Callable[..., Sequence[Tensor]],
    arguments: Sequence[Tensor | None],
    grad_outputs: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Return the gradient of a function, differentiable with respect to its arguments and grad_outputs.

    Args:
        function: The function to differentiate.
        arguments: Its arguments; None for an absent one.
        grad_outputs: The gradients of its results; None for zeros.

    Returns:
        The gradient of each argument; None for an absent one.
    """
    indices = range(len(arguments))

    def evaluate(tensors: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        return tuple(function(*map(tensors.get, indices)))

    tensors = {index: value for index, value in enumerate(arguments) if value is not None}
    results, vjp = torch.func.vjp(evaluate, tensors)  # type: ignore[misc]
    pairs = zip(results, grad_outputs, strict=True)
    (gradients,) = vjp(tuple(torch.zeros_like(result) if grad is None else grad for result, grad in pairs))
    return tuple(map(gradients.get, indices))
