"""The command line as a process: imports, Ctrl-C, failing runs."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.configurations import TINY
from helpers.errors import names_all
from helpers.newcomer import Newcomer
from helpers.processes import eventually

CHANGES = [part for change in TINY for part in ("--set", change)]
# a step so large that the next squared error overflows float32
OVERFLOW = [
    part
    for change in ("model.head=linear", "training.learning_rate=1e25")
    for part in ("--set", f"contenders.hand_built.{change}")
]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, flows.cli.main\ntry: flows.cli.main.main(['compare', '--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'lightning', 'prefect', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines()[-1] == "set()"


@pytest.fixture
def newcomer(tmp_path: Path, database: Path) -> Newcomer:
    """A new user's directory with a database, so that a test can read it before the command has created one."""
    newcomer = Newcomer(tmp_path)
    shutil.copy(database, newcomer.directory)
    return newcomer


def test_ctrl_c_kills_the_run_and_names_the_remedy(newcomer: Newcomer) -> None:
    epochs = {
        "training": 1_000_000,
        "fine_tuning": 2_000_000,
    }  # so that the training is still running when it is interrupted
    longer = [f"contenders.hand_built.{phase}.max_epochs={number}" for phase, number in epochs.items()]
    process = newcomer.start("compare", *(part for change in longer for part in ("--set", change)))
    client = newcomer.tracking()

    def has_points() -> bool:
        experiment = client.get_experiment_by_name("tutorial")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return any("train_loss" in run.data.metrics for run in runs)

    eventually(has_points)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    out, errors = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert names_all(errors.strip(), "interrupted", "lstm-flows compare --resume")  # after the ^C in the terminal
    assert newcomer.statuses("tutorial") == [("compare tutorial", "KILLED"), ("hand_built/initial", "KILLED")]


def test_exit_codes_of_failing_runs(newcomer: Newcomer) -> None:
    """An error in training gives exit code 1 and a failed run; a wrong setting gives exit code 2, and no run."""
    cell = "contenders.hand_built.model.cell=cell_of_mine.Mine"
    processes = {
        "broken": newcomer.start("compare", *CHANGES, "--set", "experiment=broken", *OVERFLOW),
        "cellless": newcomer.start("compare", *CHANGES, "--set", "experiment=cellless", "--set", cell),
    }
    ended = {name: process.communicate() for name, process in processes.items()}
    assert {name: process.returncode for name, process in processes.items()} == {"broken": 1, "cellless": 2}, ended
    out, errors = ended["broken"]
    assert out == ""
    assert names_all(errors, "the run failed: NonFiniteLoss", "inf", "epoch 1", "learning_rate", "1e+25", "-v")
    assert newcomer.statuses("broken") == [("compare broken", "FAILED"), ("hand_built/initial", "FAILED")]
    out, errors = ended["cellless"]
    assert out == ""
    assert names_all(errors, "cell cell_of_mine.Mine", "No module named 'cell_of_mine'")
    assert newcomer.tracking().get_experiment_by_name("cellless") is None
