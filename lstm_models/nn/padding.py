"""Batches of sequences of different lengths: padded at the end, (T, B, ...) with lengths (B), or packed.

The loop over time runs on a padded batch as it is: padding comes after the sequence, so it can't affect the sequence's
results. It is sufficient to read each state at the last real step, and to reverse each sequence within its length.
"""

import torch
from torch import Tensor


def valid_mask(lengths_B: Tensor, steps: int) -> Tensor:
    """Return a mask of the steps that are no padding, (T, B)."""
    return torch.arange(steps, device=lengths_B.device).unsqueeze(1) < lengths_B


def last_step(x_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Return a copy of the values at each sequence's last step, (1, B, H), which shares no memory with the input."""
    if lengths_B is None:
        return x_TBH[-1:].clone(memory_format=torch.contiguous_format)
    step_1BH = (lengths_B.long() - 1).view(1, -1, 1).expand(1, *x_TBH.shape[1:])
    return x_TBH.gather(0, step_1BH)


def packed_lengths(batch_sizes: Tensor) -> Tensor:
    """Return the lengths of a packed batch's sequences, the longest first, (B)."""
    return _real(batch_sizes).sum(0)


def _real(batch_sizes: Tensor) -> Tensor:
    """Return a mask of the real steps of a packed batch in padded form, (T, B)."""
    return torch.arange(int(batch_sizes[0])) < batch_sizes.unsqueeze(1)


def reverse(x_TBH: Tensor, lengths_B: Tensor | None) -> Tensor:
    """Reverse each sequence within its length; the padding stays at the end."""
    if lengths_B is None:
        return x_TBH.flip(0)
    step_T1 = torch.arange(x_TBH.size(0), device=x_TBH.device).unsqueeze(1)
    step_TB = torch.where(step_T1 < lengths_B, lengths_B.long() - 1 - step_T1, step_T1)
    return x_TBH.gather(0, step_TB.unsqueeze(-1).expand_as(x_TBH))


def pad(data: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pad a packed batch with zeros, its sequences in their packed order, the longest first.

    Returns:
        The padded batch (T, B, D), the lengths (B), and the indices of the packed rows among the T * B padded rows.
    """
    real_TB = _real(batch_sizes)
    rows = real_TB.flatten().nonzero().squeeze(1).to(data.device)
    padded = data.new_zeros(real_TB.numel(), data.size(1)).index_copy(0, rows, data)
    return padded.view(*real_TB.shape, -1), real_TB.sum(0).to(data.device), rows


def pack(x_TBH: Tensor, rows: Tensor) -> Tensor:
    """Return the real steps of a padded batch as the rows of a packed batch, at the indices returned by `pad`."""
    return x_TBH.flatten(0, 1).index_select(0, rows)
