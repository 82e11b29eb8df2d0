"""The native loop in processes of its own: which code runs, after a fork, and when Ctrl-C interrupts it."""

import os
import subprocess
import sys

import pytest

from lstm_models.nn.kernels import native

is_native = pytest.mark.skipif(native.library().code is None, reason=native.backend())

# what PyTorch itself runs on OpenMP's threads in the child, as a cosine, would wait for ever
FORK = """
import os, torch, lstm_models
torch.manual_seed(0)
torch.set_num_threads(2)
module, x = lstm_models.LSTM(5, 20), torch.randn(7, 8, 5)
def work():
    out = module(x)[0]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), list(module.parameters()))]
expected = work()
child = os.fork()
if child == 0:
    os._exit(0 if all(map(torch.equal, work(), expected)) else 1)
print(lstm_models.backend(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@is_native
def test_a_forked_process_runs_the_code_that_the_environment_names() -> None:
    """The other values of the environment are in tests/unit/lstm_models/nn/kernels/test_native.py."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-c", FORK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "native avx2 0\n"


INTERRUPTED = """
import os, signal, threading, torch
from lstm_models import LSTM
signal.signal(signal.SIGINT, signal.default_int_handler)
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
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"
