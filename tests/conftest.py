"""Settings of the libraries for all tests, and fixtures for MLflow and Prefect."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

# Set before Prefect, MLflow and torch are imported: the same as the command line sets, and no telemetry. One thread,
# because for small matrices synchronizing threads takes longer than the arithmetic.
for _name, _value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # caches of fonts and compiled code; by default, torch uses the temporary directory at its first use
    "MPLCONFIGDIR": tempfile.gettempdir() + "/lstm-flows-matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": tempfile.gettempdir() + "/lstm-flows-inductor",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(_name, _value)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

TESTS = Path(__file__).parent
LANES = {"unit": 120, "integration": 300, "e2e": 900}  # timeouts in seconds, long enough for a busy machine

# The same examples each time, so that a test only fails because of a change (hypothesis also uses constants of imported
# modules, which may differ); `--hypothesis-profile=explore` draws different and more examples.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=30)
settings.register_profile("explore", database=None, deadline=None, max_examples=1000)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Set what child processes inherit: the handling of Ctrl-C, and coverage measurement."""
    if threading.current_thread() is threading.main_thread():
        # background jobs of a shell ignore Ctrl-C, and their children would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if config.getoption("cov_source", None) and runs_tests:
        os.environ["COVERAGE_PROCESS_START"] = str(TESTS.parent / "pyproject.toml")
        os.environ["COVERAGE_FILE"] = str(TESTS.parent / ".coverage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its lane, the name of its folder, and set the lane's timeout."""
    for item in items:
        lane = item.path.relative_to(TESTS).parts[0]
        item.add_marker(lane)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LANES[lane]))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, to copy: creating one takes seconds."""
    from tasks import tracking

    directory = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        tracking.mlflow_client()
    return directory / "mlflow.db"


@pytest.fixture
def workplace(empty_directory: Path, database: Path) -> Path:
    """A new working directory with an MLflow database; artifacts are stored in it too."""
    shutil.copy(database, empty_directory)
    return empty_directory


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new, empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def harness() -> Iterator[None]:
    """A Prefect server with its own database, one for all tests of this process."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield
