"""What a comparison by the real command line leaves behind, to compare one that was killed with one that was not."""

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

NO_MATTER = ("prefect_flow_run_id", "pid", "started", "host", "error", "mlflow.", "score", "continues", "fingerprint")


@contextmanager
def compare(directory: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """The process, with Prefect's server that it starts; both are gone when the block has ended."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"PREFECT_HOME": str(directory.parent / "prefect"), "MLFLOW_TRACKING_URI": tracked(directory)}
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


def tracked(directory: Path) -> str:
    return f"sqlite:///{directory}/mlflow.db"


def left_behind(uri: str, name: str, directory: Path) -> dict[str, Any]:
    """All that an experiment leaves, by place, but for its name and what is never the same: ids, moments, durations."""
    client = MlflowClient(uri)
    found: dict[str, Any] = {}
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    for run in runs:
        # one that was killed before it had said what it was about is left as it was
        if run.info.status == "KILLED" and not client.list_artifacts(run.info.run_id):
            continue
        place = str(run.info.run_name).replace(f" {name}", "")
        assert f"{place}.status" not in found, f"two runs {place}"
        found[f"{place}.status"] = run.info.status
        found |= {f"{place}.params.{key}": value for key, value in run.data.params.items()}
        found |= {f"{place}.tags.{key}": value for key, value in tags(run.data.tags).items()}
        for key in run.data.metrics:
            points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
            found |= {f"{place}.curves.{key}.{n}": point for n, point in enumerate(sorted(points))}
        for file in files(client, run.info.run_id):
            found[f"{place}.files.{file}"] = True
            if file.endswith(".ckpt"):
                path = Path(client.download_artifacts(run.info.run_id, file))
                found |= flat(checkpoint(path), f"{place}.{file}")
    for version in client.search_model_versions(f"name='{name}'"):
        place = f"version {version.version}"
        found[f"{place}.of"] = names[str(version.run_id)]
        found |= {f"{place}.tags.{key}": value for key, value in tags(version.tags).items()}
    found["aliases"] = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    models = client.search_logged_models([experiment.experiment_id])
    found["models"] = sorted(model.name for model in models)
    found["unfinished"] = [path.name for path in directory.glob(".lstm_flows/checkpoints/*")]
    return found


def tags(of: Mapping[str, str]) -> dict[str, str]:
    short = {key.removeprefix("lstm_flows."): value for key, value in of.items()}
    return {
        # since when a version is champion
        key.partition(".20")[0]: "" if key.startswith("champion.") else value
        for key, value in short.items()
        if not key.startswith(NO_MATTER)
    }


def files(client: MlflowClient, run_id: str, folder: str = "") -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from files(client, run_id, entry.path)
        elif not entry.path.startswith("result_cache/"):  # named by what holds ids
            yield entry.path


def checkpoint(path: Path) -> dict[str, Any]:
    """What is in it, but for Lightning's own counts within its loops, which depend on how often it was started, and
    Python's generator, from which no training here draws, but Prefect's threads do."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    content["lstm_flows"]["random_state"]["python"] = content["loops"] = None
    return content


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Nested mappings and sequences as one; NaN, which equals nothing, by its name."""
    if isinstance(value, torch.Tensor):
        return {f"{place}.dtype": str(value.dtype), **flat(value.tolist(), place)}
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in pairs for key, leaf in flat(part, f"{place}.{name}").items()}
    return {place: "NaN" if value != value else value}


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first thing that is not the same, or nothing."""
    for key in sorted(found.keys() | expected.keys()):
        one, other = found.get(key, "nothing"), expected.get(key, "nothing")
        if one != other:
            return f"{key}: {one}, and not {other}"
    return ""
