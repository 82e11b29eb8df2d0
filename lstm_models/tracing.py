"""An LSTM opened: what its gates and states are at every time step."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lstm_models import padding
from lstm_models.cells import Cell, LSTMState, Step, Weights
from lstm_models.kernel import steps
from lstm_models.lstm import LSTM


def trace(
    lstm: LSTM | nn.LSTM,
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
) -> Step:
    """The gates i, f, g, o and the states c, h of each layer, direction and time step.

    What a layer computes is the same as in a call of the LSTM, dropout included if it is in training mode; gradients
    go through it.

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
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths are for a batch; got a PackedSequence, which has its own")
        input, lengths = pad_packed_sequence(input, batch_first=lstm.batch_first)
        lengths = lengths.to(input.device)
    recorded: list[Step] = []

    def loop(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, *, training: bool) -> LSTMState:
        all_steps = Step(*map(torch.stack, zip(*steps(x_TBD, state, weights, cell, training), strict=True)))
        backwards = lstm.bidirectional and len(recorded) % 2 == 1
        recorded.append(Step(*(padding.reverse(part, lengths) if backwards else part for part in all_steps)))
        return LSTMState(all_steps.h, all_steps.c)

    lstm.run(input, hx, lengths, loop)
    return Step(*(_in_the_form_of(input, torch.stack(parts), lengths, lstm) for parts in zip(*recorded, strict=True)))


def _in_the_form_of(input: Tensor, part_KTBH: Tensor, lengths: Tensor | None, lstm: LSTM) -> Tensor:
    if lengths is not None:
        real_TB1 = padding.is_real(lengths, part_KTBH.size(1)).unsqueeze(-1)
        part_KTBH = part_KTBH.masked_fill(~real_TB1, torch.nan)
    if input.dim() == 2:
        return part_KTBH.squeeze(2)
    return part_KTBH.transpose(1, 2) if lstm.batch_first else part_KTBH
