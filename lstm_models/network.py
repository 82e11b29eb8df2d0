"""A recurrent core with a head: from a sequence to one number. B batch, T time, D input_size, H hidden_size."""

import importlib
import os
import sys
from typing import cast

from torch import Tensor, nn

from lstm_models.cells import CELLS, Cell
from lstm_models.config import RNN, AnyModel, BuiltIn, ConfigError, HandBuilt
from lstm_models.lstm import LSTM


class Network(nn.Module):
    """The recurrent core's last hidden state, through the head."""

    def __init__(self, recurrent: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = head

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Predict one number for each sequence: (B, T, D) to (B).

        With lengths, of a padded batch; the recurrent core is then a hand-built one, for PyTorch's take none.
        """
        _, state = self.recurrent(x_BTD) if lengths_B is None else self.recurrent(x_BTD, lengths=lengths_B)
        hidden_LBH = state if isinstance(state, Tensor) else state[0]
        return cast(Tensor, self.head(hidden_LBH[-1])).squeeze(-1)


def build_network(config: AnyModel, input_size: int) -> Network:
    """The network that the configuration describes, its weights drawn from torch's global random state.

    Raises:
        ConfigError: if its cell can't be had, or can't have what the configuration asks of it.
    """
    sizes = (input_size, config.hidden_size, config.num_layers)
    match config:
        case HandBuilt():
            recurrent: nn.Module = LSTM(
                *sizes,
                batch_first=True,
                dropout=config.dropout,
                biases=config.biases,
                init=config.init,
                cell=build_cell(config),
            )
        case BuiltIn():
            recurrent = nn.LSTM(*sizes, batch_first=True, dropout=config.dropout)
            for layer in range(config.num_layers):
                biases = {name: getattr(recurrent, f"{name}_l{layer}") for name in ("bias_ih", "bias_hh")}
                Cell(forget_bias=config.forget_bias).reset(biases)
        case RNN():
            recurrent = nn.RNN(*sizes, batch_first=True, dropout=config.dropout)
    head = nn.Linear(config.hidden_size, 1) if config.head == "linear" else nn.Identity()
    return Network(recurrent, head)


def build_cell(config: HandBuilt) -> Cell:
    """The cell that the configuration names, with its options.

    Raises:
        ConfigError: if there is no such class, or it is no Cell, or it can't have these options.
    """
    try:
        return find_cell(config.cell)(
            forget_bias=config.forget_bias, recurrent_dropout=config.recurrent_dropout, zoneout=config.zoneout
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cell {config.cell}: {error}") from error


def find_cell(name: str) -> type[Cell]:
    """The class of a cell: one of ours by its name, or `module.Class`, looked for in the working directory too.

    Raises:
        ValueError: if it can't be imported, or is no Cell.
    """
    if name in CELLS:
        return CELLS[name]
    module, _, attribute = name.rpartition(".")
    sys.path.insert(0, os.getcwd())  # which a command on the PATH does not look into by itself
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ValueError(f"can't be imported: {error}") from error
    finally:
        sys.path.pop(0)
    if not (isinstance(found, type) and issubclass(found, Cell)):
        raise ValueError("not a class made from lstm_models.Cell")
    return found
