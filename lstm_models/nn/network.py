"""A recurrent core with a head: from a sequence to what is told of it. B batch, T time, D input_size, H hidden_size."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_models.config import RNN, AnyModel, BuiltIn, ConfigError, HandBuilt
from lstm_models.data.output import REGRESSION, OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.nn import padding
from lstm_models.nn.cells import CELLS, Cell
from lstm_models.nn.lstm import LSTM

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Network(nn.Module):
    """The recurrent core's last hidden state, through the head, and as what it means.

    What it tells, and in which shape:
        a number            (B), as the head gives it
        a forecast          (B, S, K), the next S steps of K columns, in their own unit
        a class             (B, C), the log-odds of each, up to a constant
    """

    def __init__(
        self, recurrent: nn.Module, head: nn.Module, output: OutputSpec = REGRESSION, scaler: Scaler | None = None
    ) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = head
        self.output = output
        self.scaler = scaler

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Tell of each sequence, (B, T, D), of a padded batch with lengths (B): see above."""
        seen_BTD, level_BK = self.preprocess(x_BTD, lengths_B)
        return self.decode(self._last_hidden(seen_BTD, lengths_B), level_BK)

    def preprocess(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the recurrent core reads, (B, T, D): scaled values; and of a residual forecast the level, (B, K).

        As a residual, the targets are seen, and told, as the change from their last value: so a level that was never
        met in training does no harm. (ETTh1 at 24 steps: 0.028 with it, 0.081 where only what is told is a change.)
        """
        z_BTD = x_BTD if self.scaler is None else self.scaler(x_BTD)
        if not self.output.residual:
            return z_BTD, None
        places = self.output.target_indices
        level_BD = torch.zeros_like(z_BTD[:, 0])
        level_BD[:, places] = padding.last_step(z_BTD.transpose(0, 1), lengths_B)[0][:, places]
        return z_BTD - level_BD.unsqueeze(1), level_BD[:, places]

    def decode(self, hidden_BH: Tensor, level_BK: Tensor | None = None) -> Tensor:
        """What the last hidden state means, in the targets' own units."""
        head = cast(Tensor, self.head(hidden_BH))
        match self.output.kind:
            case "classification":
                return head
            case "regression":
                told_B, center, spread = head.squeeze(-1), self.output.mean, self.output.scale
                return told_B if (center, spread) == (0, 1) else told_B.float() * spread + center
        told_BSK = head.view(*head.shape[:-1], self.output.horizon, -1)
        if level_BK is not None:  # under a lower precision only what the head gives was computed in it
            told_BSK = told_BSK.to(level_BK.dtype) + level_BK.unsqueeze(1)
        if self.scaler is None:
            return told_BSK
        return (
            told_BSK * self.scaler.scale_D[self.output.target_indices] + self.scaler.mean_D[self.output.target_indices]
        )

    def _last_hidden(self, seen_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """The last layer's, (B, H)."""
        if lengths_B is None:
            _, state = self.recurrent(seen_BTD)
        elif isinstance(self.recurrent, LSTM):
            _, state = self.recurrent(seen_BTD, lengths=lengths_B)
        else:  # PyTorch's own know lengths of packed sequences only
            packed = pack_padded_sequence(seen_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
            _, state = self.recurrent(packed)
        hidden_LBH = state if isinstance(state, Tensor) else state[0]
        return hidden_LBH[-1]

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """How wrong each example is, what training makes small: (B), or (R, B) of R copies' numbers.

        Of a number the squared error, in scaled units where it has a scale; of a forecast its mean over steps and
        targets, in scaled units; of a class the negative log-likelihood.
        """
        match self.output.kind:
            case "forecast":
                scale_K = 1 if self.scaler is None else self.scaler.scale_D[self.output.target_indices]
                return ((predictions - targets) / scale_K).square().mean(dim=(-2, -1))
            case "classification":
                return F.cross_entropy(predictions.float(), targets, reduction="none")
        if self.output.scale != 1:  # before it is squared: what is squared may be too large or too small for float32
            predictions, targets = predictions / self.output.scale, targets / self.output.scale
        return F.mse_loss(predictions, targets.expand_as(predictions), reduction="none")


def build_network(
    config: AnyModel, input_size: int, output: OutputSpec = REGRESSION, scaler: Scaler | None = None
) -> Network:
    """The network that the configuration describes, its weights drawn from torch's global random state.

    A head that is none is a linear one nevertheless where one number is not what is told.

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
                double_bias=config.double_bias,
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
    bare = config.head == "none" and output.kind == "regression"
    head = nn.Identity() if bare else nn.Linear(config.hidden_size, output.size)
    return Network(recurrent, head, output, scaler)


def build_from_state_dict(
    build: Callable[[], AnyModule], weights: Mapping[str, Tensor], parts: int, size: int
) -> AnyModule:
    """What `build` makes of a description, with stored weights, in evaluation mode.

    A description that lies takes no memory: it is built of shapes alone first, and they are compared.

    Args:
        build: makes it, its weights being drawn.
        weights: by their names.
        parts: how many layers the description tells of.
        size: of the file that all comes from, in bytes.

    Raises:
        ValueError: if description, weights and file do not fit together.
    """
    told = sum(weight.nbytes for weight in weights.values())
    if told > size or parts > told:
        raise ValueError(f"a file of {size:,} bytes can't hold {parts:,} layers in {told:,} bytes of weights")
    with torch.device("meta"):
        expected = {name: tuple(weight.shape) for name, weight in build().state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if differing := sorted({*expected.items()} ^ {*found.items()}):
        raise ValueError(f"description and weights do not fit together, first in {differing[0][0]}")
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn first are replaced
        module = build()
    module.load_state_dict(weights)
    return module.eval()


def build_cell(config: HandBuilt) -> Cell:
    """The cell that the configuration names, with its options.

    Raises:
        ConfigError: if there is no such class, or it is no Cell, or it can't have these options.
    """
    try:
        return resolve_cell(config.cell)(
            forget_bias=config.forget_bias, recurrent_dropout=config.recurrent_dropout, zoneout=config.zoneout
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cell {config.cell}: {error}") from error


def resolve_cell(name: str) -> type[Cell]:
    """The class of a cell: one of ours by its name, or `module.Class`, looked for in the working directory too.

    Raises:
        ValueError: if it can't be imported, or is no Cell.
    """
    if name in CELLS:
        return CELLS[name]
    module, _, attribute = name.rpartition(".")
    here = os.getcwd()
    sys.path.insert(0, here)  # which a command on the PATH does not look into by itself
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module does
        raise ValueError(f"can't be imported: {str(error) or type(error).__name__}") from error
    finally:
        if here in sys.path:  # the module may have changed the path
            sys.path.remove(here)
    if not (isinstance(found, type) and issubclass(found, Cell)):
        raise ValueError("not a class made from lstm_models.Cell")
    return found
