"""Lineage of model versions: training records, the versions to fine-tune or evaluate, and checks of new data."""

from collections.abc import Sequence

import prefect.runtime.flow_run
from mlflow.exceptions import MlflowException
from prefect import task

from lstm_models.config import CompareConfig
from lstm_models.data.builders import build_dataset, read_table
from lstm_models.data.dataset import Dataset
from lstm_models.data.holdout import RowRanges, merge_row_ranges, row_ranges, validate_holdout
from lstm_models.data.readers.schema import abbreviate
from lstm_models.utils.errors import TableError, UserError
from tasks import tracking
from tasks.data import dataset_digest, load_dataset, mlflow_schema
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import CheckpointRef, DatasetRef, InterruptedRun, TrainedVersion, TrainingRecord

RECORD_FILE = "training.json"
PRUNED_TAG = f"{tracking.TAG}pruned"  # version tag: the checkpoint and data have been removed
NUMERIC_TYPES = {
    "integer",
    "long",
    "float",
    "double",
}  # a column's numeric type depends on its rows, so these are compatible


class LineageError(UserError):
    """A version can't be fine-tuned or evaluated; the message names the version and the cause."""


def save_training_record(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, data: Dataset) -> None:
    """Save with a training run what a later run needs to continue from it, and the rows it was trained on."""
    rows = row_ranges(data) if data.series else None
    previous = continued_run(checkpoint.run_id)
    trained_on = load_training_record(previous).trained_on if previous else None
    record = TrainingRecord(
        config=config,
        checkpoint=checkpoint,
        dataset=dataset,
        columns=data.columns,
        output=data.output,
        rows=rows,
        trained_on=merge_row_ranges(trained_on, rows) if trained_on and rows else rows,
    )
    tracking.mlflow_client().log_text(checkpoint.run_id, record.model_dump_json(indent=2), RECORD_FILE)


def load_training_record(run_id: str) -> TrainingRecord:
    """Load the training record of a run.

    Raises:
        LineageError: If the run has no training record that this version of the program can read.
    """
    try:
        return TrainingRecord.model_validate_json(tracking.download(f"runs:/{run_id}/{RECORD_FILE}").read_text())
    except (MlflowException, OSError, ValueError) as error:
        raise LineageError(
            f"run {run_id}: no readable training record ({type(error).__name__}): deleted, or written by another "
            f"version of the program; run lstm-flows compare again"
        ) from error


def continued_run(run_id: str) -> str | None:
    """Return the id of the run that a training run continues, or None."""
    previous: str | None = tracking.mlflow_client().get_run(run_id).data.tags.get(f"{tracking.TAG}continues")
    return previous


def lineage_tags(checkpoint: CheckpointRef, name: str) -> dict[str, str]:
    """Return a version's lineage tags: its training rows, the flow run, and the version that it continues."""
    previous = continued_run(checkpoint.run_id)
    continues = tracking.versions(name, previous) if previous else []
    return {
        "rows": format_row_range(load_training_record(checkpoint.run_id).rows),
        "prefect_flow_run_id": prefect.runtime.flow_run.id or "none",
        **({"continues": str(continues[0].version)} if continues else {}),
    }


@task(**RETRY_OPTIONS)
def find_version(experiment: str, number: int | None = None) -> TrainedVersion:
    """Return a version of an experiment's model, by default the champion.

    Raises:
        LineageError: If there is no such version, or its training record or checkpoint is gone.
    """
    tracking.require_database(f"experiment {experiment}")
    version = find_champion.fn(experiment) if number is None else _load_version(experiment, number)
    if version is None:
        raise LineageError(f"experiment {experiment}: no champion; run lstm-flows compare to train one")
    return version


@task(**RETRY_OPTIONS)
def find_champion(experiment: str, interrupted: InterruptedRun | None = None) -> TrainedVersion | None:
    """Return the version with the alias champion, or None; for an interrupted run, the champion at its start.

    Raises:
        LineageError: If its training record or checkpoint is gone.
    """
    if interrupted:
        return None if interrupted.champion is None else _load_version(experiment, interrupted.champion)
    champion = tracking.find_alias(experiment, "champion")
    return None if champion is None else _load_version(experiment, tracking.version_number(champion))


def _load_version(experiment: str, number: int) -> TrainedVersion:
    version = tracking.get_or_none(lambda: tracking.mlflow_client().get_model_version(experiment, str(number)))
    if version is None:
        raise LineageError(f"experiment {experiment}: no version {number}; see lstm-flows history {experiment}")
    if PRUNED_TAG in version.tags:
        raise LineageError(f"version {number} of {experiment}: its checkpoint was pruned; run lstm-flows compare again")
    try:
        return TrainedVersion(name=experiment, number=number, trained=load_training_record(str(version.run_id)))
    except LineageError as error:
        raise LineageError(f"version {number} of {experiment}: {error}") from error


@task(**RETRY_OPTIONS)
def validate_new_data(config: CompareConfig, versions: Sequence[TrainedVersion]) -> str:
    """Read the current table and validate that these versions can be evaluated on it, before a run is started.

    Returns:
        The dataset's digest.

    Raises:
        TableError: If the table is invalid, or its columns, types or classes differ from a version's.
        DataLeakageError: If the test rows are among those that a version was trained on.
    """
    table = read_table(config.data)
    validate_compatibility(mlflow_schema(table), build_dataset(table, config.data, config.seed), versions)
    return dataset_digest(table, config.data, config.seed)


@task(**RETRY_OPTIONS)
def validate_stored_data(dataset: DatasetRef, versions: Sequence[TrainedVersion]) -> None:
    """Validate the stored table like `validate_new_data`: the table may have changed before it was stored.

    Raises:
        TableError: As `validate_new_data`.
        DataLeakageError: As `validate_new_data`.
    """
    validate_compatibility(dataset.columns, load_dataset(dataset), versions)


def validate_compatibility(columns: list[dict[str, str]], data: Dataset, versions: Sequence[TrainedVersion]) -> None:
    """Raise an error if these versions can't be evaluated on a dataset.

    Args:
        columns: The names and MLflow types of the table's columns.
        data: The dataset built from the table.
        versions: The versions to evaluate.

    Raises:
        TableError: If a column is missing or has another type, or the inputs or outputs differ from a version's.
        DataLeakageError: If the test rows are among those that a version was trained on.
    """
    for version in versions:
        _validate_schema(version.trained.dataset.columns, columns, version)
        expected, actual = version.trained.output, data.output
        for what, known, current in (
            ("columns", version.trained.columns, data.columns),
            ("classes", expected.classes, actual.classes),
            ("targets", expected.targets, actual.targets),
            ("steps to forecast", [expected.horizon], [actual.horizon]),
        ):
            if list(known) != list(current):
                raise TableError(
                    f"the {what} are now {_format_names(current)}, but {_version_label(version)} was trained with "
                    f"{_format_names(known)}; run lstm-flows compare again"
                )
        if data.series and version.trained.trained_on:
            validate_holdout(version.trained.trained_on, row_ranges(data), _version_label(version))


def _format_names(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _version_label(version: TrainedVersion) -> str:
    return f"version {version.number} of {version.name}"


def _validate_schema(expected: list[dict[str, str]], actual: list[dict[str, str]], version: TrainedVersion) -> None:
    """Raise an error if a column of the version's training data is missing or has an incompatible type."""
    types = {column["name"]: column["type"] for column in actual}
    for column in expected:
        name, expected_type = abbreviate(column["name"]), column["type"]
        actual_type = types.get(column["name"])
        if actual_type is None:
            raise TableError(
                f"column {name} is missing, but {_version_label(version)} was trained with it; restore the column, or "
                "run lstm-flows compare again"
            )
        if actual_type != expected_type and not {actual_type, expected_type} <= NUMERIC_TYPES:
            raise TableError(
                f"column {name} has type {actual_type}, but {_version_label(version)} was trained with "
                f"{expected_type}; fix the column, or run lstm-flows compare again"
            )


def format_row_range(rows: RowRanges | None) -> str:
    """Format the rows that a version was trained on, such as "to 2024-01-09 17:00" or "34 groups"."""
    if rows is None:
        return "all"
    if rows.by == "group":
        return f"{len(rows.train):,} groups"
    ranges = sorted(rows.train.values(), key=lambda row_range: row_range.last)  # times as text, numbers as numbers
    return f"to {str(ranges[-1].last).removesuffix(':00').replace('T', ' ')}" if ranges else "none"
