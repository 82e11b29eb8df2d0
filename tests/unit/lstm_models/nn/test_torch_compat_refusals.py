"""Errors for invalid settings and inputs, with the exception types of nn.LSTM where it has such an error.

A message names what is wrong, the value, and what is allowed. Where PyTorch raises for both, it is PyTorch's message.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import names_all
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_models import LSTM
from lstm_models.nn.cell_variants import CELLS, CoupledGates, Elman, NoForgetGate, Peephole
from lstm_models.nn.cells import Cell

# on the CPU, nn.LSTM warns that oneDNN does not support projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

Maker = Callable[[type[LSTM] | type[nn.LSTM]], Any]


def assert_refused(make: Maker, *parts: object) -> None:
    """Require the same exception type from both; our message contains the parts, or without parts equals nn.LSTM's."""
    with pytest.raises(Exception) as theirs:
        make(nn.LSTM)
    with pytest.raises(theirs.type) as ours:
        make(LSTM)
    assert ours.type is theirs.type
    assert names_all(ours.value, *parts) if parts else str(ours.value) == str(theirs.value)


# ---- settings
SETTINGS: list[tuple[str, list[Any], str]] = [
    ("input_size", [2.0, "2", None, np.int64(2)], "integer"),
    ("input_size", [0, -1], "at least 1"),
    ("hidden_size", [3.0, [3]], "integer"),
    ("hidden_size", [0, -3], "at least 1"),
    ("num_layers", ["2", 1.0, None], "integer"),
    ("num_layers", [0, -1], "at least 1"),
    ("proj_size", [1.5, "1", None], "integer"),
    ("proj_size", [-1], "at least 0"),
    ("proj_size", [3, 4], "smaller than hidden_size=3"),
    ("bias", [1, None, "True"], "bool"),
    ("batch_first", [0, None], "bool"),
    ("dropout", ["a", "0.5", None, [1], {1}, 0.5j, True, 2, 1.5, -0.1, float("nan")], "from 0 to 1"),
]


@pytest.mark.parametrize(
    ("name", "value", "allowed"), [(name, value, allowed) for name, values, allowed in SETTINGS for value in values]
)
def test_invalid_settings(name: str, value: Any, allowed: str) -> None:
    assert_refused(
        lambda kind: kind(**{"input_size": 2, "hidden_size": 3, name: value}), name, f"got {value!r}", allowed
    )


@pytest.mark.parametrize(
    "settings", [{"dtype": torch.int64}, {"dtype": "float32"}, {"device": "nowhere"}, {"device": 1.5}], ids=str
)
def test_invalid_types_and_devices_raise_pytorchs_errors(settings: dict[str, Any]) -> None:
    assert_refused(lambda kind: kind(2, 3, **settings))


@pytest.mark.parametrize(
    ("positional", "named", "parts"),
    [
        ((), {}, ("'input_size' and 'hidden_size'",)),
        ((2, 3), {"layers": 2}, ("'layers'",)),
        ((2, 3, 1, True, False, 0.0, False, 0, None, None, "one"), {}, ("from 3 to 11", "12")),
    ],
    ids=["none", "unknown", "too many"],
)
def test_invalid_number_of_settings(positional: Any, named: dict[str, Any], parts: tuple[str, ...]) -> None:
    assert_refused(lambda kind: kind(*positional, **named), *parts)


def test_dropout_in_one_layer_warns_at_the_caller() -> None:
    for kind, start in ((nn.LSTM, "dropout option adds dropout after all but last"), (LSTM, "dropout=0.5")):
        with pytest.warns(UserWarning, match=f"^{start}") as caught:
            module = kind(2, 3, dropout=0.5)
        assert (len(caught), module.dropout) == (1, 0.5)
    assert names_all(caught[0].message, "dropout=0.5", "num_layers=1")
    assert caught[0].filename == __file__


# ---- additional settings
@pytest.mark.parametrize(
    ("settings", "error", "parts"),
    [
        ({"double_bias": "none"}, TypeError, ("double_bias", "'none'", "bool")),
        ({"init": "uniform"}, ValueError, ("init", "'uniform'", "default or normal")),
        ({"cell": "peephole"}, TypeError, ("cell", "'peephole'", "Peephole()")),
        ({"cell": Peephole}, TypeError, ("cell", repr(Peephole), "Peephole()")),
        ({"cell": None}, TypeError, ("cell", "None", "Peephole()")),
        ({"cell": Cell(forget_bias=1.0), "bias": False}, ValueError, ("forget_bias=1.0", "bias=True")),
        ({"cell": Peephole(forget_bias=0.0), "bias": False}, ValueError, ("forget_bias=0.0", "bias=True")),
    ],
    ids=str,
)
def test_invalid_additional_settings(settings: dict[str, Any], error: type[Exception], parts: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        LSTM(1, 2, **settings)
    assert names_all(caught.value, *parts)


@pytest.mark.parametrize("probability", [-0.1, 1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("option", ["recurrent_dropout", "zoneout"])
def test_cell_probabilities_out_of_range(option: str, probability: float) -> None:
    for cell in (Cell, Peephole):
        with pytest.raises(ValueError) as caught:
            cell(**{option: probability})
        assert names_all(caught.value, option, repr(probability), "from 0 to below 1")


@pytest.mark.parametrize("cell", [NoForgetGate, CoupledGates, Elman])
def test_forget_bias_requires_a_forget_gate(cell: type[Cell]) -> None:
    with pytest.raises(ValueError) as caught:
        cell(forget_bias=1.0)
    assert names_all(caught.value, "forget_bias=1.0", cell.__name__, "no forget gate")


def test_conversion_without_counterpart() -> None:
    others = [cell() for name, cell in CELLS.items() if name != "lstm"]
    for cell in (*others, Cell(zoneout=0.1), Cell(recurrent_dropout=0.1)):
        with pytest.raises(ValueError) as caught:
            LSTM(1, 2, cell=cell).to_builtin()
        assert names_all(caught.value, "nn.LSTM", cell)
    with pytest.raises(ValueError) as caught:
        LSTM.from_builtin(nn.RNN(1, 2, nonlinearity="relu"))
    assert names_all(caught.value, "nn.RNN", "relu", "tanh")


# ---- input: (T, B, D) = (5, 4, 2)
X = torch.zeros(5, 4, 2)
DENSE, ONE, PACKED = X, X[:, 0], pack_padded_sequence(X, [5, 4, 2, 1])
UNSORTED = pack_padded_sequence(X, [1, 4, 2, 5], enforce_sorted=False)


def packed(x: Tensor) -> PackedSequence:
    return pack_padded_sequence(x, [5, 4, 2, 1])


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (torch.zeros(()), ("2 dimensions", "3", "got 0")),
        (torch.zeros(2), ("2 dimensions", "3", "got 1")),
        (torch.zeros(1, 5, 4, 2), ("2 dimensions", "3", "got 4")),
        (torch.zeros(5, 4, 3), ("input_size=2", "got 3")),
        (torch.zeros(5, 1), ("input_size=2", "got 1")),
        (torch.zeros(0, 4, 2), ("at least one time step",)),
        (torch.zeros(0, 2), ("at least one time step",)),
        (X.double(), ("torch.float32", "torch.float64", ".to()")),
        (X.long(), ("torch.float32", "torch.int64", ".to()")),
        (X.tolist(), ("Tensor or a PackedSequence", "list")),
        (X.numpy(), ("Tensor or a PackedSequence", "ndarray")),
        (None, ("Tensor or a PackedSequence", "NoneType")),
        (packed(torch.zeros(5, 4, 3)), ("input_size=2", "got 3")),
        (packed(X.double()), ("torch.float32", "torch.float64", ".to()")),
        (packed(X[..., 0]), ("PackedSequence", "2 dimensions", "got 1")),
        (packed(X.unsqueeze(-1)), ("PackedSequence", "2 dimensions", "got 3")),
    ],
    ids=lambda given: str(given) if isinstance(given, tuple) and not isinstance(given, PackedSequence) else None,
)
def test_invalid_inputs(given: Any, parts: tuple[str, ...]) -> None:
    for settings in ({}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 1}):
        assert_refused(lambda kind: kind(2, 3, **settings)(given), *parts)  # noqa: B023


@pytest.mark.parametrize("shape", [(4, 0, 2), (0, 2), (0, 0, 2)])
def test_batch_first_input_without_time_steps(shape: tuple[int, ...]) -> None:
    assert_refused(lambda kind: kind(2, 3, batch_first=True)(torch.zeros(shape)), "input", "at least one time step")


# ---- initial state, with 2 layers of size 3 and a projection to 1: (2, 4, 1) and (2, 4, 3)
def state(*batch: int, layers: int = 2, hidden: int = 1, cell: int = 3) -> tuple[Tensor, Tensor]:
    return torch.zeros(layers, *batch, hidden), torch.zeros(layers, *batch, cell)


H, C = state(4)


@pytest.mark.parametrize(
    ("given", "hx", "parts"),
    [
        (DENSE, state(1), ("h_0", "(2, 4, 1)", "(2, 1, 1)")),
        (DENSE, state(4, layers=1), ("h_0", "(2, 4, 1)", "(1, 4, 1)")),
        (DENSE, state(4, hidden=3), ("h_0", "(2, 4, 1)", "(2, 4, 3)")),
        (DENSE, state(4, cell=1), ("c_0", "(2, 4, 3)", "(2, 4, 1)")),
        (DENSE, state(), ("h_0", "(2, 4, 1)", "(2, 1)")),
        (ONE, state(1), ("h_0", "(2, 1)", "(2, 1, 1)")),
        (ONE, state(layers=1), ("h_0", "(2, 1)", "(1, 1)")),
        (ONE, state(cell=1), ("c_0", "(2, 3)", "(2, 1)")),
        (PACKED, state(4, hidden=3), ("h_0", "(2, 4, 1)", "(2, 4, 3)")),
        (PACKED, state(4, cell=1), ("c_0", "(2, 4, 3)", "(2, 4, 1)")),
        (PACKED, state(), ("h_0", "(2, 4, 1)", "(2, 1)")),
        (UNSORTED, state(3), ("h_0", "(2, 4, 1)", "(2, 3, 1)")),
        (DENSE, (H.double(), C), ("h_0", "torch.float32 on cpu", "torch.float64 on cpu")),
        (DENSE, (H, C.double()), ("c_0", "torch.float32 on cpu", "torch.float64 on cpu")),
        (DENSE, (H.to("meta"), C), ("h_0", "torch.float32 on cpu", "torch.float32 on meta")),
        (ONE, (H[:, 0].double(), C[:, 0]), ("h_0", "torch.float32 on cpu", "torch.float64 on cpu")),
        (PACKED, (H.double(), C), ("h_0", "torch.float32 on cpu", "torch.float64 on cpu")),
        (DENSE, (), ("hx", "(h_0, c_0)", "got 0")),
        (DENSE, (H,), ("hx", "(h_0, c_0)", "got 1")),
        (DENSE, (H, C, C), ("hx", "(h_0, c_0)", "got 3")),
        (DENSE, 3, ("hx", "(h_0, c_0)", "int")),
        (PACKED, (H,), ("hx", "(h_0, c_0)", "got 1")),
        (PACKED, (H, C, C), ("hx", "(h_0, c_0)", "got 3")),
        (PACKED, C, ("hx", "(h_0, c_0)", "Tensor")),
        (DENSE, (None, C), ("h_0", "Tensor", "NoneType")),
        (DENSE, (H, None), ("c_0", "Tensor", "NoneType")),
        (DENSE, (H.numpy(), C.numpy()), ("h_0", "Tensor", "ndarray")),
        (PACKED, (None, C), ("h_0", "Tensor", "NoneType")),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) and all(isinstance(p, str) for p in given) else None,
)
def test_invalid_states(given: Tensor | PackedSequence, hx: Any, parts: tuple[str, ...]) -> None:
    assert_refused(lambda kind: kind(2, 3, num_layers=2, proj_size=1)(given, hx), *parts)


def test_unknown_argument() -> None:
    assert_refused(lambda kind: kind(2, 3)(DENSE, state=None), "'state'")


# ---- lengths of a padded batch, which nn.LSTM lacks: 4 sequences, 5 steps
@pytest.mark.parametrize(
    ("given", "lengths", "error", "parts"),
    [
        (DENSE, torch.tensor([2, 5, 1, 6]), ValueError, ("from 1 to 5", "[2, 5, 1, 6]")),
        (DENSE, torch.tensor([2, 5, 0, 5]), ValueError, ("from 1 to 5", "[2, 5, 0, 5]")),
        (DENSE, torch.tensor([2, 5, -1, 5]), ValueError, ("from 1 to 5", "[2, 5, -1, 5]")),
        (DENSE, torch.tensor([2, 5, 1]), ValueError, ("4 integers", "torch.int64 (3,)")),
        (DENSE, torch.tensor(5), ValueError, ("4 integers", "torch.int64 ()")),
        (DENSE, torch.tensor([[2], [5], [1], [5]]), ValueError, ("4 integers", "torch.int64 (4, 1)")),
        (DENSE, torch.tensor([2.0, 5.0, 1.0, 5.0]), ValueError, ("4 integers", "torch.float32 (4,)")),
        (DENSE, torch.tensor([True, True, True, True]), ValueError, ("4 integers", "torch.bool (4,)")),
        (DENSE, torch.tensor([2j, 5, 1, 5]), ValueError, ("4 integers", "torch.complex64 (4,)")),
        (DENSE, [2, 5, 1, 5], TypeError, ("Tensor", "list")),
        (ONE, torch.tensor([5]), ValueError, ("batch", "one sequence")),
        (PACKED, torch.tensor([5, 4, 2, 1]), ValueError, ("batch", "PackedSequence")),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) and all(isinstance(p, str) for p in given) else None,
)
def test_invalid_lengths(given: Any, lengths: Any, error: type[Exception], parts: tuple[str, ...]) -> None:
    for batch_first in (False, True) if given is DENSE else (False,):
        x = given.transpose(0, 1) if batch_first else given
        with pytest.raises(error) as caught:
            LSTM(2, 3, batch_first=batch_first)(x, None, lengths)
        assert names_all(caught.value, "lengths", *parts)
