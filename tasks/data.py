"""Read or generate the dataset, store it as Parquet, and compute its digest."""

import hashlib
import json
import tempfile
import warnings
from pathlib import Path

import pandas as pd
from mlflow.entities import Dataset as MlflowDataset
from mlflow.models import infer_signature
from prefect import task

from lstm_models.config import AnyData, CompareConfig, TableData
from lstm_models.data import sequences
from lstm_models.data.builders import build_dataset, read_dataset, read_table
from lstm_models.data.dataset import Dataset
from lstm_models.data.readers import files
from tasks import tracking
from tasks.orchestration.result_cache import cached_in_run
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import DatasetRef, DatasetSummary, ParentRun
from tasks.tracking.fingerprint import run_fingerprint

MAX_NAMED_ROWS = 4  # up to this many test sequences are listed by name


@task(**RETRY_OPTIONS)
def validate_data(config: CompareConfig) -> str:
    """Read the data and build the dataset, to raise errors before a run is started or a file written.

    Returns:
        The dataset's digest.

    Raises:
        TableError: If the data is invalid.
    """
    table = read_table(config.data)
    build_dataset(table, config.data, config.seed)
    return dataset_digest(table, config.data, config.seed)


@task(task_run_name="read {config.data.kind} data", **RETRY_OPTIONS)
@cached_in_run
def store_data(config: CompareConfig, parent: ParentRun) -> DatasetRef:
    """Read the table, store it with the parent run, and log its digest, sizes and row counts there."""
    reference = store_table(config, parent)
    # of the data as stored: the table may have changed since it was validated
    fingerprint = run_fingerprint(config, reference.digest, parent.request)
    tracking.mlflow_client().set_tag(parent.run_id, f"{tracking.TAG}fingerprint", fingerprint)
    tracking.log_dataset(parent.run_id, as_mlflow_dataset(reference), "training and evaluation")
    summary = summarize_data(reference, load_dataset(reference))
    sizes = {f"{part}_examples": getattr(summary, part) for part in ("train", "validation", "test")}
    rows = {} if summary.rows is None else {"rows_read": summary.rows.read, "rows_used": summary.rows.used}
    dropped = {} if summary.rows is None else {"rows_dropped": summary.rows.dropped or "none"}
    tracking.log_params(parent.run_id, {**sizes, **rows, **dropped})
    return reference


@cached_in_run
def store_table(config: CompareConfig, parent: ParentRun) -> DatasetRef:
    """Read the table and store it as Parquet with the parent run.

    Cached separately from `store_data`: logged params can't be changed, and after a crash the table may have changed.
    """
    table = read_table(config.data)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{config.data.kind}.parquet"
        table.to_parquet(path, index=False)
        tracking.mlflow_client().log_artifact(parent.run_id, str(path), "data")
    return DatasetRef(
        uri=f"runs:/{parent.run_id}/data/{path.name}",
        name=files.source_name(config.data) if isinstance(config.data, TableData) else config.data.kind,
        digest=dataset_digest(table, config.data, config.seed),
        config=config.data,
        seed=config.seed,
        rows=len(table),
        columns_schema=json.dumps({"mlflow_colspec": mlflow_schema(table)}),
    )


def mlflow_schema(table: pd.DataFrame) -> list[dict[str, str]]:
    """Return the names and MLflow types of a table's columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice to use doubles where integers may be missing later
        schema: list[dict[str, str]] = infer_signature(table.head(1000)).inputs.to_dict()
    return schema


def dataset_digest(table: pd.DataFrame, config: AnyData, seed: int) -> str:
    """Return a digest of the examples: it depends on the table's content and the settings, not on the source."""
    content = sequences.table_digest(table)
    if not isinstance(config, TableData):
        return content
    settings = config.model_dump_json(exclude={"path", "sql"})
    split_seed = seed if config.task != "forecast" else None
    return hashlib.sha256(json.dumps([content, settings, split_seed]).encode()).hexdigest()[:32]


def load_dataset(dataset: DatasetRef) -> Dataset:
    """Load a stored table as a dataset."""
    path = tracking.download(dataset.uri)
    if isinstance(dataset.config, TableData):  # with Arrow types, as when it was first read
        return read_dataset(dataset.config.model_copy(update={"path": str(path), "sql": None}), dataset.seed)
    return build_dataset(pd.read_parquet(path), dataset.config, dataset.seed)


def summarize_data(reference: DatasetRef, dataset: Dataset) -> DatasetSummary:
    """Return the summary of a dataset for reports."""
    few = dataset.names is not None and dataset.test.count <= MAX_NAMED_ROWS
    return DatasetSummary(
        name=reference.name,
        digest=reference.digest,
        in_sample=dataset.in_sample,
        train=dataset.train.count,
        validation=dataset.validation.count if dataset.validation else 0,
        test=dataset.test.count,
        rows=dataset.rows,
        notes=list(dataset.series.notes) if dataset.series else [],
        names=dataset.keys().iloc[:, 0].astype(str).tolist() if few else None,
    )


def as_mlflow_dataset(dataset: DatasetRef) -> MlflowDataset:
    """Return a dataset as an MLflow entity.

    mlflow.data can't be used: it has no source for artifacts behind a tracking server.
    """
    return MlflowDataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type="mlflow_artifact",
        source=json.dumps({"uri": dataset.uri}),
        schema=dataset.columns_schema,
        profile=json.dumps({"num_rows": dataset.rows}),
    )
