"""Processes that a test starts: free ports for them, their end, and waiting for what they do."""

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
# below the range from which Linux takes the ports of outgoing connections: one of these is nobody's by accident
PORTS = range(21000, 31000)
_held: list[FileLock] = []


def free_port() -> int:
    """Return a port that nothing listens on, and that no other test process is given as long as this one lives."""
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
        _held.append(lock)
        return port
    raise AssertionError(f"no free port in {PORTS}")


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process and its children for as long as the block; what it prints goes to a file."""
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
    """Wait for another process: ask until the condition holds.

    The limit is only for what will never come; it is long, so that a busy machine does not reach it.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def responds(url: str) -> bool:
    """Return whether a server answers a GET request with success."""
    try:
        return httpx.get(url, timeout=30).is_success
    except httpx.TransportError:
        return False
