"""One step of the cell, against the equations written once more in plain Python."""

import math

import pytest
import torch

from lstm_models.cells import GATES, LSTMState, lstm_cell


def sigmoid(number: float) -> float:
    return 1 / (1 + math.exp(-number))


def test_a_step_is_what_the_equations_say() -> None:
    i, f, g, o, before = 0.3, -1.2, 0.7, 2.1, -0.4
    cell = sigmoid(f) * before + sigmoid(i) * math.tanh(g)
    hidden = sigmoid(o) * math.tanh(cell)

    state = lstm_cell(torch.tensor([[i, f, g, o]], dtype=torch.float64), torch.tensor([[before]], dtype=torch.float64))

    # math.exp and torch.sigmoid may round differently in the last bit
    assert state.hidden.item() == pytest.approx(hidden, rel=1e-15)
    assert state.cell.item() == pytest.approx(cell, rel=1e-15)


def test_each_sequence_and_each_unit_has_gates_of_its_own() -> None:
    gates_B4H = torch.arange(24, dtype=torch.float64).reshape(2, 12).sin()
    cell_BH = torch.arange(6, dtype=torch.float64).reshape(2, 3).cos()

    state = lstm_cell(gates_B4H, cell_BH)

    assert state.hidden.shape == state.cell.shape == (2, 3)
    for sequence in range(2):
        for unit in range(3):
            alone = lstm_cell(gates_B4H[sequence, unit::3].unsqueeze(0), cell_BH[sequence, unit].reshape(1, 1))
            # vectorised and scalar code paths of sigmoid and tanh may differ in the last bit
            assert state.hidden[sequence, unit].item() == pytest.approx(alone.hidden.item(), rel=1e-15)
            assert state.cell[sequence, unit].item() == pytest.approx(alone.cell.item(), rel=1e-15)


def test_an_open_forget_gate_and_a_closed_input_gate_keep_the_cell() -> None:
    # sigmoid(40) is 1 and sigmoid(-800) is 0 in float64
    gates_B4H = torch.tensor([[-800.0, 40.0, 5.0, 40.0]], dtype=torch.float64)
    state = lstm_cell(gates_B4H, torch.tensor([[0.625]], dtype=torch.float64))
    assert state.cell.item() == 0.625
    assert state.hidden.item() == torch.tanh(torch.tensor(0.625, dtype=torch.float64)).item()


def test_a_closed_forget_gate_drops_the_cell() -> None:
    gates_B4H = torch.tensor([[40.0, -800.0, 0.0, 40.0]], dtype=torch.float64)
    assert lstm_cell(gates_B4H, torch.tensor([[0.625]], dtype=torch.float64)) == LSTMState(
        torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64)
    )


def test_the_gates_are_named_in_their_stored_order() -> None:
    assert GATES == ("input", "forget", "candidate", "output")
    assert LSTMState._fields == ("hidden", "cell")
