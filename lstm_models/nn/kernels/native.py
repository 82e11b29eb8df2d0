"""The loop over time in native code, native.cpp, for the standard LSTM cell in float32 on the CPU.

`dispatch.unroll` runs it for the arguments that `supports` accepts, and PyTorch's operations for all others. The
results agree within float32 rounding. Shapes as in cells.py; y is the hidden state after every step.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lstm_models.nn.cells import Cell, LSTMState, Weights
from lstm_models.nn.kernels import native_library
from lstm_models.nn.kernels.bptt import under_transform
from lstm_models.nn.kernels.native_library import Layer
from lstm_models.nn.kernels.reference import (
    STANDARD_CELL,
    gradient,
    merge_biases,
    named_weights,
    reference_loop,
    run_direction,
)

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # all weights of the standard cell without a projection
PLAIN_TENSORS = (Tensor, nn.Parameter)
ALIGNMENT, BLOCK = 16, 64  # as in native.cpp


def supports(x: Tensor, state: LSTMState, weights: Weights) -> bool:
    """Return whether the native code can run the standard cell on these arguments.

    It supports dense float32 tensors on the CPU. It does not support tensor subclasses, tracers, dispatch modes,
    projections and empty batches. Arguments whose shapes do not match go to PyTorch, which raises the error.
    """
    if native_library.library().cdll is None:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
        return False
    for each in (x, *state, *weights.values()):
        if not (
            type(each) in PLAIN_TENSORS
            and each.dtype is torch.float32
            and each.is_cpu
            and each.layout is torch.strided
            and not each.is_neg()
            and not each._is_zerotensor()
        ):
            return False
    (B, H), D = state.cell.shape, x.shape[-1]
    expected = {"weight_ih": (4 * H, D), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    for name, weight in weights.items():
        if weight.shape != expected.get(name):
            return False
    return state.hidden.shape == (B, H) and x.shape in ((x.shape[0], B, D), (x.shape[0], D)) and x.numel() > 0


def unroll(
    x: Tensor, state: LSTMState, weights: Weights, backwards: bool, batch_sizes: Tensor | None
) -> tuple[Tensor, LSTMState]:
    """Run the cell over all time steps of one layer, in one direction; see `dispatch.unroll`."""
    y, h_n, c_n = _run((x, *state, *map(weights.get, WEIGHTS)), False, backwards, batch_sizes)
    return y, LSTMState(h_n, c_n)


def forward_all_states(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> LSTMState:
    """Return the states after every step, as a `Loop` does: c too, which `unroll` does not return."""
    arguments = (x_TBD, *state, weights["weight_ih"], weights["weight_hh"], weights.get("bias"), None)
    y, _, _, c = _run(arguments, True, False, None)
    return LSTMState(y, c)


def _run(
    arguments: Sequence[Tensor | None], return_all_c: bool, backwards: bool, batch_sizes: Tensor | None
) -> tuple[Tensor, ...]:
    """Return y, h_n, c_n and, if return_all_c is set, c after every step. Arguments: x, h_0, c_0 and WEIGHTS."""
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in arguments):
        return NativeLSTMFunction.apply(*arguments, return_all_c, backwards, batch_sizes)  # type: ignore[no-any-return, no-untyped-call]
    *results, saved = _forward(arguments, backwards, batch_sizes, save_gates=False)
    return *results, *([saved[..., : results[0].size(-1)]] if return_all_c else [])


class NativeLSTMFunction(torch.autograd.Function):
    """The loop in native code, with the gradient that bptt.LSTMFunction derives.

    backward writes dz over the saved gates, which are not needed once a step's gradient is known. A second backward
    through the same graph therefore runs the forward pass again.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """Return what `_run` returns."""
        *arguments, return_all_c, ctx.backwards, ctx.batch_sizes = inputs
        y, h_n, c_n, saved = _forward(arguments, ctx.backwards, ctx.batch_sizes, save_gates=True)
        ctx.save_for_backward(*arguments, y, saved)
        ctx.set_materialize_grads(False)
        ctx.gates_overwritten = False
        return (y, h_n, c_n, saved[..., : y.size(-1)]) if return_all_c else (y, h_n, c_n)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, h_0, c_0 and WEIGHTS, and None for each option."""
        *arguments, y, saved = ctx.saved_tensors
        if torch.is_grad_enabled() or under_transform(*grad_outputs):  # higher derivatives or batched gradients

            def reference(x: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor | None) -> tuple[Tensor, ...]:
                initial, merged = LSTMState(hidden, cell), merge_biases(named_weights(WEIGHTS, weights))
                states, final = run_direction(
                    reference_loop, x, initial, merged, STANDARD_CELL, False, ctx.backwards, ctx.batch_sizes, None
                )
                return (states.hidden, *final, states.cell)[: len(grad_outputs)]

            return *gradient(reference, arguments, grad_outputs), None, None, None
        if ctx.gates_overwritten:
            *_, saved = _forward(arguments, ctx.backwards, ctx.batch_sizes, save_gates=True)
        ctx.gates_overwritten = True
        gradients = _backward(arguments, ctx.backwards, ctx.batch_sizes, (y, saved), grad_outputs, ctx.needs_input_grad)
        return *gradients, None, None, None


def _code() -> ctypes.CDLL:
    """Return the loaded library; only for arguments that `supports` accepts."""
    cdll = native_library.library().cdll
    assert cdll is not None
    return cdll


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _with_contiguous_rows(x: Tensor) -> Tensor:
    """Return x, or a contiguous copy if the numbers of a row are not adjacent."""
    return x if x.stride()[-1] == 1 or x.shape[-1] == 1 else x.contiguous()


def _as_rows(x: Tensor) -> tuple[int, int, int]:
    """Return the fields of `native_library.Rows` for a tensor."""
    strides = x.stride()
    return x.data_ptr(), strides[0], strides[-2]


def _empty_like(x: Tensor, size: int) -> Tensor:
    """Return an empty tensor with rows of another size, in the memory order of x: time first or batch first."""
    *leading, _ = x.shape
    strides = x.stride()
    if strides[0] >= strides[-2]:
        return x.new_empty(*leading, size)
    T, B = leading
    return x.new_empty_strided((T, B, size), (size, T * size, 1))


def _new_layer(x: Tensor, arguments: Sequence[Tensor | None], backwards: bool, batch_sizes: Tensor | None) -> Layer:
    """Return the fields that both passes need. Its attribute `alive` holds the tensors that its pointers refer to."""
    alive = [each if each is None or each.is_contiguous() else each.contiguous() for each in arguments]
    h0, c0, w_ih, w_hh, b_ih, b_hh = (each if each is None else each.data_ptr() for each in alive)
    (B, H), (T, *_, D) = cast(Tensor, arguments[1]).shape, x.shape
    layer = Layer(
        T=T, B=B, D=D, H=H, Hp=_padded(H), width=_padded(D + H), backwards=backwards, x=_as_rows(x),
        num_threads=native_library.num_threads(), parallel=native_library.library().parallel,
        h0=h0, c0=c0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh,
    )  # fmt: skip
    if batch_sizes is not None:
        sizes = batch_sizes.long().contiguous()
        offsets = sizes.cumsum(0) - sizes
        layer.T, layer.batch_sizes, layer.offsets = sizes.numel(), sizes.data_ptr(), offsets.data_ptr()
        alive += [sizes, offsets]
    layer.alive = alive
    return layer


def _forward(
    arguments: Sequence[Tensor | None], backwards: bool, batch_sizes: Tensor | None, save_gates: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, h_n, c_n and `saved`: c after every step and, if save_gates is set, the activated gates."""
    x = _with_contiguous_rows(cast(Tensor, arguments[0]))
    layer = _new_layer(x, arguments[1:], backwards, batch_sizes)
    B, H, Hp = layer.B, layer.H, layer.Hp
    # wider than necessary: rows that are 4096 bytes apart would evict each other from the cache
    layer.saved_size = 5 * Hp + ALIGNMENT if save_gates else Hp
    y, h_n, c_n = _empty_like(x, H), x.new_empty(1, B, H), x.new_empty(1, B, H)
    saved = x.new_empty(*x.shape[:-1], layer.saved_size)
    workspace = x.new_empty(4 * (ALIGNMENT * B + (1 + layer.D + H) * Hp + B))
    layer.y, layer.h_n, layer.c_n = _as_rows(y), h_n.data_ptr(), c_n.data_ptr()
    layer.saved, layer.workspace = saved.data_ptr(), workspace.data_ptr()
    if not _code().forward(layer, x.shape[0]):
        raise RuntimeError(f"batch_sizes {layer.alive[-2].tolist()} do not match a PackedSequence of {x.shape[0]} rows")
    return y, h_n, c_n, saved


def _backward(
    arguments: Sequence[Tensor | None],
    backwards: bool,
    batch_sizes: Tensor | None,
    from_forward: tuple[Tensor, Tensor],
    grad_outputs: Sequence[Tensor | None],
    needs_input_grad: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `arguments`, from y and `saved`, and from the gradients of what `_run` returned."""
    x = _with_contiguous_rows(cast(Tensor, arguments[0]))
    layer = _new_layer(x, arguments[1:], backwards, batch_sizes)
    B, D, H, Hp, width = layer.B, layer.D, layer.H, layer.Hp, layer.width
    y, saved = from_forward
    layer.y, layer.saved, layer.saved_size = _as_rows(y), saved.data_ptr(), saved.shape[-1]
    for name, value in zip(("dy", "dh_n", "dc_n", "dc"), grad_outputs, strict=False):
        if value is not None:
            has_steps = name in ("dy", "dc")
            value = _with_contiguous_rows(value.resolve_neg()) if has_steps else value.resolve_neg().contiguous()
            setattr(layer, name, _as_rows(value) if has_steps else value.data_ptr())
            layer.alive.append(value)

    def new(name: str, is_needed: bool, *shape: int) -> Tensor | None:
        if not is_needed:
            return None
        tensor = x.new_empty(shape)
        setattr(layer, name, tensor.data_ptr())
        return tensor

    dx = _empty_like(x, D) if needs_input_grad[0] else None
    if dx is not None:
        layer.dx = _as_rows(dx)
    dh_0, dc_0 = new("dh_0", needs_input_grad[1], B, H), new("dc_0", needs_input_grad[2], B, H)
    d_w_ih, d_w_hh = new("d_w_ih", needs_input_grad[3], 4 * H, D), new("d_w_hh", needs_input_grad[4], 4 * H, H)
    d_b = new("d_b", needs_input_grad[5] or needs_input_grad[6], 4 * H)
    blocks = layer.num_threads * (1 + BLOCK) * width + 4 * H * BLOCK
    layer.alive.append(new("workspace", True, B * (width + Hp) + 4 * (Hp + H) * width + blocks))
    _code().backward(layer)
    return dx, dh_0, dc_0, d_w_ih, d_w_hh, *(d_b if each else None for each in needs_input_grad[5:7])
