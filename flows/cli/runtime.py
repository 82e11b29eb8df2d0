"""Start-up of a command: library settings, Prefect's API and error handling. Heavy imports are deferred."""

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
    """A flow run failed; the exception that ended it is the cause."""

    @property
    def can_resume(self) -> bool:
        """Whether the run had started and its error may be temporary: a connection or file system error."""
        from tasks.tracking.runs import CAN_RESUME
        from tasks.tracking.transient import error_chain, is_transient

        error = self.__cause__
        is_temporary = error is not None and (is_transient(error) or isinstance(error, OSError))
        return is_temporary and any(CAN_RESUME in getattr(cause, "__notes__", ()) for cause in error_chain(error))


def prepare(quiet: bool = False, verbose: bool = False) -> None:
    """Set the environment variables and logging that the libraries read at import; the user's own settings win."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",  # else Prefect's client prints a notice on a terminal
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # rollback and prune are tasks without a flow
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else `ui` starts eight processes for language models
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else printed into the output for each run on a server
    }
    if not verbose:
        # console only: Prefect's UI still gets every line
        defaults |= {
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # one line for each event that does not reach the server
            "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # a traceback for each error before it is raised
        }
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # FastAPI filters this warning itself, but imports in another thread can reset its filter
        warnings.filterwarnings("ignore", message="The .* attribute with value .* was provided to the `Field")
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        handler.setFormatter(_OneLineFormatter("lstm-flows: %(message)s"))
        logging.getLogger("lstm_flows").handlers = [handler]
        threading.excepthook = _report_thread_error
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    logging.getLogger("lstm_flows").setLevel(logging.WARNING if quiet else logging.INFO)


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        from lstm_models.utils.errors import one_line

        return one_line(super().format(record))


def _report_thread_error(args: threading.ExceptHookArgs) -> None:
    """Log an error in a thread, such as TensorBoard's writer, which raises it again at the training's next write."""
    logging.getLogger("lstm_flows").warning("%s: %s", args.exc_type.__name__, args.exc_value)


def run(entrypoint: str, *arguments: object) -> Any:
    """Import a flow or a task by its entrypoint, such as flows.compare:compare, and call it with these arguments.

    Prefect's server, unless one is running, starts while this process imports the rest.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with ThreadPoolExecutor(1) as pool:
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        api = pool.submit(_start_api)
        # These imports create a million permanent objects: keep the garbage collector from traversing them while they
        # are created, during training and at exit.
        gc.disable()
        module, _, name = entrypoint.partition(":")
        target = getattr(importlib.import_module(module), name)
        gc.freeze()
        gc.enable()
        # the heartbeat's thread would delay the exit by a second
        with raising_run_failed(), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            api.result()
            return target(*arguments)


@contextmanager
def raising_run_failed() -> Iterator[None]:
    """Raise every exception other than a UserError as RunFailed."""
    from lstm_models.utils.errors import UserError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from tasks.tracking.transient import summarize_error

        raise RunFailed(summarize_error(error)) from error


def _start_api() -> None:
    """Connect to Prefect's API. One process at a time if this starts a server and creates its database."""
    from filelock import FileLock
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    # A child process inherits the signal mask: Ctrl-C in the terminal, which reaches the whole process group, must not
    # stop Prefect's server before the flow run's final state is set.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    settings = get_current_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = nullcontext() if settings.api.url else FileLock(settings.home / "lstm-flows.lock")
    with lock, get_client(sync_client=True) as client:
        client.hello()
