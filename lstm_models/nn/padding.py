"""Sequences of different lengths in one batch: padded at the end, (T, B, ...) with lengths (B), or packed.

A padded batch goes through the loop over time as it is. Nothing that a sequence's padding computes can reach the
sequence, for it comes later; so all that is needed is to read the states at the right step, and to turn each sequence
round within its own length.
"""

import torch
from torch import Tensor


def is_real(lengths_B: Tensor, steps: int) -> Tensor:
    """Which steps belong to their sequence and are no padding, (T, B)."""
    return torch.arange(steps, device=lengths_B.device).unsqueeze(1) < lengths_B


def last_step(x_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """A copy of what stands at each sequence's last step, (1, B, H): the rest need not be kept for it."""
    if lengths_B is None:
        return x_TBH[-1:].clone(memory_format=torch.contiguous_format)
    step_1BH = (lengths_B.long() - 1).view(1, -1, 1).expand(1, *x_TBH.shape[1:])
    return x_TBH.gather(0, step_1BH)


def lengths_of(batch_sizes: Tensor) -> Tensor:
    """Of a packed batch's sequences, the longest first, (B)."""
    return _real(batch_sizes).sum(0)


def _real(batch_sizes: Tensor) -> Tensor:
    """Which steps of a packed batch's sequences are real once they are padded, (T, B)."""
    return torch.arange(int(batch_sizes[0])) < batch_sizes.unsqueeze(1)


def reverse(x_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Each sequence from its end to its beginning; the padding stays where it is."""
    if lengths_B is None:
        return x_TBH.flip(0)
    step_T1 = torch.arange(x_TBH.size(0), device=x_TBH.device).unsqueeze(1)
    step_TB = torch.where(step_T1 < lengths_B, lengths_B.long() - 1 - step_T1, step_T1)
    return x_TBH.gather(0, step_TB.unsqueeze(-1).expand_as(x_TBH))


def pad(data: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A packed batch padded with zeros, its sequences in their packed order, the longest first.

    Returns:
        (T, B, D), the lengths (B), and where the packed rows lie among the T * B padded ones.
    """
    real_TB = _real(batch_sizes)
    rows = real_TB.flatten().nonzero().squeeze(1).to(data.device)
    padded = data.new_zeros(real_TB.numel(), data.size(1)).index_copy(0, rows, data)
    return padded.view(*real_TB.shape, -1), real_TB.sum(0).to(data.device), rows


def pack(x_TBH: Tensor, rows: Tensor) -> Tensor:
    """The real steps of a padded batch as the rows of a packed one, as `pad` found them."""
    return x_TBH.flatten(0, 1).index_select(0, rows)
