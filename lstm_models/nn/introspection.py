"""Recording of an LSTM's gates and states at every time step, and of the gradients that reach them."""

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_models.data.windows import Batch
from lstm_models.nn import padding
from lstm_models.nn.cells import Cell, LSTMState, Step, Weights
from lstm_models.nn.kernels.reference import iterate_steps
from lstm_models.nn.lstm import LSTM
from lstm_models.nn.network import Network


def record_gates(
    lstm: LSTM | nn.LSTM,
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
) -> Step:
    """Return the gates i, f, g, o and the states c, h of each layer, direction and time step.

    The computation is that of a call of the LSTM, including dropout in training mode. It is differentiable with respect
    to the input, the state and the weights of a hand-built LSTM; an nn.LSTM's weights are copied, so they get no
    gradient.

    Args:
        lstm: A hand-built LSTM with any cell, or an nn.LSTM, which is converted to a hand-built LSTM.
        input: Sequences, as for `LSTM.forward`.
        hx: The initial state, as for `LSTM.forward`.
        lengths: Lengths of a padded batch, as for `LSTM.forward`.

    Returns:
        Step(i, f, g, o, c, h), each (K, ..., H); h is (K, ..., P) with a projection. K counts layers and, within a
        layer, directions, as in a state. The dots are the input's shape without features: (T, B), or (B, T) with
        batch_first, or (T) for one sequence; for a PackedSequence the shape of the padded batch. Values are stored at
        the index of the input step, in the backward direction too. They are NaN after the end of a sequence.

    Raises:
        As `LSTM.forward`.
    """
    if isinstance(lstm, nn.LSTM):
        lstm = LSTM.from_builtin(lstm)
    recorded: list[Step] = []

    def loop(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> LSTMState:
        recorded.append(
            Step(*map(torch.stack, zip(*iterate_steps(x_TBD, state, weights, cell, training), strict=True)))
        )
        return LSTMState(recorded[-1].h, recorded[-1].c)

    lstm._forward(input, hx, lengths, loop)
    lengths_B = padding.packed_lengths(input.batch_sizes) if isinstance(input, PackedSequence) else lengths
    for k in range(1, len(recorded), 2) if lstm.bidirectional else ():
        recorded[k] = Step(*(padding.reverse(part, lengths_B) for part in recorded[k]))
    gates = Step(*(torch.stack(parts) for parts in zip(*recorded, strict=True)))  # (K, T, B, ...)
    if lengths_B is not None:
        padding_TB1 = ~padding.valid_mask(lengths_B, gates.c.size(1)).unsqueeze(-1)
        gates = Step(*(part.masked_fill(padding_TB1, torch.nan) for part in gates))
    if isinstance(input, PackedSequence):
        if (order := input.unsorted_indices) is not None:
            gates = Step(*(part.index_select(2, order) for part in gates))
    elif input.dim() == 2:
        return Step(*(part.squeeze(2) for part in gates))
    return Step(*(part.transpose(1, 2) for part in gates)) if lstm.batch_first else gates


def has_gates(recurrent: nn.Module) -> TypeGuard[LSTM | nn.LSTM]:
    """Return whether a recurrent core is an LSTM, whose gates `record_gates` can record."""
    return isinstance(recurrent, LSTM | nn.LSTM)


class StateGradientNorms(NamedTuple):
    """Gradient norms of the loss with respect to the states of each time step, (T); see `gradients_through_time`."""

    hidden_T: Tensor
    cell_T: Tensor | None


def gradients_through_time(network: Network, batch: Batch) -> StateGradientNorms:
    """Return the norms of dLoss/dh_t, and of dLoss/dc_t if there is a cell state, for every time step t.

    The loss is that of one sequence; its gradient norm over all layers and units is averaged over the sequences.
    Where the gradient vanishes on its way back through time, the network can't learn from such early steps: Hochreiter
    1991; Bengio, Simard and Frasconi 1994.

    Args:
        network: A network with a unidirectional core: an LSTM of either kind, or an nn.RNN.
        batch: Sequences with their targets.
    """
    core = network.recurrent
    if isinstance(core, nn.LSTM | nn.RNN):
        core = LSTM.from_builtin(core)
    assert isinstance(core, LSTM)
    layers: list[list[Step]] = []

    def loop(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> LSTMState:
        layers.append(list(iterate_steps(x_TBD, state, weights, cell, training)))
        return LSTMState(
            *(torch.stack(parts) for parts in zip(*((step.h, step.c) for step in layers[-1]), strict=True))
        )

    with torch.enable_grad():
        inputs_BTD, offset_BK = network.preprocess(batch.x_BTD, batch.lengths_B)
        _, (last_KBH, _) = core._forward(inputs_BTD, None, batch.lengths_B, loop)
        loss = network.losses(network.decode(last_KBH[-1], offset_BK), batch.y).sum()
        hidden_T, cell_T = (
            _norms(_gradients(loss, states), inputs_BTD.size(1))
            for states in (
                [step.h for layer in layers for step in layer],
                [step.c for layer in layers for step in layer],
            )
        )
    return StateGradientNorms(hidden_T, cell_T if has_gates(network.recurrent) else None)


def _gradients(loss: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """Return the loss gradient for each state, 0 for a state that needs none, such as a c that a cell does not use."""
    differentiable = [state for state in states if state.requires_grad]
    gradients = iter(
        torch.autograd.grad(loss, differentiable, retain_graph=True, materialize_grads=True) if differentiable else ()
    )
    return [next(gradients) if state.requires_grad else torch.zeros_like(state) for state in states]


def _norms(gradients: Sequence[Tensor], steps: int) -> Tensor:
    """Return the norms over layers and units, averaged over B, of gradients (B, H) ordered by layer, then by step."""
    return torch.stack(
        [torch.stack(list(gradients[t::steps])).square().sum(dim=(0, 2)).sqrt().mean() for t in range(steps)]
    )
