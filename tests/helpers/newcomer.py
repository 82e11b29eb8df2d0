"""The command line as a new user has it: an empty directory, an empty PREFECT_HOME, no settings."""

import os
import subprocess
from pathlib import Path

from mlflow import MlflowClient

from helpers.processes import BIN


class Newcomer:
    """A new user's working directory, with a space in its name, and commands that are started there."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "a newcomer's work"
        self.directory.mkdir()
        inherited = {"PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS"}
        inherited |= {key for key in os.environ if key.startswith("COVERAGE_")}
        self.environment = {key: value for key, value in os.environ.items() if key in inherited}
        self.environment["PREFECT_HOME"] = str(home / "prefect")
        self.environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
        # the machine may be busy with other tests
        self.environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "300"

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start lstm-flows in a process group of its own, as a shell does."""
        return subprocess.Popen(
            [BIN / "lstm-flows", *arguments], cwd=self.directory, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def tracking(self) -> MlflowClient:
        """Return a client of the MLflow database in the directory."""
        return MlflowClient(f"sqlite:///{self.directory}/mlflow.db")

    def statuses(self, experiment: str) -> list[tuple[str, str]]:
        """Return the names and statuses of an experiment's runs, the oldest first."""
        client = self.tracking()
        entity = client.get_experiment_by_name(experiment)
        runs = client.search_runs([entity.experiment_id], order_by=["attributes.start_time"]) if entity else []
        return [(run.info.run_name, run.info.status) for run in runs]
