"""What a command needs from the libraries before it can start: their settings, and Prefect's API. Imports wait."""

import gc
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

TERMINATED = 143  # the exit code after SIGTERM


class RunFailed(RuntimeError):
    """A flow run ended with an exception, which is the cause."""

    @property
    def can_resume(self) -> bool:
        """Whether it had begun, and something was out of reach, or there was no place to write: then it may later."""
        from tasks.tracking.runs import CAN_RESUME
        from tasks.tracking.transient import error_chain, is_transient

        error = self.__cause__
        may_pass = error is not None and (is_transient(error) or isinstance(error, OSError))
        return may_pass and any(CAN_RESUME in getattr(one, "__notes__", ()) for one in error_chain(error))


def prepare(quiet: bool = False, verbose: bool = False) -> None:
    """Settings of the libraries that have to stand before they are imported; what the user has set stays."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",  # without it Prefect's client prints a notice on a terminal
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # rollback and prune are tasks of no flow
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # `ui` needs no eight processes to evaluate language models
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # amid what is asked for, of each run on a server
    }
    if not verbose:
        # the console alone: Prefect's own UI still gets every line
        defaults |= {
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # each event that its server, out of reach, was not told
            "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # a traceback of each error, before it is raised
        }
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # FastAPI hides its own of this kind, but by a filter that another thread's imports can take away from it
        warnings.filterwarnings("ignore", message="The .* attribute with value .* was provided to the `Field")
        told = logging.StreamHandler()
        told.setLevel(logging.WARNING)
        told.setFormatter(_OneLineFormatter("lstm-flows: %(message)s"))
        logging.getLogger("lstm_flows").handlers = [told]
        threading.excepthook = _report_thread_error
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    logging.getLogger("lstm_flows").setLevel(logging.WARNING if quiet else logging.INFO)


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        from lstm_models.utils.errors import one_line

        return one_line(super().format(record))


def _report_thread_error(broken: threading.ExceptHookArgs) -> None:
    """As in TensorBoard's, which writes: the training is told when it writes next."""
    logging.getLogger("lstm_flows").warning("%s: %s", broken.exc_type.__name__, broken.exc_value)


def run(entrypoint: str, *arguments: object) -> Any:
    """Call a flow or a task, such as flows.compare:compare.

    Prefect's server starts, where none is running, while this process imports the rest.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with ThreadPoolExecutor(1) as pool:
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        api = pool.submit(_start_api)
        # A million objects come with these imports and stay: the garbage collector is not to walk through them, neither
        # while they are made, nor in training, nor at the exit.
        gc.disable()
        module, _, name = entrypoint.partition(":")
        work = getattr(importlib.import_module(module), name)
        gc.freeze()
        gc.enable()
        # the heartbeat's thread would hold the exit up by a second
        with raising_run_failed(), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            api.result()
            return work(*arguments)


@contextmanager
def raising_run_failed() -> Iterator[None]:
    """Whatever breaks, but for what the user gave, is a run that failed."""
    from lstm_models.utils.errors import UserError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from tasks.tracking.transient import summarize_error

        raise RunFailed(summarize_error(error)) from error


def _start_api() -> None:
    """Reach Prefect's API, one process at a time where that starts a server and creates its database."""
    from filelock import FileLock
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    # A child inherits what its thread blocks: so Ctrl-C in the terminal, which goes to every process of this one's
    # group, leaves Prefect's server up for as long as the flow run still has to be marked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    settings = get_current_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = nullcontext() if settings.api.url else FileLock(settings.home / "lstm-flows.lock")
    with lock, get_client(sync_client=True) as client:
        client.hello()
