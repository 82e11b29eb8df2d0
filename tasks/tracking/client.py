"""MLflow as plain functions: experiments, runs, curves, artifacts. No active run anywhere: run ids are passed."""

import getpass
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import prefect.runtime.flow_run
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from lstm_models.nn.kernels.native import backend
from lstm_models.utils.errors import UserError
from tasks.tracking import fingerprint
from tasks.tracking.transient import is_transient

MAX_BATCH = 1000  # points that MLflow takes at once
LOCK_TIMEOUT_SECONDS = (
    20.0  # seconds that another process may hold the database; MLflow itself waits so long once it is connected
)
TAG = "lstm_flows."

T = TypeVar("T")

logger = logging.getLogger("lstm_flows")


def local_database() -> Path | None:
    """The SQLite file that holds everything, or None where MLflow is elsewhere."""
    return (
        Path(tracking_uri().removeprefix("sqlite:///").split("?")[0])
        if tracking_uri().startswith("sqlite:///")
        else None
    )


class NotFoundError(UserError):
    """What was asked for is not there; the message says what, and where it was looked for."""


def require_database(what: str) -> None:
    """See to it that asking about something creates no database.

    Raises:
        NothingTracked: if there is no local database.
    """
    database = local_database()
    if database and not database.exists():
        raise NotFoundError(f"{what}: no models here, since there is no {database.name} in {database.parent}")


def mlflow_client() -> MlflowClient:
    """A client of the tracking server or database that MLFLOW_TRACKING_URI names; ./mlflow.db where it names none."""
    if database := local_database():
        _create_database(database)
    return MlflowClient()


@cache
def _create_database(database: Path) -> None:
    """Create the SQLite database where it is not there: under a file lock, since two processes at once would break it.

    Once a process: clients are made at every turn.
    """
    began = time.monotonic()
    with FileLock(f"{database}.lock"):
        while True:
            try:
                MlflowClient().search_experiments(max_results=1)
                return
            except Exception as error:
                if not is_transient(error) or time.monotonic() - began > LOCK_TIMEOUT_SECONDS:
                    raise


def get_or_create_experiment(name: str) -> str:
    """The id of the experiment with this name, which is created if there is none.

    Raises:
        MlflowException: if it was deleted in the UI and not restored.
    """
    found = mlflow_client().get_experiment_by_name(name)
    if found is None:
        try:
            # the kind opens MLflow's pages for training runs, rather than those for language models
            return str(
                mlflow_client().create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"})
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = mlflow_client().get_experiment_by_name(name)  # created by another process since
            assert found is not None
    if found.lifecycle_stage != "active":
        raise MlflowException(f"experiment {name} was deleted; restore it in the MLflow UI, or choose another name")
    return str(found.experiment_id)


def start_run(experiment: str, name: str, *, parent: str | None = None, tags: Mapping[str, str], note: str) -> str:
    """Create a run, RUNNING, and return its id. `experiment` is an id, `note` a sentence on what the run is."""
    commit = fingerprint.git_commit()
    run = mlflow_client().create_run(
        experiment,
        run_name=name,
        tags={
            "mlflow.user": getpass.getuser(),
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": "lstm-flows",
            "mlflow.note.content": note,
            **({"mlflow.source.git.commit": commit} if commit else {}),
            **({"mlflow.parentRunId": parent} if parent else {}),
            **{TAG + key: value for key, value in tags.items()},
            **process_tags(),
        },
    )
    return str(run.info.run_id)


def process_tags() -> dict[str, str]:
    """What a run tells of the process that works on it, so that a later one can see whether that is gone; and which
    code runs the LSTM there."""
    return {TAG + key: value for key, value in {**fingerprint.process_identity(), "backend": backend()}.items()}


def reopen_run(run_id: str) -> None:
    """Let a run that has ended be RUNNING again, in this process and this flow run."""
    mlflow_client().update_run(run_id, "RUNNING")
    tags = {**process_tags(), f"{TAG}prefect_flow_run_id": prefect.runtime.flow_run.id or "none"}
    for key, value in tags.items():
        mlflow_client().set_tag(run_id, key, value)


@contextmanager
def terminate_on_error(run_id: str) -> Iterator[None]:
    """See to it that a run does not stay RUNNING if the block breaks: FAILED on an error, or else KILLED."""
    try:
        yield
    except BaseException as error:
        with best_effort():
            mlflow_client().set_terminated(run_id, status_after(error))
        raise


@contextmanager
def best_effort() -> Iterator[None]:
    """Say how something has ended, where MLflow can be reached; else the next start will: that error hides none."""
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            raise
        logger.warning("MLflow is out of reach: a run stays RUNNING there until the next start finds it")


def status_after(error: BaseException) -> str:
    """The status of a run that an error, Ctrl-C or a signal has ended."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def join_path(directory: str, name: str) -> str:
    """The name that an artifact or a metric has in a folder of a run; of no folder ("") its own."""
    return f"{directory}/{name}" if directory else name


def find_run(experiment: str, query: str) -> Run | None:
    """The newest run of an experiment, by its name, that a query finds, or None."""
    found = mlflow_client().get_experiment_by_name(experiment)
    runs = mlflow_client().search_runs([found.experiment_id], query, max_results=1) if found else []
    return runs[0] if runs else None


def get_or_none(ask: Callable[[], T]) -> T | None:
    """What MLflow answers, or None where it says that there is no such thing."""
    try:
        return ask()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def metric_name(name: str) -> str:
    """A name with what MLflow allows in a metric's."""
    return re.sub(r"[^\w. :-]", "_", name)[:200]


def log_params(run_id: str, params: Mapping[str, object]) -> None:
    mlflow_client().log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])


def log_metrics(run_id: str, metrics: Mapping[str, float], *, dataset_name: str, dataset_digest: str) -> None:
    """Log single figures, of the whole run, measured on a dataset.

    The time stamp is the run's start, so that the same figure logged again is no second point.
    """
    moment = mlflow_client().get_run(run_id).info.start_time
    data = {"dataset_name": dataset_name, "dataset_digest": dataset_digest}
    mlflow_client().log_batch(run_id, metrics=[Metric(key, value, moment, 0, **data) for key, value in metrics.items()])


def log_curve(run_id: str, name: str, points: Mapping[int, float]) -> None:
    """Log a figure at several steps; logged again, it is no second point."""
    start = mlflow_client().get_run(run_id).info.start_time
    found = [Metric(name, value, start + step, step) for step, value in points.items()]
    for first in range(0, len(found), MAX_BATCH):
        mlflow_client().log_batch(run_id, metrics=found[first : first + MAX_BATCH])


def read_curve(run_id: str, name: str) -> dict[int, float]:
    """A metric's values by their step, in the order of the steps."""
    history = mlflow_client().get_metric_history(run_id, name)
    return dict(sorted((point.step, point.value) for point in history))


def log_dataset(run_id: str, dataset: Dataset, context: str) -> None:
    """Note a dataset as the run's input; `context` says what for, such as "training"."""
    tag = InputTag("mlflow.data.context", context)
    mlflow_client().log_inputs(run_id, [DatasetInput(dataset, tags=[tag])])


def download(artifact: str) -> Path:
    """The local path of an artifact, fetched if it lies elsewhere."""
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=artifact))


def tracking_uri() -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, or the SQLite database in the working directory."""
    if not mlflow.is_tracking_uri_set():  # type: ignore[no-untyped-call]
        # MLflow's default is the same, but it percent-encodes a space in the path, which names another directory
        mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")
    return str(mlflow.get_tracking_uri())


def artifact_repository(run_id: str) -> Any:
    """Where a run's artifacts lie: MLflow's client has no way to remove one, but what it stores them with has."""
    return artifacts_at(mlflow_client().get_run(run_id).info.artifact_uri)


def artifacts_at(uri: str) -> Any:
    return get_artifact_repository(uri)


def redacted_uri() -> str:
    """Where the tracked things lie, without a password."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri())


def run_url(run_id: str) -> str:
    """A run's page in the MLflow UI: the server's, or the one that `lstm-flows ui` opens on a local database."""
    base = tracking_uri().rstrip("/") if tracking_uri().startswith("http") else "http://127.0.0.1:5000"
    return f"{base}/#/experiments/{mlflow_client().get_run(run_id).info.experiment_id}/runs/{run_id}"
