"""Read a user's table, with Arrow types, from a file, a directory, a URL or a database query.

Reading can't run code: none of the formats supports pickle, and the metadata that pandas adds to a Parquet file is
ignored.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lstm_models.config import TableData
from lstm_models.data.readers.csv import read_csv_columns
from lstm_models.data.readers.schema import abbreviate, as_pandas_type, select_columns
from lstm_models.data.readers.sql import run_query
from lstm_models.utils.errors import TableError, UnreachableError

SAMPLES_DIR = Path(__file__).parents[1] / "samples"


def read_source(config: TableData) -> pd.DataFrame:
    """Return the configured table: the requested columns, or all that have a name; rows in the source's order.

    Raises:
        TableError: if the source can't be read, or is not a table with these columns.
    """
    pool = pa.default_memory_pool()
    pa.set_memory_pool(
        pa.system_memory_pool()
    )  # returns freed memory to the system; Arrow's default pool keeps 50% more
    try:
        table = run_query(config, config.sql) if config.sql else _read_path(config, str(config.path))
        for index, column in enumerate(table.columns):
            table = table.set_column(
                index, table.column_names[index], as_pandas_type(column, table.column_names[index])
            )
    except TableError as error:
        raise type(error)(f"{source_name(config)}: {error}") from None
    finally:
        pa.set_memory_pool(pool)
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    return frame


def source_name(config: TableData) -> str:
    """Return the name of the source in messages: the query, or the path without any secrets in a URL."""
    if config.sql:
        return f"query {abbreviate(' '.join(config.sql.query.split()))!r}"
    path = str(config.path)
    return re.sub(r"\?.*", "", re.sub(r"//[^/]*@", "//", path)) if "://" in path else path


def _read_path(config: TableData, path: str) -> Any:
    """Return a CSV or Parquet file, or a directory of Parquet files, as a pyarrow.Table."""
    if re.search(r"//[^/@]*:[^/@]*@", path):
        raise TableError(
            "the URL contains a password; remove it, and configure it in the settings of the storage's client"
        )
    if "://" in path and re.search(r"[?&][^=&]*(sig|token|key|secret|password|credential)[^=&]*=", path, re.IGNORECASE):
        raise TableError(
            "the URL is signed, so its key would be stored; remove it, and configure access in the settings of the "
            "storage's client"
        )
    try:
        location = str(SAMPLES_DIR / path.removeprefix("sample:")) if path.startswith("sample:") else path
        system, file = fsspec.core.url_to_fs(location)
        info = system.info(file)
        if info["type"] == "directory":
            return _read_directory(system, file, config)
        suffix = PurePosixPath(source_name(config)).suffix.lower()
        if suffix not in (".csv", ".parquet"):
            raise TableError(
                f"the suffix {suffix or '(none)'} is not supported; use .csv, .parquet or a directory of .parquet files"
            )
        if info["size"] == 0:
            raise TableError("the file is empty")
        return read_csv_columns(system, file, config) if suffix == ".csv" else _read_parquet(system, file, config)[0]
    except TableError:
        raise
    except FileNotFoundError as error:  # over HTTP also for any error status
        kind = UnreachableError if _is_transient_status(error.__cause__) else TableError
        raise kind(f"no such file or directory{', or it is unreachable' if '://' in path else ''}") from None
    except Exception as error:  # each storage's client raises its own errors; ImportError: it is not installed
        if not isinstance(error, (OSError, ValueError, ImportError, pa.ArrowException)) and "://" not in path:
            raise
        reason = str(getattr(error, "strerror", None) or error).replace(path, source_name(config))
        is_remote = "://" in path and isinstance(error, OSError) and not isinstance(error, PermissionError)
        raise (UnreachableError if is_remote else TableError)(f"can't be read: {reason[:300]}") from None


def _is_transient_status(cause: BaseException | None) -> bool:
    """Return whether the cause of fsspec's FileNotFoundError is an unreachable or overloaded HTTP server."""
    status = getattr(cause, "status", None)
    if status is None:
        return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    return status in (429, 500, 502, 503, 504)


def _read_directory(system: Any, directory: str, config: TableData) -> Any:
    """Return the Parquet files of a directory as one pyarrow.Table, in the order of their names."""
    files = {PurePosixPath(str(entry["name"])).name: entry for entry in system.ls(directory, detail=True)}
    # files whose names start with _ or . are metadata of Spark and other writers
    parts = sorted(file for file in files if re.fullmatch(r"[^_.].*\.parquet", file, re.IGNORECASE))
    tables: list[Any] = []
    columns_of: dict[str, list[str]] = {}
    for file in [part for part in parts if files[part]["type"] == "file"]:
        try:
            table, columns_of[file] = _read_parquet(system, files[file]["name"], config)
        except TableError as error:
            raise TableError(f"{file}: {error}") from None
        first = next(iter(columns_of))
        if differing := sorted(set(columns_of[first]) ^ set(columns_of[file])):
            only_in = first if differing[0] in columns_of[first] else file
            raise TableError(f"{file} and {first} differ: column {abbreviate(differing[0])} is in {only_in} only")
        try:
            pa.unify_schemas([*(table.schema for table in tables[:1]), table.schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise TableError(f"{file}: the column types differ from those in {first}: {error}") from None
        tables.append(table)
    if not tables:
        raise TableError("no .parquet file in this directory")
    return pa.concat_tables(tables, promote_options="permissive")


def _read_parquet(system: Any, path: str, config: TableData) -> tuple[Any, list[str]]:
    """Return the selected columns as a pyarrow.Table, and the names of all columns."""
    with system.open(path, "rb") as file:
        try:
            parquet = pa.parquet.ParquetFile(file)
            available = list(parquet.schema_arrow.names)
            columns = select_columns(available, config)
            # one row group at a time: reading all at once takes twice the table's memory
            parts = [parquet.read_row_group(index, columns=columns) for index in range(parquet.num_row_groups)]
            table = pa.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(f"not a Parquet file, or truncated: {str(error)[:200]}") from None
    if table.num_rows != (expected := parquet.metadata.num_rows):
        raise TableError(
            f"the file is damaged: it has {table.num_rows:,} rows, but {expected:,} according to its footer; write it "
            "again"
        )
    return table.select(columns), available  # select: reading column 'a' also reads 'a.b'
