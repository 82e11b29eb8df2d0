"""Forbid unit tests to start processes or write files, by Python's audit events, which C++ code does not raise."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_socket import disable_socket, enable_socket

PROCESSES = {"subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "pty.spawn"}
# events that write: the indices of their path arguments, and of the directory descriptors that these are relative to
WRITES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "open": ((0, None),), "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3)), "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),), "os.link": ((1, 3),), "os.symlink": ((1, 2),), "os.truncate": ((0, None),),
    "sqlite3.connect": ((0, None),),
}  # fmt: skip
CACHES = ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR")  # environment variables of libraries' cache directories
TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Audit hook that raises an error for what a unit test must not do.

    It also records the violation, because the program may catch the error.
    """

    def __init__(self) -> None:
        self.allowed: Path | None = None  # the directory that a test may write to, while one runs
        self.violations: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Check an audit event."""
        if self.allowed is None:
            return
        if event in PROCESSES:
            self._refuse(f"{event}: {arguments[:2]}")
        elif event in WRITES and not (event == "open" and not (arguments[2] or 0) & TO_WRITE):
            for path, folder in WRITES[event]:
                if not self._may_write(arguments[path], -1 if folder is None else arguments[folder]):
                    self._refuse(f"{event}: {arguments[path]}")

    def _may_write(self, path: Any, folder: int) -> bool:
        if isinstance(path, int):  # a file that is open already
            return True
        text = os.fsdecode(path)
        if text in (os.devnull, ":memory:", "") or "__pycache__" in text or Path(text).name.startswith(".coverage"):
            return True
        base = Path.cwd() if folder == -1 else Path(f"/proc/self/fd/{folder}").resolve()
        absolute = Path(os.path.normpath(base / text))
        allowed = (str(self.allowed), *map(os.environ.__getitem__, CACHES))
        return any(absolute.is_relative_to(directory) for directory in allowed)

    def _refuse(self, what: str) -> None:
        self.violations.append(what)
        raise AssertionError(f"not in a unit test: {what}; move it to tests/integration or tests/e2e")

    @contextmanager
    def active(self, allowed: Path) -> Iterator[None]:
        """Guard the block, which may write to one directory; assert that there was no violation."""
        self.allowed, self.violations = allowed, []
        disable_socket(allow_unix_socket=True)
        try:
            yield
        finally:
            self.allowed = None
            enable_socket()
        assert not self.violations, f"not in a unit test: {self.violations}"
