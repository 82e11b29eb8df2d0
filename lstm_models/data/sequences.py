"""Tables with one sequence per row: their digest, and conversion to tensors. B batch, T time, D features."""

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
    """Roles of the columns of a table with one sequence per row.

    inputs: the time steps in order, each with all its features. features: number of features per time step.
    """

    inputs: tuple[str, ...]
    target: str
    features: int = 1


class Sequences(NamedTuple):
    """Sequences of one length, x (B, T, D), with their targets, y (B), both float32."""

    x_BTD: Tensor
    y_B: Tensor

    # implements windows.Examples
    @property
    def count(self) -> int:  # type: ignore[override]  # tuple.count counts the occurrences of a value
        """Number of sequences."""
        return len(self.y_B)

    def get_batch(self, indices: Tensor) -> Batch:
        """Return the sequences with these indices, (B), as one batch."""
        return Batch(self.x_BTD[indices], self.y_B[indices])


def read_inputs(path: Path, columns: SequenceColumns) -> tuple[pd.DataFrame, Tensor]:
    """Return the table of a CSV file, and its input columns as x (B, T, D).

    Raises:
        TableError: as `read_csv` and `column_tensor`; the message names the file.
    """
    table = read_csv(path)
    try:
        return table, input_tensor(table, columns)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None


def table_digest(table: pd.DataFrame) -> str:
    """Return a hash of a table's content: equal for equal columns, types and values in the same order.

    Unlike the bytes of a Parquet file, it depends neither on the file format nor on the version of its writer.
    """
    content = hashlib.sha256()
    content.update(repr([(str(name), str(dtype)) for name, dtype in table.dtypes.items()]).encode())
    content.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return content.hexdigest()[:32]


def input_tensor(table: pd.DataFrame, columns: SequenceColumns) -> Tensor:
    """Return the input columns as x (B, T, D), float32; raise the errors of `column_tensor`."""
    return column_tensor(table, columns.inputs).reshape(len(table), -1, columns.features)


def to_sequences(table: pd.DataFrame, columns: SequenceColumns) -> Sequences:
    """Return a table's rows as sequences with their targets; raise the errors of `column_tensor`."""
    return Sequences(input_tensor(table, columns), column_tensor(table, (columns.target,)).squeeze(1))


def column_tensor(table: pd.DataFrame, columns: tuple[str, ...]) -> Tensor:
    """Return these columns as a tensor (rows, columns), float32.

    Raises:
        TableError: if a column is missing, the table has no rows, or a value is missing, infinite or not a number.
    """
    if missing := [name for name in columns if name not in table.columns]:
        present = ", ".join(map(str, table.columns)) or "none"
        raise TableError(f"column {missing[0]} is missing; required: {', '.join(columns)}; found: {present}")
    if table.empty:
        raise TableError("the table has no rows")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which raises below
        values = table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float32, copy=True)
    if not np.isfinite(values).all():
        row, column = (int(index[0]) for index in np.nonzero(~np.isfinite(values)))
        value = table[columns[column]].iloc[row]
        where = f"column {columns[column]}, row {row + 1}"
        if isinstance(value, float | int) and math.isfinite(value):
            raise TableError(f"{where}: {value} is too large for float32")
        raise TableError(f"{where}: {value if isinstance(value, float) else repr(value)} is not a finite number")
    return torch.from_numpy(values)
