"""The native loop in processes of its own: which code runs, after a fork, and when Ctrl-C interrupts it."""

import os
import subprocess
import sys

import pytest

from lstm_models import native

is_native = pytest.mark.skipif(native.library().code is None, reason=native.backend())


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        (native.SWITCH, "python", "python: LSTM_FLOWS_BACKEND=python"),
        ("ATEN_CPU_CAPABILITY", "default", "python: no code for default"),
        ("ATEN_CPU_CAPABILITY", "avx2", "native avx2"),
    ],
)
@is_native
def test_which_code_runs_is_what_the_environment_says(setting: str, value: str, expected: str) -> None:
    command = [sys.executable, "-c", "import lstm_models; print(lstm_models.backend())"]
    done = subprocess.run(command, env={**os.environ, setting: value}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


# what PyTorch itself runs on OpenMP's threads in the child, as a cosine, would wait for ever
FORK = """
import os, torch
from lstm_models import LSTM
torch.manual_seed(0)
torch.set_num_threads(2)
module, x = LSTM(5, 20), torch.randn(7, 8, 5)
def work():
    out = module(x)[0]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), list(module.parameters()))]
expected = work()
child = os.fork()
if child == 0:
    os._exit(0 if all(map(torch.equal, work(), expected)) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@is_native
def test_a_forked_process_goes_on_by_itself() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "0\n"


INTERRUPTED = """
import os, signal, threading, torch
from lstm_models import LSTM
torch.manual_seed(0)
module, x, begun = LSTM(5, 40), torch.randn(50, 8, 5), threading.Event()
def work():
    return torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters()))
def interrupt():
    begun.wait()
    os.kill(os.getpid(), signal.SIGINT)
expected = work()
threading.Thread(target=interrupt).start()
try:
    while True:
        work()
        begun.set()
except KeyboardInterrupt:
    print(all(map(torch.equal, work(), expected)))
"""


@is_native
def test_ctrl_c_ends_a_training_and_leaves_all_as_it_was() -> None:
    command = [sys.executable, "-c", "import signal; signal.signal(2, signal.default_int_handler)\n" + INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"
