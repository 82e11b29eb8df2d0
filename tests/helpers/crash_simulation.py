"""Simulate crashes of flow runs in this process, as by kill -9, and collect what runs leave, to compare the two."""

import json
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect import Task
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from helpers.cli_runner import without_plots, working_in
from helpers.outcomes import checkpoint, files, flat
from tasks import promotion, reporting, tracking, training
from tasks.orchestration import result_cache, state_hooks
from tasks.tracking import runs
from tasks.tracking.mlflow_logger import BufferedMLflowLogger

# TensorBoard reads event files in the order of their names, which end in a count: of one width, 9 does not follow 10.
event_file_writer._global_uid = event_file_writer.AtomicCounter(1_000_000)
# parts of tag names whose values differ between processes, flow runs or moments
VOLATILE_TAGS = ("prefect_flow_run_id", "pid", "started", "host", "error", "source.git", "modelId", "log-model")
# the tags of a process of this host that has exited: its id is above the largest process id of Linux
EXITED_PROCESS = {"host": platform.node(), "pid": str(2**22 + 1), "started": "0.00"}


class Crash(BaseException):
    """Stands for the end of the process."""


class Recording:
    """What a flow run did.

    Attributes:
        calls: The tasks that were called.
        cached_results: The tasks whose result was cached, or was about to be.
        fits: The steps of each training.
        client: How often each recorded method of MLflow's client was called.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cached_results: list[str] = []
        self.fits: list[list[int]] = []
        self.client: Counter[str] = Counter()


@contextmanager
def recording(crash_at: str | None = None, *, engine: bool = False) -> Iterator[Recording]:
    """Record what a flow does in the block, and raise Crash at a given point.

    Args:
        crash_at: "before N": when the Nth task is called, from 0; "after N": when the Nth result has been computed but
            not cached; "step N": when a training has done it; otherwise the name of a method of MLflow's client, and
            the number of the call; None: no crash.
        engine: Have Prefect run the tasks; otherwise they are called as functions, and there is no lock.
    """
    when, number = (crash_at or "never 0").split()
    record, count = Recording(), int(number)
    call, log_text, fit, send, send_snapshot = (
        Task.__call__, MlflowClient.log_text, training.fit,
        BufferedMLflowLogger._send, BufferedMLflowLogger.send_snapshot,
    )  # fmt: skip

    def recorded_call(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        if when == "before" and len(record.calls) == count:
            raise Crash(self.name)
        record.calls.append(self.name)
        return call(self, *args, **kwargs) if engine else self.fn(*args, **kwargs)

    def recorded_log_text(self: MlflowClient, run_id: str, text: str, artifact_file: str) -> None:
        if artifact_file.startswith(f"{result_cache.CACHE_DIR}/"):
            record.cached_results.append(re.sub("-.*", "", artifact_file.removeprefix(f"{result_cache.CACHE_DIR}/")))
            if when == "after" and len(record.cached_results) == count + 1:
                raise Crash(artifact_file)
        log_text(self, run_id, text, artifact_file)

    def recorded_fit(*args: Any, callbacks: list[L.Callback], **kwargs: Any) -> Any:
        record.fits.append([])
        return fit(*args, callbacks=[*callbacks, Steps()], **kwargs)

    class Steps(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            record.fits[-1].append(trainer.global_step)
            if when == "step" and trainer.global_step == count:
                raise Crash(f"step {count}")

    def notifying_send(self: BufferedMLflowLogger) -> None:
        send(self)
        with self._changed:
            self._changed.notify_all()

    def synchronous_send_snapshot(self: BufferedMLflowLogger) -> None:
        """Wait for the upload, so that what MLflow has at a crash does not depend on the thread's speed."""
        send_snapshot(self)
        with self._changed:
            assert self._changed.wait_for(lambda: not list(self.folder.glob("tmp*")), 60)

    def counted(name: str) -> Any:
        method = getattr(MlflowClient, name)

        def count_calls(*args: Any, **kwargs: Any) -> Any:
            record.client[name] += 1
            if record.client[name] == count + 1:
                raise Crash(name)
            return method(*args, **kwargs)

        return count_calls

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "__call__", recorded_call)
        patch.setattr(MlflowClient, "log_text", recorded_log_text)
        patch.setattr(training, "fit", recorded_fit)
        patch.setattr(BufferedMLflowLogger, "_send", notifying_send)
        patch.setattr(BufferedMLflowLogger, "send_snapshot", synchronous_send_snapshot)
        if when not in ("before", "after", "step", "never"):
            patch.setattr(MlflowClient, when, counted(when))
        if not engine:
            patch.setattr(promotion, "promotion_lock", lambda _: nullcontext())
            patch.setattr(reporting, "create_markdown_artifact", lambda **_: None)
        yield record


@contextmanager
def crashing() -> Iterator[None]:
    """Assert that the block raises Crash, and leave what kill -9 leaves.

    Nothing is terminated, sent, written or deleted on the way out, and the runs' process looks as if it had exited.
    """
    finalize, leave = BufferedMLflowLogger.finalize, BufferedMLflowLogger.__exit__

    def finalize_on_success(self: BufferedMLflowLogger, status: str) -> None:
        if status == "success":
            finalize(self, status)

    def discard_on_crash(self: BufferedMLflowLogger, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is Crash:
            with self._changed:
                self._points.clear()
                self._snapshot = None
        leave(self, kind, *rest)

    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, state_hooks):
            patch.setattr(module, "terminate_runs", lambda *_: None)
        patch.setattr(tracking, "terminate_on_error", lambda _: nullcontext())
        patch.setattr(BufferedMLflowLogger, "finalize", finalize_on_success)
        patch.setattr(BufferedMLflowLogger, "__exit__", discard_on_crash)
        with pytest.raises(Crash):
            yield
    mark_processes_exited()


def mark_processes_exited() -> None:
    """Tag every RUNNING run with a process that has exited."""
    client = tracking.mlflow_client()
    for run in client.search_runs(
        [each.experiment_id for each in client.search_experiments()], "attributes.status = 'RUNNING'"
    ):
        for key, value in EXITED_PROCESS.items():
            client.set_tag(run.info.run_id, tracking.TAG + key, value)


def crash_at_each(points: Sequence[str], start: Callable[[], object], resume: Callable[[], object]) -> list[Recording]:
    """Start a flow run that crashes at the first point, resume it up to the next one, and so on, and then to its end.

    Each point is counted within its own process. The result is the recording of each process.
    """
    records = []
    with without_plots():
        for number, point in enumerate(points):
            with recording(point) as record, crashing():
                (resume if number else start)()
            records.append(record)
        with recording() as record:
            resume()
    return [*records, record]


class UninterruptedRun(NamedTuple):
    """A flow run that was not interrupted: what it did, and its outcome."""

    record: Recording
    outcome: dict[str, Any]


def run_uninterrupted(
    run_flow: Callable[[], object], experiment: str, directory: Path, database: Path
) -> UninterruptedRun:
    """Run a flow in a directory of its own, with a copy of an empty MLflow database."""
    with working_in(directory, database), without_plots(), recording() as record:
        run_flow()
        return UninterruptedRun(record, collect_outcome(experiment))


# ---- outcome
def runs_of(experiment: str) -> list[Run]:
    """Return the runs of an experiment, the oldest first."""
    client = tracking.mlflow_client()
    entity = client.get_experiment_by_name(experiment)
    assert entity is not None
    return list(client.search_runs([entity.experiment_id], order_by=["attributes.start_time"]))


def collect_outcome(experiment: str) -> dict[str, Any]:
    """Return everything that an experiment's flow runs leave, by location, without times and durations.

    Ids are replaced by names.
    """
    client, experiment_runs = tracking.mlflow_client(), runs_of(experiment)
    versions = tracking.versions(experiment)
    names: dict[str, str] = {}
    for run in experiment_runs:
        same_name = sum(name.startswith(f"<{run.info.run_name}") for name in names.values())
        names[run.info.run_id] = f"<{run.info.run_name}{f' {same_name + 1}' if same_name else ''}>"
    models = {version.version: str(version.source).removeprefix("models:/") for version in versions}
    names |= {model: f"<model {number}>" for number, model in models.items()}
    outcome: dict[str, Any] = {"aliases": tracking.aliases(experiment)}

    def replace_ids(text: str) -> str:
        for key, name in names.items():
            text = text.replace(key, name)
        return text.replace(str(Path.cwd()), "<directory>")

    for run in experiment_runs:
        name = replace_ids(run.info.run_id)
        outcome[name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": _tags(run.data.tags, replace_ids),
            "inputs": [(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs],
            "curves": {key: curve(run.info.run_id, key) for key in run.data.metrics},
            "tensorboard": tensorboard_curves(run),
        }
        for file in files(client, run.info.run_id):
            outcome[f"{name} {file}"] = _content(run.info.run_id, file, replace_ids)
    for version in versions:
        outcome[f"version {version.version}"] = {
            "of": replace_ids(str(version.run_id)),
            "model": client.get_logged_model(models[version.version]).name,
            "description": version.description,
            "aliases": sorted(version.aliases),
            "tags": _tags(version.tags, replace_ids),
        }
    (number,) = {run.info.experiment_id for run in experiment_runs}
    outcome["models"] = sorted(model.name for model in client.search_logged_models([number]))
    outcome["checkpoints"] = sorted(str(path) for path in Path().glob(".lstm_flows/checkpoints/**/*"))
    return outcome


def curve(run_id: str, key: str) -> list[tuple[int, float]]:
    """Return a metric's values by step; assert that no step is stored twice."""
    points = [(point.step, point.value) for point in tracking.mlflow_client().get_metric_history(run_id, key)]
    assert Counter(step for step, _ in points).most_common(1)[0][1] == 1, f"{key}: a step is stored twice"
    return sorted(points)


def tensorboard_curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of a training that TensorBoard shows."""
    parent = run.data.tags.get("mlflow.parentRunId", "none")
    curves: dict[str, list[tuple[int, float]]] = {}
    for folder in Path("tensorboard").glob(f"*/{parent[:8]}/{run.info.run_name}"):
        events = EventAccumulator(str(folder)).Reload()
        for key in events.Tags()["scalars"]:
            curves[key] = [(event.step, event.value) for event in events.Scalars(key)]
    return curves


def _content(run_id: str, file: str, replace_ids: Callable[[str], str]) -> Any:
    path = tracking.download(f"runs:/{run_id}/{file}")
    if path.suffix == ".ckpt":
        return flat(checkpoint(path))
    if path.suffix in (".json", ".csv", ".yaml"):
        text = re.sub(r'"(seconds|sha256)": [^,}]+', r'"\1": 0', path.read_text())
        return replace_ids(text)
    return "exists"


def _tags(tags: Mapping[str, str], replace_ids: Callable[[str], str]) -> dict[str, str]:
    stable = {}
    for key, value in tags.items():
        short = key.removeprefix(tracking.TAG)
        if short.startswith("champion."):  # with the time and the flow run; after a crash there may be two
            stable["champion"] = json.loads(value)["reason"]
        elif not any(part in short for part in VOLATILE_TAGS):
            stable[short] = replace_ids(re.sub(r"\| [\d.]+ (?=\| \d+ \|$)", "| seconds ", value, flags=re.MULTILINE))
    return stable


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that two outcomes are equal; the message lists the first 20 differences, by location."""
    left, right = flat(actual), flat(expected)
    pairs = {key: (left.get(key, "nothing"), right.get(key, "nothing")) for key in sorted(left.keys() | right.keys())}
    different = [f"{key}: {one!r}, expected {other!r}" for key, (one, other) in pairs.items() if one != other]
    assert not different, "\n".join(different[:20])
