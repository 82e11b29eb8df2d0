"""The loop over time in native code: native.cpp, which `pip install` builds where there is a C++ compiler.

Nothing depends on it: `kernel.unroll` takes it for what `takes` names, where it is there, and PyTorch's operations for
all else, with the same results within float32 rounding.
"""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_models.cells import LSTMState, Weights
from lstm_models.loops import BASE, either_way, gradient, plain_loop
from lstm_models.through_time import is_transformed

SWITCH = "LSTM_FLOWS_BACKEND"
SETS = {"AVX512": "avx512", "AVX2": "avx2"}  # PyTorch's names of the instruction sets, and ours
PLAIN = (Tensor, nn.Parameter)
PADDED_TO, BLOCK, VERSION = 16, 64, 1  # as in native.cpp
FOLDER = Path(__file__).parent


class Rows(ctypes.Structure):
    """As in native.cpp."""

    _fields_ = (("first", ctypes.c_void_p), ("step", ctypes.c_int64), ("row", ctypes.c_int64))


class Layer(ctypes.Structure):
    """As in native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "B", "D", "H", "Hp", "width", "backwards")),
        ("batch_sizes", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("parallel", ctypes.c_void_p),
        *((name, Rows) for name in ("x", "y", "c", "gates", "dy", "dc", "dx")),
        *((name, ctypes.c_void_p) for name in ("h0", "c0", "w_ih", "w_hh", "b")),
        *(
            (name, ctypes.c_void_p)
            for name in ("d_w_ih", "d_w_hh", "d_b", "d_state", "d_c0", "packed", "sums", "inputs")
        ),
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
    if (asked := os.environ.get(SWITCH, "native")) != "native":
        return Library(f"python: {SWITCH}={asked}")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in SETS:
        return Library(f"python: no code for {capability.lower()}")
    name = SETS[capability]
    built = sorted(FOLDER.glob(f"_native_{name}*.so"))
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


def takes(x: Tensor, state: LSTMState, weights: Weights) -> bool:
    """Whether the native code runs the LSTM's own cell on this: the one rule.

    Dense tensors in float32 on the CPU that nobody watches: no subclass, no tracer, no mode that sees every operation.
    No projection, and not an empty batch. Shapes that do not fit are left to PyTorch, which says so.
    """
    H, B = state.cell.size(-1), state.cell.size(0)
    return (
        library().code is not None
        and "weight_hr" not in weights
        and x.numel() > 0
        and (x.dim() == 2 or x.size(1) == B)
        and weights["weight_ih"].shape == (4 * H, x.size(-1))
        and weights["weight_hh"].shape == (4 * H, H)
        and ("bias" not in weights or weights["bias"].shape == (4 * H,))
        and state.hidden.shape == (B, H)
        and all(
            type(each) in PLAIN
            and each.dtype is torch.float32
            and each.is_cpu
            and each.layout is torch.strided
            and not each.is_neg()
            and not each._is_zerotensor()
            for each in (x, *state, *weights.values())
        )
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
    )


def unroll(x: Tensor, state: LSTMState, weights: Weights, backwards: bool, batch_sizes: Tensor | None) -> LSTMState:
    """The states after every step; see `kernel.unroll`."""
    arguments = (x, *state, weights["weight_ih"], weights["weight_hh"], weights.get("bias"))
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in arguments):
        y, c = ThroughTime.apply(*arguments, backwards, batch_sizes)  # type: ignore[no-untyped-call]
    else:
        y, c, _ = _forward(arguments, backwards, batch_sizes, keep=False)
    H = y.size(-1)
    return LSTMState(y, c if c.size(-1) == H else c.narrow(-1, 0, H))


class ThroughTime(torch.autograd.Function):
    """As through_time.ThroughTime, whose equations these are; c comes padded to Hp numbers.

    Once a step's gradient is known its gates are not needed again, so it is written over them. A second backward
    through the same graph therefore runs the forward pass again.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        *arguments, ctx.backwards, batch_sizes = given
        y, c, gates = _forward(arguments, ctx.backwards, batch_sizes, keep=True)
        ctx.save_for_backward(*arguments, batch_sizes, y, c, gates)
        ctx.set_materialize_grads(False)
        ctx.is_used = False
        return y, c

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dc: Tensor | None) -> tuple[Tensor | None, ...]:
        *arguments, batch_sizes, y, c, gates = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(dy, dc):  # somebody wants its derivative, or many
            H = y.size(-1)

            def loop(x: Tensor, state: LSTMState, weights: Weights) -> LSTMState:
                return either_way(plain_loop, x, state, weights, BASE, False, ctx.backwards, batch_sizes)

            return *gradient(loop, arguments, (dy, None if dc is None else dc[..., :H])), None, None
        if ctx.is_used:
            *_, gates = _forward(arguments, ctx.backwards, batch_sizes, keep=True)
        ctx.is_used = True
        saved = (y, c, gates)
        return *_backward(arguments, ctx.backwards, batch_sizes, saved, (dy, dc), ctx.needs_input_grad), None, None


def _padded(size: int) -> int:
    return -(-size // PADDED_TO) * PADDED_TO


def _rows(x: Tensor) -> Tensor:
    """As it is if each row's numbers lie side by side, or a copy."""
    x = x.resolve_neg()
    return x if x.stride(-1) == 1 or x.size(-1) == 1 else x.contiguous()


def _strided(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(-2)


def _like(x: Tensor, size: int) -> Tensor:
    """Rows of another size, in the order of x: by time, or by sequence."""
    if x.dim() == 2:
        return x.new_empty(x.size(0), size)
    T, B, _ = x.shape
    by_time, by_sequence = (B * size, size, 1), (size, T * size, 1)
    return x.new_empty_strided((T, B, size), by_sequence if x.stride(0) < x.stride(1) else by_time)


def _layer(x: Tensor, arguments: Sequence[Tensor], backwards: bool, batch_sizes: Tensor | None) -> Layer:
    """What both passes are given. `kept` holds the tensors that its pointers point into."""
    kept = [each if each.is_contiguous() else each.contiguous() for each in arguments]
    h0, c0, w_ih, w_hh, *b = kept
    D, H = w_ih.size(1), w_hh.size(1)
    layer = Layer(
        T=x.size(0), B=h0.size(0), D=D, H=H, Hp=_padded(H), width=_padded(D + H), backwards=backwards, x=_strided(x),
        threads=1 if _is_child else torch.get_num_threads(), parallel=library().parallel,
        h0=h0.data_ptr(), c0=c0.data_ptr(), w_ih=w_ih.data_ptr(), w_hh=w_hh.data_ptr(),
        b=b[0].data_ptr() if b else None,
    )  # fmt: skip
    if batch_sizes is not None:
        sizes = batch_sizes.long().contiguous()
        offsets = sizes.cumsum(0) - sizes
        layer.T, layer.batch_sizes, layer.offsets = sizes.numel(), sizes.data_ptr(), offsets.data_ptr()
        kept += [sizes, offsets]
    layer.kept = kept
    return layer


def _forward(
    arguments: Sequence[Tensor | None], backwards: bool, batch_sizes: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """y; c, padded to Hp numbers; and, if they are to be kept, the activated gates."""
    x, *others = (each for each in arguments if each is not None)
    x = _rows(x)
    layer = _layer(x, others, backwards, batch_sizes)
    H, Hp = layer.H, layer.Hp
    y, c, gates = _like(x, H), x.new_empty(*x.shape[:-1], Hp), None
    layer.y, layer.c = _strided(y), _strided(c)
    if keep:
        # a little wider than need be: rows 4096 bytes apart would push one another out of the cache
        gates = x.new_empty(*x.shape[:-1], 4 * Hp + PADDED_TO)
        layer.gates = _strided(gates)
    packed = x.new_empty((1 + layer.D + H) * 4 * Hp)
    layer.packed = packed.data_ptr()
    if not code().forward(layer, x.size(0)):
        raise RuntimeError(f"no PackedSequence of {x.size(0)} rows has the batch_sizes {layer.kept[-2].tolist()}")
    return y, c, gates


def _backward(
    arguments: Sequence[Tensor | None],
    backwards: bool,
    batch_sizes: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor],
    outside: tuple[Tensor | None, Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dx, dh_0, dc_0, dW_ih, dW_hh, db."""
    x, *others = (each for each in arguments if each is not None)
    x = _rows(x)
    layer = _layer(x, others, backwards, batch_sizes)
    B, D, H, Hp, width = layer.B, layer.D, layer.H, layer.Hp, layer.width
    layer.y, layer.c, layer.gates = map(_strided, saved)
    dy, dc = (None if each is None else _rows(each) for each in outside)
    if dy is not None:
        layer.dy = _strided(dy)
    if dc is not None:
        layer.dc = _strided(dc)
    dx = d_w_ih = d_w_hh = d_b = None
    if needed[0]:
        dx = _like(x, D)
        layer.dx = _strided(dx)
    if needed[3] or needed[4]:
        d_w_ih, d_w_hh = x.new_empty(4 * H, D), x.new_empty(4 * H, H)
        layer.d_w_ih, layer.d_w_hh = d_w_ih.data_ptr(), d_w_hh.data_ptr()
    if needed[5]:
        d_b = x.new_empty(4 * H)
        layer.d_b = d_b.data_ptr()
    sizes = {
        "d_state": B * width, "d_c0": B * Hp, "packed": 4 * Hp * width, "sums": 4 * H * width,
        "inputs": layer.threads * BLOCK * width,
    }  # fmt: skip
    room = x.new_empty(sum(sizes.values()))
    place = room.data_ptr()
    for name, size in sizes.items():
        setattr(layer, name, place)
        place += 4 * size
    code().backward(layer)
    dh_0 = room[: B * width].view(B, width)[:, :H] if needed[1] else None
    dc_0 = room[B * width : B * (width + Hp)].view(B, Hp)[:, :H] if needed[2] else None
    return dx, dh_0, dc_0, d_w_ih, d_w_hh, d_b


_is_child = False


def _forked() -> None:
    """A forked process has none of its parent's threads, and OpenMP would wait for them for ever."""
    global _is_child
    _is_child = True


os.register_at_fork(after_in_child=_forked)
