"""Identify what produced a result: the code, the packages, the commit and the process."""

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
from lstm_models.nn.kernels.native_library import backend
from lstm_models.nn.network import build_cell

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = ("flows", "lstm_models", "tasks")
PACKAGES = ("torch", "lightning", "prefect", "mlflow", "pandas", "numpy")
NUMERIC_PACKAGES = ("torch", "lightning", "numpy")


def package_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the installed version of each package."""
    return {package: importlib.metadata.version(package) for package in packages}


def code_digest() -> str:
    """Return a digest of the program's source files, the versions of the numeric packages, and the LSTM's backend."""
    content = hashlib.sha256(repr((package_versions(NUMERIC_PACKAGES), backend())).encode())
    for package in OWN_PACKAGES:
        for path in sorted([*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.cpp")]):
            content.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()


def cell_digest(model: AnyModel) -> str | None:
    """Return a digest of the file of a user-defined cell, as it was when the cell was first imported.

    Returns:
        The digest; None for a cell of this program.

    Raises:
        ConfigError: If the cell can't be imported.
    """
    if not isinstance(model, HandBuilt) or model.cell in CELLS:
        return None
    cell = type(build_cell(model))
    return _file_digest(inspect.getfile(cell), cast(Hashable, cell))


def validate_cells(config: CompareConfig) -> None:
    """Validate that every contender's cell can be imported and built with its options.

    Raises:
        ConfigError: If one can't.
    """
    for contender in config.contenders.values():
        if isinstance(contender.model, HandBuilt):
            build_cell(contender.model)


def run_fingerprint(config: CompareConfig, dataset_digest: str, request: FineTuneConfig | None = None) -> str:
    """Return a digest of everything that determines a run's result.

    Args:
        config: The configuration.
        dataset_digest: The dataset's digest.
        request: The fine-tuning settings, if any.

    Returns:
        A digest of the arguments and the code, including that of user-defined cells.

    Raises:
        ConfigError: If a cell can't be imported.
    """
    cells = [cell_digest(contender.model) for contender in config.contenders.values()]
    # keep_versions does not influence the challenger
    settings = request.model_dump_json(exclude={"keep_versions"}) if request else ""
    parts = [config.model_dump_json(), dataset_digest, settings, code_digest(), *cells]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def _file_digest(path: str, imported_class: Hashable) -> str:
    """Return a file's digest, cached per class: after a later change the file is not what this process has imported."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def git_commit() -> str | None:
    """Return the git commit of the code; None outside a repository or without git."""
    try:
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except OSError:
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None


def process_identity() -> dict[str, str]:
    """Return host, process id and start time, which distinguish this process from a later one with the same id."""
    process = psutil.Process()
    return {"host": platform.node(), "pid": str(os.getpid()), "started": f"{process.create_time():.2f}"}


def has_exited(process: dict[str, str]) -> bool:
    """Return whether a process of this host has exited; False for another host's process, or an unknown one."""
    if process.get("host") != platform.node() or "pid" not in process:
        return False
    try:
        running = psutil.Process(int(process["pid"]))
        return f"{running.create_time():.2f}" != process.get("started")
    except psutil.NoSuchProcess:
        return True
