"""The argument `lengths`: a padded batch gives the results of nn.LSTM for the same sequences packed."""

from typing import Any

import pytest
import torch
from helpers.lstm_parity import CLOSE, assert_identical, draw_state, results, weighted_sum
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_models import LSTM

# on the CPU, nn.LSTM warns that oneDNN does not support projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

T, B, D, H = 6, 4, 2, 3
LENGTHS = torch.tensor([2, 5, 1, 5])  # all shorter than T
PADDING_TB1 = (torch.arange(T).unsqueeze(1) >= LENGTHS).unsqueeze(-1)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"bidirectional": True},
    {"num_layers": 2},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2, "bias": False},
]


def make(settings: dict[str, Any]) -> tuple[LSTM, Tensor]:
    """Return a module and a batch of sequences, (T, B, D)."""
    torch.manual_seed(0)
    return LSTM(D, H, **settings, dtype=torch.float64), torch.randn(T, B, D, dtype=torch.float64)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padded_batch_equals_nn_lstm_on_packed_sequences(
    settings: dict[str, Any], batch_first: bool, with_state: bool
) -> None:
    ours, x = make(settings | {"batch_first": batch_first})
    reference, state = ours.to_builtin(), draw_state(ours, B) if with_state else None
    x = (x.transpose(0, 1) if batch_first else x).requires_grad_()

    out, after = ours(x, state, LENGTHS)
    packed_out, packed_after = reference(pack_padded_sequence(x, LENGTHS, batch_first, enforce_sorted=False), state)
    expected, _ = pad_packed_sequence(packed_out, batch_first, total_length=T)  # with zeros
    for module, both in ((ours, found := [out, *after]), (reference, wanted := [expected, *packed_after])):
        both += torch.autograd.grad(weighted_sum(both), [x, *(state or ()), *module.parameters()])
    for value, other in zip(found, wanted, strict=True):
        # sums in another order
        torch.testing.assert_close(value, other, rtol=CLOSE[torch.float64], atol=CLOSE[torch.float64])
    assert not (out.transpose(0, 1) if batch_first else out)[PADDING_TB1.squeeze(-1)].any()


@pytest.mark.parametrize("content", [1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_content_changes_no_bit(settings: dict[str, Any], content: float) -> None:
    module, x = make(settings)
    state = draw_state(module, B)
    found, expected = (
        results(module, x.masked_fill(PADDING_TB1, fill).requires_grad_(), state, LENGTHS) for fill in (content, 0)
    )
    assert_identical(found, expected)
    assert not found["dx"].masked_select(PADDING_TB1).any()  # the padding has no gradient


@pytest.mark.parametrize("settings", [*SETTINGS, {"num_layers": 3, "dropout": 0.5}], ids=str)
def test_full_lengths_change_no_bit(settings: dict[str, Any]) -> None:
    module, x = make(settings)
    state, of_both = draw_state(module, B), []
    for lengths in (None, torch.full((B,), T)):
        torch.manual_seed(0)
        of_both.append(results(module, x, state, lengths))
    assert_identical(*of_both)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_lengths_of_any_integer_type(dtype: torch.dtype) -> None:
    module, x = make({"bidirectional": True})
    assert torch.equal(module(x, lengths=LENGTHS.to(dtype))[0], module(x, lengths=LENGTHS)[0])


def test_empty_batch_with_empty_lengths() -> None:
    out, (hidden, cell) = LSTM(D, H)(torch.zeros(T, 0, D), None, torch.zeros(0, dtype=torch.int64))
    assert (out.shape, hidden.shape, cell.shape) == ((T, 0, H), (1, 0, H), (1, 0, H))
