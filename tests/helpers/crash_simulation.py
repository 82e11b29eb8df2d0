"""Flow runs that crash, as by kill -9, in this process; and all that they leave, to hold one's against another's."""

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

from helpers.cli_runner import plain, working_in
from helpers.outcomes import checkpoint, files, flat
from tasks import promotion, reporting, tracking, training
from tasks.orchestration import result_cache, state_hooks
from tasks.tracking import runs
from tasks.tracking.mlflow_logger import BufferedMLflowLogger

# of tags: what is of one process, one flow run, or one moment alone
OWN = ("prefect_flow_run_id", "pid", "started", "host", "error", "source.git", "modelId", "log-model")
# the tags of a process of this host that has ended: above the largest process id of Linux
ENDED = {"host": platform.node(), "pid": str(2**22 + 1), "started": "0.00"}


class Crash(BaseException):
    """Stands for the process's end."""


class Watch:
    """What was done: the tasks that were called; whose answer was written, or was to be; each training's steps."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answers: list[str] = []
        self.fits: list[list[int]] = []
        self.client: Counter[str] = Counter()


@contextmanager
def watched(at: str | None = None, *, engine: bool = False) -> Iterator[Watch]:
    """A flow's work, and where it ends.

    Args:
        at: "before N": when the Nth task is called, from 0; "after N": when all is done but the Nth answer has not been
            written; "step N": when a training has done it; otherwise the name of what MLflow's client does, and the
            number of the time; None: nowhere.
        engine: have Prefect run the tasks; or else they are called as functions, and there is no lock.
    """
    when, number = (at or "never 0").split()
    seen, count = Watch(), int(number)
    call, log_text, fit, send, send_snapshot = (
        Task.__call__, MlflowClient.log_text, training.fit,
        BufferedMLflowLogger._send, BufferedMLflowLogger.send_snapshot,
    )  # fmt: skip

    def called(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        if when == "before" and len(seen.calls) == count:
            raise Crash(self.name)
        seen.calls.append(self.name)
        return call(self, *args, **kwargs) if engine else self.fn(*args, **kwargs)

    def logged(self: MlflowClient, run_id: str, text: str, artifact_file: str) -> None:
        if artifact_file.startswith(f"{result_cache.CACHE_DIR}/"):
            seen.answers.append(re.sub("-.*", "", artifact_file.removeprefix(f"{result_cache.CACHE_DIR}/")))
            if when == "after" and len(seen.answers) == count + 1:
                raise Crash(artifact_file)
        log_text(self, run_id, text, artifact_file)

    def fitted(*args: Any, callbacks: list[L.Callback], **kwargs: Any) -> Any:
        seen.fits.append([])
        return fit(*args, callbacks=[*callbacks, Steps()], **kwargs)

    class Steps(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            seen.fits[-1].append(trainer.global_step)
            if when == "step" and trainer.global_step == count:
                raise Crash(f"step {count}")

    def sent(self: BufferedMLflowLogger) -> None:
        send(self)
        with self._changed:
            self._changed.notify_all()

    def sent_snapshot(self: BufferedMLflowLogger) -> None:
        """So that what has arrived when a training crashes does not depend on a thread's pace."""
        send_snapshot(self)
        with self._changed:
            assert self._changed.wait_for(lambda: not list(self.folder.glob("tmp*")), 60)

    def counted(name: str) -> Any:
        work = getattr(MlflowClient, name)

        def told(*args: Any, **kwargs: Any) -> Any:
            seen.client[name] += 1
            if seen.client[name] == count + 1:
                raise Crash(name)
            return work(*args, **kwargs)

        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "__call__", called)
        patch.setattr(MlflowClient, "log_text", logged)
        patch.setattr(training, "fit", fitted)
        patch.setattr(BufferedMLflowLogger, "_send", sent)
        patch.setattr(BufferedMLflowLogger, "send_snapshot", sent_snapshot)
        if when not in ("before", "after", "step", "never"):
            patch.setattr(MlflowClient, when, counted(when))
        if not engine:
            patch.setattr(promotion, "promotion_lock", lambda _: nullcontext())
            patch.setattr(reporting, "create_markdown_artifact", lambda **_: None)
        yield seen


@contextmanager
def crashing() -> Iterator[None]:
    """The block ends with a Crash, and leaves what one by kill -9 leaves: nothing is marked, sent, written or removed
    on the way out; and its process is gone."""
    finalize, leave = BufferedMLflowLogger.finalize, BufferedMLflowLogger.__exit__

    def finalized(self: BufferedMLflowLogger, status: str) -> None:
        if status == "success":
            finalize(self, status)

    def left(self: BufferedMLflowLogger, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is Crash:
            with self._changed:
                self._points.clear()
                self._snapshot = None
        leave(self, kind, *rest)

    with pytest.MonkeyPatch.context() as patch:
        for owner in (runs, state_hooks):
            patch.setattr(owner, "terminate_runs", lambda *_: None)
        patch.setattr(tracking, "terminate_on_error", lambda _: nullcontext())
        patch.setattr(BufferedMLflowLogger, "finalize", finalized)
        patch.setattr(BufferedMLflowLogger, "__exit__", left)
        with pytest.raises(Crash):
            yield
    disown()


def disown() -> None:
    """Let every RUNNING run be that of a process that has ended."""
    client = tracking.mlflow_client()
    for run in client.search_runs(
        [each.experiment_id for each in client.search_experiments()], "attributes.status = 'RUNNING'"
    ):
        for key, value in ENDED.items():
            client.set_tag(run.info.run_id, tracking.TAG + key, value)


def crash_at_each(points: Sequence[str], start: Callable[[], object], resume: Callable[[], object]) -> list[Watch]:
    """Start a flow run that crashes at the first point, resume it up to the next one, and so on, and then to its end.

    Each point is counted in its own process; what each process did is returned.
    """
    done = []
    with plain():
        for number, point in enumerate(points):
            with watched(point) as did, crashing():
                (resume if number else start)()
            done.append(did)
        with watched() as did:
            resume()
    return [*done, did]


class Whole(NamedTuple):
    """A flow run that was not interrupted: what it did, and what it left."""

    did: Watch
    left: dict[str, Any]


def uninterrupted(work: Callable[[], object], experiment: str, directory: Path, database: Path) -> Whole:
    """Do the work in a directory of its own, with a copy of an MLflow database with nothing in it."""
    (directory / "mlflow.db").write_bytes(database.read_bytes())
    with working_in(directory), plain(), watched() as did:
        work()
        return Whole(did, left_behind(experiment))


# ---- what is left
def runs_of(experiment: str) -> list[Run]:
    client = tracking.mlflow_client()
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time"]))


def left_behind(experiment: str) -> dict[str, Any]:
    """All that an experiment's flow runs leave, by place, but for ids, which are named, moments and durations."""
    client, found = tracking.mlflow_client(), runs_of(experiment)
    versions = tracking.versions(experiment)
    names: dict[str, str] = {}
    for run in found:
        alike = sum(name.startswith(f"<{run.info.run_name}") for name in names.values())
        names[run.info.run_id] = f"<{run.info.run_name}{f' {alike + 1}' if alike else ''}>"
    models = {version.version: str(version.source).removeprefix("models:/") for version in versions}
    names |= {model: f"<model {number}>" for number, model in models.items()}
    place: dict[str, Any] = {"aliases": tracking.aliases(experiment)}

    def named(text: str) -> str:
        for key, name in names.items():
            text = text.replace(key, name)
        return text.replace(str(Path.cwd()), "<here>")

    for run in found:
        own = named(run.info.run_id)
        place[own] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": _tags(run.data.tags, named),
            "inputs": [(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs],
            "curves": {key: curve(run.info.run_id, key) for key in run.data.metrics},
            "boards": boards(run),
        }
        for file in files(client, run.info.run_id):
            place[f"{own} {file}"] = _content(run.info.run_id, file, named)
    for version in versions:
        place[f"version {version.version}"] = {
            "of": named(str(version.run_id)),
            "model": client.get_logged_model(models[version.version]).name,
            "description": version.description,
            "aliases": sorted(version.aliases),
            "tags": _tags(version.tags, named),
        }
    (number,) = {run.info.experiment_id for run in found}
    place["models"] = sorted(model.name for model in client.search_logged_models([number]))
    place["unfinished"] = sorted(str(path) for path in Path().glob(".lstm_flows/checkpoints/**/*"))
    return place


def curve(run_id: str, key: str) -> list[tuple[int, float]]:
    points = [(point.step, point.value) for point in tracking.mlflow_client().get_metric_history(run_id, key)]
    assert Counter(step for step, _ in points).most_common(1)[0][1] == 1, f"{key}: a step that is there twice"
    return sorted(points)


def boards(run: Run) -> dict[str, list[tuple[int, float]]]:
    """A training's curves as TensorBoard has them."""
    parent = run.data.tags.get("mlflow.parentRunId", "none")
    found: dict[str, list[tuple[int, float]]] = {}
    for folder in Path("tensorboard").glob(f"*/{parent[:8]}/{run.info.run_name}"):
        events = EventAccumulator(str(folder)).Reload()
        for key in events.Tags()["scalars"]:
            found[key] = [(event.step, event.value) for event in events.Scalars(key)]
    return found


def _content(run_id: str, file: str, named: Callable[[str], str]) -> Any:
    path = tracking.download(f"runs:/{run_id}/{file}")
    if path.suffix == ".ckpt":
        return flat(checkpoint(path))
    if path.suffix in (".json", ".csv", ".yaml"):
        text = re.sub(r'"(seconds|sha256)": [^,}]+', r'"\1": 0', path.read_text())
        return named(text)
    return "there"


def _tags(of: Mapping[str, str], named: Callable[[str], str]) -> dict[str, str]:
    found = {}
    for key, value in of.items():
        short = key.removeprefix(tracking.TAG)
        if short.startswith("champion."):  # since when, and by which flow run; where a crash came between, again
            found["champion"] = json.loads(value)["reason"]
        elif not any(own in short for own in OWN):
            found[short] = named(re.sub(r"\| [\d.]+ (?=\| \d+ \|$)", "| seconds ", value, flags=re.MULTILINE))
    return found


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """All that differs is told, by place."""
    own, its = flat(found), flat(expected)
    pairs = {key: (own.get(key, "nothing"), its.get(key, "nothing")) for key in sorted(own.keys() | its.keys())}
    different = [f"{key}: {one!r}, and not {other!r}" for key, (one, other) in pairs.items() if one != other]
    assert not different, "\n".join(different[:20])
