"""What goes on from what: all that it takes to continue a version, and whether it may, on a table as it is now."""

from collections.abc import Sequence

import prefect.runtime.flow_run
from mlflow.exceptions import MlflowException
from prefect import task

from lstm_models.config import CompareConfig
from lstm_models.data.dataset import Dataset, build_dataset, read_table
from lstm_models.data.holdout import RowRanges, merge_row_ranges, row_ranges, validate_holdout
from lstm_models.data.readers.schema import abbreviate
from lstm_models.utils.errors import TableError, UserError
from tasks import tracking
from tasks.data import dataset_digest, load_dataset, mlflow_schema
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import CheckpointRef, DatasetRef, InterruptedRun, TrainedVersion, TrainingRecord

RECORD_FILE = "training.json"
PRUNED_TAG = f"{tracking.TAG}pruned"  # a version's tag: its checkpoint and its data are gone
NUMERIC_TYPES = {"integer", "long", "float", "double"}  # which of these holds a column's numbers depends on the rows


class LineageError(UserError):
    """A version can't go on; the message names it and the cause."""


def save_training_record(config: CompareConfig, checkpoint: CheckpointRef, dataset: DatasetRef, data: Dataset) -> None:
    """Leave with a training's run what a later one needs to go on from it, and which rows it has learnt from."""
    rows = row_ranges(data) if data.series else None
    before = continued_run(checkpoint.run_id)
    seen = load_training_record(before).trained_on if before else None
    left = TrainingRecord(
        config=config,
        checkpoint=checkpoint,
        dataset=dataset,
        columns=data.columns,
        output=data.output,
        rows=rows,
        trained_on=merge_row_ranges(seen, rows) if seen and rows else rows,
    )
    tracking.mlflow_client().log_text(checkpoint.run_id, left.model_dump_json(indent=2), RECORD_FILE)


def load_training_record(run_id: str) -> TrainingRecord:
    """What a training's run has left for those who go on from it.

    Raises:
        LineageError: if it has left nothing that this program understands.
    """
    try:
        return TrainingRecord.model_validate_json(tracking.download(f"runs:/{run_id}/{RECORD_FILE}").read_text())
    except (MlflowException, OSError, ValueError) as error:
        raise LineageError(
            f"run {run_id}: nothing to go on from ({type(error).__name__}): an older program made it, or it was "
            f"deleted; compare anew"
        ) from error


def continued_run(run_id: str) -> str | None:
    """The run of the training that a run continues, or None."""
    found: str | None = tracking.mlflow_client().get_run(run_id).data.tags.get(f"{tracking.TAG}continues")
    return found


def lineage_tags(checkpoint: CheckpointRef, name: str) -> dict[str, str]:
    """What a version says of its lineage: the version that it continues, the rows it was trained on, the flow run."""
    before = continued_run(checkpoint.run_id)
    continues = tracking.versions(name, before) if before else []
    return {
        "rows": format_row_range(load_training_record(checkpoint.run_id).rows),
        "prefect_flow_run_id": prefect.runtime.flow_run.id or "none",
        **({"continues": str(continues[0].version)} if continues else {}),
    }


@task(**RETRY_OPTIONS)
def find_version(experiment: str, number: int | None = None) -> TrainedVersion:
    """A version of an experiment's model; none: the champion.

    Raises:
        LineageError: if there is none, or it can't be continued.
    """
    tracking.require_database(f"experiment {experiment}")
    found = find_champion.fn(experiment) if number is None else _version(experiment, number)
    if found is None:
        raise LineageError(f"experiment {experiment}: no champion; lstm-flows compare makes one")
    return found


@task(**RETRY_OPTIONS)
def find_champion(experiment: str, interrupted: InterruptedRun | None = None) -> TrainedVersion | None:
    """The version with the alias champion, or None; for an interrupted run, the one that had it when the run began.

    Raises:
        LineageError: if it can't be continued.
    """
    if interrupted:
        return None if interrupted.champion is None else _version(experiment, interrupted.champion)
    champion = tracking.find_alias(experiment, "champion")
    return None if champion is None else _version(experiment, tracking.version_number(champion))


def _version(experiment: str, number: int) -> TrainedVersion:
    found = tracking.get_or_none(lambda: tracking.mlflow_client().get_model_version(experiment, str(number)))
    if found is None:
        raise LineageError(f"experiment {experiment}: no version {number}; see lstm-flows history {experiment}")
    if PRUNED_TAG in found.tags:
        raise LineageError(f"version {number} of {experiment}: its checkpoint was pruned; compare anew")
    try:
        return TrainedVersion(name=experiment, number=number, trained=load_training_record(str(found.run_id)))
    except LineageError as error:
        raise LineageError(f"version {number} of {experiment}: {error}") from error


@task(**RETRY_OPTIONS)
def validate_new_data(config: CompareConfig, versions: Sequence[TrainedVersion]) -> str:
    """Read the table as it is now, and see to it that these versions may be judged on it, before anything is done.

    Returns:
        The dataset's digest.

    Raises:
        TableError: if it does not fit, or is not of the versions' columns, types and classes.
        NotHeldOut: if the rows to judge by are among those that a version has learnt from.
    """
    table = read_table(config.data)
    validate_compatibility(mlflow_schema(table), build_dataset(table, config.data, config.seed), versions)
    return dataset_digest(table, config.data, config.seed)


@task(**RETRY_OPTIONS)
def validate_stored_data(dataset: DatasetRef, versions: Sequence[TrainedVersion]) -> None:
    """See to it that these versions may be judged on the table as it was stored: it may have changed since it was
    looked at. Errors as of `validate_new_data`."""
    validate_compatibility(dataset.columns, load_dataset(dataset), versions)


def validate_compatibility(columns: list[dict[str, str]], data: Dataset, versions: Sequence[TrainedVersion]) -> None:
    """See to it that these versions can be judged on a table, by its columns and the dataset that is made of it.

    Raises:
        TableError: if a column is gone, or holds other values, or something else is to be told.
        NotHeldOut: if the rows to judge by are among those that a version has learnt from.
    """
    for version in versions:
        _validate_schema(version.trained.dataset.columns, columns, version)
        theirs, now = version.trained.output, data.output
        for what, known, found in (
            ("columns", version.trained.columns, data.columns),
            ("classes", theirs.classes, now.classes),
            ("targets", theirs.targets, now.targets),
            ("steps told", [theirs.horizon], [now.horizon]),
        ):
            if list(known) != list(found):
                raise TableError(
                    f"the {what} are now {_join(found)}, but {_version_label(version)} knows {_join(known)}; "
                    "compare anew"
                )
        if data.series and version.trained.trained_on:
            validate_holdout(version.trained.trained_on, row_ranges(data), _version_label(version))


def _join(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _version_label(version: TrainedVersion) -> str:
    return f"version {version.number} of {version.name}"


def _validate_schema(before: list[dict[str, str]], now: list[dict[str, str]], version: TrainedVersion) -> None:
    """See to it that each column is still there, and holds values of the kind that the version was trained on."""
    types = {column["name"]: column["type"] for column in now}
    for column in before:
        name, was = abbreviate(column["name"]), column["type"]
        found = types.get(column["name"])
        if found is None:
            raise TableError(
                f"column {name} is gone, which {_version_label(version)} was made with; bring it back, or compare anew"
            )
        if found != was and not {found, was} <= NUMERIC_TYPES:
            raise TableError(
                f"column {name} holds values of type {found} now, but {was} when {_version_label(version)} was made; "
                f"mend it, or compare anew"
            )


def format_row_range(rows: RowRanges | None) -> str:
    """Which rows a version was trained on, in a few words."""
    if rows is None:
        return "all"
    if rows.by == "group":
        return f"{len(rows.train):,} groups"
    ends = sorted(rows.train.values(), key=lambda span: span.last)  # times sort as text; numbers as what they are
    return f"to {str(ends[-1].last).removesuffix(':00').replace('T', ' ')}" if ends else "none"
