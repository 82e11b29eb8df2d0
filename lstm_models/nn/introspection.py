"""An LSTM opened: what its gates and states are at every time step."""

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
    """The gates i, f, g, o and the states c, h of each layer, direction and time step.

    What a layer computes is the same as in a call of the LSTM, dropout included if it is in training mode. Gradients go
    through it, to the weights of a hand-built LSTM; of an nn.LSTM's weights it sees a copy.

    Args:
        lstm: a hand-built LSTM with any cell, or an nn.LSTM, which is opened as the hand-built one of equal weights.
        input: sequences, as `LSTM.forward` takes them.
        hx: the state before the first step, likewise.
        lengths: of a padded batch, likewise.

    Returns:
        Step(i, f, g, o, c, h), each (K, ..., H), h (K, ..., P) where there is a projection. K counts layers and, within
        a layer, directions, as in a state; the dots stand for the input's shape without its features: T, B, or B, T
        with batch_first, or T for one sequence, or those of the padded batch for a PackedSequence. A step lies where
        the input that it read lies, in the backward direction too. NaN after a sequence's end.

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
    lengths_B = padding.lengths_of(input.batch_sizes) if isinstance(input, PackedSequence) else lengths
    for k in range(1, len(recorded), 2) if lstm.bidirectional else ():
        recorded[k] = Step(*(padding.reverse(part, lengths_B) for part in recorded[k]))
    opened = Step(*(torch.stack(parts) for parts in zip(*recorded, strict=True)))  # (K, T, B, ...)
    if lengths_B is not None:
        padding_TB1 = ~padding.is_real(lengths_B, opened.c.size(1)).unsqueeze(-1)
        opened = Step(*(part.masked_fill(padding_TB1, torch.nan) for part in opened))
    if isinstance(input, PackedSequence):
        if (order := input.unsorted_indices) is not None:
            opened = Step(*(part.index_select(2, order) for part in opened))
    elif input.dim() == 2:
        return Step(*(part.squeeze(2) for part in opened))
    return Step(*(part.transpose(1, 2) for part in opened)) if lstm.batch_first else opened


def has_gates(recurrent: nn.Module) -> TypeGuard[LSTM | nn.LSTM]:
    """Whether there is something in it for `trace` to open."""
    return isinstance(recurrent, LSTM | nn.LSTM)


class StateGradients(NamedTuple):
    """How much the loss depends on the states of each time step, (T): see `gradients_through_time`."""

    hidden_T: Tensor
    cell_T: Tensor | None


def gradients_through_time(network: Network, batch: Batch) -> StateGradients:
    """The norm of dLoss/dh_t, and of dLoss/dc_t where there is a cell state, at every time step t.

    The loss is that of one sequence; the norm is taken over all layers and units, and the mean over the sequences. A
    gradient that dies on its way back through time can't teach what lies that far back: Hochreiter 1991; Bengio,
    Simard and Frasconi 1994.

    Args:
        network: with a core of one direction: an LSTM of either kind, or an nn.RNN.
        batch: some sequences; each is held against what is to be told of it.
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
        seen_BTD, level_BK = network.preprocess(batch.x_BTD, batch.lengths_B)
        _, (last_KBH, _) = core._forward(seen_BTD, None, batch.lengths_B, loop)
        loss = network.losses(network.decode(last_KBH[-1], level_BK), batch.y).sum()
        hidden_T, cell_T = (
            _norms(_gradients(loss, states), seen_BTD.size(1))
            for states in (
                [step.h for layer in layers for step in layer],
                [step.c for layer in layers for step in layer],
            )
        )
    return StateGradients(hidden_T, cell_T if has_gates(network.recurrent) else None)


def _gradients(loss: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    """Of the loss with respect to each state; 0 where it depends on no weight, as a c that a cell does not use."""
    learnt = [state for state in states if state.requires_grad]
    found = iter(torch.autograd.grad(loss, learnt, retain_graph=True, materialize_grads=True) if learnt else ())
    return [next(found) if state.requires_grad else torch.zeros_like(state) for state in states]


def _norms(gradients: Sequence[Tensor], steps: int) -> Tensor:
    """Of gradients (B, H), the steps of one layer after those of another: over layers and units, the mean over B."""
    return torch.stack(
        [torch.stack(list(gradients[t::steps])).square().sum(dim=(0, 2)).sqrt().mean() for t in range(steps)]
    )
