"""The unit lane's rule, enforced: no process, no network, no file outside of pytest's temporary directory."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from pytest_socket import disable_socket, enable_socket

PROCESSES = {"subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "pty.spawn"}
# what writes, and which of its arguments are paths
WRITES = {
    "open": (0,), "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.truncate": (0,), "shutil.rmtree": (0,), "shutil.copyfile": (1,), "shutil.move": (0, 1),
    "sqlite3.connect": (0,),
}  # fmt: skip
TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Raises where a unit test does what the lane forbids, and keeps what it was: the program may catch the error."""

    def __init__(self) -> None:
        self.allowed: Path | None = None  # where a test may write, while one runs
        self.violations: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in PROCESSES:
            self._refuse(f"{event}: {arguments[:2]}")
        elif event in WRITES and not (event == "open" and not (arguments[2] or 0) & TO_WRITE):
            for place in WRITES[event]:
                if not self._may_write(arguments[place]):
                    self._refuse(f"{event}: {arguments[place]}")

    def _may_write(self, path: Any) -> bool:
        if isinstance(path, int):  # a file that is open already
            return True
        text = os.fsdecode(path)
        if text in (os.devnull, ":memory:", "") or "__pycache__" in text:
            return True
        path = Path(os.path.abspath(text))
        return path.is_relative_to(str(self.allowed)) or path.is_relative_to(os.environ["MPLCONFIGDIR"])

    def _refuse(self, what: str) -> None:
        self.violations.append(what)
        raise AssertionError(f"not in a unit test: {what}; move it to tests/integration or tests/e2e")

    @contextmanager
    def watching(self, allowed: Path) -> Iterator[None]:
        self.allowed, self.violations = allowed, []
        disable_socket(allow_unix_socket=True)
        try:
            yield
        finally:
            self.allowed = None
            enable_socket()
        assert not self.violations, f"not in a unit test: {self.violations}"


GUARD = Guard()
sys.addaudithook(GUARD)


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the program makes by tempfile, and what hypothesis keeps, lies with the tests' own files."""
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with GUARD.watching(item.config._tmp_path_factory.getbasetemp()):  # type: ignore[attr-defined]
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with GUARD.watching(item.config._tmp_path_factory.getbasetemp()):  # type: ignore[attr-defined]
        return (yield)
