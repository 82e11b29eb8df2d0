"""What all lanes share: settings of the libraries, and an MLflow and a Prefect of the tests' own."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

# Before Prefect, MLflow and torch are imported: what the command line sets, and nothing that leaves this machine. One
# thread: for small matrices, threads that wait for each other take longer than the sums.
for _name, _value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # where they keep a list of fonts and compiled code: torch sets its own to whatever tempfile says at its first use
    "MPLCONFIGDIR": tempfile.gettempdir() + "/lstm-flows-matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": tempfile.gettempdir() + "/lstm-flows-inductor",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(_name, _value)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

TESTS = Path(__file__).parent
LANES = {"unit": 120, "integration": 300, "e2e": 900}  # seconds after which a test is taken to hang, on a busy machine

# The same examples each time (but for constants of the program's own, which hypothesis takes from what is imported), so
# that a change is judged by nothing but itself; `--hypothesis-profile=explore` draws others, and more.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=30)
settings.register_profile("explore", database=None, deadline=None, max_examples=1000)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Set what the processes that tests start take from this one: Ctrl-C, and whether coverage is measured."""
    if threading.current_thread() is threading.main_thread():
        # a shell's background jobs ignore Ctrl-C, and so would their children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if config.getoption("cov_source", None) and runs_tests:
        os.environ["COVERAGE_PROCESS_START"] = str(TESTS.parent / "pyproject.toml")
        os.environ["COVERAGE_FILE"] = str(TESTS.parent / ".coverage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its lane, by its folder."""
    for item in items:
        lane = item.path.relative_to(TESTS).parts[0]
        item.add_marker(lane)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LANES[lane]))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with nothing in it: making one takes seconds, copying it none."""
    from tasks import tracking

    directory = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        tracking.mlflow_client()
    return directory / "mlflow.db"


@pytest.fixture
def workplace(empty_directory: Path, database: Path) -> Path:
    """A working directory of its own with an MLflow database; artifacts come to lie in it too."""
    shutil.copy(database, empty_directory)
    return empty_directory


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which nobody has worked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def harness() -> Iterator[None]:
    """A Prefect server with a database of its own, one for all tests of this process."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield
