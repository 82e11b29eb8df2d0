"""The benchmark of faults in short: killed at moments that are drawn, taken up, held against a run left alone."""

import subprocess
import sys
from pathlib import Path

import faults
import pytest


@pytest.mark.server
@pytest.mark.timeout(900)
def test_what_is_killed_and_taken_up_is_identical() -> None:
    program = Path(faults.__file__)
    command = [sys.executable, str(program), "--short", "--kills", "2", "--seed", "5", "--only", "windows"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.splitlines()
    # what was slow to start begins anew
    assert last in [f"killed 2 / resumed {number} / identical 2" for number in range(3)]
