"""Read CSV files, with a limit on the length of a line."""

import csv
import io
import re
import warnings
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lstm_models.config import TableData
from lstm_models.data.readers.schema import abbreviate, select_columns
from lstm_models.utils.errors import TableError

MAX_LINE_BYTES = 10_000_000  # bytes of a CSV file's line
MAX_COLUMNS = 10_000  # of a CSV file
LINE_TOO_LONG = f"a line is longer than {MAX_LINE_BYTES // 1_000_000} MB"


class BoundedLineReader(io.RawIOBase):
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
        if self.length + (end.start() if end else len(block)) > MAX_LINE_BYTES:
            raise TableError(LINE_TOO_LONG)
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
            if self.commas >= MAX_COLUMNS:
                raise TableError(f"{self.commas + 1:,} columns; at most {MAX_COLUMNS:,} are read")
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
                return pd.read_csv(BoundedLineReader(file), compression=None, index_col=False)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except OSError as error:
        raise TableError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:  # the parser's errors and the decoder's
        raise TableError(f"{path}: not a CSV table: {str(error).partition(chr(10))[0]}") from None
    except pd.errors.ParserWarning:
        raise TableError(f"{path}: a row has more fields than the header line names") from None


def read_csv_columns(system: Any, path: str, config: TableData) -> Any:
    header = _read_header(system, path)
    separator = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if separator and header[0] not in (*config.targets, config.time, config.group):
        raise TableError(f"its fields are separated by {separator!r}; write it with commas")
    used = select_columns(header, config)
    # an empty line is a missing value where there is one column, and nothing elsewhere
    parse = pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(header) > 1)
    convert = pa.csv.ConvertOptions(include_columns=used, strings_can_be_null=True)
    try:
        try:
            with system.open(path, "rb") as file, closing(BoundedLineReader(file)) as lines:
                table = pa.csv.open_csv(lines, _read_options(1 << 20), parse, convert).read_all()
        except pa.ArrowInvalid:
            # The types were those of the first block, and a later one differs: this way finds types for all, at the
            # price of holding the text. One that has a fault for both is told by this one.
            with system.open(path, "rb") as file, closing(BoundedLineReader(file)) as lines:
                table = pa.csv.read_csv(lines, _read_options(MAX_LINE_BYTES), parse, convert)
    except pa.ArrowException as error:
        raise TableError(_describe_parse_error(str(error))) from None
    if wrong := [field.name for field in table.schema if pa.types.is_binary(field.type)]:
        raise TableError(f"column {abbreviate(wrong[0])} is no text in UTF-8; save the file in UTF-8")
    return table


def _read_options(size: int) -> Any:
    return pa.csv.ReadOptions(use_threads=False, block_size=size)  # one thread is what tells the row of a fault


def _describe_parse_error(text: str) -> str:
    if "straddling" in text:
        return f"{LINE_TOO_LONG}; is a quote opened and not closed?"
    fault = re.search(r"Row #(\d+): (.*)", text, re.DOTALL)  # counts the header line
    return f"not a CSV table: row {int(fault[1]) - 1}: {fault[2][:200]}" if fault else f"not a CSV table: {text[:200]}"


def _read_header(system: Any, path: str) -> list[str]:
    """The names in a CSV file's first line that is not empty."""
    for size in (1 << 20, MAX_LINE_BYTES + 1):  # the second for a line that the first does not reach the end of
        head: bytes = system.head(path, size)
        found = re.search(rb"[^\r\n][\r\n]", head)  # the end of that line
        if found:
            break
    BoundedLineReader(io.BytesIO(head)).readall()  # measures them
    if b"\0" in head:
        raise TableError("not a CSV table: a zero byte is in it")
    try:
        text = io.TextIOWrapper(io.BytesIO(head), encoding="utf-8-sig", newline="")
        names = next((row for row in csv.reader(text) if row), [])
    except UnicodeDecodeError as error:
        raise TableError(f"not a CSV table in UTF-8: byte {error.object[error.start]:#04x}") from None
    except csv.Error as error:
        raise TableError(f"not a CSV table: {error}") from None
    if not names:
        raise TableError("the file has no header line")
    if all(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", field) for field in names):
        listed = abbreviate(", ".join(names))
        raise TableError(f"row 1 has no column names: it is {listed}; write a line with names above it")
    return names
