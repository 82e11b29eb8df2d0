"""Examples by their index. B batch, T time, D features, S horizon, K targets, N rows, P segments, G sequences.

There are three kinds: sequences.Sequences, all of one length and stored as they are; Windows, which get_batch slices
from long series; and LabelledSequences, of different lengths.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Sequences and their targets.

    x_BTD: (B, T, D), float32. y: (B), a number per sequence; or (B, S, K), the next S steps of K targets, unscaled; or
    (B), int64, the index of each sequence's class. lengths_B: the lengths, if the sequences differ in length; then they
    are padded with 0.
    """

    x_BTD: Tensor
    y: Tensor
    lengths_B: Tensor | None = None


class Examples(Protocol):
    """Interface of the three kinds of examples."""

    @property
    def count(self) -> int:
        """Number of examples."""
        ...

    def get_batch(self, indices: Tensor) -> Batch:
        """Return the examples with these indices, (B), as one batch."""
        ...


@dataclass(frozen=True)
class Windows:
    """Windows of T + S consecutive rows: the first T are the input, the last S hold the targets.

    All windows share the memory of the rows. The windows of a segment start every `stride` rows, from the segment's
    first window on; windows are numbered segment by segment.

    values_ND: the rows, (N, D). targets: indices of the target columns. context, horizon: T and S. starts_P, counts_P:
    for each segment the first row of its first window, and its number of windows.
    """

    values_ND: Tensor
    targets: tuple[int, ...]
    context_length: int
    horizon: int
    stride: int
    starts_P: Tensor
    counts_P: Tensor

    @property
    def count(self) -> int:
        """Number of windows."""
        return int(self.counts_P.sum())

    def first_rows(self, indices: Tensor) -> Tensor:
        """Return the first row of each of these windows, (B)."""
        ends_P = self.counts_P.cumsum(0)
        segment_B = torch.searchsorted(ends_P, indices, right=True)
        within_B = indices - (ends_P - self.counts_P)[segment_B]
        return self.starts_P[segment_B] + within_B * self.stride

    def forecast_starts(self) -> Tensor:
        """Return each window's first target row."""
        return self.first_rows(torch.arange(self.count)) + self.context_length

    def row_spans(self) -> list[tuple[int, int]]:
        """Return for each segment the range of its target rows, the end exclusive."""
        begins_P = self.starts_P + self.context_length
        ends_P = begins_P + (self.counts_P - 1) * self.stride + self.horizon
        return list(zip(begins_P.tolist(), ends_P.tolist(), strict=True))

    def get_batch(self, indices: Tensor) -> Batch:
        """Return copies of these windows: inputs (B, T, D) and targets (B, S, K)."""
        steps = torch.arange(self.context_length + self.horizon)
        window_BLD = self.values_ND[self.first_rows(indices).unsqueeze(1) + steps]
        return Batch(window_BLD[:, : self.context_length], window_BLD[:, self.context_length :, list(self.targets)])


@dataclass(frozen=True)
class LabelledSequences:
    """Sequences of different lengths, each with a class or a number.

    values_ND: the rows of all sequences, (N, D). starts_G, lengths_G: first row and number of rows of each sequence.
    y_G: index of the class, int64, or the number to predict, float32.
    """

    values_ND: Tensor
    starts_G: Tensor
    lengths_G: Tensor
    y_G: Tensor

    @property
    def count(self) -> int:
        """Number of sequences."""
        return len(self.y_G)

    def row_spans(self) -> list[tuple[int, int]]:
        """Return the range of rows of each sequence, the end exclusive."""
        return list(zip(self.starts_G.tolist(), (self.starts_G + self.lengths_G).tolist(), strict=True))

    def get_batch(self, indices: Tensor) -> Batch:
        """Return these sequences, padded at the end with 0, and their lengths."""
        lengths_B = self.lengths_G[indices]
        steps = torch.arange(int(lengths_B.max()))
        real_BT = steps < lengths_B.unsqueeze(1)
        rows_BT = torch.where(real_BT, self.starts_G[indices].unsqueeze(1) + steps, 0)
        return Batch(self.values_ND[rows_BT] * real_BT.unsqueeze(-1), self.y_G[indices], lengths_B)
