"""What the hand-built LSTM refuses: with the very exception type that nn.LSTM raises, and in words of its own."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_models import LSTM

# nn.LSTM says on the CPU that a faster library than its own does not know projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

Maker = Callable[[type[LSTM] | type[nn.LSTM]], Any]


def assert_refused(make: Maker, text: str | None) -> None:
    """Both kinds raise the same type; ours this text, or, where PyTorch refuses for both, PyTorch's."""
    with pytest.raises(Exception) as theirs:
        make(nn.LSTM)
    with pytest.raises(Exception, match=f"^{re.escape(str(theirs.value) if text is None else text)}$") as ours:
        make(LSTM)
    assert ours.type is theirs.type


# ---- settings
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"input_size": 2.0}, "input_size must be an integer, got 2.0"),
        ({"input_size": "2"}, "input_size must be an integer, got '2'"),
        ({"input_size": None}, "input_size must be an integer, got None"),
        ({"input_size": np.int64(2)}, "input_size must be an integer, got np.int64(2)"),
        ({"input_size": 0}, "input_size must be at least 1, got 0"),
        ({"input_size": -1}, "input_size must be at least 1, got -1"),
        ({"hidden_size": 3.0}, "hidden_size must be an integer, got 3.0"),
        ({"hidden_size": [3]}, "hidden_size must be an integer, got [3]"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"hidden_size": -3}, "hidden_size must be at least 1, got -3"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_layers": -1}, "num_layers must be at least 1, got -1"),
        ({"num_layers": "2"}, "num_layers must be an integer, got '2'"),
        ({"num_layers": 1.0}, "num_layers must be an integer, got 1.0"),
        ({"num_layers": None}, "num_layers must be an integer, got None"),
        ({"proj_size": -1}, "proj_size must be at least 0, got -1"),
        ({"proj_size": 3}, "proj_size must be smaller than hidden_size=3, or 0, got 3"),
        ({"proj_size": 4}, "proj_size must be smaller than hidden_size=3, or 0, got 4"),
        ({"proj_size": 1.5}, "proj_size must be an integer, got 1.5"),
        ({"proj_size": "1"}, "proj_size must be an integer, got '1'"),
        ({"proj_size": None}, "proj_size must be an integer, got None"),
        ({"bias": 1}, "bias must be a bool, got 1"),
        ({"bias": None}, "bias must be a bool, got None"),
        ({"bias": "True"}, "bias must be a bool, got 'True'"),
        ({"batch_first": 0}, "batch_first must be a bool, got 0"),
        ({"batch_first": None}, "batch_first must be a bool, got None"),
        ({"dropout": "a"}, "dropout must be a probability from 0 to 1, got 'a'"),
        ({"dropout": "0.5"}, "dropout must be a probability from 0 to 1, got '0.5'"),
        ({"dropout": None}, "dropout must be a probability from 0 to 1, got None"),
        ({"dropout": [1]}, "dropout must be a probability from 0 to 1, got [1]"),
        ({"dropout": {1}}, "dropout must be a probability from 0 to 1, got {1}"),
        ({"dropout": 0.5j}, "dropout must be a probability from 0 to 1, got 0.5j"),
        ({"dropout": True}, "dropout must be a probability from 0 to 1, got True"),
        ({"dropout": 2}, "dropout must be a probability from 0 to 1, got 2"),
        ({"dropout": 1.5}, "dropout must be a probability from 0 to 1, got 1.5"),
        ({"dropout": -0.1}, "dropout must be a probability from 0 to 1, got -0.1"),
        ({"dropout": float("nan")}, "dropout must be a probability from 0 to 1, got nan"),
        ({"dtype": torch.int64}, None),
        ({"dtype": "float32"}, None),
        ({"device": "nowhere"}, None),
        ({"device": 1.5}, None),
    ],
    ids=str,
)
def test_impossible_settings(settings: dict[str, Any], text: str | None) -> None:
    assert_refused(lambda kind: kind(**({"input_size": 2, "hidden_size": 3} | settings)), text)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            ((), {}),
            "LSTM.__init__() missing 2 required positional arguments: 'input_size' and 'hidden_size'",
        ),
        (((2, 3), {"layers": 2}), "LSTM.__init__() got an unexpected keyword argument 'layers'"),
        (
            ((2, 3, 1, True, False, 0.0, False, 0, None, None, "one"), {}),
            "LSTM.__init__() takes from 3 to 11 positional arguments but 12 were given",
        ),
    ],
    ids=["none", "unknown", "too many"],
)
def test_an_impossible_number_of_settings(given: tuple[tuple[Any, ...], dict[str, Any]], text: str) -> None:
    assert_refused(lambda kind: kind(*given[0], **given[1]), text)


def test_dropout_in_one_layer_warns_where_it_is_asked_for() -> None:
    for kind, start in ((nn.LSTM, "dropout option adds dropout after all but last"), (LSTM, "dropout=0.5 has no")):
        with pytest.warns(UserWarning, match=f"^{start}") as caught:
            module = kind(2, 3, dropout=0.5)
        assert len(caught) == 1
        assert module.dropout == 0.5
    assert str(caught[0].message) == "dropout=0.5 has no effect with num_layers=1: it lies between the layers"
    assert caught[0].filename == __file__


# ---- what is read: (T, B, D) = (5, 4, 2)
X = torch.zeros(5, 4, 2)
DENSE, ONE, PACKED = X, X[:, 0], pack_padded_sequence(X, [5, 4, 2, 1])
UNSORTED = pack_padded_sequence(X, [1, 4, 2, 5], enforce_sorted=False)


def packed(x: Tensor) -> PackedSequence:
    return pack_padded_sequence(x, [5, 4, 2, 1])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (torch.zeros(2), "input must have 2 dimensions (one sequence) or 3 (a batch), got 1"),
        (torch.zeros(()), "input must have 2 dimensions (one sequence) or 3 (a batch), got 0"),
        (torch.zeros(1, 5, 4, 2), "input must have 2 dimensions (one sequence) or 3 (a batch), got 4"),
        (torch.zeros(5, 4, 3), "input must have input_size=2 features in its last dimension, got 3"),
        (torch.zeros(5, 4, 0), "input must have input_size=2 features in its last dimension, got 0"),
        (torch.zeros(5, 1), "input must have input_size=2 features in its last dimension, got 1"),
        (torch.zeros(0, 4, 2), "input must have at least one time step"),
        (torch.zeros(0, 0, 2), "input must have at least one time step"),
        (torch.zeros(0, 2), "input must have at least one time step"),
        (
            X.double(),
            "input must be torch.float32 as the weights, got torch.float64; convert one of the two with .to()",
        ),
        (X.long(), "input must be torch.float32 as the weights, got torch.int64; convert one of the two with .to()"),
        (X.tolist(), "input must be a Tensor or a PackedSequence, got list"),
        (X.numpy(), "input must be a Tensor or a PackedSequence, got ndarray"),
        (None, "input must be a Tensor or a PackedSequence, got NoneType"),
        (packed(torch.zeros(5, 4, 3)), "input must have input_size=2 features in its last dimension, got 3"),
        (
            packed(X.double()),
            "input must be torch.float32 as the weights, got torch.float64; convert one of the two with .to()",
        ),
        (packed(X[..., 0]), "a PackedSequence must hold 2 dimensions, (steps, D), got 1"),
        (packed(X.unsqueeze(-1)), "a PackedSequence must hold 2 dimensions, (steps, D), got 3"),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 1}], ids=str)
def test_impossible_inputs(settings: dict[str, Any], given: Any, text: str) -> None:
    assert_refused(lambda kind: kind(2, 3, **settings)(given), text)


@pytest.mark.parametrize("shape", [(4, 0, 2), (0, 2), (0, 0, 2)])
def test_no_time_step_where_the_batch_comes_first(shape: tuple[int, ...]) -> None:
    assert_refused(
        lambda kind: kind(2, 3, batch_first=True)(torch.zeros(shape)), "input must have at least one time step"
    )


# ---- the state before the first step, with 2 layers of size 3 and a projection to 1: (2, 4, 1) and (2, 4, 3)
def state(*batch: int, layers: int = 2, hidden: int = 1, cell: int = 3) -> tuple[Tensor, Tensor]:
    return torch.zeros(layers, *batch, hidden), torch.zeros(layers, *batch, cell)


H, C = state(4)


@pytest.mark.parametrize(
    ("given", "hx", "text"),
    [
        (DENSE, state(1), "h_0 must be (2, 4, 1) for a batch, got (2, 1, 1)"),
        (DENSE, state(4, layers=1), "h_0 must be (2, 4, 1) for a batch, got (1, 4, 1)"),
        (DENSE, state(4, layers=3), "h_0 must be (2, 4, 1) for a batch, got (3, 4, 1)"),
        (DENSE, state(4, hidden=3), "h_0 must be (2, 4, 1) for a batch, got (2, 4, 3)"),
        (DENSE, state(4, cell=1), "c_0 must be (2, 4, 3) for a batch, got (2, 4, 1)"),
        (DENSE, state(), "h_0 must be (2, 4, 1) for a batch, got (2, 1)"),
        (DENSE, state(4, 1), "h_0 must be (2, 4, 1) for a batch, got (2, 4, 1, 1)"),
        (ONE, state(1), "h_0 must be (2, 1) for one sequence, got (2, 1, 1)"),
        (ONE, state(layers=1), "h_0 must be (2, 1) for one sequence, got (1, 1)"),
        (ONE, state(cell=1), "c_0 must be (2, 3) for one sequence, got (2, 1)"),
        (PACKED, state(1), "h_0 must be (2, 4, 1) for a packed batch, got (2, 1, 1)"),
        (PACKED, state(4, layers=1), "h_0 must be (2, 4, 1) for a packed batch, got (1, 4, 1)"),
        (PACKED, state(4, hidden=3), "h_0 must be (2, 4, 1) for a packed batch, got (2, 4, 3)"),
        (PACKED, state(4, cell=1), "c_0 must be (2, 4, 3) for a packed batch, got (2, 4, 1)"),
        (PACKED, state(), "h_0 must be (2, 4, 1) for a packed batch, got (2, 1)"),
        (UNSORTED, state(3), "h_0 must be (2, 4, 1) for a packed batch, got (2, 3, 1)"),
        (UNSORTED, state(4, cell=1), "c_0 must be (2, 4, 3) for a packed batch, got (2, 4, 1)"),
        (DENSE, (H.double(), C), "h_0 must be torch.float32 on cpu as the input, got torch.float64 on cpu"),
        (DENSE, (H, C.double()), "c_0 must be torch.float32 on cpu as the input, got torch.float64 on cpu"),
        (DENSE, (H.long(), C.long()), "h_0 must be torch.float32 on cpu as the input, got torch.int64 on cpu"),
        (DENSE, (H.to("meta"), C), "h_0 must be torch.float32 on cpu as the input, got torch.float32 on meta"),
        (ONE, (H[:, 0].double(), C[:, 0]), "h_0 must be torch.float32 on cpu as the input, got torch.float64 on cpu"),
        (PACKED, (H.double(), C), "h_0 must be torch.float32 on cpu as the input, got torch.float64 on cpu"),
        (UNSORTED, (H, C.double()), "c_0 must be torch.float32 on cpu as the input, got torch.float64 on cpu"),
        (DENSE, (), "hx must be a pair of tensors (h_0, c_0), got 0"),
        (DENSE, (H,), "hx must be a pair of tensors (h_0, c_0), got 1"),
        (DENSE, (H, C, C), "hx must be a pair of tensors (h_0, c_0), got 3"),
        (DENSE, 3, "hx must be a pair of tensors (h_0, c_0), got int"),
        (ONE, (H[:, 0],), "hx must be a pair of tensors (h_0, c_0), got 1"),
        (PACKED, (H,), "hx must be a pair of tensors (h_0, c_0), got 1"),
        (PACKED, (H, C, C), "hx must be a pair of tensors (h_0, c_0), got 3"),
        (PACKED, C, "hx must be a pair of tensors (h_0, c_0), got Tensor"),
        (DENSE, (None, C), "h_0 must be a Tensor, got NoneType"),
        (DENSE, (H, None), "c_0 must be a Tensor, got NoneType"),
        (DENSE, (H.numpy(), C.numpy()), "h_0 must be a Tensor, got ndarray"),
        (PACKED, (None, C), "h_0 must be a Tensor, got NoneType"),
        (PACKED, (H.numpy(), C.numpy()), "h_0 must be a Tensor, got ndarray"),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
def test_impossible_states(given: Tensor | PackedSequence, hx: Any, text: str) -> None:
    assert_refused(lambda kind: kind(2, 3, num_layers=2, proj_size=1)(given, hx), text)


def test_an_unknown_argument() -> None:
    assert_refused(
        lambda kind: kind(2, 3)(DENSE, state=None), "LSTM.forward() got an unexpected keyword argument 'state'"
    )
