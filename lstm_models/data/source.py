"""A table of one's own, read with Arrow's types: from a file, a folder or a URL of one, or by a query.

Nothing that is read can run code: no format here knows pickle, and what pandas writes beside a Parquet table's columns
is left unread.
"""

import csv
import io
import re
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lstm_models.config import TableData
from lstm_models.data.columns import choose, known, shown
from lstm_models.data.query import query
from lstm_models.data.tables import LONGEST_LINE, TOO_LONG, Lines, TableError, Unreachable

SHIPPED = Path(__file__).parent / "shipped"


def read(config: TableData) -> pd.DataFrame:
    """The configured table: the columns that the settings name, or all that have a name; rows in the source's order.

    Raises:
        TableError: if there is no such source, or it is no such table.
    """
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())  # which gives back what is freed; Arrow's own keeps half as much again
    try:
        table = query(config, config.sql) if config.sql else _files(config, str(config.path))
        for index, column in enumerate(table.columns):
            table = table.set_column(index, table.column_names[index], known(column, table.column_names[index]))
    except TableError as error:
        raise type(error)(f"{name(config)}: {error}") from None
    finally:
        pa.set_memory_pool(pool)
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    return frame


def name(config: TableData) -> str:
    """What the source is called in a message: the path or the query, without what a URL may hold of secrets."""
    if config.sql:
        return f"query {shown(' '.join(config.sql.query.split()))!r}"
    path = str(config.path)
    return re.sub(r"\?.*", "", re.sub(r"//[^/]*@", "//", path)) if "://" in path else path


def _files(config: TableData, path: str) -> Any:
    """A CSV or Parquet file, or a folder of Parquet files, as a pyarrow.Table."""
    if re.search(r"//[^/@]*:[^/@]*@", path):
        raise TableError("the URL contains a password: leave it to the settings of the storage's own client")
    if "://" in path and re.search(r"[?&][^=&]*(sig|token|key|secret|password|credential)[^=&]*=", path, re.IGNORECASE):
        raise TableError(
            "the URL is signed, and would be stored: leave the key to the settings of the storage's client"
        )
    try:
        # what comes along with the program is read from where it is installed
        own = SHIPPED / path.removeprefix("shipped:") if path.startswith("shipped:") else path
        system, place = fsspec.core.url_to_fs(str(own))
        about = system.info(place)
        if about["type"] == "directory":
            return _folder(system, place, config)
        ending = PurePosixPath(name(config)).suffix.lower()
        if ending not in (".csv", ".parquet"):
            raise TableError(f"the ending {ending or '(none)'} is not read; .csv, .parquet and folders of .parquet are")
        if about["size"] == 0:
            raise TableError("the file is empty")
        return _csv(system, place, config) if ending == ".csv" else _parquet(system, place, config)[0]
    except TableError:
        raise
    except FileNotFoundError as error:  # over HTTP whatever the server answers instead of the file
        kind = Unreachable if _may_pass(error.__cause__) else TableError
        raise kind(f"no such file or folder{', or it is out of reach' if '://' in path else ''}") from None
    except Exception as error:  # each storage's client raises errors of its own; ImportError: it is not installed
        if not isinstance(error, (OSError, ValueError, ImportError, pa.ArrowException)) and "://" not in path:
            raise
        reason = str(getattr(error, "strerror", None) or error).replace(path, name(config))
        far = "://" in path and isinstance(error, OSError) and not isinstance(error, PermissionError)
        raise (Unreachable if far else TableError)(f"can't be read: {reason[:300]}") from None


def _may_pass(cause: BaseException | None) -> bool:
    """Whether what fsspec found instead of a file over HTTP is that the server is not there, or busy."""
    status = getattr(cause, "status", None)
    if status is None:
        return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    return status in (429, 500, 502, 503, 504)


def _folder(system: Any, folder: str, config: TableData) -> Any:
    files = {PurePosixPath(str(entry["name"])).name: entry for entry in system.ls(folder, detail=True)}
    # what starts with _ or . is what Spark and others write beside their data
    parts = sorted(file for file in files if re.fullmatch(r"[^_.].*\.parquet", file, re.IGNORECASE))
    tables: list[Any] = []
    columns_of: dict[str, list[str]] = {}
    for file in [part for part in parts if files[part]["type"] == "file"]:
        try:
            table, columns_of[file] = _parquet(system, files[file]["name"], config)
        except TableError as error:
            raise TableError(f"{file}: {error}") from None
        first = next(iter(columns_of))
        if differing := sorted(set(columns_of[first]) ^ set(columns_of[file])):
            where = first if differing[0] in columns_of[first] else file
            raise TableError(f"{file} and {first} differ: column {shown(differing[0])} is in {where} alone")
        try:
            pa.unify_schemas([*(table.schema for table in tables[:1]), table.schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise TableError(f"{file}: other types than in {first}: {error}") from None
        tables.append(table)
    if not tables:
        raise TableError("no .parquet file lies in this folder")
    return pa.concat_tables(tables, promote_options="permissive")


def _parquet(system: Any, path: str, config: TableData) -> tuple[Any, list[str]]:
    """The columns used, and the names of all."""
    with system.open(path, "rb") as file:
        try:
            parquet = pa.parquet.ParquetFile(file)
            found = list(parquet.schema_arrow.names)
            used = choose(found, config)
            # one by one: reading them all at once takes twice the table's memory
            parts = [parquet.read_row_group(index, columns=used) for index in range(parquet.num_row_groups)]
            table = pa.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(f"not a Parquet file, or cut short: {str(error)[:200]}") from None
    if table.num_rows != (told := parquet.metadata.num_rows):
        raise TableError(f"damaged: {table.num_rows:,} rows are in it, and its footer tells of {told:,}")
    return table.select(used), found  # 'a' reads 'a.b' as well: select


def _csv(system: Any, path: str, config: TableData) -> Any:
    header = _header(system, path)
    separator = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if separator and header[0] not in (*config.targets, config.time, config.group):
        raise TableError(f"its fields are separated by {separator!r}; write it with commas")
    used = choose(header, config)
    # an empty line is a missing value where there is one column, and nothing elsewhere
    parse = pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(header) > 1)
    convert = pa.csv.ConvertOptions(include_columns=used, strings_can_be_null=True)
    try:
        try:
            with system.open(path, "rb") as file, closing(Lines(file)) as lines:
                table = pa.csv.open_csv(lines, _blocks(1 << 20), parse, convert).read_all()
        except pa.ArrowInvalid:
            # The types were those of the first block, and a later one differs: this way finds types for all, at the
            # price of holding the text. One that has a fault for both is told by this one.
            with system.open(path, "rb") as file, closing(Lines(file)) as lines:
                table = pa.csv.read_csv(lines, _blocks(LONGEST_LINE), parse, convert)
    except pa.ArrowException as error:
        raise TableError(_csv_fault(str(error))) from None
    if wrong := [field.name for field in table.schema if pa.types.is_binary(field.type)]:
        raise TableError(f"column {shown(wrong[0])} is no text in UTF-8; save the file in UTF-8")
    return table


def _blocks(size: int) -> Any:
    return pa.csv.ReadOptions(use_threads=False, block_size=size)  # one thread is what tells the row of a fault


def _csv_fault(text: str) -> str:
    if "straddling" in text:
        return f"{TOO_LONG}; is a quote opened and not closed?"
    fault = re.search(r"Row #(\d+): (.*)", text, re.DOTALL)  # counts the header line
    return f"not a CSV table: row {int(fault[1]) - 1}: {fault[2][:200]}" if fault else f"not a CSV table: {text[:200]}"


def _header(system: Any, path: str) -> list[str]:
    """The names in a CSV file's first line that is not empty."""
    for size in (1 << 20, LONGEST_LINE + 1):  # the second for a line that the first does not reach the end of
        head: bytes = system.head(path, size)
        found = re.search(rb"[^\r\n][\r\n]", head)  # the end of that line
        if found:
            break
    Lines(io.BytesIO(head)).readall()  # measures them
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
        listed = shown(", ".join(names))
        raise TableError(f"row 1 has no column names: it is {listed}; write a line with names above it")
    return names
