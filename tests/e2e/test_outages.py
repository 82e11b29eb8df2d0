"""What becomes of a comparison whose process is killed, or whose servers go away, in the middle of a training.

Real servers on SQLite, which are killed and started again; each comparison is a process of its own, in an experiment
and a directory of its own, and is held against one that nothing has happened to.
"""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from helpers.configurations import SMALL
from helpers.errors import names_all
from helpers.outcomes import difference, left_behind
from helpers.processes import BIN, eventually
from helpers.servers import SQLiteServers
from mlflow import MlflowClient


class Comparison:
    """`lstm-flows compare` in a directory and an experiment of its own."""

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

    def end(self) -> tuple[int, str]:
        """Exit code and what stands on standard error."""
        code = self.process.wait(600)
        return code, (self.directory / "errors").read_text()

    def waits_for(self, condition: Callable[[], object]) -> None:
        def holds() -> bool:
            assert self.process.poll() is None, (self.directory / "errors").read_text()
            return bool(condition())

        eventually(holds)

    def steps(self) -> int:
        """How many the training at hand had done when it wrote its last checkpoint."""
        for path in self.directory.glob(".lstm_flows/checkpoints/*/last.ckpt"):
            return int(torch.load(path, weights_only=True)["global_step"])
        return 0

    def answers(self) -> int:
        return len(list(self.servers.directory.glob(f"artifacts/{self._experiment()}/*/artifacts/answers/*.json")))

    def _experiment(self) -> str:
        found = MlflowClient(self.servers.urls["mlflow"]).get_experiment_by_name(self.name)
        return str(found.experiment_id) if found else "none"

    def left(self) -> dict[str, Any]:
        return left_behind(self.servers.urls["mlflow"], self.name, self.directory)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteServers]:
    with SQLiteServers(tmp_path_factory.mktemp("servers")) as started:
        yield started


@pytest.fixture(scope="module")
def whole(servers: SQLiteServers) -> dict[str, Any]:
    """What is left of a comparison that nothing has happened to."""
    comparison = Comparison(servers, "whole")
    assert comparison.end() == (0, "")
    return comparison.left()


def states(servers: SQLiteServers, kind: str) -> set[str]:
    found = httpx.post(f"{servers.urls['prefect']}/{kind}/filter", json={}).json()
    return {run["state_type"] for run in found}


def test_servers_that_come_back_get_all_of_it(servers: SQLiteServers, whole: dict[str, Any]) -> None:
    comparison = Comparison(servers, "outage")
    comparison.waits_for(lambda: comparison.steps() >= 20)
    servers.kill("prefect", "mlflow")
    then = comparison.steps()
    comparison.waits_for(lambda: comparison.steps() >= then + 60)  # it goes on
    servers.start("prefect", "mlflow")
    code, errors = comparison.end()
    # where the outage lasts, Prefect itself says that it could not send its logs
    assert (code, set(errors.splitlines()) - {"--- Error logging to API ---", "All connection attempts failed"}) == (
        0,
        set(),
    )
    assert difference(comparison.left(), whole) == ""
    assert states(servers, "flow_runs") == {"COMPLETED"}


@pytest.mark.parametrize(("name", "moment"), [("training", "steps"), ("answered", "answers")])
def test_a_killed_comparison_goes_on_to_the_last_bit(
    servers: SQLiteServers, whole: dict[str, Any], name: str, moment: str
) -> None:
    """Killed in the initial training, and when all but the fine-tuned network has been done."""
    comparison = Comparison(servers, name)
    comparison.waits_for(lambda: comparison.steps() >= 40 if moment == "steps" else comparison.answers() >= 5)
    comparison.process.kill()
    comparison.end()
    comparison.start("--resume")
    assert comparison.end() == (0, "")
    assert difference(comparison.left(), whole) == ""


def test_an_mlflow_that_does_not_come_back_leaves_the_checkpoint_and_says_how_to_go_on(
    servers: SQLiteServers, whole: dict[str, Any]
) -> None:
    comparison = Comparison(servers, "gone", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    comparison.waits_for(lambda: comparison.steps() >= 20)
    servers.kill("mlflow")
    code, errors = comparison.end()
    assert code == 1
    *warnings, last = errors.splitlines()
    assert last.startswith("lstm-flows: the run failed: ")
    assert "lstm-flows compare --resume" in last
    assert all(line.startswith("lstm-flows: ") for line in warnings)
    assert names_all(warnings[0], "MLflow", "MlflowException", "points")
    assert any("RUNNING" in line for line in warnings)
    assert comparison.steps() > 500  # the training came to its end
    servers.start("mlflow")
    comparison.start("--resume")
    assert comparison.end() == (0, "")
    assert difference(comparison.left(), whole) == ""


def test_sigterm_leaves_a_checkpoint_and_a_run_that_was_killed(servers: SQLiteServers, whole: dict[str, Any]) -> None:
    """As from a worker that shuts down. The checkpoint lies with the run: any machine can go on."""
    comparison = Comparison(servers, "terminated")
    comparison.waits_for(lambda: comparison.steps() >= 20)
    comparison.process.terminate()
    assert comparison.end()[0] == 143
    client = MlflowClient(servers.urls["mlflow"])
    runs = client.search_runs([client.get_experiment_by_name("terminated").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {
        "compare terminated": "KILLED",
        "hand_built/initial": "KILLED",
    }
    elsewhere = comparison.directory / ".lstm_flows/checkpoints"
    elsewhere.rename(comparison.directory / "another machine's")
    comparison.start("--resume")
    assert comparison.end() == (0, "")
    assert difference(comparison.left(), whole) == ""
