"""Network of a recurrent core and a head, which predicts from a sequence, and its construction from a configuration.

B batch, T time, D input_size, H hidden_size, S horizon of a forecast, K targets, C classes.
"""

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
from lstm_models.nn.cell_variants import CELLS
from lstm_models.nn.cells import Cell
from lstm_models.nn.lstm import LSTM

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Network(nn.Module):
    """Recurrent core whose last hidden state the head maps to a prediction.

    Shape and meaning of the predictions:
        regression          (B), a number
        forecast            (B, S, K), the next S steps of K columns, in their original units
        classification      (B, C), the log-odds of each class, up to a constant
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
        """Predict from sequences, (B, T, D), or a padded batch with lengths (B); see above for the shapes."""
        inputs_BTD, offset_BK = self.preprocess(x_BTD, lengths_B)
        return self.decode(self._last_hidden(inputs_BTD, lengths_B), offset_BK)

    def preprocess(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the input of the recurrent core, (B, T, D), and for a residual forecast the offset, (B, K).

        The input is scaled. For a residual forecast, each target's last value, the offset, is subtracted from the
        target's inputs and added to its prediction. This makes the network robust to values outside the training range.
        (ETTh1, 24 steps: an error of 0.028, against 0.081 with the offset in the prediction only.)
        """
        z_BTD = x_BTD if self.scaler is None else self.scaler(x_BTD)
        if not self.output.residual:
            return z_BTD, None
        indices = self.output.target_indices
        offset_BD = torch.zeros_like(z_BTD[:, 0])
        offset_BD[:, indices] = padding.last_step(z_BTD.transpose(0, 1), lengths_B)[0][:, indices]
        return z_BTD - offset_BD.unsqueeze(1), offset_BD[:, indices]

    def decode(self, hidden_BH: Tensor, offset_BK: Tensor | None = None) -> Tensor:
        """Return the predictions for the last hidden states, in the original units of the targets."""
        head = cast(Tensor, self.head(hidden_BH))
        match self.output.kind:
            case "classification":
                return head
            case "regression":
                numbers_B, mean, scale = head.squeeze(-1), self.output.mean, self.output.scale
                return numbers_B if (mean, scale) == (0, 1) else numbers_B.float() * scale + mean
        steps_BSK = head.view(*head.shape[:-1], self.output.horizon, -1)
        if offset_BK is not None:  # under autocast, only the head's result has the lower precision
            steps_BSK = steps_BSK.to(offset_BK.dtype) + offset_BK.unsqueeze(1)
        if self.scaler is None:
            return steps_BSK
        return (
            steps_BSK * self.scaler.scale_D[self.output.target_indices] + self.scaler.mean_D[self.output.target_indices]
        )

    def _last_hidden(self, inputs_BTD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the last hidden state of the last layer, (B, H)."""
        if lengths_B is None:
            _, state = self.recurrent(inputs_BTD)
        elif isinstance(self.recurrent, LSTM):
            _, state = self.recurrent(inputs_BTD, lengths=lengths_B)
        else:  # PyTorch's modules support lengths in packed sequences only
            packed = pack_padded_sequence(inputs_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
            _, state = self.recurrent(packed)
        hidden_LBH = state if isinstance(state, Tensor) else state[0]
        return hidden_LBH[-1]

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the training loss of each example: (B), or (R, B) for the predictions of R replicas.

        Regression: the squared error, in scaled units if the output has a scale. Forecast: the squared error in scaled
        units, averaged over steps and targets. Classification: the negative log-likelihood.
        """
        match self.output.kind:
            case "forecast":
                scale_K = 1 if self.scaler is None else self.scaler.scale_D[self.output.target_indices]
                return ((predictions - targets) / scale_K).square().mean(dim=(-2, -1))
            case "classification":
                return F.cross_entropy(predictions.float(), targets, reduction="none")
        if self.output.scale != 1:  # before squaring: the unscaled square may overflow or underflow float32
            predictions, targets = predictions / self.output.scale, targets / self.output.scale
        return F.mse_loss(predictions, targets.expand_as(predictions), reduction="none")


def build_network(
    config: AnyModel, input_size: int, output: OutputSpec = REGRESSION, scaler: Scaler | None = None
) -> Network:
    """Return the network that a configuration describes, with weights drawn from torch's global random state.

    The head "none" applies to regression only; other outputs have a linear head.

    Raises:
        ConfigError: If the cell can't be loaded, or does not support its options.
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
    build: Callable[[], AnyModule], weights: Mapping[str, Tensor], num_layers: int, file_size: int
) -> AnyModule:
    """Build a module, load stored weights into it, and return it in evaluation mode.

    The module is built on the meta device first, and its shapes are compared with those of the weights, so that a
    manipulated description can't allocate large amounts of memory.

    Args:
        build: Builds the module with random weights.
        weights: The weights by name.
        num_layers: Number of layers in the description.
        file_size: Size of the file in bytes.

    Raises:
        ValueError: If description, weights and file do not fit together.
    """
    num_bytes = sum(weight.nbytes for weight in weights.values())
    if num_bytes > file_size or num_layers > num_bytes:
        raise ValueError(
            f"a file of {file_size:,} bytes can't hold {num_layers:,} layers in {num_bytes:,} bytes of weights"
        )
    with torch.device("meta"):
        expected = {name: tuple(weight.shape) for name, weight in build().state_dict().items()}
    actual = {name: tuple(weight.shape) for name, weight in weights.items()}
    if differing := sorted({*expected.items()} ^ {*actual.items()}):
        raise ValueError(f"description and weights do not fit together; the first difference is {differing[0][0]}")
    with torch.random.fork_rng(devices=[]):  # the drawn weights are replaced below
        module = build()
    module.load_state_dict(weights)
    return module.eval()


def build_cell(config: HandBuilt) -> Cell:
    """Return the cell that a configuration names, with its options.

    Raises:
        ConfigError: If there is no such class, it is no Cell, or it does not support these options.
    """
    try:
        return resolve_cell(config.cell)(
            forget_bias=config.forget_bias, recurrent_dropout=config.recurrent_dropout, zoneout=config.zoneout
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cell {config.cell}: {error}") from error


def resolve_cell(name: str) -> type[Cell]:
    """Return a cell's class, by its name in CELLS or as `module.Class`, which may be in the working directory.

    Raises:
        ValueError: If it can't be imported, or is no subclass of Cell.
    """
    if name in CELLS:
        return CELLS[name]
    module, _, attribute = name.rpartition(".")
    directory = os.getcwd()
    sys.path.insert(0, directory)  # Python does not search it when started by a command on the PATH
    try:
        cell = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"can't be imported: {str(error) or type(error).__name__}") from error
    finally:
        if directory in sys.path:  # the module may have changed the path
            sys.path.remove(directory)
    if not (isinstance(cell, type) and issubclass(cell, Cell)):
        raise ValueError("not a subclass of lstm_models.Cell")
    return cell
