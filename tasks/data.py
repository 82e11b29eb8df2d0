"""The dataset: made or read, stored as Parquet, named by the digest of its content and of what is made of it."""

import hashlib
import json
import tempfile
import warnings
from pathlib import Path

import pandas as pd
from mlflow.entities import Dataset as Noted
from mlflow.models import infer_signature
from prefect import task

from lstm_models.config import AnyData, CompareConfig, TableData
from lstm_models.data import source, tables
from lstm_models.data.dataset import Dataset, load, of_table, read
from tasks import provenance, tracking
from tasks.answers import once
from tasks.references import DatasetRef, DatasetSummary, ParentRun
from tasks.retries import MAY_PASS

FEW = 4  # sequences that are named one by one


@task(**MAY_PASS)
def look_at_data(config: CompareConfig) -> str:
    """Read the data and make the dataset, so that what is wrong with it is said before anything is left behind.

    Returns:
        The dataset's digest.
    """
    table = read(config.data)
    of_table(table, config.data, config.seed)
    return digest(table, config.data, config.seed)


@task(task_run_name="read {config.data.kind} data", **MAY_PASS)
@once
def store_data(config: CompareConfig, parent: ParentRun) -> DatasetRef:
    """Read the table, store it with the parent run, and note there what it holds and what is made of it."""
    reference = keep_table(config, parent)
    # the data as it was stored: it may have changed since it was looked at
    fingerprint = provenance.fingerprint(config, reference.digest, parent.asked)
    tracking.client().set_tag(parent.run_id, f"{tracking.TAG}fingerprint", fingerprint)
    tracking.log_dataset(parent.run_id, as_input(reference), "training and evaluation")
    found = summary(reference, load_dataset(reference))
    sizes = {f"{part}_examples": getattr(found, part) for part in ("train", "validation", "test")}
    rows = {} if found.rows is None else {"rows_read": found.rows.read, "rows_used": found.rows.used}
    dropped = {} if found.rows is None else {"rows_dropped": found.rows.dropped or "none"}
    tracking.log_params(parent.run_id, {**sizes, **rows, **dropped})
    return reference


@once
def keep_table(config: CompareConfig, parent: ParentRun) -> DatasetRef:
    """Read the table and store it with the parent run.

    Once, for itself: what is noted of it after that can't be changed, and the table may be another one after a crash.
    """
    table = read(config.data)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{config.data.kind}.parquet"
        table.to_parquet(path, index=False)
        tracking.client().log_artifact(parent.run_id, str(path), "data")
    return DatasetRef(
        uri=f"runs:/{parent.run_id}/data/{path.name}",
        name=source.name(config.data) if isinstance(config.data, TableData) else config.data.kind,
        digest=digest(table, config.data, config.seed),
        config=config.data,
        seed=config.seed,
        rows=len(table),
        columns_schema=json.dumps({"mlflow_colspec": schema(table)}),
    )


def schema(table: pd.DataFrame) -> list[dict[str, str]]:
    """A table's columns and their types, as MLflow calls them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice to use doubles where integers may be missing one day
        found: list[dict[str, str]] = infer_signature(table.head(1000)).inputs.to_dict()
    return found


def digest(table: pd.DataFrame, config: AnyData, seed: int) -> str:
    """A name for the examples: the same for the same table and the same settings, wherever the table comes from."""
    content = tables.digest(table)
    if not isinstance(config, TableData):
        return content
    settings = config.model_dump_json(exclude={"path", "sql"})
    drawn = seed if config.task != "forecast" else None
    return hashlib.sha256(json.dumps([content, settings, drawn]).encode()).hexdigest()[:32]


def load_dataset(dataset: DatasetRef) -> Dataset:
    """Read a stored table back as a dataset."""
    path = tracking.download(dataset.uri)
    if isinstance(dataset.config, TableData):  # with Arrow's types again, as it was read at first
        return load(dataset.config.model_copy(update={"path": str(path), "sql": None}), dataset.seed)
    return of_table(pd.read_parquet(path), dataset.config, dataset.seed)


def summary(reference: DatasetRef, dataset: Dataset) -> DatasetSummary:
    """What a comparison says of its data."""
    few = dataset.names is not None and dataset.test.count <= FEW
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


def as_input(dataset: DatasetRef) -> Noted:
    """A dataset as MLflow notes it. (mlflow.data makes no source of an artifact that lies behind a tracking server.)"""
    return Noted(
        name=dataset.name,
        digest=dataset.digest,
        source_type="mlflow_artifact",
        source=json.dumps({"uri": dataset.uri}),
        schema=dataset.columns_schema,
        profile=json.dumps({"num_rows": dataset.rows}),
    )
