"""kill -9 and a full disk during training: after `--resume` the outcome is bit-identical to an uninterrupted run's."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.configurations import SMALL
from helpers.errors import names_all
from helpers.outcomes import collect_outcome, compare, difference, tracking_uri
from helpers.processes import eventually


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a comparison that was not interrupted."""
    directory = tmp_path_factory.mktemp("home") / "uninterrupted"
    directory.mkdir()
    with compare(directory, config) as process:
        assert process.wait() == 0, (directory / "log").read_text()
    return collect_outcome(tracking_uri(directory), "small", directory)


def resume(directory: Path) -> dict[str, Any]:
    with compare(directory, "--resume") as process:
        assert process.wait() == 0, (directory / "log").read_text()
    return collect_outcome(tracking_uri(directory), "small", directory)


def test_a_killed_comparison_resumes_bit_identically(
    uninterrupted: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "killed"
    directory.mkdir()
    with compare(directory, config) as process:
        eventually(lambda: process.poll() is not None or list(directory.glob(".lstm_flows/checkpoints/*/last.ckpt")))
        process.kill()
        assert process.wait() == -9, (directory / "log").read_text()
    assert difference(resume(directory), uninterrupted) == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 24 MB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mounted)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**16, 1):
            with pytest.raises(OSError, match="No space left on device"):
                file.writelines(itertools.repeat(bytes(size)))
    return ballast


def test_a_full_disk_fails_the_run_and_loses_nothing(
    uninterrupted: dict[str, Any], config: Path, small_disk: Path, tmp_path: Path
) -> None:
    """The disk fills up during training: neither checkpoints nor metrics nor the run's status can be written."""
    directory, log = small_disk / "work", tmp_path / "log"
    directory.mkdir()
    os.symlink(log, directory / "log")  # on another file system
    with compare(directory, config) as process:
        eventually(lambda: process.poll() is not None or list(directory.glob(".lstm_flows/checkpoints/*/last.ckpt")))
        ballast = fill(small_disk)
        assert process.wait() == 1
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("lstm-flows: ") or "SQL" in line] == []
    assert lines[-1].startswith("lstm-flows: the run failed: ")
    assert "lstm-flows compare --resume" in lines[-1]
    ballast.unlink()
    assert difference(resume(directory), uninterrupted) == ""


def test_a_read_only_folder_is_an_error_before_the_run_starts(config: Path, small_disk: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.symlink(log, small_disk / "log")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with compare(small_disk, config) as process:
        assert process.wait() == 1
    errors = log.read_text()
    assert names_all(errors, "lstm-flows: the run failed: OSError", "Read-only file system: ")
    assert "--resume" not in errors
