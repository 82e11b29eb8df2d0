"""Run comparisons with the real command line, and collect their outcome, to compare a killed run with another one."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient

from helpers.processes import BIN

# prefixes of tag names whose values differ between equal runs
VOLATILE_TAGS = (
    "prefect_flow_run_id",
    "pid",
    "started",
    "host",
    "error",
    "mlflow.",
    "score",
    "continues",
    "fingerprint",
)


@contextmanager
def compare(directory: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start a comparison; at the end of the block kill it, with the Prefect server that it starts."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"PREFECT_HOME": str(directory.parent / "prefect"), "MLFLOW_TRACKING_URI": tracking_uri(directory)}
    command = [str(BIN / "lstm-flows"), "compare", "--json", "-q", *map(str, arguments)]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def tracking_uri(directory: Path) -> str:
    """Return the URI of the MLflow database in a directory."""
    return f"sqlite:///{directory}/mlflow.db"


def collect_outcome(uri: str, name: str, directory: Path) -> dict[str, Any]:
    """Return everything that an experiment leaves, by location, without its name, ids, times and durations."""
    client = MlflowClient(uri)
    outcome: dict[str, Any] = {}
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    for run in runs:
        # a run that was killed before its configuration was stored is not resumed
        if run.info.status == "KILLED" and not client.list_artifacts(run.info.run_id):
            continue
        location = str(run.info.run_name).replace(f" {name}", "")
        assert f"{location}.status" not in outcome, f"two runs {location}"
        outcome[f"{location}.status"] = run.info.status
        outcome |= {f"{location}.params.{key}": value for key, value in run.data.params.items()}
        outcome |= {f"{location}.tags.{key}": value for key, value in tags(run.data.tags).items()}
        for key in run.data.metrics:
            points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
            outcome |= {f"{location}.curves.{key}.{n}": point for n, point in enumerate(sorted(points))}
        for file in files(client, run.info.run_id):
            outcome[f"{location}.files.{file}"] = True
            if file.endswith(".ckpt"):
                path = Path(client.download_artifacts(run.info.run_id, file))
                outcome |= flat(checkpoint(path), f"{location}.{file}")
    for version in client.search_model_versions(f"name='{name}'"):
        location = f"version {version.version}"
        outcome[f"{location}.of"] = names[str(version.run_id)]
        outcome |= {f"{location}.tags.{key}": value for key, value in tags(version.tags).items()}
    outcome["aliases"] = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    models = client.search_logged_models([experiment.experiment_id])
    outcome["models"] = sorted(model.name for model in models)
    outcome["checkpoints"] = [path.name for path in directory.glob(".lstm_flows/checkpoints/*")]
    return outcome


def tags(raw: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are equal for equal runs."""
    short = {key.removeprefix("lstm_flows."): value for key, value in raw.items()}
    return {
        # a champion tag ends with the time of the promotion
        key.partition(".20")[0]: "" if key.startswith("champion.") else value
        for key, value in short.items()
        if not key.startswith(VOLATILE_TAGS)
    }


def files(client: MlflowClient, run_id: str, folder: str = "") -> Iterator[str]:
    """Yield the paths of a run's artifacts, without the result cache."""
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from files(client, run_id, entry.path)
        elif not entry.path.startswith("result_cache/"):  # whose names depend on ids
            yield entry.path


def checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint without Lightning's loop counters and the state of Python's generator.

    The counters depend on how often the training was started. No training here draws from Python's generator, but
    Prefect's threads do.
    """
    content: dict[str, Any] = torch.load(path, weights_only=True)
    content["lstm_flows"]["random_state"]["python"] = content["loops"] = None
    return content


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings and sequences into one dictionary; NaN becomes "NaN", which equals itself."""
    if isinstance(value, torch.Tensor):
        return {f"{prefix}.dtype": str(value.dtype), **flat(value.tolist(), prefix)}
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in pairs for key, leaf in flat(part, f"{prefix}.{name}").items()}
    return {prefix: "NaN" if value != value else value}


def difference(actual: dict[str, Any], expected: dict[str, Any]) -> str:
    """Return a description of the first difference; "" if there is none."""
    for key in sorted(actual.keys() | expected.keys()):
        one, other = actual.get(key, "nothing"), expected.get(key, "nothing")
        if one != other:
            return f"{key}: {one}, expected {other}"
    return ""
