"""Loading of the shared library compiled from native.cpp, and the ctypes structures of its interface.

`pip install` builds one library per instruction set where a C++ compiler is available. Without a library, the LSTM runs
in PyTorch's operations.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

BACKEND_VARIABLE = "LSTM_FLOWS_BACKEND"
INSTRUCTION_SETS = {"AVX512": "avx512", "AVX2": "avx2"}  # PyTorch's CPU capability -> suffix of the library
LIBRARY_DIR = Path(__file__).parent
VERSION = 3  # as in native.cpp


class Rows(ctypes.Structure):
    """The struct of the same name in native.cpp."""

    _fields_ = (("data", ctypes.c_void_p), ("step_stride", ctypes.c_int64), ("row_stride", ctypes.c_int64))


class Layer(ctypes.Structure):
    """The struct of the same name in native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "B", "D", "H", "Hp", "width", "saved_size", "backwards")),
        *((name, ctypes.c_void_p) for name in ("batch_sizes", "offsets")),
        *(("num_threads", ctypes.c_int64), ("parallel", ctypes.c_void_p)),
        *((name, Rows) for name in ("x", "y", "dx", "dy", "dc")),
        *((name, ctypes.c_void_p) for name in ("h0", "c0", "h_n", "c_n", "dh_0", "dc_0", "dh_n", "dc_n")),
        *((name, ctypes.c_void_p) for name in ("w_ih", "w_hh", "b_ih", "b_hh", "d_w_ih", "d_w_hh", "d_b")),
        *((name, ctypes.c_void_p) for name in ("saved", "workspace")),
    )


class Library(NamedTuple):
    """The loaded library, or the reason why none is loaded.

    Args:
        name: "native avx512" or "native avx2", or "python: " and the reason.
        cdll: The library; None if none is loaded.
        parallel: Address of GOMP_parallel in PyTorch, which starts a parallel region in PyTorch's own thread pool.
    """

    name: str
    cdll: ctypes.CDLL | None = None
    parallel: int | None = None


def backend() -> str:
    """Return which code runs the standard LSTM cell in float32 on the CPU.

    The environment variable LSTM_FLOWS_BACKEND=python disables the native code.

    Returns:
        "native avx512", "native avx2", or "python: " and the reason why no native code runs.
    """
    return library().name


@cache
def library() -> Library:
    """Return the library for the CPU capability that PyTorch reports (ATEN_CPU_CAPABILITY)."""
    if (requested := os.environ.get(BACKEND_VARIABLE, "native")) != "native":
        return Library(f"python: {BACKEND_VARIABLE}={requested}")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in INSTRUCTION_SETS:
        return Library(f"python: no native code for the CPU capability {capability.lower()}")
    name = INSTRUCTION_SETS[capability]
    paths = sorted(LIBRARY_DIR.glob(f"_native_{name}*.so"))
    if not paths:
        return Library(
            f"python: _native_{name} is not built; the installation builds it if a C++ compiler is available"
        )
    try:
        cdll = ctypes.CDLL(str(paths[0]))
        is_compatible = (cdll.version(), cdll.layer_size()) == (VERSION, ctypes.sizeof(Layer))
    except (OSError, AttributeError) as error:
        return Library(f"python: {error}")
    if not is_compatible:
        return Library(f"python: {paths[0].name} is of another version; install lstm-flows again")
    cdll.forward.argtypes, cdll.forward.restype = (ctypes.POINTER(Layer), ctypes.c_int64), ctypes.c_int
    cdll.backward.argtypes, cdll.backward.restype = (ctypes.POINTER(Layer),), None
    return Library(f"native {name}", cdll, _gomp_parallel())


def _gomp_parallel() -> int | None:
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


_is_forked = False


def num_threads() -> int:
    """Return the number of threads for one call: PyTorch's setting, but 1 in a forked process.

    A forked process has none of its parent's threads, and OpenMP would wait for them forever.
    """
    return 1 if _is_forked else torch.get_num_threads()


def _disable_threads_after_fork() -> None:
    global _is_forked
    _is_forked = True


os.register_at_fork(after_in_child=_disable_threads_after_fork)
