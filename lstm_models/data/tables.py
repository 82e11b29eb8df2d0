"""Sequences as a table: what its content is called, and how it becomes tensors. B batch, T time, D features."""

import hashlib
import io
import math
import re
import warnings
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lstm_models.config import UserError
from lstm_models.data.examples import Batch

LONGEST_LINE = 10_000_000  # bytes of a CSV file's line
MOST_COLUMNS = 10_000  # of a CSV file
TOO_LONG = f"a line is longer than {LONGEST_LINE // 1_000_000} MB"


class Columns(NamedTuple):
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

    def take(self, numbers: Tensor) -> Batch:
        return Batch(self.x_BTD[numbers], self.y_B[numbers])


class TableError(UserError):
    """A table can't be used; the message names the column, the row and what is wrong."""


class Unreachable(TableError):
    """A table's database or storage was not reached: another try may reach it."""


class Lines(io.RawIOBase):
    """A CSV file whose lines are measured as they are read, so that none without an end fills the memory.

    Once closed it reads nothing, whatever thread of Arrow's still asks: some file systems have one position a file.

    Raises:
        TableError: from `read`, for a line that is too long, or a first one with too many columns.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.length = 0  # bytes since the last line's end
        self.commas: int | None = 0  # in the header line; None behind it
        self.lock = Lock()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self.lock:
            block = b"" if self.closed else self.file.read(size)
        end = re.search(rb"[\r\n]", block)
        if self.length + (end.start() if end else len(block)) > LONGEST_LINE:
            raise TableError(TOO_LONG)
        if self.commas is not None:
            self._count(block)
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self.length = len(block) - 1 - last if end else self.length + len(block)
        return block

    def _count(self, block: bytes) -> None:
        """Count the columns in the first line that is not empty, which ends with a block, or with the file."""
        assert self.commas is not None
        end = re.search(rb"[\r\n]" if self.length else rb"[^\r\n][\r\n]", block)
        self.commas += block.count(b",", 0, end.end() if end else len(block))
        if end or not block:
            if self.commas >= MOST_COLUMNS:
                raise TableError(f"{self.commas + 1:,} columns; at most {MOST_COLUMNS:,} are read")
            self.commas = None

    def close(self) -> None:
        with self.lock:
            super().close()


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file with a header line.

    Raises:
        TableError: if there is no such file, or it is not such a table.
    """
    try:
        with warnings.catch_warnings():
            # without index_col=False pandas takes the first column of longer rows for their names, and says nothing
            warnings.simplefilter("error", pd.errors.ParserWarning)
            with open(path, "rb") as file:
                return pd.read_csv(Lines(file), compression=None, index_col=False)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except OSError as error:
        raise TableError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:  # the parser's errors and the decoder's
        raise TableError(f"{path}: not a CSV table: {str(error).partition(chr(10))[0]}") from None
    except pd.errors.ParserWarning:
        raise TableError(f"{path}: a row has more fields than the header line names") from None


def read_inputs(path: Path, columns: Columns) -> tuple[pd.DataFrame, Tensor]:
    """A CSV file, and its input columns as x (B, T, D); errors as `read_csv` and `numbers`, naming the file."""
    table = read_csv(path)
    try:
        return table, inputs(table, columns)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None


def digest(table: pd.DataFrame) -> str:
    """A name for a table's content: the same for the same columns, types and values in the same order.

    It does not depend on the file format or its writer's version, as the bytes of a Parquet file do.
    """
    content = hashlib.sha256()
    content.update(repr([(str(name), str(dtype)) for name, dtype in table.dtypes.items()]).encode())
    content.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return content.hexdigest()[:32]


def inputs(table: pd.DataFrame, columns: Columns) -> Tensor:
    """The input columns as x (B, T, D), float32; errors as `numbers`."""
    return numbers(table, columns.inputs).reshape(len(table), -1, columns.features)


def to_sequences(table: pd.DataFrame, columns: Columns) -> Sequences:
    """A table's rows as sequences with their targets; errors as `numbers`."""
    return Sequences(inputs(table, columns), numbers(table, (columns.target,)).squeeze(1))


def numbers(table: pd.DataFrame, columns: tuple[str, ...]) -> Tensor:
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
