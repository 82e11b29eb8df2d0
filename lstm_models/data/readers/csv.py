"""Read CSV files, with limits on the length of a line and the number of columns."""

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

MAX_LINE_BYTES = 10_000_000
MAX_COLUMNS = 10_000
LINE_TOO_LONG = f"a line is longer than {MAX_LINE_BYTES // 1_000_000} MB"


class BoundedLineReader(io.RawIOBase):
    """Binary reader of a CSV file that limits line length, so that an endless line does not fill the memory.

    After `close`, `read` returns nothing, even if one of Arrow's threads still calls it: in some file systems all
    readers of a file share one position.

    Raises:
        TableError: from `read`, if a line is too long, or the header line has too many columns.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.length = 0  # bytes since the end of the last line
        self.commas: int | None = 0  # in the header line; None after it
        self.lock = Lock()

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to size bytes; raise TableError if a limit is exceeded."""
        with self.lock:
            block = b"" if self.closed else self.file.read(size)
        end = re.search(rb"[\r\n]", block)
        if self.length + (end.start() if end else len(block)) > MAX_LINE_BYTES:
            raise TableError(LINE_TOO_LONG)
        if self.commas is not None:
            self._count_columns(block)
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self.length = len(block) - 1 - last if end else self.length + len(block)
        return block

    def _count_columns(self, block: bytes) -> None:
        """Count the columns of the header: the first non-empty line, which may span several blocks."""
        assert self.commas is not None
        end = re.search(rb"[\r\n]" if self.length else rb"[^\r\n][\r\n]", block)
        self.commas += block.count(b",", 0, end.end() if end else len(block))
        if end or not block:
            if self.commas >= MAX_COLUMNS:
                raise TableError(f"{self.commas + 1:,} columns; at most {MAX_COLUMNS:,} are allowed; remove some")
            self.commas = None

    def close(self) -> None:
        """Close the reader; later reads return nothing."""
        with self.lock:
            super().close()


def read_csv(path: Path) -> pd.DataFrame:
    """Return the table of a CSV file with a header line.

    Raises:
        TableError: if the file can't be read or is not a CSV table.
    """
    try:
        with warnings.catch_warnings():
            # without index_col=False pandas silently uses the first column as the index if rows have an extra field
            warnings.simplefilter("error", pd.errors.ParserWarning)
            with open(path, "rb") as file:
                return pd.read_csv(BoundedLineReader(file), compression=None, index_col=False)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None
    except OSError as error:
        raise TableError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError as error:  # from the parser or the decoder
        raise TableError(f"{path}: not a CSV table: {str(error).partition(chr(10))[0]}") from None
    except pd.errors.ParserWarning:
        raise TableError(f"{path}: a row has more fields than the header line; correct the row") from None


def read_csv_columns(system: Any, path: str, config: TableData) -> Any:
    """Return the configured columns of a CSV file as a pyarrow.Table.

    Args:
        system: the fsspec file system.
        path: the file's path in it.
        config: the settings of the data.

    Raises:
        TableError: if the file is not a CSV table in UTF-8, or a column is missing.
    """
    header = _read_header(system, path)
    separator = next((character for character in ";\t|" if len(header) == 1 and character in header[0]), None)
    if separator and header[0] not in (*config.targets, config.time, config.group):
        raise TableError(f"the fields are separated by {separator!r}; separate them with commas")
    columns = select_columns(header, config)
    # with one column an empty line is a missing value; otherwise it is ignored
    parse = pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(header) > 1)
    convert = pa.csv.ConvertOptions(include_columns=columns, strings_can_be_null=True)
    try:
        try:
            with system.open(path, "rb") as file, closing(BoundedLineReader(file)) as lines:
                table = pa.csv.open_csv(lines, _read_options(1 << 20), parse, convert).read_all()
        except pa.ArrowInvalid:
            # The streaming reader infers the types from the first block, and a later block does not match. Reading all
            # at once infers them from all blocks, but holds the text in memory. A faulty file fails here again.
            with system.open(path, "rb") as file, closing(BoundedLineReader(file)) as lines:
                table = pa.csv.read_csv(lines, _read_options(MAX_LINE_BYTES), parse, convert)
    except pa.ArrowException as error:
        raise TableError(_describe_parse_error(str(error))) from None
    if not_text := [field.name for field in table.schema if pa.types.is_binary(field.type)]:
        raise TableError(f"column {abbreviate(not_text[0])} is not UTF-8 text; save the file in UTF-8")
    return table


def _read_options(size: int) -> Any:
    return pa.csv.ReadOptions(use_threads=False, block_size=size)  # errors name the row only with one thread


def _describe_parse_error(text: str) -> str:
    """Return the message for an error of Arrow's CSV parser."""
    if "straddling" in text:
        return f"{LINE_TOO_LONG}; is a quote opened and not closed?"
    fault = re.search(r"Row #(\d+): (.*)", text, re.DOTALL)  # Arrow counts the header line
    return f"not a CSV table: row {int(fault[1]) - 1}: {fault[2][:200]}" if fault else f"not a CSV table: {text[:200]}"


def _read_header(system: Any, path: str) -> list[str]:
    """Return the column names: the first non-empty line of a CSV file."""
    for size in (1 << 20, MAX_LINE_BYTES + 1):  # the second size if the line does not end within the first
        head: bytes = system.head(path, size)
        if re.search(rb"[^\r\n][\r\n]", head):  # the end of the line
            break
    BoundedLineReader(io.BytesIO(head)).readall()  # raises if a limit is exceeded
    if b"\0" in head:
        raise TableError("not a CSV table: the file contains a zero byte")
    try:
        text = io.TextIOWrapper(io.BytesIO(head), encoding="utf-8-sig", newline="")
        names = next((row for row in csv.reader(text) if row), [])
    except UnicodeDecodeError as error:
        raise TableError(f"not a CSV table in UTF-8: byte {error.object[error.start]:#04x}") from None
    except csv.Error as error:
        raise TableError(f"not a CSV table: {error}") from None
    if not names:
        raise TableError("the file has no header line; add one with the column names")
    if all(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", field) for field in names):
        listed = abbreviate(", ".join(names))
        raise TableError(f"row 1 has no column names, but {listed}; insert a header line above it")
    return names
