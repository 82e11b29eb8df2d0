"""Where a result comes from: the code, the packages, the commit, the process."""

import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import cast

import psutil

from lstm_models.config import CELLS, AnyModel, CompareConfig, FineTuneConfig, HandBuilt
from lstm_models.nn.kernels.native import backend
from lstm_models.nn.network import build_cell

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = ("flows", "lstm_models", "tasks")
PACKAGES = ("torch", "lightning", "prefect", "mlflow", "pandas", "numpy")
NUMERIC_PACKAGES = ("torch", "lightning", "numpy")


def package_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The installed version of each package."""
    return {package: importlib.metadata.version(package) for package in packages}


def code_digest() -> str:
    """A name for the program's code as it is now: this package's source files, the packages that do arithmetic, and
    which code runs the LSTM here."""
    content = hashlib.sha256(repr((package_versions(NUMERIC_PACKAGES), backend())).encode())
    for package in OWN_PACKAGES:
        for path in sorted([*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.cpp")]):
            content.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()


def cell_digest(model: AnyModel) -> str | None:
    """A name for the file of a user's own cell, as it was when the cell was first imported; None for one of ours.

    Raises:
        ConfigError: if the cell can't be had.
    """
    if not isinstance(model, HandBuilt) or model.cell in CELLS:
        return None
    cell = type(build_cell(model))
    return _file_digest(inspect.getfile(cell), cast(Hashable, cell))


def validate_cells(config: CompareConfig) -> None:
    """See to it that every contender's cell can be had, with its options.

    Raises:
        ConfigError: if one can't.
    """
    for contender in config.contenders.values():
        if isinstance(contender.model, HandBuilt):
            build_cell(contender.model)


def run_fingerprint(config: CompareConfig, dataset_digest: str, request: FineTuneConfig | None = None) -> str:
    """The same for the same configuration, data and code, that of the user's own cells included, and what was asked for
    beside the configuration.

    Raises:
        ConfigError: if a cell can't be had.
    """
    cells = [cell_digest(contender.model) for contender in config.contenders.values()]
    # how many versions are kept afterwards makes no other challenger
    settings = request.model_dump_json(exclude={"keep_versions"}) if request else ""
    parts = [config.model_dump_json(), dataset_digest, settings, code_digest(), *cells]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def _file_digest(path: str, imported: Hashable) -> str:
    """Once for each class: a file that changes later is not the one that this process has imported."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def git_commit() -> str | None:
    """The commit of the code, or None where it lies in no git repository, or git is not there."""
    try:
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def process_identity() -> dict[str, str]:
    """What tells this process from any other, also from a later one with the same number."""
    process = psutil.Process()
    return {"host": platform.node(), "pid": str(os.getpid()), "started": f"{process.create_time():.2f}"}


def has_exited(process: dict[str, str]) -> bool:
    """Whether a process of this host has ended; False where that can't be known."""
    if process.get("host") != platform.node() or "pid" not in process:
        return False
    try:
        running = psutil.Process(int(process["pid"]))
        return f"{running.create_time():.2f}" != process.get("started")
    except psutil.NoSuchProcess:
        return True
