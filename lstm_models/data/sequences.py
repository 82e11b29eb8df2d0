"""Sequences as a table: what its content is called, and how it becomes tensors. B batch, T time, D features."""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lstm_models.data.readers.csv import read_csv
from lstm_models.data.windows import Batch
from lstm_models.utils.errors import TableError


class SequenceColumns(NamedTuple):
    """Which columns of a table hold what: one sequence a row; in `inputs` one time step after another, each with its
    features side by side."""

    inputs: tuple[str, ...]
    target: str
    features: int = 1


class Sequences(NamedTuple):
    """Sequences of one length, and what is to be predicted for each: x (B, T, D) and y (B), float32."""

    x_BTD: Tensor
    y_B: Tensor

    # these are Examples too: see examples.py
    @property
    def count(self) -> int:  # type: ignore[override]  # a tuple's own counts the occurrences of a value
        return len(self.y_B)

    def get_batch(self, numbers: Tensor) -> Batch:
        return Batch(self.x_BTD[numbers], self.y_B[numbers])


def read_inputs(path: Path, columns: SequenceColumns) -> tuple[pd.DataFrame, Tensor]:
    """A CSV file, and its input columns as x (B, T, D); errors as `read_csv` and `numbers`, naming the file."""
    table = read_csv(path)
    try:
        return table, input_tensor(table, columns)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None


def table_digest(table: pd.DataFrame) -> str:
    """A name for a table's content: the same for the same columns, types and values in the same order.

    It does not depend on the file format or its writer's version, as the bytes of a Parquet file do.
    """
    content = hashlib.sha256()
    content.update(repr([(str(name), str(dtype)) for name, dtype in table.dtypes.items()]).encode())
    content.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return content.hexdigest()[:32]


def input_tensor(table: pd.DataFrame, columns: SequenceColumns) -> Tensor:
    """The input columns as x (B, T, D), float32; errors as `numbers`."""
    return column_tensor(table, columns.inputs).reshape(len(table), -1, columns.features)


def to_sequences(table: pd.DataFrame, columns: SequenceColumns) -> Sequences:
    """A table's rows as sequences with their targets; errors as `numbers`."""
    return Sequences(input_tensor(table, columns), column_tensor(table, (columns.target,)).squeeze(1))


def column_tensor(table: pd.DataFrame, columns: tuple[str, ...]) -> Tensor:
    """These columns as a tensor (rows, columns), float32.

    Raises:
        TableError: if a column is missing, or a value in one is missing, infinite or no number.
    """
    if missing := [name for name in columns if name not in table.columns]:
        found = ", ".join(map(str, table.columns)) or "none"
        raise TableError(f"column {missing[0]} is missing; needed: {', '.join(columns)}; found: {found}")
    if table.empty:
        raise TableError("the table has no rows")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused below
        values = table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float32, copy=True)
    if not np.isfinite(values).all():
        row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(values)))
        value = table[columns[column]].iloc[row]
        where = f"column {columns[column]}, row {row + 1}"
        if isinstance(value, float | int) and math.isfinite(value):
            raise TableError(f"{where}: {value} is too large for float32")
        raise TableError(f"{where}: {value if isinstance(value, float) else repr(value)} is not a finite number")
    return torch.from_numpy(values)
