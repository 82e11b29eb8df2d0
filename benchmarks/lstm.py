"""How fast the hand-built LSTM is beside torch.nn.LSTM and beside a loop over torch.nn.LSTMCell.

    python benchmarks/lstm.py [--rounds N] [--threads 1 2] [--only NAME] > lstm.md

Run it with the Python of the environment that lstm-flows is installed in, on a machine that does nothing else; it
takes four to five minutes. All contenders have the same weights and run in one process. Each round times each of them
once, in an order that rotates from round to round, so that a drift of the machine hits all alike. Without --rounds a
case has as many rounds as fit in a few seconds. Before it is timed, its outputs and gradients are compared. NAME is a
part of the names of the cases to time, such as 32,100 or float64.

Standard output is Markdown, for each number of threads two tables:
    forward     a call in torch.inference_mode(), the modules in eval()
    training    a call and out.backward(d_out): the gradients of the input and of all parameters, none there before
with, in each:
    ms          of a call, the median over the rounds; (1,4,1,1) is called 20 times a round, and its mean is taken
    ratios      to nn.LSTM's time in the same round: their median and, in parentheses, their quartiles
    LSTMCell    - where a loop over it can't do the case
    target      for training on one thread: the most that the hand-built LSTM's median ratio may be

On a machine with a CUDA GPU all this is timed on the GPU instead, against cuDNN, with TF32 off; there are no targets
then, and --threads is ignored. CUDA_VISIBLE_DEVICES= (to nothing) brings the CPU back.
"""

import argparse
import gc
import platform
import re
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_models import LSTM

SEED = 42
WARM_UP_ROUNDS = 3
SECONDS = 6.0  # for the rounds of one line of a table
LEAST_ROUNDS = 9
BUILT_IN, HAND_BUILT, CELL_LOOP = "nn.LSTM", "hand-built", "LSTMCell loop"


@dataclass(frozen=True)
class Case:
    """Sizes, the most that training may take of nn.LSTM's time, and how the case differs from the plain ones."""

    batch: int
    steps: int
    inputs: int
    hidden: int
    target: float
    variant: str = ""
    proj_size: int = 0
    packed: bool = False
    dtype: torch.dtype = torch.float32
    calls: int = 1  # in each round

    @property
    def name(self) -> str:
        sizes = f"({self.batch},{self.steps},{self.inputs},{self.hidden})"
        return f"{sizes}, {self.variant}" if self.variant else sizes


CASES = (
    Case(1, 4, 1, 1, target=1.5, calls=20),
    Case(32, 100, 16, 64, target=1.6),
    Case(64, 100, 64, 128, target=1.2),
    Case(64, 200, 128, 256, target=1.25),
    Case(16, 1000, 8, 32, target=4.5),
    Case(32, 100, 16, 64, target=0.4, variant="packed, lengths 1..T", packed=True),
    Case(32, 100, 16, 64, target=1.1, variant="float64", dtype=torch.float64),
    Case(32, 100, 16, 64, target=1.0, variant="proj_size=32", proj_size=32),
)


class CellLoop(nn.Module):
    """What one writes with nn.LSTMCell, with the weights of an nn.LSTM."""

    def __init__(self, builtin: nn.LSTM) -> None:
        super().__init__()
        weights = {name.removesuffix("_l0"): value for name, value in builtin.state_dict().items()}
        like = weights["weight_ih"]
        self.cell = nn.LSTMCell(builtin.input_size, builtin.hidden_size, device=like.device, dtype=like.dtype)
        self.cell.load_state_dict(weights)

    def forward(self, x_TBD: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        state, hidden_states = None, []
        for x_BD in x_TBD.unbind(0):
            state = self.cell(x_BD, state)
            hidden_states.append(state[0])
        return torch.stack(hidden_states), state


@dataclass(frozen=True)
class Contender:
    """A module and its input; x is the input's tensor, d_out the gradient that comes to the output's."""

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

    def forget_gradients(self) -> None:
        for leaf in self.leaves():
            leaf.grad = None

    def results(self) -> list[Tensor]:
        """The output in inference and in training, and the gradients of the input and of all parameters."""
        self.forget_gradients()
        self.module.eval()
        with torch.inference_mode():
            inferred = self.forward()
        self.module.train()
        return [inferred, self.train().detach(), *(cast(Tensor, leaf.grad) for leaf in self.leaves())]


def set_up(case: Case, device: torch.device) -> dict[str, Contender]:
    """The contenders of a case, with the same weights and one input between them."""
    torch.manual_seed(SEED)
    new = partial(torch.randn, device=device, dtype=case.dtype)
    builtin = nn.LSTM(case.inputs, case.hidden, proj_size=case.proj_size, device=device, dtype=case.dtype)
    modules = {BUILT_IN: builtin, HAND_BUILT: LSTM.from_builtin(builtin)}
    if not case.packed and not case.proj_size:
        modules[CELL_LOOP] = CellLoop(builtin)
    x: Tensor = new(case.steps, case.batch, case.inputs)
    given: Tensor | PackedSequence = x
    if case.packed:
        lengths = torch.linspace(1, case.steps, case.batch).round().long()
        given = pack_padded_sequence(x, lengths, enforce_sorted=False)
        x = given.data
    x.requires_grad_()
    d_out = new(*x.shape[:-1], case.proj_size or case.hidden)
    return {name: Contender(module, given, x, d_out) for name, module in modules.items()}


def check_agreement(contenders: dict[str, Contender], dtype: torch.dtype) -> None:
    """All results are nn.LSTM's, relative to the largest value of each."""
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    expected = contenders[BUILT_IN].results()
    for name, contender in contenders.items():
        for value, reference in zip(contender.results(), expected, strict=True):
            error = ((value - reference).abs().max() / reference.abs().max()).item()
            assert error <= tolerance, f"{name} is off {BUILT_IN} by {error:.1e} of the largest value"


def synchronize(x: Tensor) -> None:
    """Wait for the GPU if the tensor is there."""
    if x.is_cuda:
        torch.cuda.synchronize()


def seconds_per_call(contender: Contender, training: bool, calls: int) -> float:
    """The mean of some calls, each timed by itself, so that the gradients are forgotten in between."""
    call = contender.train if training else contender.forward
    seconds = 0.0
    for _ in range(calls):
        contender.forget_gradients()
        synchronize(contender.x)
        began = time.perf_counter()
        call()
        synchronize(contender.x)
        seconds += time.perf_counter() - began
    return seconds / calls


def measure(contenders: dict[str, Contender], training: bool, calls: int, rounds: int | None) -> dict[str, list[float]]:
    """Seconds per call of each contender, round by round: so many rounds, or as many as there is time for."""
    for contender in contenders.values():
        contender.module.train(training)
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode(not training):
        for name in names * WARM_UP_ROUNDS:
            seconds_per_call(contenders[name], training, calls)
        began, done = time.perf_counter(), 0
        while done < (rounds or LEAST_ROUNDS) or (rounds is None and time.perf_counter() - began < SECONDS):
            first = done % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(seconds_per_call(contenders[name], training, calls))
            done += 1
    return times


def line(case: Case, times: dict[str, list[float]], with_target: bool) -> list[str]:
    """A case's line of a table."""
    cells = [case.name, str(len(times[BUILT_IN]))]
    cells += [f"{1000 * statistics.median(times[name]):.3g}" for name in (BUILT_IN, HAND_BUILT)]
    medians = {}
    for name in (HAND_BUILT, CELL_LOOP):
        if name in times:
            ratios = [theirs / builtin for theirs, builtin in zip(times[name], times[BUILT_IN], strict=True)]
            low, medians[name], high = statistics.quantiles(ratios, n=4, method="inclusive")
            cells.append(f"{medians[name]:.2f} ({low:.2f} to {high:.2f})")
        else:
            cells.append("-")
    if with_target:
        cells.append(f"at most {case.target:g}: {'met' if medians[HAND_BUILT] <= case.target else 'missed'}")
    return cells


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    every = [columns, ["---", *["---:"] * (len(columns) - 1)], *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in every)


def section(place: str, cases: Sequence[Case], device: torch.device, rounds: int | None, with_targets: bool) -> str:
    """The two tables of one number of threads, or of the GPU."""
    lines: dict[bool, list[list[str]]] = {False: [], True: []}
    for case in cases:
        print(f"{place}, {case.name} ...", end=" ", file=sys.stderr, flush=True)
        began = time.perf_counter()
        contenders = set_up(case, device)
        check_agreement(contenders, case.dtype)
        gc.collect()
        gc.freeze()  # as lstm-flows does: the collector is not to walk through what stays
        for training, lines_of in lines.items():
            times = measure(contenders, training, case.calls, rounds)
            lines_of.append(line(case, times, with_target=training and with_targets))
        print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    columns = ["batch, time, input, hidden", "rounds", f"{BUILT_IN}, ms", f"{HAND_BUILT}, ms"]
    columns += [f"{name} / {BUILT_IN}" for name in (HAND_BUILT, CELL_LOOP)]
    return (
        f"## {place}\n\nForward:\n\n{table(columns, lines[False])}\n\n"
        f"Training:\n\n{table([*columns, 'target'] if with_targets else columns, lines[True])}"
    )


def processor() -> str:
    """The CPU's model name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def sections(cases: Sequence[Case], threads: Sequence[int], rounds: int | None) -> Iterable[str]:
    """The parts of the output, each made when it is asked for."""
    gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if gpu else f"{processor()}, threads: {', '.join(map(str, threads))}"
    command = shlex.join(["python", *sys.argv])
    yield f"# The hand-built LSTM beside {BUILT_IN}\n\n{where}; torch {torch.__version__}; `{command}`"
    if gpu:
        torch.backends.cudnn.allow_tf32 = False  # float32 on both sides
        yield section(torch.cuda.get_device_name(), cases, torch.device("cuda"), rounds, with_targets=False)
        return
    print("There is no CUDA device: timing on the CPU only.", file=sys.stderr)
    for count in threads:
        torch.set_num_threads(count)
        place = f"{count} thread{'s' if count > 1 else ''}"
        yield section(place, cases, torch.device("cpu"), rounds, with_targets=count == 1)


def main() -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, metavar="N", help="of each case (default: what fits in a few seconds)")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", default=[1, 2], help="torch's (default 1 2)")
    parser.add_argument("--only", metavar="NAME", default="", help="the cases with this in their name")
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 2:
        parser.error("--rounds must be at least 2: quartiles are drawn from them")
    if min(arguments.threads) < 1:
        parser.error("--threads must be at least 1")
    cases = [case for case in CASES if arguments.only in case.name]
    if not cases:
        parser.error(f"--only {arguments.only}: in no case's name; these are: {'; '.join(case.name for case in CASES)}")
    warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")  # nn.LSTM's
    for part in sections(cases, arguments.threads, arguments.rounds):
        print(part, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
