"""Examples by their number: windows as plain slicing cuts them, and whole series padded with zeros."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lstm_models.data.windows import LabelledSequences, Windows

ROWS_ND = torch.arange(60 * 3.0).reshape(60, 3)


class Cut(NamedTuple):
    """How windows are cut, and from where: pieces as (first row, number of windows)."""

    context: int
    horizon: int
    stride: int
    targets: tuple[int, ...]
    pieces: list[tuple[int, int]]

    def windows(self) -> Windows:
        firsts_P, counts_P = torch.tensor(self.pieces).T
        return Windows(ROWS_ND, self.targets, self.context, self.horizon, self.stride, firsts_P, counts_P)

    def sliced(self) -> list[tuple[Tensor, Tensor]]:
        """The same by slicing, one window after another."""
        firsts = [first + number * self.stride for first, count in self.pieces for number in range(count)]
        ends = [first + self.context for first in firsts]
        return [
            (ROWS_ND[first:end], ROWS_ND[end : end + self.horizon][:, self.targets])
            for first, end in zip(firsts, ends, strict=True)
        ]


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Pieces anywhere, in any order, with as few as no window in them, but one in all at least."""
    context, horizon, stride = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    pieces = []
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(ROWS_ND) - context - horizon))
        most = (len(ROWS_ND) - first - context - horizon) // stride + 1
        pieces.append((first, draw(st.integers(0, most))))
    if not any(count for _, count in pieces):
        pieces[-1] = (pieces[-1][0], 1)
    targets = draw(st.permutations(range(3)))[: draw(st.integers(1, 3))]
    return Cut(context, horizon, stride, tuple(targets), pieces)


@given(cut=cuts(), data=st.data())
def test_windows_are_what_slicing_gives_in_any_order(cut: Cut, data: st.DataObject) -> None:
    windows, expected = cut.windows(), cut.sliced()
    assert windows.count == len(expected)
    numbers = data.draw(st.lists(st.integers(0, len(expected) - 1), min_size=1, max_size=12))
    x_BTD, y_BSK, lengths_B = windows.get_batch(torch.tensor(numbers))
    assert torch.equal(x_BTD, torch.stack([expected[number][0] for number in numbers]))
    assert torch.equal(y_BSK, torch.stack([expected[number][1] for number in numbers]))
    assert lengths_B is None


def test_windows_share_the_rows_and_a_batch_is_a_copy() -> None:
    rows_ND = np.zeros((1000, 2), dtype=np.float32)
    windows = Windows(torch.from_numpy(rows_ND), (0,), 100, 10, 1, torch.tensor([0]), torch.tensor([891]))
    assert np.shares_memory(windows.values_ND.numpy(), rows_ND)
    assert windows.count == 891
    batch = windows.get_batch(torch.tensor([890]))
    batch.x_BTD.fill_(7)
    batch.y.fill_(7)
    assert not rows_ND.any()


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.int64, torch.float32]),
    data=st.data(),
)
def test_series_are_padded_with_zeros_and_labels_keep_their_type(
    lengths: list[int], dtype: torch.dtype, data: st.DataObject
) -> None:
    lengths_G = torch.tensor(lengths)
    firsts_G = 3 + lengths_G.cumsum(0) - lengths_G  # no row of the first one is the table's first
    y_G = torch.arange(len(lengths), dtype=dtype) * 10 + 1
    labelled = LabelledSequences(ROWS_ND + 1, firsts_G, lengths_G, y_G)
    assert labelled.count == len(lengths)

    numbers = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    x_BTD, y_B, lengths_B = labelled.get_batch(torch.tensor(numbers))
    assert lengths_B is not None
    assert lengths_B.tolist() == [lengths[number] for number in numbers]
    assert (y_B.dtype, y_B.tolist()) == (dtype, [number * 10 + 1 for number in numbers])
    assert x_BTD.shape == (len(numbers), max(lengths_B.tolist()), 3)
    for x_TD, number, length in zip(x_BTD, numbers, lengths_B.tolist(), strict=True):
        first = int(firsts_G[number])
        assert torch.equal(x_TD[:length], ROWS_ND[first : first + length] + 1)
        assert not x_TD[length:].any()
