"""Comparisons whose process is killed, or whose servers stop, in the middle of a training.

Real servers on SQLite are killed and restarted. Each comparison is a process in a separate experiment and directory;
its outcome must equal that of an uninterrupted one.
"""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from helpers.configurations import SMALL
from helpers.errors import names_all
from helpers.outcomes import collect_outcome, difference
from helpers.processes import BIN, eventually
from helpers.servers import SQLiteServers
from mlflow import MlflowClient

from tasks.orchestration.result_cache import CACHE_DIR


class Comparison:
    """`lstm-flows compare` in a separate directory and experiment."""

    def __init__(self, servers: SQLiteServers, name: str, **environment: str) -> None:
        self.servers, self.name = servers, name
        self.environment = servers.environment | environment
        self.directory = servers.directory / name
        self.directory.mkdir()
        (self.directory / f"{name}.yaml").write_text(SMALL)
        self.start(f"{name}.yaml")

    def start(self, *arguments: str) -> None:
        with (self.directory / "out").open("w") as out, (self.directory / "errors").open("w") as errors:
            self.process = subprocess.Popen(
                [BIN / "lstm-flows", "compare", "-q", *arguments],
                cwd=self.directory, env=self.environment, stdout=out, stderr=errors,
            )  # fmt: skip

    def wait(self) -> tuple[int, str]:
        """Wait for the end; return exit code and standard error."""
        code = self.process.wait(600)
        return code, (self.directory / "errors").read_text()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition while the process is running."""

        def holds() -> bool:
            assert self.process.poll() is None, (self.directory / "errors").read_text()
            return bool(condition())

        eventually(holds)

    def steps(self) -> int:
        """Return the step of the last checkpoint of the running training."""
        for path in self.directory.glob(".lstm_flows/checkpoints/*/last.ckpt"):
            return int(torch.load(path, weights_only=True)["global_step"])
        return 0

    def cached_results(self) -> int:
        """Return the number of task results in the cache."""
        artifacts = f"artifacts/{self._experiment()}/*/artifacts"
        return len(list(self.servers.directory.glob(f"{artifacts}/{CACHE_DIR}/*.json")))

    def _experiment(self) -> str:
        experiment = MlflowClient(self.servers.urls["mlflow"]).get_experiment_by_name(self.name)
        return str(experiment.experiment_id) if experiment else "none"

    def outcome(self) -> dict[str, Any]:
        return collect_outcome(self.servers.urls["mlflow"], self.name, self.directory)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteServers]:
    with SQLiteServers(tmp_path_factory.mktemp("servers")) as started:
        yield started


@pytest.fixture(scope="module")
def uninterrupted(servers: SQLiteServers) -> dict[str, Any]:
    """The outcome of a comparison that was not interrupted."""
    comparison = Comparison(servers, "uninterrupted")
    assert comparison.wait() == (0, "")
    return comparison.outcome()


def states(servers: SQLiteServers, kind: str) -> set[str]:
    runs = httpx.post(f"{servers.urls['prefect']}/{kind}/filter", json={}).json()
    return {run["state_type"] for run in runs}


def test_a_comparison_continues_during_an_outage_and_sends_everything_afterwards(
    servers: SQLiteServers, uninterrupted: dict[str, Any]
) -> None:
    comparison = Comparison(servers, "outage")
    comparison.wait_until(lambda: comparison.steps() >= 20)
    servers.kill("prefect", "mlflow")
    step = comparison.steps()
    comparison.wait_until(lambda: comparison.steps() >= step + 60)  # the training continues
    servers.start("prefect", "mlflow")
    code, errors = comparison.wait()
    # in a long outage, Prefect reports that it could not send its logs
    assert (code, set(errors.splitlines()) - {"--- Error logging to API ---", "All connection attempts failed"}) == (
        0,
        set(),
    )
    assert difference(comparison.outcome(), uninterrupted) == ""
    assert states(servers, "flow_runs") == {"COMPLETED"}


@pytest.mark.parametrize("name", ["training", "cached"])
def test_a_killed_comparison_resumes_bit_identically(
    servers: SQLiteServers, uninterrupted: dict[str, Any], name: str
) -> None:
    """It is killed in the initial training, or when only the fine-tuned network is left to do."""
    comparison = Comparison(servers, name)
    comparison.wait_until(lambda: comparison.steps() >= 40 if name == "training" else comparison.cached_results() >= 5)
    comparison.process.kill()
    comparison.wait()
    comparison.start("--resume")
    assert comparison.wait() == (0, "")
    assert difference(comparison.outcome(), uninterrupted) == ""


def test_a_permanent_outage_of_mlflow_preserves_the_checkpoint_and_reports_how_to_resume(
    servers: SQLiteServers, uninterrupted: dict[str, Any]
) -> None:
    comparison = Comparison(servers, "gone", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    comparison.wait_until(lambda: comparison.steps() >= 20)
    servers.kill("mlflow")
    code, errors = comparison.wait()
    assert code == 1
    *warnings, last = errors.splitlines()
    assert last.startswith("lstm-flows: the run failed: ")
    assert "lstm-flows compare --resume" in last
    assert all(line.startswith("lstm-flows: ") for line in warnings)
    assert names_all(warnings[0], "MLflow", "MlflowException", "points")
    assert any("RUNNING" in line for line in warnings)
    assert comparison.steps() > 500  # the training finished
    servers.start("mlflow")
    comparison.start("--resume")
    assert comparison.wait() == (0, "")
    assert difference(comparison.outcome(), uninterrupted) == ""


def test_sigterm_stores_a_checkpoint_and_terminates_the_run_as_killed(
    servers: SQLiteServers, uninterrupted: dict[str, Any]
) -> None:
    """A worker that shuts down sends SIGTERM. The checkpoint is an artifact, so any machine can resume the run."""
    comparison = Comparison(servers, "terminated")
    comparison.wait_until(lambda: comparison.steps() >= 20)
    comparison.process.terminate()
    assert comparison.wait()[0] == 143
    client = MlflowClient(servers.urls["mlflow"])
    runs = client.search_runs([client.get_experiment_by_name("terminated").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {
        "compare terminated": "KILLED",
        "hand_built/initial": "KILLED",
    }
    checkpoints = comparison.directory / ".lstm_flows/checkpoints"
    checkpoints.rename(comparison.directory / "another machine's")
    comparison.start("--resume")
    assert comparison.wait() == (0, "")
    assert difference(comparison.outcome(), uninterrupted) == ""
