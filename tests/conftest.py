"""Tiny configurations, and an MLflow of its own for each test that wants one."""

import os
from pathlib import Path

import pytest

# Before Prefect and MLflow are imported: what the command line sets, and nothing that leaves this machine.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

TINY = (
    "contenders.hand_built.training.max_epochs=2",
    "contenders.hand_built.training.log_every_n_steps=1",
    "contenders.hand_built.fine_tuning.max_epochs=4",
    "contenders.built_in.training.max_epochs=2",
    "contenders.built_in.training.log_every_n_steps=1",
    "contenders.built_in.fine_tuning.max_epochs=4",
)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; MLflow's database and artifacts come to lie in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # loading a model sets this for good; for the test alone here
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    return tmp_path
