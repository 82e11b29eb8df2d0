"""The loop over time in native code: native.cpp, which `pip install` builds where there is a C++ compiler.

Nothing depends on it: `kernel.unroll` takes it for what `takes` names, where it is there, and PyTorch's operations for
all else, with the same results within float32 rounding.
"""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lstm_models.nn.cells import Cell, LSTMState, Weights
from lstm_models.nn.kernels.bptt import under_transform
from lstm_models.nn.kernels.reference import (
    STANDARD_CELL,
    gradient,
    merge_biases,
    named_weights,
    reference_loop,
    run_direction,
)

BACKEND_VARIABLE = "LSTM_FLOWS_BACKEND"
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # all that the LSTM's own cell has without a projection
INSTRUCTION_SETS = {"AVX512": "avx512", "AVX2": "avx2"}  # PyTorch's names of the instruction sets, and ours
PLAIN_TENSORS = (Tensor, nn.Parameter)
PADDED_TO, BLOCK, VERSION = 16, 64, 3  # as in native.cpp
LIBRARY_DIR = Path(__file__).parent


class Rows(ctypes.Structure):
    """As in native.cpp."""

    _fields_ = (("first", ctypes.c_void_p), ("step", ctypes.c_int64), ("row", ctypes.c_int64))


class Layer(ctypes.Structure):
    """As in native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "B", "D", "H", "Hp", "width", "record", "backwards")),
        *((name, ctypes.c_void_p) for name in ("batch_sizes", "offsets")),
        *(("threads", ctypes.c_int64), ("parallel", ctypes.c_void_p)),
        *((name, Rows) for name in ("x", "y", "dx", "dy", "dc")),
        *((name, ctypes.c_void_p) for name in ("h0", "c0", "h_n", "c_n", "dh_0", "dc_0", "dh_n", "dc_n")),
        *((name, ctypes.c_void_p) for name in ("w_ih", "w_hh", "b_ih", "b_hh", "d_w_ih", "d_w_hh", "d_b")),
        *((name, ctypes.c_void_p) for name in ("kept", "room")),
    )


class Library(NamedTuple):
    """What was found, and the word for it; or why there is nothing."""

    name: str
    code: ctypes.CDLL | None = None
    parallel: int | None = None  # where OpenMP starts a parallel region in PyTorch's own pool of threads


def backend() -> str:
    """Which code runs the LSTM's own cell in float32 on the CPU, and why: "native avx512", "native avx2", or "python: "
    and the reason. The environment variable LSTM_FLOWS_BACKEND=python switches the native code off."""
    return library().name


@cache
def library() -> Library:
    """The native code for what this processor can do, as PyTorch sees it (ATEN_CPU_CAPABILITY)."""
    if (asked := os.environ.get(BACKEND_VARIABLE, "native")) != "native":
        return Library(f"python: {BACKEND_VARIABLE}={asked}")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in INSTRUCTION_SETS:
        return Library(f"python: no code for {capability.lower()}")
    name = INSTRUCTION_SETS[capability]
    built = sorted(LIBRARY_DIR.glob(f"_native_{name}*.so"))
    if not built:
        return Library(f"python: no _native_{name}, which an installation builds where there is a C++ compiler")
    try:
        code = ctypes.CDLL(str(built[0]))
        is_ours = (code.version(), code.layer_size()) == (VERSION, ctypes.sizeof(Layer))
    except (OSError, AttributeError) as error:
        return Library(f"python: {error}")
    if not is_ours:
        return Library(f"python: {built[0].name} is of another version; install lstm-flows again")
    code.forward.argtypes, code.forward.restype = (ctypes.POINTER(Layer), ctypes.c_int64), ctypes.c_int
    code.backward.argtypes, code.backward.restype = (ctypes.POINTER(Layer),), None
    return Library(f"native {name}", code, _parallel())


def _parallel() -> int | None:
    try:
        pool = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(pool.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def code() -> ctypes.CDLL:
    """The native code, where `takes` has said that it is there."""
    found = library().code
    assert found is not None
    return found


def supports(x: Tensor, state: LSTMState, weights: Weights) -> bool:
    """Whether the native code runs the LSTM's own cell on this: the one rule.

    Dense tensors in float32 on the CPU that nobody watches: no subclass, no tracer, no mode that sees every operation.
    No projection, and not an empty batch. Shapes that do not fit are left to PyTorch, which says so.
    """
    if library().code is None or torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
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
    fitting = {"weight_ih": (4 * H, D), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    for name, weight in weights.items():
        if weight.shape != fitting.get(name):
            return False
    return state.hidden.shape == (B, H) and x.shape in ((x.shape[0], B, D), (x.shape[0], D)) and x.numel() > 0


def unroll(
    x: Tensor, state: LSTMState, weights: Weights, backwards: bool, batch_sizes: Tensor | None
) -> tuple[Tensor, LSTMState]:
    """See `kernel.unroll`."""
    y, h_n, c_n = _run((x, *state, *map(weights.get, WEIGHTS)), False, backwards, batch_sizes)
    return y, LSTMState(h_n, c_n)


def forward_all_states(x_TBD: Tensor, state: LSTMState, weights: Weights, cell: Cell, training: bool) -> LSTMState:
    """The same as one of the loops of loops.py: c after every step, too."""
    arguments = (x_TBD, *state, weights["weight_ih"], weights["weight_hh"], weights.get("bias"), None)
    y, _, _, c = _run(arguments, True, False, None)
    return LSTMState(y, c)


def _run(
    arguments: Sequence[Tensor | None], all_of_c: bool, backwards: bool, batch_sizes: Tensor | None
) -> tuple[Tensor, ...]:
    """y, h_n, c_n and, if asked for, c; of x, h_0, c_0 and WEIGHTS."""
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in arguments):
        return NativeLSTMFunction.apply(*arguments, all_of_c, backwards, batch_sizes)  # type: ignore[no-any-return, no-untyped-call]
    *results, kept = _forward(arguments, backwards, batch_sizes, keep_gates=False)
    return *results, *([kept[..., : results[0].size(-1)]] if all_of_c else [])


class NativeLSTMFunction(torch.autograd.Function):
    """As through_time.ThroughTime, whose equations these are.

    Once a step's gradient is known its gates are not needed again, so it is written over them. A second backward
    through the same graph therefore runs the forward pass again.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        *arguments, all_of_c, ctx.backwards, ctx.batch_sizes = given
        y, h_n, c_n, kept = _forward(arguments, ctx.backwards, ctx.batch_sizes, keep_gates=True)
        ctx.save_for_backward(*arguments, y, kept)
        ctx.set_materialize_grads(False)
        ctx.is_used = False
        return (y, h_n, c_n, kept[..., : y.size(-1)]) if all_of_c else (y, h_n, c_n)

    @staticmethod
    def backward(ctx: Any, *outside: Tensor | None) -> tuple[Tensor | None, ...]:
        *arguments, y, kept = ctx.saved_tensors
        if torch.is_grad_enabled() or under_transform(*outside):  # somebody wants its derivative, or many

            def plainly(x: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor | None) -> tuple[Tensor, ...]:
                before, given = LSTMState(hidden, cell), merge_biases(named_weights(WEIGHTS, weights))
                states, after = run_direction(
                    reference_loop, x, before, given, STANDARD_CELL, False, ctx.backwards, ctx.batch_sizes, None
                )
                return (states.hidden, *after, states.cell)[: len(outside)]

            return *gradient(plainly, arguments, outside), None, None, None
        if ctx.is_used:
            *_, kept = _forward(arguments, ctx.backwards, ctx.batch_sizes, keep_gates=True)
        ctx.is_used = True
        found = _backward(arguments, ctx.backwards, ctx.batch_sizes, (y, kept), outside, ctx.needs_input_grad)
        return *found, None, None, None


def _padded(size: int) -> int:
    return -(-size // PADDED_TO) * PADDED_TO


def _rows(x: Tensor) -> Tensor:
    """As it is if each row's numbers lie side by side, or a copy."""
    return x if x.stride()[-1] == 1 or x.shape[-1] == 1 else x.contiguous()


def _strided(x: Tensor) -> tuple[int, int, int]:
    strides = x.stride()
    return x.data_ptr(), strides[0], strides[-2]


def _like(x: Tensor, size: int) -> Tensor:
    """Rows of another size, in the order of x: by time, or by sequence."""
    *places, _ = x.shape
    strides = x.stride()
    if strides[0] >= strides[-2]:
        return x.new_empty(*places, size)
    T, B = places
    return x.new_empty_strided((T, B, size), (size, T * size, 1))


def _layer(x: Tensor, arguments: Sequence[Tensor | None], backwards: bool, batch_sizes: Tensor | None) -> Layer:
    """What both passes are given. `alive` holds the tensors that its pointers point into."""
    alive = [each if each is None or each.is_contiguous() else each.contiguous() for each in arguments]
    h0, c0, w_ih, w_hh, b_ih, b_hh = (each if each is None else each.data_ptr() for each in alive)
    (B, H), (T, *_, D) = cast(Tensor, arguments[1]).shape, x.shape
    layer = Layer(
        T=T, B=B, D=D, H=H, Hp=_padded(H), width=_padded(D + H), backwards=backwards, x=_strided(x),
        threads=1 if _is_child else torch.get_num_threads(), parallel=library().parallel,
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
    arguments: Sequence[Tensor | None], backwards: bool, batch_sizes: Tensor | None, keep_gates: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, h_n, c_n; and what is kept for the gradient: of each step c and, if they are to be, the activated gates."""
    x = _rows(cast(Tensor, arguments[0]))
    layer = _layer(x, arguments[1:], backwards, batch_sizes)
    B, H, Hp = layer.B, layer.H, layer.Hp
    # a little wider than need be: rows 4096 bytes apart would push one another out of the cache
    layer.record = 5 * Hp + PADDED_TO if keep_gates else Hp
    y, h_n, c_n = _like(x, H), x.new_empty(1, B, H), x.new_empty(1, B, H)
    kept = x.new_empty(*x.shape[:-1], layer.record)
    room = x.new_empty(4 * (PADDED_TO * B + (1 + layer.D + H) * Hp + B))
    layer.y, layer.h_n, layer.c_n = _strided(y), h_n.data_ptr(), c_n.data_ptr()
    layer.kept, layer.room = kept.data_ptr(), room.data_ptr()
    if not code().forward(layer, x.shape[0]):
        raise RuntimeError(f"no PackedSequence of {x.shape[0]} rows has the batch_sizes {layer.alive[-2].tolist()}")
    return y, h_n, c_n, kept


def _backward(
    arguments: Sequence[Tensor | None],
    backwards: bool,
    batch_sizes: Tensor | None,
    saved: tuple[Tensor, Tensor],
    outside: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of `arguments`: from y and what was kept, and from those of what `_run` returned."""
    x = _rows(cast(Tensor, arguments[0]))
    layer = _layer(x, arguments[1:], backwards, batch_sizes)
    B, D, H, Hp, width = layer.B, layer.D, layer.H, layer.Hp, layer.width
    y, kept = saved
    layer.y, layer.kept, layer.record = _strided(y), kept.data_ptr(), kept.shape[-1]
    given = []  # as long as the pointers to it are used
    for name, value in zip(("dy", "dh_n", "dc_n", "dc"), outside, strict=False):
        if value is not None:
            is_of_steps = name in ("dy", "dc")
            value = _rows(value.resolve_neg()) if is_of_steps else value.resolve_neg().contiguous()
            setattr(layer, name, _strided(value) if is_of_steps else value.data_ptr())
            given.append(value)

    def new(name: str, is_needed: bool, *shape: int) -> Tensor | None:
        if not is_needed:
            return None
        gradient = x.new_empty(shape)
        setattr(layer, name, gradient.data_ptr())
        return gradient

    dx = _like(x, D) if needed[0] else None
    if dx is not None:
        layer.dx = _strided(dx)
    dh_0, dc_0 = new("dh_0", needed[1], B, H), new("dc_0", needed[2], B, H)
    d_w_ih, d_w_hh = new("d_w_ih", needed[3], 4 * H, D), new("d_w_hh", needed[4], 4 * H, H)
    d_b = new("d_b", needed[5] or needed[6], 4 * H)
    blocks = layer.threads * (1 + BLOCK) * width + 4 * H * BLOCK
    room = new("room", True, B * (width + Hp) + 4 * (Hp + H) * width + blocks)
    code().backward(layer)
    del room, given
    return dx, dh_0, dc_0, d_w_ih, d_w_hh, *(d_b if each else None for each in needed[5:7])


_is_child = False


def _disable_threads_after_fork() -> None:
    """A forked process has none of its parent's threads, and OpenMP would wait for them for ever."""
    global _is_child
    _is_child = True


os.register_at_fork(after_in_child=_disable_threads_after_fork)
