"""The loop over time, in what PyTorch can differentiate and store. Shapes as in cells.py; P is the size of h_t.

    plain_loop          a cell's `step` after another, differentiable by autograd in any way and as often as one likes:
                        the reference for the rest
    scanned_loop        one torch operator for any number of time steps: what torch.export stores

They read a dense batch from its beginning; `either_way` has them read a packed one, and from the end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan_op

from lstm_models.nn import padding
from lstm_models.nn.cells import Cell, LSTMState, Step, Weights

STANDARD_CELL = Cell()
STANDARD_WEIGHTS = ("weight_ih", "weight_hh", "bias", "weight_hr")  # all that the LSTM's own cell can have

# x (T, B, D), the state before, the weights, the cell, and whether it is in training: the states after every step
Loop = Callable[[Tensor, LSTMState, Weights, Cell, bool], LSTMState]


def reference_loop(
    x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell = STANDARD_CELL, training: bool = False
) -> LSTMState:
    """The loop as one would write it down; see `unroll`."""
    hidden, cells = zip(
        *((step.h, step.c) for step in iterate_steps(x_TBD, state, weights, cell, training)), strict=True
    )
    return LSTMState(torch.stack(hidden), torch.stack(cells))


def iterate_steps(
    x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell = STANDARD_CELL, training: bool = False
) -> Iterator[Step]:
    """One step after another, with all that it computes.

    The input's part of the gates does not depend on the state, so it is one matrix product for all steps; what remains
    in the loop is the recurrent product and the cell.
    """
    step = _initial_step(state)
    draws = training and cell.recurrent_dropout > 0
    mask_BP = F.dropout(torch.ones_like(state.hidden), cell.recurrent_dropout) if draws else None
    for z_BG in cell.from_input(x_TBD, weights).unbind(0):
        step = _one_step(z_BG, step, weights, cell, training, mask_BP)
        yield step


def _initial_step(state: LSTMState) -> Step:
    nothing = torch.zeros_like(state.cell)
    return Step(nothing, nothing, nothing, nothing, state.cell, state.hidden)


def _one_step(z_BG: Tensor, before: Step, weights: Weights, cell: Cell, training: bool, mask_BP: Tensor | None) -> Step:
    """A cell's step, with what every cell may have: recurrent dropout, a projection, zoneout."""
    dropped = before if mask_BP is None else before._replace(h=before.h * mask_BP)
    step = cell.step(z_BG, dropped, weights)
    if "weight_hr" in weights:
        step = step._replace(h=F.linear(step.h, weights["weight_hr"]))
    if cell.zoneout > 0:
        c = _apply_zoneout(step.c, before.c, cell.zoneout, training)
        step = step._replace(c=c, h=_apply_zoneout(step.h, before.h, cell.zoneout, training))
    return step


def _apply_zoneout(after: Tensor, before: Tensor, probability: float, training: bool) -> Tensor:
    """Krueger et al. 2017: before, where a draw says so; in evaluation the mean of that."""
    share = torch.bernoulli(torch.full_like(after, probability)) if training else probability
    return share * before + (1 - share) * after


def scan_loop(
    x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell = STANDARD_CELL, training: bool = False
) -> LSTMState:
    """The loop as one operator, so that an exported program does not depend on the number of steps; see `unroll`.

    Raises:
        RuntimeError: while training, if the cell has dropout or zoneout: what is exported draws nothing.
    """
    if training and (cell.recurrent_dropout > 0 or cell.zoneout > 0):
        raise RuntimeError("call eval() before the export: recurrent dropout and zoneout draw at random in training")

    def one_step(*tensors: Tensor) -> list[Tensor]:
        before, z_BG, given = Step(*tensors[:6]), tensors[6], tensors[7:]
        step = _one_step(z_BG, before, dict(zip(weights, given, strict=True)), cell, False, None)
        carried_on = (part.contiguous() for part in step)  # g may be a view of the gates' sums; scan wants one layout
        return [*carried_on, step.h.clone(), step.c.clone()]  # the states once more: scan wants other tensors to keep

    first = [part.clone() for part in _initial_step(state)]
    *_, hidden_TBP, cell_TBH = scan_op(one_step, first, [cell.from_input(x_TBD, weights)], tuple(weights.values()))
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
    """A loop over a batch that may be packed, or padded, and may be read from its end; see `kernel.unroll`.

    Returns:
        The states after every step, each where the input that it read lies; and after each sequence's last (1, B, ...).
    """
    if batch_sizes is not None:
        x, lengths_B, rows = padding.pad(x, batch_sizes)
    states = loop(padding.reverse(x, lengths_B) if backwards else x, state, weights, cell, training)
    after = LSTMState(*(padding.last_step(part, lengths_B) for part in states))
    if backwards:
        states = LSTMState(*(padding.reverse(part, lengths_B) for part in states))
    if batch_sizes is not None:
        states = LSTMState(*(padding.pack(part, rows) for part in states))
    return states, after


def merge_biases(weights: Weights) -> Weights:
    """Of two biases their sum, which is all that a cell computes with."""
    others = dict(weights)
    biases = [others.pop(name) for name in ("bias_ih", "bias_hh") if name in others]
    return {**others, "bias": biases[0] + biases[1] if len(biases) == 2 else biases[0]} if biases else others


def named_weights(names: Sequence[str], weights: Sequence[Tensor | None]) -> Weights:
    """Of weights in this order those that there are, by their names."""
    return {name: weight for name, weight in zip(names, weights, strict=True) if weight is not None}


def gradient(
    function: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor | None], outside: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradient of a function, as a differentiable function of its arguments and of what comes from outside.

    Args:
        function: what is to be differentiated.
        arguments: what it is called with; None: there is none.
        outside: the gradients of its results; None: zeros.
    """
    places = range(len(arguments))

    def results_of(given: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        return tuple(function(*map(given.get, places)))

    given = {place: value for place, value in enumerate(arguments) if value is not None}
    results, gradient_of = torch.func.vjp(results_of, given)  # type: ignore[misc]
    pairs = zip(results, outside, strict=True)
    (gradients,) = gradient_of(tuple(torch.zeros_like(to) if by is None else by for to, by in pairs))
    return tuple(map(gradients.get, places))
