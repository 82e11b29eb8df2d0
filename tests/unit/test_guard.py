"""The guard of the unit tests."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.guard import Guard
from pytest_socket import SocketBlockedError

ELSEWHERE = Path(__file__).with_suffix(".txt")


@pytest.mark.parametrize(
    "act",
    [
        lambda: subprocess.run(["true"], check=True),
        os.fork,
        lambda: ELSEWHERE.write_text("a"),
        lambda: os.mkdir(ELSEWHERE),
        lambda: os.remove(ELSEWHERE.name, dir_fd=os.open(ELSEWHERE.parent, os.O_RDONLY)),
        lambda: os.rename(tempfile.mkdtemp(), ELSEWHERE),
    ],
    ids=["process", "fork", "file", "folder", "removal", "move"],
)
def test_a_violation_raises_an_error_and_is_recorded(act: Callable[[], object], guard: Guard) -> None:
    with pytest.raises(AssertionError, match="not in a unit test"):
        act()
    assert len(guard.violations) == 1  # so that the test fails even if the program catches the error
    guard.violations.clear()


def test_sockets_are_blocked() -> None:
    # pytest-socket warns first, and warnings are errors here
    with pytest.raises((SocketBlockedError, UserWarning), match=r"socket\.socket"):
        socket.socket()


def test_files_in_temporary_directories_are_allowed(tmp_path: Path, guard: Guard) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a").write_text("a")
    (tmp_path / "b").write_text("b")
    os.rename(tmp_path / "b", tmp_path / "c")
    assert guard.violations == []
    assert Path(__file__).read_text()
