"""Examples by their index: windows against plain slicing, and sequences padded with zeros."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lstm_models.data.windows import LabelledSequences, Windows

ROWS_ND = torch.arange(60 * 3.0).reshape(60, 3)


class Cut(NamedTuple):
    """Parameters of windows; segments as (first row, number of windows)."""

    context: int
    horizon: int
    stride: int
    targets: tuple[int, ...]
    segments: list[tuple[int, int]]

    def windows(self) -> Windows:
        starts_P, counts_P = torch.tensor(self.segments).T
        return Windows(ROWS_ND, self.targets, self.context, self.horizon, self.stride, starts_P, counts_P)

    def sliced(self) -> list[tuple[Tensor, Tensor]]:
        """Return the inputs and targets of each window, by slicing."""
        firsts = [first + number * self.stride for first, count in self.segments for number in range(count)]
        ends = [first + self.context for first in firsts]
        return [
            (ROWS_ND[first:end], ROWS_ND[end : end + self.horizon][:, self.targets])
            for first, end in zip(firsts, ends, strict=True)
        ]


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Draw segments anywhere, in any order, some without a window, but with at least one window in total."""
    context, horizon, stride = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    segments = []
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(ROWS_ND) - context - horizon))
        most = (len(ROWS_ND) - first - context - horizon) // stride + 1
        segments.append((first, draw(st.integers(0, most))))
    if not any(count for _, count in segments):
        segments[-1] = (segments[-1][0], 1)
    targets = draw(st.permutations(range(3)))[: draw(st.integers(1, 3))]
    return Cut(context, horizon, stride, tuple(targets), segments)


@given(cut=cuts(), data=st.data())
def test_batches_of_windows_equal_slices_in_any_order(cut: Cut, data: st.DataObject) -> None:
    windows, expected = cut.windows(), cut.sliced()
    assert windows.count == len(expected)
    indices = data.draw(st.lists(st.integers(0, len(expected) - 1), min_size=1, max_size=12))
    x_BTD, y_BSK, lengths_B = windows.get_batch(torch.tensor(indices))
    assert torch.equal(x_BTD, torch.stack([expected[index][0] for index in indices]))
    assert torch.equal(y_BSK, torch.stack([expected[index][1] for index in indices]))
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
def test_sequences_are_padded_with_zeros_and_labels_keep_their_type(
    lengths: list[int], dtype: torch.dtype, data: st.DataObject
) -> None:
    lengths_G = torch.tensor(lengths)
    starts_G = 3 + lengths_G.cumsum(0) - lengths_G  # the first sequence does not start at row 0
    y_G = torch.arange(len(lengths), dtype=dtype) * 10 + 1
    labelled = LabelledSequences(ROWS_ND + 1, starts_G, lengths_G, y_G)
    assert labelled.count == len(lengths)

    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    x_BTD, y_B, lengths_B = labelled.get_batch(torch.tensor(indices))
    assert lengths_B is not None
    assert lengths_B.tolist() == [lengths[index] for index in indices]
    assert (y_B.dtype, y_B.tolist()) == (dtype, [index * 10 + 1 for index in indices])
    assert x_BTD.shape == (len(indices), max(lengths_B.tolist()), 3)
    for x_TD, index, length in zip(x_BTD, indices, lengths_B.tolist(), strict=True):
        first = int(starts_G[index])
        assert torch.equal(x_TD[:length], ROWS_ND[first : first + length] + 1)
        assert not x_TD[length:].any()
