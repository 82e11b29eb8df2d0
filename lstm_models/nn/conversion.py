"""Conversion between the hand-built LSTM and PyTorch's nn.LSTM and nn.RNN."""

from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from lstm_models.nn.cell_variants import Elman
from lstm_models.nn.cells import Cell
from lstm_models.nn.kernels.reference import STANDARD_CELL

AnyLSTM = TypeVar("AnyLSTM", bound=nn.Module)


def matching_cell(builtin: nn.LSTM | nn.RNN) -> Cell:
    """Return the cell with the equations of a PyTorch module.

    Raises:
        ValueError: If it is an nn.RNN with another activation than tanh.
    """
    if isinstance(builtin, nn.RNN) and builtin.nonlinearity != "tanh":
        raise ValueError(
            f"can't convert an nn.RNN with nonlinearity={builtin.nonlinearity!r}; only 'tanh' is supported"
        )
    return STANDARD_CELL if isinstance(builtin, nn.LSTM) else Elman()


def common_settings(lstm: nn.Module) -> dict[str, Any]:
    """Return the arguments that both kinds share, to build the other kind on the meta device without random draws."""
    names = (
        "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size",
    )  # fmt: skip
    dtype = cast(Tensor, lstm.weight_ih_l0).dtype
    return {name: getattr(lstm, name) for name in names} | {"device": "meta", "dtype": dtype}


@torch.no_grad()
def copy_weights(target: AnyLSTM, source: nn.Module) -> AnyLSTM:
    """Return the target, moved from the meta device, with the source's weights, device and training mode."""
    target.to_empty(device=cast(Tensor, source.weight_ih_l0).device)
    for name, parameter in target.named_parameters():
        value = getattr(source, name, None)
        if value is None:  # bias_hh, where the source has bias_ih only
            parameter.zero_()
            parameter.requires_grad_(getattr(source, name.replace("bias_hh", "bias_ih")).requires_grad)
        else:
            parameter.copy_(value)
            parameter.requires_grad_(value.requires_grad)
    return target.train(source.training)
