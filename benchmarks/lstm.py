"""Compare the speed of the hand-built LSTM with torch.nn.LSTM, a loop over torch.nn.LSTMCell, and JAX's scan.

    python benchmarks/lstm.py [--rounds N] [--threads 1 2] [--only NAME] > lstm.md

Run it with the Python of the environment in which lstm-flows is installed, on an otherwise idle machine; it takes six
to eight minutes. All implementations have the same weights and run in one process. Each round times each of them once,
in an order that rotates from round to round, so that drift of the machine affects all of them equally. Without --rounds
a case has as many rounds as fit in a few seconds. Before a case is timed, its outputs and gradients are compared. NAME
is a part of the names of the cases to time, such as 32,100 or float64.

Standard output is Markdown, with two tables per number of threads:
    forward     a call in torch.inference_mode(), with the modules in eval()
    training    a call and out.backward(d_out): the gradients of the input and of all parameters, which start as None
and in each table:
    ms          milliseconds per call, median over the rounds; (1,4,1,1) is called 20 times per round and averaged
    ratios      to nn.LSTM's time in the same round: the median and, in parentheses, the quartiles
    hand-built  the LSTM as installed, on the native backend where it supports the case (see `backend` at the top)
    python      the same without the native backend, in PyTorch's operations
    LSTMCell    a loop over nn.LSTMCell; - where it does not support the case
    JAX         if installed; it uses its own threads, one per core, or one with `--threads 1`
    GFLOP/s     of the hand-built LSTM, counting only matrix products, and the share of torch.mm's rate on this machine
    targets     the maximum median ratio of the hand-built LSTM, and of python in training on one thread
A third table shows memory: how much a first training step adds to the memory of the process, at its peak, in MB.

On a machine with a CUDA GPU everything is timed on the GPU instead, against cuDNN, with TF32 off; there are no targets
then, and --threads is ignored. Set CUDA_VISIBLE_DEVICES= (empty) to time the CPU.
ATEN_CPU_CAPABILITY=avx2 restricts PyTorch's own code and the native backend to AVX2; ONEDNN_MAX_CPU_ISA=AVX2 and
MKL_ENABLE_INSTRUCTIONS=AVX2 also restrict the matrix products of nn.LSTM, as on a processor without AVX-512.
"""

import argparse
import gc
import importlib.util
import multiprocessing
import os
import platform
import re
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_models import LSTM, backend
from lstm_models.nn.kernels.dispatch import bptt_loop
from lstm_models.nn.kernels.native_library import INSTRUCTION_SETS

SEED = 42
WARM_UP_ROUNDS = 3
SECONDS = 6.0  # for the rounds of one row of a table
MIN_ROUNDS = 9
BUILT_IN, HAND_BUILT, PYTHON, CELL_LOOP, JAX = "nn.LSTM", "hand-built", "python", "LSTMCell loop", "JAX scan"
AVX2_TARGET = 0.9  # in training, on one thread


@dataclass(frozen=True)
class Case:
    """Sizes, target ratios of the training time to nn.LSTM's, and the variant of a case."""

    batch: int
    steps: int
    inputs: int
    hidden: int
    python: float  # target without the native backend
    native: dict[int, float]  # targets with the native backend, by number of threads
    variant: str = ""
    proj_size: int = 0
    packed: bool = False
    dtype: torch.dtype = torch.float32
    calls: int = 1  # in each round

    @property
    def name(self) -> str:
        sizes = f"({self.batch},{self.steps},{self.inputs},{self.hidden})"
        return f"{sizes}, {self.variant}" if self.variant else sizes

    def gflop(self, rows: int) -> float:
        """Return the GFLOP of the matrix products in a forward pass over this many (sequence, step) pairs."""
        P = self.proj_size or self.hidden
        products = 4 * self.hidden * (self.inputs + P) + (self.hidden * P if self.proj_size else 0)
        return 2e-9 * rows * products


CASES = (
    Case(1, 4, 1, 1, python=1.5, native={1: 0.5, 2: 0.5}, calls=20),
    Case(32, 100, 16, 64, python=1.6, native={1: 0.75, 2: 0.6}),
    Case(64, 100, 64, 128, python=1.2, native={1: 0.7, 2: 0.6}),
    Case(64, 200, 128, 256, python=1.25, native={1: 0.85, 2: 0.8}),
    Case(16, 1000, 8, 32, python=4.5, native={1: 0.6, 2: 0.45}),
    Case(32, 100, 16, 64, python=0.4, native={1: 0.2, 2: 0.15}, variant="packed, lengths 1..T", packed=True),
    Case(32, 100, 16, 64, python=1.1, native={}, variant="float64", dtype=torch.float64),
    Case(32, 100, 16, 64, python=1.0, native={}, variant="proj_size=32", proj_size=32),
)


class PythonLSTM(nn.Module):
    """Hand-built LSTM without the native backend."""

    def __init__(self, lstm: LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor | PackedSequence) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        return self.lstm._forward(x, None, None, bptt_loop)


class CellLoop(nn.Module):
    """Loop over nn.LSTMCell with the weights of an nn.LSTM."""

    def __init__(self, builtin: nn.LSTM) -> None:
        super().__init__()
        weights = {name.removesuffix("_l0"): value for name, value in builtin.state_dict().items()}
        weight = weights["weight_ih"]
        self.cell = nn.LSTMCell(builtin.input_size, builtin.hidden_size, device=weight.device, dtype=weight.dtype)
        self.cell.load_state_dict(weights)

    def forward(self, x_TBD: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        state, hidden_states = None, []
        for x_BD in x_TBD.unbind(0):
            state = self.cell(x_BD, state)
            hidden_states.append(state[0])
        return torch.stack(hidden_states), state


@dataclass(frozen=True)
class Contender:
    """Module with its input; x is the tensor of the input, d_out the gradient with respect to the output."""

    module: nn.Module
    input: Tensor | PackedSequence
    x: Tensor
    d_out: Tensor

    def forward(self) -> Tensor:
        out: Tensor | PackedSequence = self.module(self.input)[0]
        return out.data if isinstance(out, PackedSequence) else out

    def train(self) -> Tensor:
        out = self.forward()
        torch.autograd.backward(out, self.d_out)
        return out

    def leaves(self) -> list[Tensor]:
        return [self.x, *self.module.parameters()]

    def zero_grad(self) -> None:
        for leaf in self.leaves():
            leaf.grad = None

    def results(self) -> list[Tensor]:
        """Return the outputs in inference and in training, and the gradients of the input and of all parameters."""
        self.zero_grad()
        self.module.eval()
        with torch.inference_mode():
            inferred = self.forward()
        self.module.train()
        return [inferred, self.train().detach(), *(cast(Tensor, leaf.grad) for leaf in self.leaves())]


class JaxScan(Contender):
    """JAX implementation: the input product for all steps, then a scan over the steps, all of it compiled."""

    def __init__(self, builtin: nn.LSTM, x: Tensor, d_out: Tensor) -> None:
        super().__init__(builtin, x, x, d_out)
        import jax

        def run(weights: list[jax.Array], x: jax.Array) -> jax.Array:
            weight_ih, weight_hh, bias_ih, bias_hh = weights

            def step(state: tuple[jax.Array, jax.Array], z: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
                i, f, g, o = jax.numpy.split(z + state[0] @ weight_hh.T, 4, axis=-1)
                c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jax.numpy.tanh(g)
                h = jax.nn.sigmoid(o) * jax.numpy.tanh(c)
                return (h, c), h

            zeros = jax.numpy.zeros((x.shape[1], builtin.hidden_size), x.dtype)
            return jax.lax.scan(step, (zeros, zeros), x @ weight_ih.T + bias_ih + bias_hh)[1]

        def gradients(weights: list[jax.Array], x: jax.Array, d_out: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
            out, gradient_of = jax.vjp(run, weights, x)
            d_weights, d_x = gradient_of(d_out)
            return out, [d_x, *d_weights]

        weights = [jax.numpy.asarray(value.detach().numpy()) for value in builtin.parameters()]
        arguments = [jax.numpy.asarray(value.detach().numpy()) for value in (x, d_out)]
        run, gradients = jax.jit(run), jax.jit(gradients)
        object.__setattr__(self, "run", lambda: run(weights, arguments[0]).block_until_ready())
        object.__setattr__(self, "gradients", lambda: jax.block_until_ready(gradients(weights, *arguments)))

    def forward(self) -> Any:
        return self.run()

    def train(self) -> Any:
        return self.gradients()

    def zero_grad(self) -> None:
        pass

    def results(self) -> list[Tensor]:
        out, gradients = self.gradients()
        return [torch.from_numpy(numpy.array(value)) for value in (self.run(), out, *gradients)]


def set_up(case: Case, device: torch.device) -> dict[str, Contender]:
    """Return the contenders of a case, with equal weights and the same input."""
    torch.manual_seed(SEED)
    new = partial(torch.randn, device=device, dtype=case.dtype)
    builtin = nn.LSTM(case.inputs, case.hidden, proj_size=case.proj_size, device=device, dtype=case.dtype)
    modules = {BUILT_IN: builtin, HAND_BUILT: LSTM.from_builtin(builtin)}
    if has_native(case, device):
        modules[PYTHON] = PythonLSTM(LSTM.from_builtin(builtin))
    if not case.packed and not case.proj_size:
        modules[CELL_LOOP] = CellLoop(builtin)
    x: Tensor = new(case.steps, case.batch, case.inputs)
    inputs: Tensor | PackedSequence = x
    if case.packed:
        lengths = torch.linspace(1, case.steps, case.batch).round().long()
        inputs = pack_padded_sequence(x, lengths, enforce_sorted=False)
        x = inputs.data
    x.requires_grad_()
    d_out = new(*x.shape[:-1], case.proj_size or case.hidden)
    contenders = {name: Contender(module, inputs, x, d_out) for name, module in modules.items()}
    if importlib.util.find_spec("jax") and case.native and not case.packed and device.type == "cpu":
        contenders[JAX] = JaxScan(builtin, x, d_out)
    return contenders


def has_native(case: Case, device: torch.device) -> bool:
    return bool(case.native) and device.type == "cpu" and backend().startswith("native")


def check_agreement(contenders: dict[str, Contender], dtype: torch.dtype) -> None:
    """Assert that all results equal those of nn.LSTM, relative to the largest value of each tensor."""
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    expected = contenders[BUILT_IN].results()
    for name, contender in contenders.items():
        for value, reference in zip(contender.results(), expected, strict=True):
            error = ((value - reference).abs().max() / reference.abs().max()).item()
            assert error <= tolerance, f"{name} deviates from {BUILT_IN} by {error:.1e} of the largest value"


def synchronize(x: Tensor) -> None:
    """Wait for the GPU if the tensor is on one."""
    if x.is_cuda:
        torch.cuda.synchronize()


def seconds_per_call(contender: Contender, training: bool, calls: int) -> float:
    """Return the mean over calls that are timed one by one, so that the gradients are reset in between."""
    call = contender.train if training else contender.forward
    seconds = 0.0
    for _ in range(calls):
        contender.zero_grad()
        synchronize(contender.x)
        began = time.perf_counter()
        call()
        synchronize(contender.x)
        seconds += time.perf_counter() - began
    return seconds / calls


def measure(contenders: dict[str, Contender], training: bool, calls: int, rounds: int | None) -> dict[str, list[float]]:
    """Measure the seconds per call of each contender in each round: this many rounds, or as many as time allows."""
    for contender in contenders.values():
        contender.module.train(training)
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode(not training):
        for name in names * WARM_UP_ROUNDS:
            seconds_per_call(contenders[name], training, calls)
        began, done = time.perf_counter(), 0
        while done < (rounds or MIN_ROUNDS) or (rounds is None and time.perf_counter() - began < SECONDS):
            first = done % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(seconds_per_call(contenders[name], training, calls))
            done += 1
    return times


def table_row(
    case: Case, times: dict[str, list[float]], target: float | None, gflop: float, peak: float | None
) -> list[str]:
    """Return a case's row of a table, without the target of python."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    cells = [case.name, str(len(times[BUILT_IN]))]
    cells += [f"{1000 * medians[name]:.3g}" for name in (BUILT_IN, HAND_BUILT)]
    for name in (HAND_BUILT, PYTHON, CELL_LOOP, *((JAX,) if importlib.util.find_spec("jax") else ())):
        cells.append("-" if name not in times else "{:.2f} ({:.2f} to {:.2f})".format(*ratio(times, name)))
    if peak:
        reached = gflop / medians[HAND_BUILT]
        cells.append(f"{reached:.0f} ({reached / peak:.0%})")
    if target is not None:
        cells.append(verdict(times, HAND_BUILT, target))
    elif peak:
        cells.append("-")
    return cells


def ratio(times: dict[str, list[float]], name: str) -> tuple[float, float, float]:
    """Compute the median and the quartiles of the ratio to nn.LSTM's time in the same round."""
    ratios = [seconds / builtin for seconds, builtin in zip(times[name], times[BUILT_IN], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return median, low, high


def verdict(times: dict[str, list[float]], name: str, target: float) -> str:
    return f"at most {target:g}: {'met' if ratio(times, name)[0] <= target else 'missed'}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table: the first column left-aligned, the others right-aligned."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def section(title: str, cases: Sequence[Case], device: torch.device, rounds: int | None, threads: int | None) -> str:
    """Return the two tables of one number of threads, or of the GPU."""
    rows: dict[bool, list[list[str]]] = {False: [], True: []}
    peak = product_peak() if threads else None
    for case in cases:
        print(f"{title}, {case.name} ...", end=" ", file=sys.stderr, flush=True)
        began = time.perf_counter()
        contenders = set_up(case, device)
        check_agreement(contenders, case.dtype)
        gc.collect()
        gc.freeze()  # as lstm-flows does: exclude long-lived objects from garbage collection
        steps = contenders[BUILT_IN].d_out.shape[:-1].numel()
        for training, rows_of_table in rows.items():
            times = measure(contenders, training, case.calls, rounds)
            gflop = case.gflop(steps) * (3 if training else 1)
            cells = table_row(case, times, target(case, training, threads), gflop, peak)
            if training and threads:
                python = PYTHON if PYTHON in times else HAND_BUILT
                cells.append(verdict(times, python, case.python) if threads == 1 else "-")
            rows_of_table.append(cells)
        print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    columns = ["batch, time, input, hidden", "rounds", f"{BUILT_IN}, ms", f"{HAND_BUILT}, ms"]
    others = (HAND_BUILT, PYTHON, CELL_LOOP, *((JAX,) if importlib.util.find_spec("jax") else ()))
    columns += [f"{name} / {BUILT_IN}" for name in others]
    if threads:
        columns += ["GFLOP/s", f"target, {HAND_BUILT}"]
    note = f"torch.mm reaches {peak:.0f} GFLOP/s.\n\n" if peak else ""
    return (
        f"## {title}\n\n{note}Forward:\n\n{table(columns, rows[False])}\n\n"
        f"Training:\n\n{table([*columns, f'target, {PYTHON}'] if threads else columns, rows[True])}"
    )


def target(case: Case, training: bool, threads: int | None) -> float | None:
    """Return the maximum ratio of the native backend's time to nn.LSTM's, or None if the case has no target."""
    if not has_native(case, torch.device("cpu")) or threads is None:
        return None
    if backend() == f"native {INSTRUCTION_SETS['AVX2']}":
        return AVX2_TARGET if training else None
    return case.native.get(threads) if training else 1.0


def product_peak() -> float:
    """Measure the GFLOP/s of a product of two large float32 matrices with PyTorch's current number of threads."""
    size = 1536
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2e-9 * size**3 / min(seconds)


# ---- memory
def memory(cases: Sequence[Case]) -> str:
    """Return the table of peak memory; each number is measured in a separate process."""
    names = (BUILT_IN, HAND_BUILT, PYTHON) if backend().startswith("native") else (BUILT_IN, HAND_BUILT)
    lines = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for case in cases:
            megabytes = [
                pool.submit(added_memory, case, name).result() if name != PYTHON or case.native else None
                for name in names
            ]
            ratio = f"{megabytes[1] / megabytes[0]:.2f}" if megabytes[0] and megabytes[1] else "-"
            lines.append([case.name, *("-" if value is None else f"{value:.1f}" for value in megabytes), ratio])
    columns = ["batch, time, input, hidden", *(f"{name}, MB" for name in names), f"{HAND_BUILT} / {BUILT_IN}"]
    return f"## Memory\n\n{table(columns, lines)}"


def added_memory(case: Case, name: str) -> float:
    """Measure how much a first training step adds to the memory of the process, at its peak, in MB; on one thread."""
    warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
    torch.set_num_threads(1)
    set_up(CASES[0], torch.device("cpu"))[HAND_BUILT].train()  # load what is loaded only once
    nn.LSTM(1, 1)(torch.ones(1, 1, 1))[0].sum().backward()
    contender = set_up(case, torch.device("cpu"))[name]
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    baseline = process_memory("VmRSS")
    contender.train()
    return process_memory("VmHWM") - baseline


def process_memory(key: str) -> float:
    match = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024 / 1e6


def processor() -> str:
    """Return the CPU's model name."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return match[1] if match else platform.processor() or platform.machine()


def sections(cases: Sequence[Case], threads: Sequence[int], rounds: int | None) -> Iterable[str]:
    """Yield the sections of the output as they are measured."""
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else f"{processor()}, threads: {', '.join(map(str, threads))}"
    command = shlex.join(["python", *sys.argv])
    versions = f"torch {torch.__version__}; backend: {backend()}"
    yield f"# The hand-built LSTM compared with {BUILT_IN}\n\n{machine}; {versions}; `{command}`"
    if gpu:
        torch.backends.cudnn.allow_tf32 = False  # float32 on both sides
        yield section(torch.cuda.get_device_name(), cases, torch.device("cuda"), rounds, None)
        return
    print("No CUDA device found: timing on the CPU only.", file=sys.stderr)
    for count in threads:
        torch.set_num_threads(count)
        title = f"{count} thread{'s' if count > 1 else ''}"
        yield section(title, cases, torch.device("cpu"), rounds, count)
    if Path("/proc/self/clear_refs").exists():
        yield memory(cases)


def main() -> None:
    """Parse the arguments, time the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds per case (default: as many as fit in a few seconds)"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N", default=[1, 2], help="numbers of threads of torch (default 1 2)"
    )
    parser.add_argument("--only", metavar="NAME", default="", help="time only the cases whose names contain this")
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 2:
        parser.error("--rounds must be at least 2, for the quartiles")
    if min(arguments.threads) < 1:
        parser.error("--threads must be at least 1")
    cases = [case for case in CASES if arguments.only in case.name]
    if not cases:
        parser.error(f"--only {arguments.only}: no such case; the cases are {'; '.join(case.name for case in CASES)}")
    warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")  # raised by nn.LSTM
    if arguments.threads == [1]:  # JAX reads XLA_FLAGS when it is imported
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    for text in sections(cases, arguments.threads, arguments.rounds):
        print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
