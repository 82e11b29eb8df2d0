"""The dataset: generated, stored as Parquet, named by the digest of its content."""

import json
import tempfile
from pathlib import Path

import pandas as pd
from mlflow.entities import Dataset
from mlflow.models import infer_signature
from prefect import task
from prefect.cache_policies import NO_CACHE

from lstm_models.config import AddingData, AnyData, TutorialData
from lstm_models.data import adding, tables, tutorial
from tasks import tracking
from tasks.references import DatasetRef, ParentRun


def read_source(config: AnyData) -> tuple[pd.DataFrame, tables.Columns]:
    """The table that the configuration describes, and what its columns hold. The first column names the sequences."""
    match config:
        case TutorialData():
            return tutorial.table(), tutorial.COLUMNS
        case AddingData():
            return adding.table(config.length, config.count, config.seed), adding.columns(config.length)


@task(task_run_name="generate {config.kind} data", cache_policy=NO_CACHE)
def generate_data(config: AnyData, parent: ParentRun) -> DatasetRef:
    """Make the table and store it with the parent run."""
    table, columns = read_source(config)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{config.kind}.parquet"
        table.to_parquet(path, index=False)
        tracking.client().log_artifact(parent.run_id, str(path), "data")
    reference = DatasetRef(
        uri=f"runs:/{parent.run_id}/data/{path.name}",
        name=config.kind,
        digest=tables.digest(table),
        sequences=len(table),
        inputs=columns.inputs,
        target=columns.target,
        features=columns.features,
        key=str(table.columns[0]),
    )
    tracking.log_dataset(parent.run_id, as_input(reference, table), "training and evaluation")
    return reference


def load_table(dataset: DatasetRef) -> pd.DataFrame:
    """Read a stored dataset back."""
    return pd.read_parquet(tracking.download(dataset.uri))


def load_sequences(dataset: DatasetRef) -> tables.Sequences:
    """Read a stored dataset as tensors."""
    return tables.to_sequences(load_table(dataset), dataset.columns)


def as_input(dataset: DatasetRef, table: pd.DataFrame) -> Dataset:
    """A dataset as MLflow notes it. (mlflow.data makes no source of an artifact that lies behind a tracking server.)"""
    schema = infer_signature(table).inputs.to_dict()
    return Dataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type="mlflow_artifact",
        source=json.dumps({"uri": dataset.uri}),
        schema=json.dumps({"mlflow_colspec": schema}),
        profile=json.dumps({"num_rows": len(table), "num_elements": table.size}),
    )
