"""A disk that is full, a folder that can't be written, a database that another process holds: real ones."""

import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli_runner import lstm_flows
from helpers.configurations import SMALL
from helpers.outcomes import compare, difference, left_behind, tracked
from helpers.processes import eventually
from mlflow import MlflowClient

from tasks import tracking


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**16, 1):
            with pytest.raises(OSError, match="No space left on device"):
                file.writelines(itertools.repeat(bytes(size)))
    return ballast


def test_a_full_disk_ends_a_comparison_and_takes_nothing_from_it(small_disk: Path, tmp_path: Path) -> None:
    """It fills up in mid-training: neither checkpoints nor curves, nor what has become of the run, can be written."""
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    whole = tmp_path / "whole"
    whole.mkdir()
    with compare(whole, config) as process:
        assert process.wait() == 0, (whole / "log").read_text()

    directory = small_disk / "work"
    directory.mkdir()
    os.symlink(tmp_path / "log", directory / "log")  # there is room for it
    with compare(directory, config) as process:
        eventually(lambda: process.poll() is not None or list(directory.glob("unfinished/*/last.ckpt")), 240)
        ballast = fill(small_disk)
        assert process.wait() == 1
    said = (tmp_path / "log").read_text().splitlines()
    assert [line for line in said if not line.startswith("lstm-flows: ") or "SQL" in line] == []
    assert said[-1].startswith("lstm-flows: the run failed: ")
    assert said[-1].endswith("; lstm-flows compare --resume goes on; -v shows more")

    ballast.unlink()
    with compare(directory, "--resume") as process:
        assert process.wait() == 0, (tmp_path / "log").read_text()
    found, expected = (left_behind(tracked(place), "small", place) for place in (directory, whole))
    assert difference(found, expected) == ""


def test_in_a_folder_that_can_not_be_written_nothing_begins(small_disk: Path, tmp_path: Path) -> None:
    config, log = tmp_path / "small.yaml", tmp_path / "log"
    config.write_text(SMALL)
    os.symlink(log, small_disk / "log")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with compare(small_disk, config) as process:
        assert process.wait() == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith("lstm-flows: the run failed: OSError: [Errno 30] Read-only file system: ")
    assert line.endswith("'; -v shows more")


@pytest.fixture
def held(empty_directory: Path) -> Iterator[sqlite3.Connection]:
    """A database that another connection has locked; this process has not asked it anything yet."""
    command = [sys.executable, "-c", "from tasks import tracking; tracking.client()"]
    subprocess.run(command, cwd=empty_directory, check=True)
    holder = sqlite3.connect(str(tracking.local_database()), check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    yield holder
    holder.close()


def test_a_database_that_is_held_at_the_start_is_waited_for(
    held: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Exception] = []

    def connect() -> MlflowClient:
        try:
            return MlflowClient()
        except Exception as error:
            tries.append(error)
            held.rollback()  # it lets go
            raise

    monkeypatch.setattr(tracking, "MlflowClient", connect)
    assert tracking.experiment_id("after all")
    assert len(tries) == 1


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_one_that_is_held_for_good_is_told_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracking, "LOCKED", 0.0)
    code, out, errors = lstm_flows(command, "models:/a@champion", str(tmp_path / "new.csv"))
    assert (code, out) == (1, "")
    assert errors == (
        "lstm-flows: the run failed: OperationalError: (sqlite3.OperationalError) database is locked; -v shows more\n"
    )
