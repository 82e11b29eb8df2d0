"""`lengths`, which nn.LSTM lacks: a padded batch gives what nn.LSTM gives for the same sequences packed."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_models import LSTM

# nn.LSTM says on the CPU that a faster library than its own does not know projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

CLOSE = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums in another order: FACTS measures 3e-16
T, B, D, H = 6, 4, 2, 3
LENGTHS = torch.tensor([2, 5, 1, 5])  # none fills all T steps

SETTINGS = [
    {},
    {"bidirectional": True},
    {"num_layers": 2},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2, "bias": False},
]


def drawn(module: LSTM) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Sequences, the batch in the middle, and a state."""
    K = module.num_layers * (2 if module.bidirectional else 1)
    hidden = torch.randn(K, B, module.proj_size or H, dtype=torch.float64)
    return torch.randn(T, B, D, dtype=torch.float64), (hidden, torch.randn(K, B, H, dtype=torch.float64))


def gradients(module: nn.Module, results: list[Tensor], *inputs: Tensor) -> list[Tensor]:
    """Of a loss that weighs every result by a number of its own, by the inputs and the parameters."""
    loss = [
        (result * torch.arange(1.0, result.numel() + 1, dtype=result.dtype).sin().view(result.shape)).sum()
        for result in results
    ]
    return list(torch.autograd.grad(sum(loss), [*inputs, *module.parameters()]))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_padded_batch_gives_what_nn_lstm_gives_packed(
    settings: dict[str, Any], batch_first: bool, with_state: bool
) -> None:
    torch.manual_seed(0)
    ours = LSTM(D, H, **settings, batch_first=batch_first, dtype=torch.float64)
    reference = ours.to_builtin()
    x, state = drawn(ours)
    x = x.transpose(0, 1) if batch_first else x
    x.requires_grad_()
    given = state if with_state else None

    out, after = ours(x, given, LENGTHS)
    packed_out, packed_after = reference(pack_padded_sequence(x, LENGTHS, batch_first, enforce_sorted=False), given)
    expected, _ = pad_packed_sequence(packed_out, batch_first, total_length=T)  # with zeros

    found, expected = [out, *after], [expected, *packed_after]
    found += gradients(ours, found, x)
    expected += gradients(reference, expected, x)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, **CLOSE)
    padding = torch.arange(T).unsqueeze(1) >= LENGTHS
    assert not (out.transpose(0, 1) if batch_first else out)[padding].any()


@pytest.mark.parametrize("content", [1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_stands_in_the_padding_changes_no_bit(settings: dict[str, Any], content: float) -> None:
    torch.manual_seed(0)
    module = LSTM(D, H, **settings, dtype=torch.float64)
    x, state = drawn(module)
    padding = (torch.arange(T).unsqueeze(1) >= LENGTHS).unsqueeze(-1)
    of_both = []
    for fill in (0, content):
        filled = x.masked_fill(padding, fill).requires_grad_()
        out, after = module(filled, state, LENGTHS)
        found = [out, *after]
        of_both.append((found, gradients(module, found, filled)))
    (found, of_zeros), (others, of_content) = of_both
    assert all(torch.equal(value, other) for value, other in zip(found, others, strict=True))
    assert all(torch.equal(value, other) for value, other in zip(of_zeros, of_content, strict=True))
    assert not of_content[0].masked_select(padding).any()  # and the padding has no gradient


@pytest.mark.parametrize("settings", [*SETTINGS, {"num_layers": 3, "dropout": 0.5}], ids=str)
def test_lengths_that_fill_every_step_change_no_bit(settings: dict[str, Any]) -> None:
    module = LSTM(D, H, **settings, dtype=torch.float64)
    x, state = drawn(module)
    of_both = []
    for lengths in (None, torch.full((B,), T)):
        torch.manual_seed(0)
        out, after = module(x, state, lengths)
        of_both.append([out, *after, *gradients(module, [out, *after])])
    assert all(torch.equal(value, other) for value, other in zip(*of_both, strict=True))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_lengths_of_any_integer_type(dtype: torch.dtype) -> None:
    module = LSTM(D, H, bidirectional=True, dtype=torch.float64)
    x, _ = drawn(module)
    expected, _ = module(x, lengths=LENGTHS)
    assert torch.equal(module(x, lengths=LENGTHS.to(dtype))[0], expected)


def test_an_empty_batch_has_no_lengths() -> None:
    out, (hidden, cell) = LSTM(D, H)(torch.zeros(T, 0, D), None, torch.zeros(0, dtype=torch.int64))
    assert (out.shape, hidden.shape, cell.shape) == ((T, 0, H), (1, 0, H), (1, 0, H))


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        ([2, 5, 1, 7], "lengths must be from 1 to 6, the time steps, got [2, 5, 1, 7]"),
        ([2, 5, 0, 5], "lengths must be from 1 to 6, the time steps, got [2, 5, 0, 5]"),
        ([2, 5, -1, 5], "lengths must be from 1 to 6, the time steps, got [2, 5, -1, 5]"),
        ([2, 5, 1], "lengths must be 4 integers, one a sequence, got torch.int64 (3,)"),
        (5, "lengths must be 4 integers, one a sequence, got torch.int64 ()"),
        ([[2], [5], [1], [5]], "lengths must be 4 integers, one a sequence, got torch.int64 (4, 1)"),
        ([2.0, 5.0, 1.0, 5.0], "lengths must be 4 integers, one a sequence, got torch.float32 (4,)"),
        ([True, True, True, True], "lengths must be 4 integers, one a sequence, got torch.bool (4,)"),
        ([2j, 5, 1, 5], "lengths must be 4 integers, one a sequence, got torch.complex64 (4,)"),
    ],
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_impossible_lengths(batch_first: bool, lengths: Any, text: str) -> None:
    x = torch.zeros((B, T, D) if batch_first else (T, B, D))
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        LSTM(D, H, batch_first=batch_first)(x, None, torch.tensor(lengths))


def test_lengths_are_not_for_one_sequence() -> None:
    with pytest.raises(ValueError, match=r"^lengths are for a batch; got one sequence, \(T, D\)$"):
        LSTM(D, H)(torch.zeros(T, D), None, torch.tensor([T]))


def test_lengths_in_a_list_are_refused_with_what_is_expected() -> None:
    with pytest.raises(TypeError, match=r"^lengths must be a Tensor, got list$"):
        LSTM(3, 4)(torch.randn(6, 2, 3), lengths=[6, 2])  # type: ignore[call-overload]


def test_lengths_are_not_for_packed_sequences_which_have_their_own() -> None:
    packed = pack_padded_sequence(torch.zeros(T, B, D), LENGTHS, enforce_sorted=False)
    with pytest.raises(ValueError, match=r"^lengths are for a batch; got a PackedSequence"):
        LSTM(D, H)(packed, None, LENGTHS)
