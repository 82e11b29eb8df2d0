"""A table of one's own, read with Arrow's types: from a file, a folder or a URL of one, or by a query.

Nothing that is read can run code: no format here knows pickle, and what pandas writes beside a Parquet table's columns
is left unread. A query runs in a transaction that is never committed and, on SQLite and PostgreSQL, can't write.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO, Any
from urllib.parse import quote, quote_plus

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import sqlalchemy as sa

from lstm_models.config import Sql, TableData
from lstm_models.data.tables import TableError

LONGEST_LINE = 10_000_000  # bytes of a CSV file's line
MOST_COLUMNS = 10_000  # of a CSV file
READ_ONLY = {"sqlite": "PRAGMA query_only = ON", "postgresql": "SET TRANSACTION READ ONLY"}
TOO_LONG = f"a line is longer than {LONGEST_LINE // 1_000_000} MB"
CHUNK = 100_000  # rows of a query's result that are held as Python objects at once


def read(config: TableData) -> pd.DataFrame:
    """The configured table: the columns that the settings name, or all that have a name; rows in the source's order.

    Raises:
        TableError: if there is no such source, or it is no such table.
    """
    try:
        table = _query(config, config.sql) if config.sql else _files(config, str(config.path))
    except TableError as error:
        raise TableError(f"{name(config)}: {error}") from None
    for index, field in enumerate(table.schema):
        if isinstance(field.type, pa.BaseExtensionType):  # UUIDs, JSON: pandas would see their bytes
            text = [None if value is None else str(value) for value in table.column(index).to_pylist()]
            table = table.set_column(index, field.name, pa.array(text, pa.string()))
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    return frame


def name(config: TableData) -> str:
    """What the source is called in a message: the path or the query, without what a URL may hold of secrets."""
    if config.sql:
        return f"query {shown(' '.join(config.sql.query.split()))!r}"
    path = str(config.path)
    return re.sub(r"\?.*", "", re.sub(r"//[^/]*@", "//", path)) if "://" in path else path


def shown(value: object) -> str:
    """A name or a value in a message: short, whatever it is."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def targets(config: TableData) -> tuple[str, ...]:
    """The target column; in a forecast there may be several."""
    return (config.target,) if isinstance(config.target, str) else tuple(config.target)


def columns(config: TableData) -> tuple[str, ...] | None:
    """The columns that the settings name: features, targets, time and group; None where features are all the others.

    Raises:
        TableError: if a column is named for two things that exclude each other.
    """
    told, features = targets(config), config.features
    for key, named in (("target", told), ("features", features)):
        if named is not None and (not named or len(set(named)) < len(named)):
            raise TableError(f"{key} must name at least one column, and none twice")
    if config.task != "forecast" and len(told) > 1:
        raise TableError(f"task {config.task} tells one column; target names {', '.join(map(shown, told))}")
    exclusive = [*told, *([config.time] if config.time else []), *([config.group] if config.group else [])]
    if config.task != "forecast":
        exclusive += features or []  # the label among what it is told from
    if twice := [column for column in told if exclusive.count(column) > 1]:
        raise TableError(f"column {shown(twice[0])} is the target, and can't be time, group or a feature as well")
    if config.time is not None and config.time == config.group:
        raise TableError(f"column {shown(config.time)} can't be both time and group")
    if features is None and config.task != "forecast":
        return None
    extra = [column for column in (config.time, config.group) if column is not None]
    return tuple(dict.fromkeys([*(features or ()), *told, *extra]))


def choose(found: Sequence[str], config: TableData) -> list[str]:
    """Which of the columns found are read: `columns`, or all that have a name.

    Raises:
        TableError: if a column is missing, or there twice.
    """
    # pandas writes an index without a name as '' to CSV and as __index_level_0__ to Parquet: no column of the user's
    named = [column for column in found if column and not re.fullmatch(r"__index_level_\d+__", column)]
    used, times = columns(config), Counter(found)
    for column in used or [*targets(config), *filter(None, (config.time, config.group))]:
        if not times[column]:
            raise TableError(f"column {shown(column)} is missing; {_found(column, found)}")
    if twice := {column for column in (used or named) if times[column] > 1}:
        raise TableError(f"column {shown(min(twice))} is there twice; give each column a name of its own")
    return list(used or named)


def _found(column: str, found: Sequence[str]) -> str:
    listed = ", ".join(map(shown, found[:10])) or "none"
    more = f" and {len(found) - 10:,} more" if len(found) > 10 else ""
    lower = {other.lower(): other for other in found}
    close = get_close_matches(column.lower(), lower, n=1)
    return f"found: {listed}{more}" + (f"; did you mean {shown(lower[close[0]])}?" if close else "")


def _files(config: TableData, path: str) -> Any:
    """A CSV or Parquet file, or a folder of Parquet files, as a pyarrow.Table."""
    if re.search(r"//[^/@]*:[^/@]*@", path):
        raise TableError("the URL contains a password: leave it to the settings of the storage's own client")
    try:
        system, place = fsspec.core.url_to_fs(path)
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
    except FileNotFoundError:  # over HTTP whatever the server answers instead of the file
        raise TableError(f"no such file or folder{', or it is out of reach' if '://' in path else ''}") from None
    except Exception as error:  # each storage's client raises errors of its own; ImportError: it is not installed
        if not isinstance(error, (OSError, ValueError, ImportError, pa.ArrowException)) and "://" not in path:
            raise
        reason = str(getattr(error, "strerror", None) or error).replace(path, name(config))
        raise TableError(f"can't be read: {reason[:300]}") from None


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
            return table.select(used), found  # 'a' reads 'a.b' as well: select
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(f"not a Parquet file, or cut short: {str(error)[:200]}") from None


class _Lines:
    """A file whose lines are measured as they are read, so that none without an end fills the memory.

    Once closed it reads nothing, whatever thread of Arrow's still asks: some file systems have one position a file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.closed = False
        self.length = 0  # bytes since the last line's end
        self.lock = Lock()

    def read(self, size: int) -> bytes:
        with self.lock:
            block = b"" if self.closed else self.file.read(size)
        end = re.search(rb"[\r\n]", block)
        if self.length + (end.start() if end else len(block)) > LONGEST_LINE:
            raise TableError(TOO_LONG)
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self.length = len(block) - 1 - last if end else self.length + len(block)
        return block

    def close(self) -> None:
        with self.lock:
            self.closed = True


def _csv(system: Any, path: str, config: TableData) -> Any:
    header = _header(system, path)
    separator = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if separator and header[0] not in (*targets(config), config.time, config.group):
        raise TableError(f"its fields are separated by {separator!r}; write it with commas")
    used = choose(header, config)
    # an empty line is a missing value where there is one column, and nothing elsewhere
    parse = pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(header) > 1)
    convert = pa.csv.ConvertOptions(include_columns=used, strings_can_be_null=True)
    try:
        try:
            with system.open(path, "rb") as file, closing(_Lines(file)) as lines:
                table = pa.csv.open_csv(lines, _blocks(1 << 20), parse, convert).read_all()
        except pa.ArrowInvalid:
            # The types were those of the first block, and a later one differs: this way finds types for all, at the
            # price of holding the text. One that has a fault for both is told by this one.
            with system.open(path, "rb") as file, closing(_Lines(file)) as lines:
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
    end = found.end() if found else len(head)
    if end > LONGEST_LINE:
        raise TableError(TOO_LONG)
    if (count := head.count(b",", 0, end) + 1) > MOST_COLUMNS:
        raise TableError(f"{count:,} columns; at most {MOST_COLUMNS:,} are read")
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


def _query(config: TableData, sql: Sql) -> Any:
    """The query's result as a pyarrow.Table."""
    start = r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with|values)\b"
    if not re.match(start, sql.query, re.IGNORECASE | re.DOTALL):
        raise TableError("is no SELECT; only a SELECT, or WITH ... SELECT, is run")
    url = _url(sql)
    try:
        engine = sa.create_engine(url)
        try:
            # no_parameters: % and : mean in the query what they mean to the database
            options = {"stream_results": True, "no_parameters": True}
            with engine.connect().execution_options(**options) as connection:
                if engine.dialect.name in READ_ONLY:
                    connection.exec_driver_sql(READ_ONLY[engine.dialect.name])
                parts = pd.read_sql_query(sql.query, connection, chunksize=CHUNK, dtype_backend="pyarrow")
                tables = [_arrow(part, config) for part in parts]
        finally:
            engine.dispose()
        table = pa.concat_tables(tables, promote_options="permissive")
        fault = "" if len(table) else "the query returns no rows"
    except TableError:
        raise
    except (
        sa.exc.SQLAlchemyError,
        pd.errors.DatabaseError,
        pa.ArrowException,
        ImportError,
        OSError,
        ValueError,
    ) as error:
        fault = _database_fault(error, url.password)
    if fault:  # outside of the except: there the error, which may hold the password, would go along as its context
        raise TableError(fault)
    return table


def _url(sql: Sql) -> sa.URL:
    try:
        url = sa.make_url(sql.url)
    except (sa.exc.ArgumentError, ValueError):  # their text may hold the password
        raise TableError("sql.url is no SQLAlchemy URL, such as postgresql://user@host/database") from None
    if url.password is not None or re.search(r"(?i)(password|passwd|pwd)\W*=", str(url.query) + sql.url):
        raise TableError("sql.url contains a password: name the variable that holds it in sql.password_env instead")
    file = url.database if url.get_backend_name() == "sqlite" else None
    if file and not file.startswith((":memory:", "file:")) and not Path(file).is_file():  # SQLite would make one
        raise TableError(f"no such database file: {file}")
    if sql.password_env is None:
        return url
    if not (password := os.environ.get(sql.password_env)):
        raise TableError(f"the environment variable {sql.password_env} (sql.password_env) is not set, or empty")
    return url.set(password=password)


def _arrow(part: pd.DataFrame, config: TableData) -> Any:
    used = choose([str(column) for column in part.columns], config)
    table = pa.Table.from_pandas(part[used], preserve_index=False)
    for index, column in enumerate(table.columns):
        if column.null_count == len(column):  # pandas calls it text; the other parts tell what it is
            table = table.set_column(index, used[index], pa.nulls(len(column)))
    return table


def _database_fault(error: BaseException, password: str | None) -> str:
    cause = error.__cause__ or error  # pandas wraps SQLAlchemy's, which wraps the driver's
    text = " ".join(str(getattr(cause, "orig", None) or cause).split())
    if password:
        for secret in (password, quote(password), quote_plus(password), repr(password)[1:-1]):
            text = text.replace(secret, "***")
    if isinstance(error, ImportError):
        return f"{text}: install the database's driver"
    return f"can't be run: {text[:300]}"
