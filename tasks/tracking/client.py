"""Functions for MLflow experiments, runs, metrics and artifacts. They take run ids; there is no active run."""

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

from lstm_models.nn.kernels.native_library import backend
from lstm_models.utils.errors import UserError
from tasks.tracking import fingerprint
from tasks.tracking.transient import is_transient

MAX_BATCH = 1000  # MLflow's limit of metric values per request
# how long to wait for a database that another process has locked; MLflow waits as long once it is connected
LOCK_TIMEOUT_SECONDS = 20.0
TAG = "lstm_flows."

T = TypeVar("T")

logger = logging.getLogger("lstm_flows")


def local_database() -> Path | None:
    """Return the path of the SQLite database, or None if the tracking URI is not SQLite."""
    return (
        Path(tracking_uri().removeprefix("sqlite:///").split("?")[0])
        if tracking_uri().startswith("sqlite:///")
        else None
    )


class NotFoundError(UserError):
    """Something does not exist in MLflow. The message says what, and where it was searched."""


def require_database(what: str) -> None:
    """Raise an error if the local database does not exist, instead of creating an empty one.

    Args:
        what: What is searched in the database, for the message.

    Raises:
        NotFoundError: If the tracking URI is a SQLite database that does not exist.
    """
    database = local_database()
    if database and not database.exists():
        raise NotFoundError(f"{what}: not found, because there is no {database.name} in {database.parent}")


def mlflow_client() -> MlflowClient:
    """Return a client of MLFLOW_TRACKING_URI, or of ./mlflow.db if the variable is not set."""
    if database := local_database():
        _create_database(database)
    return MlflowClient()


@cache
def _create_database(database: Path) -> None:
    """Create the SQLite database if it does not exist.

    A file lock prevents two processes from creating it at the same time, which would corrupt it. The result is cached,
    because every call of `mlflow_client` comes here.
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
    """Return the id of the experiment with this name; create the experiment if it does not exist.

    Raises:
        MlflowException: If the experiment was deleted and not restored.
    """
    experiment = mlflow_client().get_experiment_by_name(name)
    if experiment is None:
        try:
            # this kind makes the UI show the pages for model training, not those for language models
            return str(
                mlflow_client().create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"})
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # another process created it in the meantime
            experiment = mlflow_client().get_experiment_by_name(name)
            assert experiment is not None
    if experiment.lifecycle_stage != "active":
        raise MlflowException(f"experiment {name} was deleted; restore it in the MLflow UI, or choose another name")
    return str(experiment.experiment_id)


def start_run(experiment: str, name: str, *, parent: str | None = None, tags: Mapping[str, str], note: str) -> str:
    """Create a run with status RUNNING.

    Args:
        experiment: The experiment's id.
        name: The run's name.
        parent: The parent run's id, if any.
        tags: More tags, without the prefix `lstm_flows.`.
        note: The run's description, a sentence.

    Returns:
        The run's id.
    """
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
    """Return tags that identify this process and the backend that runs the LSTM.

    They let a later process find out whether this one has exited.
    """
    return {TAG + key: value for key, value in {**fingerprint.process_identity(), "backend": backend()}.items()}


def reopen_run(run_id: str) -> None:
    """Set a terminated run to RUNNING again, in this process and this flow run."""
    mlflow_client().update_run(run_id, "RUNNING")
    tags = {**process_tags(), f"{TAG}prefect_flow_run_id": prefect.runtime.flow_run.id or "none"}
    for key, value in tags.items():
        mlflow_client().set_tag(run_id, key, value)


@contextmanager
def terminate_on_error(run_id: str) -> Iterator[None]:
    """Terminate a run if the block raises: FAILED on an error, KILLED on Ctrl-C or a signal."""
    try:
        yield
    except BaseException as error:
        with best_effort():
            mlflow_client().set_terminated(run_id, status_after(error))
        raise


@contextmanager
def best_effort() -> Iterator[None]:
    """Suppress connection errors of the block, which must not mask the exception that is being handled.

    A run whose status could not be set stays RUNNING until the next start of the program terminates it.
    """
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            raise
        logger.warning(
            "MLflow cannot be reached: a run stays RUNNING until the next start of the program terminates it"
        )


def status_after(error: BaseException) -> str:
    """Return the status of a run that this exception has terminated: FAILED, or KILLED on Ctrl-C or a signal."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def join_path(directory: str, name: str) -> str:
    """Return DIRECTORY/NAME, the path of an artifact or the name of a metric; NAME alone if the directory is ""."""
    return f"{directory}/{name}" if directory else name


def find_run(experiment: str, query: str) -> Run | None:
    """Return the newest run that matches the query in the experiment with this name, or None."""
    entity = mlflow_client().get_experiment_by_name(experiment)
    runs = mlflow_client().search_runs([entity.experiment_id], query, max_results=1) if entity else []
    return runs[0] if runs else None


def get_or_none(request: Callable[[], T]) -> T | None:
    """Return the result of a request to MLflow, or None if MLflow reports RESOURCE_DOES_NOT_EXIST."""
    try:
        return request()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def metric_name(name: str) -> str:
    """Return a valid metric name: characters that MLflow does not allow are replaced by underscores."""
    return re.sub(r"[^\w. :-]", "_", name)[:200]


def log_params(run_id: str, params: Mapping[str, object]) -> None:
    """Log parameters of a run."""
    mlflow_client().log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])


def log_metrics(run_id: str, metrics: Mapping[str, float], *, dataset_name: str, dataset_digest: str) -> None:
    """Log metrics of the whole run, measured on a dataset.

    Their timestamp is the run's start time, so that logging the same metric again adds no second value.
    """
    start = mlflow_client().get_run(run_id).info.start_time
    data = {"dataset_name": dataset_name, "dataset_digest": dataset_digest}
    mlflow_client().log_batch(run_id, metrics=[Metric(key, value, start, 0, **data) for key, value in metrics.items()])


def log_curve(run_id: str, name: str, points: Mapping[int, float]) -> None:
    """Log a metric at several steps; logging the same values again adds no second ones."""
    start = mlflow_client().get_run(run_id).info.start_time
    metrics = [Metric(name, value, start + step, step) for step, value in points.items()]
    for first in range(0, len(metrics), MAX_BATCH):
        mlflow_client().log_batch(run_id, metrics=metrics[first : first + MAX_BATCH])


def read_curve(run_id: str, name: str) -> dict[int, float]:
    """Return a metric's values by step, in ascending order of the steps."""
    history = mlflow_client().get_metric_history(run_id, name)
    return dict(sorted((point.step, point.value) for point in history))


def log_dataset(run_id: str, dataset: Dataset, context: str) -> None:
    """Log a dataset as an input of the run; `context` says what it is used for, such as "training"."""
    tag = InputTag("mlflow.data.context", context)
    mlflow_client().log_inputs(run_id, [DatasetInput(dataset, tags=[tag])])


def download(artifact: str) -> Path:
    """Return the local path of the artifact at a URI; download the artifact if it is not local."""
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=artifact))


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the URI of the SQLite database in the working directory if it is not set."""
    if not mlflow.is_tracking_uri_set():  # type: ignore[no-untyped-call]
        # MLflow's own default percent-encodes a space in the path, which names another directory
        mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")
    return str(mlflow.get_tracking_uri())


def artifact_repository(run_id: str) -> Any:
    """Return the artifact repository of a run, which can delete artifacts; MLflow's client can't."""
    return artifacts_at(mlflow_client().get_run(run_id).info.artifact_uri)


def artifacts_at(uri: str) -> Any:
    """Return the artifact repository at a URI, as Any: its methods have no annotations, which mypy would reject."""
    return get_artifact_repository(uri)


def redacted_uri() -> str:
    """Return the tracking URI without user name and password."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri())


def run_url(run_id: str) -> str:
    """Return the URL of a run in the MLflow UI: the server's, or that of `lstm-flows ui` for a local database."""
    base = tracking_uri().rstrip("/") if tracking_uri().startswith("http") else "http://127.0.0.1:5000"
    return f"{base}/#/experiments/{mlflow_client().get_run(run_id).info.experiment_id}/runs/{run_id}"
