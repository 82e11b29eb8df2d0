"""The dataset: generated, stored as Parquet, named by the digest of its content."""

import tempfile
import warnings
from pathlib import Path

import pandas as pd
from mlflow.data.pandas_dataset import PandasDataset, from_pandas
from prefect import task
from prefect.cache_policies import NO_CACHE

from lstm_models.config import TutorialData
from lstm_models.data import tables, tutorial
from tasks import tracking
from tasks.references import DatasetRef, ParentRun


def read_source(config: TutorialData) -> pd.DataFrame:
    """The table that the configuration describes."""
    match config:
        case TutorialData():
            return tutorial.table()


@task(task_run_name="generate {config.kind} data", cache_policy=NO_CACHE)
def generate_data(config: TutorialData, parent: ParentRun) -> DatasetRef:
    """Make the table and store it with the parent run."""
    table = read_source(config)
    columns = tutorial.COLUMNS
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
        key="company",
    )
    tracking.log_dataset(parent.run_id, as_input(reference, table), "training and evaluation")
    return reference


def load_table(dataset: DatasetRef) -> pd.DataFrame:
    """Read a stored dataset back."""
    return pd.read_parquet(tracking.download(dataset.uri))


def load_sequences(dataset: DatasetRef) -> tables.Sequences:
    """Read a stored dataset as tensors."""
    return tables.to_sequences(load_table(dataset), tables.Columns(dataset.inputs, dataset.target))


def as_input(dataset: DatasetRef, table: pd.DataFrame) -> PandasDataset:
    """A dataset as MLflow notes it."""
    with warnings.catch_warnings():
        # MLflow knows local files by two names, and says so
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted in multiple ways")
        return from_pandas(
            table,
            source=tracking.location(dataset.uri),
            targets=dataset.target,
            name=dataset.name,
            digest=dataset.digest,
        )
