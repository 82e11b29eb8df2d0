"""Batches of sequences of different lengths, against torch's packing and against loops in plain Python."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from lstm_models.nn import padding


class Ragged(NamedTuple):
    """A padded batch: the lengths of the sequences, the padded length T, and the number of features D."""

    lengths: list[int]
    T: int
    D: int


@st.composite
def batches(draw: st.DrawFn) -> Ragged:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    return Ragged(lengths, max(lengths) + draw(st.integers(0, 2)), draw(st.integers(1, 3)))


def numbered(T: int, B: int, D: int) -> Tensor:
    """Return a tensor with different elements, none of them 0."""
    return torch.arange(1.0, T * B * D + 1).reshape(T, B, D)


def packed(lengths: list[int], D: int, enforce_sorted: bool = False) -> PackedSequence:
    return pack_padded_sequence(numbered(max(lengths), len(lengths), D), torch.tensor(lengths), False, enforce_sorted)


# ---- packed sequences
@given(batches(), st.booleans())
@example(Ragged([4, 4, 4], 4, 2), False)
@example(Ragged([1], 1, 1), True)
@example(Ragged([2, 6, 1, 6], 6, 2), False)
def test_pad_equals_pad_packed_sequence_and_pack_inverts_it(batch: Ragged, enforce_sorted: bool) -> None:
    lengths = sorted(batch.lengths, reverse=True) if enforce_sorted else batch.lengths
    sequence = packed(lengths, batch.D, enforce_sorted)
    x_TBD, lengths_B, rows = padding.pad(sequence.data, sequence.batch_sizes)

    # torch pads in the order before packing; to_packed converts it to the packed order
    expected, expected_lengths = pad_packed_sequence(sequence)
    to_packed = torch.arange(len(lengths)) if enforce_sorted else sequence.sorted_indices
    assert torch.equal(x_TBD, expected[:, to_packed])
    assert torch.equal(lengths_B, expected_lengths[to_packed])
    assert torch.equal(padding.packed_lengths(sequence.batch_sizes), lengths_B)
    assert torch.equal(padding.pack(x_TBD, rows), sequence.data)


def test_pack_drops_padding_for_any_number_of_features() -> None:
    """The outputs of an LSTM have as many features as its hidden state, and values in the padding too."""
    sequence = packed([2, 3, 1], 2)
    _, lengths_B, rows = padding.pad(sequence.data, sequence.batch_sizes)
    assert lengths_B.tolist() == [3, 2, 1]
    out_TBH = numbered(3, 3, 4)
    assert torch.equal(padding.pack(out_TBH, rows), pack_padded_sequence(out_TBH, lengths_B).data)


def test_gradients_pass_through_padding_and_packing() -> None:
    sequences = [numbered(length, 1, 2).squeeze(1).requires_grad_() for length in (2, 4)]
    sequence = pack_sequence(sequences, enforce_sorted=False)
    x_TBD, _, rows = padding.pad(sequence.data, sequence.batch_sizes)
    padding.pack(x_TBD.square(), rows).sum().backward()
    assert all(torch.equal(each.grad, 2 * each.detach()) for each in sequences)


# ---- lengths
@given(batches())
@example(Ragged([4, 4, 4], 4, 2))
def test_lengths_define_mask_last_step_and_reversal(batch: Ragged) -> None:
    """The reversal leaves the padding in place."""
    lengths, x_TBD = torch.tensor(batch.lengths), numbered(batch.T, len(batch.lengths), batch.D)
    real_TB, last_1BD = padding.valid_mask(lengths, batch.T), padding.last_step(x_TBD, lengths)
    reversed_TBD = padding.reverse(x_TBD, lengths)
    assert real_TB.dtype == torch.bool
    assert real_TB.tolist() == [[step < length for length in batch.lengths] for step in range(batch.T)]
    assert last_1BD.tolist() == [[x_TBD[length - 1, b].tolist() for b, length in enumerate(batch.lengths)]]
    for b, length in enumerate(batch.lengths):
        steps = x_TBD[:, b].tolist()
        assert reversed_TBD[:, b].tolist() == steps[:length][::-1] + steps[length:]


def test_without_lengths_sequences_have_all_steps() -> None:
    x_TBD = numbered(4, 3, 2)
    assert torch.equal(padding.last_step(x_TBD, None), x_TBD[-1:])
    assert torch.equal(padding.reverse(x_TBD, None), x_TBD.flip(0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_lengths_of_any_integer_type(dtype: torch.dtype) -> None:
    """LSTM.forward accepts integers of any type."""
    x_TBD, lengths = numbered(4, 3, 2), torch.tensor([1, 4, 3])
    other = lengths.to(dtype)
    assert torch.equal(padding.valid_mask(other, 4), padding.valid_mask(lengths, 4))
    assert torch.equal(padding.last_step(x_TBD, other), padding.last_step(x_TBD, lengths))
    assert torch.equal(padding.reverse(x_TBD, other), padding.reverse(x_TBD, lengths))


def test_arguments_are_unchanged_and_share_no_memory_with_results() -> None:
    x_TBD, lengths, sequence = numbered(4, 3, 2), torch.tensor([1, 4, 3]), packed([2, 3, 1], 2)
    given = (x_TBD, lengths, *sequence)
    before = [each.clone() for each in given]
    padded, lengths_B, rows = padding.pad(sequence.data, sequence.batch_sizes)
    results = [function(x_TBD, each) for function in (padding.reverse, padding.last_step) for each in (lengths, None)]
    for result in (*results, padding.pack(padded, rows), padded, lengths_B):
        result.zero_()
    assert all(map(torch.equal, given, before))


def test_empty_padded_batch() -> None:
    x_TBD, lengths = torch.empty(3, 0, 2), torch.empty(0, dtype=torch.int64)
    assert padding.valid_mask(lengths, 3).shape == (3, 0)
    assert padding.last_step(x_TBD, lengths).shape == (1, 0, 2)
    assert padding.reverse(x_TBD, lengths).shape == (3, 0, 2)
