"""Start and stop processes, find free ports for them, and wait for conditions."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# below the range from which Linux takes the ports of outgoing connections, so that none of these is used by accident
PORTS = range(21000, 31000)
_locks: list[FileLock] = []


def free_port() -> int:
    """Return a port that nothing listens on, and reserve it among all test processes until this one exits."""
    first = os.getpid() * 101
    for number in range(len(PORTS)):
        port = PORTS[(first + number) % len(PORTS)]
        lock = FileLock(Path(tempfile.gettempdir(), f"lstm-flows-port-{port}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                lock.release()
                continue
        _locks.append(lock)
        return port
    raise AssertionError(f"no free port in {PORTS}")


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process and its children while the block runs; their output goes to a file."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **options)
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def eventually(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until a condition holds, usually of another process.

    The timeout is long, so that a busy machine does not reach it.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def responds(url: str) -> bool:
    """Return whether a GET request to a server succeeds."""
    try:
        return httpx.get(url, timeout=30).is_success
    except httpx.TransportError:
        return False
