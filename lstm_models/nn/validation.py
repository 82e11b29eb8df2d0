"""What an LSTM can be given, and what is refused: the exception types are nn.LSTM's, the texts say what is expected."""

import numbers
import warnings
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Form = Literal["one sequence", "a batch", "a packed batch"]


def check_settings(sizes: dict[str, int], switches: dict[str, bool], dropout: float) -> None:
    """The settings of an LSTM: its sizes by name, the last of them proj_size; what must be a bool; and dropout.

    Raises:
        TypeError: for a size that is no integer, or a switch that is no bool.
        ValueError: for a size out of range, or a dropout that is no probability.
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
            f"dropout={dropout} has no effect with num_layers=1: it lies between the layers", UserWarning, stacklevel=3
        )


def check_input(input: Tensor | PackedSequence, input_size: int, batch_first: bool, dtype: torch.dtype) -> None:
    """The sequences that an LSTM with weights of the type dtype is to read.

    Raises:
        AttributeError: if the input is no tensor.
        ValueError: if it does not have 2 or 3 dimensions, or is not of the weights' type and no autocast makes it so.
        RuntimeError: if it does not have input_size features, or no time step; and what is wrong with a packed one.
    """
    packed = isinstance(input, PackedSequence)
    x = input.data if isinstance(input, PackedSequence) else input
    if not isinstance(x, Tensor):
        raise AttributeError(f"input must be a Tensor or a PackedSequence, got {type(x).__name__}")
    if packed and x.dim() != 2:
        raise RuntimeError(f"a PackedSequence must hold 2 dimensions, (steps, D), got {x.dim()}")
    if x.dim() not in (2, 3):
        raise ValueError(f"input must have 2 dimensions (one sequence) or 3 (a batch), got {x.dim()}")
    if x.dtype != dtype and not torch._C._is_any_autocast_enabled():
        error = RuntimeError if packed else ValueError
        raise error(f"input must be {dtype} as the weights, got {x.dtype}; convert one of the two with .to()")
    if x.size(-1) != input_size:
        raise RuntimeError(f"input must have input_size={input_size} features in its last dimension, got {x.size(-1)}")
    if not packed and x.size(1 if x.dim() == 3 and batch_first else 0) == 0:
        raise RuntimeError("input must have at least one time step")


def check_lengths(lengths: Tensor, input: Tensor, x_TBD: Tensor) -> None:
    """The lengths of a padded batch.

    Raises:
        TypeError: if they are no tensor.
        ValueError: if they are not B integers from 1 to T. What is being compiled or exported can't look at them.
    """
    T, B, _ = x_TBD.shape
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths must be a Tensor, got {type(lengths).__name__}")
    if input.dim() != 3:
        raise ValueError("lengths are for a batch; got one sequence, (T, D)")
    if lengths.shape != (B,) or lengths.dtype not in INTEGERS:
        raise ValueError(f"lengths must be {B} integers, one a sequence, got {lengths.dtype} {tuple(lengths.shape)}")
    if not torch.compiler.is_compiling() and B > 0 and not 1 <= int(lengths.min()) <= int(lengths.max()) <= T:
        raise ValueError(f"lengths must be from 1 to {T}, the time steps, got {lengths.tolist()}")


def check_state(
    hx: tuple[Tensor, Tensor], x: Tensor, form: Form, shapes: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> None:
    """The state before the first step: it must have these shapes, (K, B, P) and (K, B, H); of one sequence without B.

    Raises:
        RuntimeError: if a part has another shape, type or device.
        TypeError, IndexError: as nn.LSTM, if hx is no pair of tensors, or a packed batch's state has no dimension K.
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
                f"{name} must be {x.dtype} on {x.device} as the input, got {part.dtype} on {part.device}"
            )
