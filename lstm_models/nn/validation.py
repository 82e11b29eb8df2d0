"""Validation of an LSTM's settings and inputs. The exception types are those of nn.LSTM."""

import numbers
import warnings
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lstm_models.nn.cells import Cell

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Form = Literal["one sequence", "a batch", "a packed batch"]


def check_settings(sizes: dict[str, int], switches: dict[str, bool], dropout: float) -> None:
    """Check the sizes, switches and dropout of an LSTM.

    Args:
        sizes: Sizes by name, among them hidden_size, num_layers and proj_size.
        switches: Settings that must be a bool, by name.
        dropout: A probability.

    Raises:
        TypeError: If a size is no integer, a switch no bool, or dropout no number.
        ValueError: If a size is out of range, or dropout is no probability.
    """
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise TypeError(f"{name} must be a bool, got {switch!r}")
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < (0 if name == "proj_size" else 1):
            raise ValueError(f"{name} must be at least {0 if name == 'proj_size' else 1}, got {size}")
    if sizes["proj_size"] >= sizes["hidden_size"]:
        raise ValueError(
            f"proj_size must be smaller than hidden_size={sizes['hidden_size']}, or 0, got {sizes['proj_size']}"
        )
    if not isinstance(dropout, bool | str | numbers.Real):
        raise TypeError(f"dropout must be a probability from 0 to 1, got {dropout!r}")
    if isinstance(dropout, bool) or not isinstance(dropout, numbers.Real) or not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be a probability from 0 to 1, got {dropout!r}")
    if dropout > 0 and sizes["num_layers"] == 1:
        warnings.warn(
            f"dropout={dropout} has no effect with num_layers=1: it acts between layers", UserWarning, stacklevel=3
        )


def check_cell(cell: Cell, bias: bool) -> None:
    """Check the cell of an LSTM.

    Raises:
        TypeError: If it is no Cell.
        ValueError: If it has a forget_bias although the LSTM has no biases.
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"cell must be a Cell, such as Peephole(), got {cell!r}")
    if cell.forget_bias is not None and not bias:
        raise ValueError(f"forget_bias={cell.forget_bias} requires bias=True, got bias=False")


def check_input(input: Tensor | PackedSequence, input_size: int, batch_first: bool, dtype: torch.dtype) -> None:
    """Check the input of an LSTM whose weights have the type dtype.

    Raises:
        AttributeError: If the input is no tensor.
        ValueError: If it does not have 2 or 3 dimensions, or has another type than the weights outside autocast.
        RuntimeError: If it does not have input_size features, has no time step, or is an invalid PackedSequence.
    """
    packed = isinstance(input, PackedSequence)
    x = input.data if isinstance(input, PackedSequence) else input
    if not isinstance(x, Tensor):
        raise AttributeError(f"input must be a Tensor or a PackedSequence, got {type(x).__name__}")
    if packed and x.dim() != 2:
        raise RuntimeError(f"the data of a PackedSequence must have 2 dimensions, (steps, D), got {x.dim()}")
    if x.dim() not in (2, 3):
        raise ValueError(f"input must have 2 dimensions (one sequence) or 3 (a batch), got {x.dim()}")
    if x.dtype != dtype and not torch._C._is_any_autocast_enabled():
        error = RuntimeError if packed else ValueError
        raise error(f"input must be {dtype} like the weights, got {x.dtype}; convert either with .to()")
    if x.size(-1) != input_size:
        raise RuntimeError(f"input must have input_size={input_size} features in its last dimension, got {x.size(-1)}")
    if not packed and x.size(1 if x.dim() == 3 and batch_first else 0) == 0:
        raise RuntimeError("input must have at least one time step")


def check_lengths(lengths: Tensor, input: Tensor, x_TBD: Tensor) -> None:
    """Check the lengths of a padded batch.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they are not B integers from 1 to T. The range is not checked during compilation and export.
    """
    T, B, _ = x_TBD.shape
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths must be a Tensor, got {type(lengths).__name__}")
    if input.dim() != 3:
        raise ValueError("lengths require a padded batch, got one sequence, (T, D); call without lengths")
    if lengths.shape != (B,) or lengths.dtype not in INTEGERS:
        raise ValueError(f"lengths must be {B} integers, one per sequence, got {lengths.dtype} {tuple(lengths.shape)}")
    if not torch.compiler.is_compiling() and B > 0 and not 1 <= int(lengths.min()) <= int(lengths.max()) <= T:
        raise ValueError(f"lengths must be from 1 to {T}, the number of time steps, got {lengths.tolist()}")


def check_state(
    hx: tuple[Tensor, Tensor], x: Tensor, form: Form, shapes: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> None:
    """Check the initial state.

    Args:
        hx: The hidden and the cell state.
        x: A tensor of the required type and device.
        form: The form of the input.
        shapes: The required shapes, (K, B, P) and (K, B, H); for one sequence the state has no B.

    Raises:
        RuntimeError: If h_0 or c_0 has another shape, type or device.
        AttributeError, TypeError, IndexError: As nn.LSTM, if hx is no pair of tensors, or the state of a packed batch
            has fewer than 3 dimensions.
    """
    if not isinstance(hx, tuple | list):
        raise TypeError(f"hx must be a pair of tensors (h_0, c_0), got {type(hx).__name__}")
    if len(hx) != 2:
        too_short = IndexError if form != "a packed batch" else RuntimeError
        raise (too_short if len(hx) < 2 else RuntimeError)(f"hx must be a pair of tensors (h_0, c_0), got {len(hx)}")
    for name, part, shape in zip(("h_0", "c_0"), hx, shapes, strict=True):
        if not isinstance(part, Tensor):
            error = TypeError if form == "a packed batch" else AttributeError
            raise error(f"{name} must be a Tensor, got {type(part).__name__}")
        expected = (shape[0], shape[2]) if form == "one sequence" else shape
        if part.shape != expected:
            error = IndexError if form == "a packed batch" and part.dim() < 3 else RuntimeError
            raise error(f"{name} must be {expected} for {form}, got {tuple(part.shape)}")
        if part.device != x.device or (part.dtype != x.dtype and not torch._C._is_any_autocast_enabled()):
            raise RuntimeError(
                f"{name} must be {x.dtype} on {x.device} like the input, got {part.dtype} on {part.device}"
            )
