"""Sequences of different lengths in one batch, against torch's own packing and against loops in plain Python."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from lstm_models import padding


class Ragged(NamedTuple):
    """A padded batch: how long each sequence is, to how many steps it is padded, and its features."""

    lengths: list[int]
    T: int
    D: int


@st.composite
def batches(draw: st.DrawFn) -> Ragged:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    return Ragged(lengths, max(lengths) + draw(st.integers(0, 2)), draw(st.integers(1, 3)))


def numbered(T: int, B: int, D: int) -> Tensor:
    """No two elements the same, and none of them 0."""
    return torch.arange(1.0, T * B * D + 1).reshape(T, B, D)


def packed(lengths: list[int], D: int, enforce_sorted: bool) -> PackedSequence:
    return pack_padded_sequence(numbered(max(lengths), len(lengths), D), torch.tensor(lengths), False, enforce_sorted)


# ---- packed sequences


@settings(deadline=None)  # a shared machine may pause for longer than the default allows
@given(batches())
@example(Ragged([4, 4, 4], 4, 2))
@example(Ragged([1], 1, 1))
@example(Ragged([2, 6, 1, 6], 6, 2))
def test_pad_is_torchs_own_in_the_packed_order(batch: Ragged) -> None:
    lengths, _, D = batch
    for enforce_sorted in (False, True):
        given_lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
        sequence = packed(given_lengths, D, enforce_sorted)

        x_TBD, lengths_B, _ = padding.pad(sequence.data, sequence.batch_sizes)

        # torch pads in the order before packing; to_packed leads from there to the packed order
        expected, expected_lengths = pad_packed_sequence(sequence)
        to_packed = torch.arange(len(lengths)) if enforce_sorted else sequence.sorted_indices
        assert torch.equal(x_TBD, expected[:, to_packed])
        assert torch.equal(lengths_B, expected_lengths[to_packed])


@settings(deadline=None)  # as above
@given(batches(), st.booleans())
@example(Ragged([2, 6, 1, 6], 6, 2), False)
def test_what_was_padded_packs_to_what_it_was(batch: Ragged, enforce_sorted: bool) -> None:
    lengths = sorted(batch.lengths, reverse=True) if enforce_sorted else batch.lengths
    sequence = packed(lengths, batch.D, enforce_sorted)
    x_TBD, _, rows = padding.pad(sequence.data, sequence.batch_sizes)
    assert torch.equal(padding.pack(x_TBD, rows), sequence.data)


@settings(deadline=None)  # as above
@given(batches())
@example(Ragged([4, 4, 4], 4, 2))
def test_the_lengths_in_a_packed_batch(batch: Ragged) -> None:
    lengths = sorted(batch.lengths, reverse=True)
    sequence = packed(lengths, batch.D, enforce_sorted=True)
    assert padding.lengths_of(sequence.batch_sizes).tolist() == lengths


def test_pack_leaves_the_padding_out_and_takes_other_features() -> None:
    """What an LSTM makes of a packed batch: as wide as its hidden state, and with numbers in the padding too."""
    sequence = packed([2, 3, 1], 2, enforce_sorted=False)
    _, lengths_B, rows = padding.pad(sequence.data, sequence.batch_sizes)
    assert lengths_B.tolist() == [3, 2, 1]
    out_TBH = numbered(3, 3, 4)
    assert torch.equal(padding.pack(out_TBH, rows), pack_padded_sequence(out_TBH, lengths_B).data)


def test_padding_and_packing_pass_the_gradient_on_to_each_real_step() -> None:
    sequences = [numbered(length, 1, 2).squeeze(1).requires_grad_() for length in (2, 4)]
    sequence = pack_sequence(sequences, enforce_sorted=False)
    x_TBD, _, rows = padding.pad(sequence.data, sequence.batch_sizes)
    padding.pack(x_TBD.square(), rows).sum().backward()
    assert all(torch.equal(each.grad, 2 * each.detach()) for each in sequences)


# ---- lengths


@settings(deadline=None)  # as above
@given(batches())
def test_is_real_says_which_steps_come_before_the_end(batch: Ragged) -> None:
    found = padding.is_real(torch.tensor(batch.lengths), batch.T)
    assert found.dtype == torch.bool
    assert found.tolist() == [[step < length for length in batch.lengths] for step in range(batch.T)]


@settings(deadline=None)  # as above
@given(batches())
def test_last_step_is_the_one_at_each_sequences_end(batch: Ragged) -> None:
    x_TBD = numbered(batch.T, len(batch.lengths), batch.D)
    expected = [x_TBD[length - 1, number].tolist() for number, length in enumerate(batch.lengths)]
    assert padding.last_step(x_TBD, torch.tensor(batch.lengths)).tolist() == [expected]


def test_last_step_without_lengths_is_the_last_of_all() -> None:
    x_TBD = numbered(4, 3, 2)
    assert torch.equal(padding.last_step(x_TBD, None), x_TBD[-1:])
    assert torch.equal(padding.last_step(x_TBD, torch.tensor([4, 4, 4])), x_TBD[-1:])


@settings(deadline=None)  # as above
@given(batches())
def test_reverse_turns_each_sequence_round_and_leaves_its_padding(batch: Ragged) -> None:
    x_TBD = numbered(batch.T, len(batch.lengths), batch.D)
    found = padding.reverse(x_TBD, torch.tensor(batch.lengths))
    for number, length in enumerate(batch.lengths):
        steps = x_TBD[:, number].tolist()
        assert found[:, number].tolist() == steps[:length][::-1] + steps[length:]


@settings(deadline=None)  # as above
@given(batches())
def test_reverse_twice_changes_nothing(batch: Ragged) -> None:
    lengths = torch.tensor(batch.lengths)
    x_TBD = numbered(batch.T, len(batch.lengths), batch.D)
    assert torch.equal(padding.reverse(padding.reverse(x_TBD, lengths), lengths), x_TBD)


def test_reverse_without_lengths_is_a_flip() -> None:
    x_TBD = numbered(4, 3, 2)
    assert torch.equal(padding.reverse(x_TBD, None), x_TBD.flip(0))
    assert torch.equal(padding.reverse(x_TBD, torch.tensor([4, 4, 4])), x_TBD.flip(0))
    assert torch.equal(padding.reverse(padding.reverse(x_TBD, None), None), x_TBD)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_lengths_may_be_integers_of_any_size(dtype: torch.dtype) -> None:
    """What LSTM.forward lets through: integers, of whatever type."""
    x_TBD, lengths = numbered(4, 3, 2), torch.tensor([1, 4, 3])
    other = lengths.to(dtype)
    assert torch.equal(padding.is_real(other, 4), padding.is_real(lengths, 4))
    assert torch.equal(padding.last_step(x_TBD, other), padding.last_step(x_TBD, lengths))
    assert torch.equal(padding.reverse(x_TBD, other), padding.reverse(x_TBD, lengths))


def test_nothing_given_is_changed_and_nothing_returned_shares_its_memory_with_it() -> None:
    x_TBD, lengths = numbered(4, 3, 2), torch.tensor([1, 4, 3])
    sequence = packed([2, 3, 1], 2, enforce_sorted=False)
    before = [each.clone() for each in (x_TBD, lengths, *sequence)]
    padded, lengths_B, rows = padding.pad(sequence.data, sequence.batch_sizes)
    for result in (
        padding.reverse(x_TBD, lengths),
        padding.last_step(x_TBD, lengths),
        padding.pack(padded, rows),
        padded,
        lengths_B,
    ):
        result.zero_()
    assert all(torch.equal(each, copy) for each, copy in zip((x_TBD, lengths, *sequence), before, strict=True))


def test_an_empty_padded_batch() -> None:
    x_TBD, lengths = torch.empty(3, 0, 2), torch.empty(0, dtype=torch.int64)
    assert padding.is_real(lengths, 3).shape == (3, 0)
    assert padding.last_step(x_TBD, lengths).shape == (1, 0, 2)
    assert padding.reverse(x_TBD, lengths).shape == (3, 0, 2)
