"""The native loop in separate processes: selection of the library, fork, and Ctrl-C."""

import os
import subprocess
import sys

import pytest

from lstm_models.nn.kernels import native_library

is_native = pytest.mark.skipif(native_library.library().cdll is None, reason=native_library.backend())

# a PyTorch operation on OpenMP's threads in the child, such as a cosine, would wait forever
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
def test_a_forked_process_runs_the_library_selected_by_the_environment() -> None:
    """tests/unit/lstm_models/nn/kernels/test_native.py covers the other values of the variables."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-c", FORK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "native avx2 0\n"


INTERRUPTED = """
import os, signal, threading, torch
from lstm_models import LSTM
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.manual_seed(0)
module, x, started = LSTM(5, 40), torch.randn(50, 8, 5), threading.Event()
def work():
    return torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters()))
def interrupt():
    started.wait()
    os.kill(os.getpid(), signal.SIGINT)
expected = work()
threading.Thread(target=interrupt).start()
try:
    while True:
        work()
        started.set()
except KeyboardInterrupt:
    print(all(map(torch.equal, work(), expected)))
"""


@is_native
def test_the_native_loop_still_works_after_ctrl_c() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\n"
