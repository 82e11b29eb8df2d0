"""What is learnt from and judged on: examples by their number. B batch, T time, D features, S horizon, K targets.

Three kinds: tables.Sequences, all of one length and held as they are; Windows, cut out of long series when they are
asked for; Labelled, whole series of different lengths. Each has a count, and `take`, which makes a batch of those asked
for.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Sequences and what is to be told of each.

    x_BTD: (B, T, D), float32. y: (B), a number each; or (B, S, K), the next S steps of K targets, in the target's unit;
    or (B), int64, the number of each one's class. lengths_B: where the sequences differ in length, theirs; they are
    padded with 0.
    """

    x_BTD: Tensor
    y: Tensor
    lengths_B: Tensor | None = None


class Examples(Protocol):
    """Any of the three kinds."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def get_batch(self, numbers: Tensor) -> Batch:
        """The examples of these numbers, (B), as one batch."""
        ...


@dataclass(frozen=True)
class Windows:
    """Windows of T + S steps, cut out of the rows of a table: the first T are seen, the targets of the last S are told.

    The rows are held once, whatever the number of windows. Window number n of a piece begins n * stride rows after the
    piece's first one; the pieces follow one another.

    values_ND: the rows, (N, D). targets: which of the D columns are to be told. firsts_P, counts_P: of each piece its
    first window's first row, and the number of its windows.
    """

    values_ND: Tensor
    targets: tuple[int, ...]
    context: int
    horizon: int
    stride: int
    starts_P: Tensor
    counts_P: Tensor

    @property
    def count(self) -> int:
        return int(self.counts_P.sum())

    def rows(self, numbers: Tensor) -> Tensor:
        """The first row of each of these windows, (B)."""
        ends_P = self.counts_P.cumsum(0)
        piece_B = torch.searchsorted(ends_P, numbers, right=True)
        within_B = numbers - (ends_P - self.counts_P)[piece_B]
        return self.starts_P[piece_B] + within_B * self.stride

    def forecast_starts(self) -> Tensor:
        """Of every window the first row that is to be told."""
        return self.rows(torch.arange(self.count)) + self.context

    def spans(self) -> list[tuple[int, int]]:
        """Of each piece the first row that is told, and the one after the last."""
        begins_P = self.starts_P + self.context
        ends_P = begins_P + (self.counts_P - 1) * self.stride + self.horizon
        return list(zip(begins_P.tolist(), ends_P.tolist(), strict=True))

    def get_batch(self, numbers: Tensor) -> Batch:
        steps = torch.arange(self.context + self.horizon)
        window_BLD = self.values_ND[self.rows(numbers).unsqueeze(1) + steps]
        return Batch(window_BLD[:, : self.context], window_BLD[:, self.context :, list(self.targets)])


@dataclass(frozen=True)
class LabelledSequences:
    """Whole series of different lengths, and a label or a number for each.

    values_ND: the rows of all, (N, D). firsts_G, lengths_G: where each one's begin, and how many they are. y_G: the
    class's number, int64, or the number to be told, float32.
    """

    values_ND: Tensor
    starts_G: Tensor
    lengths_G: Tensor
    y_G: Tensor

    @property
    def count(self) -> int:
        return len(self.y_G)

    def spans(self) -> list[tuple[int, int]]:
        """Of each series the first row, and the one after the last."""
        return list(zip(self.starts_G.tolist(), (self.starts_G + self.lengths_G).tolist(), strict=True))

    def get_batch(self, numbers: Tensor) -> Batch:
        lengths_B = self.lengths_G[numbers]
        steps = torch.arange(int(lengths_B.max()))
        real_BT = steps < lengths_B.unsqueeze(1)
        rows_BT = torch.where(real_BT, self.starts_G[numbers].unsqueeze(1) + steps, 0)
        return Batch(self.values_ND[rows_BT] * real_BT.unsqueeze(-1), self.y_G[numbers], lengths_B)
