"""Run commands and flows in this process, in a directory with its own MLflow database; and a webhook to notify."""

import io
import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import mlflow.pytorch
import pytest

from flows.cli.main import main
from helpers.http_server import http_server
from tasks import introspection, reporting


def lstm_flows(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, standard output and standard error."""
    out, errors = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as exited:
            main(arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(exited.value.code, int)
    return exited.value.code, out.getvalue(), errors.getvalue()


@contextmanager
def working_in(directory: Path, database: Path | None = None) -> Iterator[None]:
    """Work in a directory with its own MLflow database; undo environment variables that loading a model sets.

    Args:
        directory: The working directory.
        database: The empty database to copy into it first; None if it has one.
    """
    if database:
        shutil.copy(database, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        yield


@contextmanager
def without_plots(*, export: bool = False) -> Iterator[None]:
    """Skip the plots of gates; without export, also all other plots, and export placeholders instead of programs.

    Plots and exports take longer than everything else.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(introspection, "log_gates", lambda *_: None)
        if not export:
            patch.setattr(reporting, "_figures", lambda *_: {})
            patch.setattr(mlflow.pytorch, "save_model", _save_placeholder)
        yield


def _save_placeholder(path: str, mlflow_model: Any, **_: Any) -> None:
    Path(path).mkdir()
    Path(path, "program").write_text("a placeholder")
    mlflow_model.save(str(Path(path, "MLmodel")))


@contextmanager
def selected_plots(gates: str = "", exports: Sequence[int] = ()) -> Iterator[None]:
    """Plot gates only for one contender/phase, and for an RNN, which has none; export programs only for some versions.

    Args:
        gates: The contender/phase whose gates are plotted.
        exports: The numbers of the versions that are exported; the others get a placeholder.
    """
    log_gates, save_model, saved = introspection.log_gates, mlflow.pytorch.save_model, []

    def log(*arguments: Any) -> None:
        if arguments[4] == gates or "rnn" in arguments[4]:
            log_gates(*arguments)

    def save(*arguments: Any, **options: Any) -> None:
        saved.append(arguments)
        (save_model if len(saved) in exports else _save_placeholder)(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(introspection, "log_gates", log)
        patch.setattr(mlflow.pytorch, "save_model", save)
        yield


@contextmanager
def webhook() -> Iterator[list[dict[str, Any]]]:
    """Run a server as the webhook of the environment, and provide the list of objects that it receives."""
    posts: list[dict[str, Any]] = []

    def receive(_: BaseHTTPRequestHandler, body: bytes) -> int:
        posts.append(json.loads(body))
        return 200

    with http_server(receive) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_FLOWS_WEBHOOK", f"{url}/secret")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield posts
