"""A table of one's own, read with Arrow's types: from a file, a folder or a URL of one, or by a query.

Nothing that is read can run code: no format here knows pickle, and what pandas writes beside a Parquet table's columns
is left unread.
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
    """The configured table: the columns that the settings name, or all that have a name; rows in the source's order.

    Raises:
        TableError: if there is no such source, or it is no such table.
    """
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())  # which gives back what is freed; Arrow's own keeps half as much again
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
    """What the source is called in a message: the path or the query, without what a URL may hold of secrets."""
    if config.sql:
        return f"query {abbreviate(' '.join(config.sql.query.split()))!r}"
    path = str(config.path)
    return re.sub(r"\?.*", "", re.sub(r"//[^/]*@", "//", path)) if "://" in path else path


def _read_path(config: TableData, path: str) -> Any:
    """A CSV or Parquet file, or a folder of Parquet files, as a pyarrow.Table."""
    if re.search(r"//[^/@]*:[^/@]*@", path):
        raise TableError("the URL contains a password: leave it to the settings of the storage's own client")
    if "://" in path and re.search(r"[?&][^=&]*(sig|token|key|secret|password|credential)[^=&]*=", path, re.IGNORECASE):
        raise TableError(
            "the URL is signed, and would be stored: leave the key to the settings of the storage's client"
        )
    try:
        # what comes along with the program is read from where it is installed
        own = SAMPLES_DIR / path.removeprefix("sample:") if path.startswith("sample:") else path
        system, place = fsspec.core.url_to_fs(str(own))
        about = system.info(place)
        if about["type"] == "directory":
            return _read_folder(system, place, config)
        ending = PurePosixPath(source_name(config)).suffix.lower()
        if ending not in (".csv", ".parquet"):
            raise TableError(f"the ending {ending or '(none)'} is not read; .csv, .parquet and folders of .parquet are")
        if about["size"] == 0:
            raise TableError("the file is empty")
        return read_csv_columns(system, place, config) if ending == ".csv" else _read_parquet(system, place, config)[0]
    except TableError:
        raise
    except FileNotFoundError as error:  # over HTTP whatever the server answers instead of the file
        kind = UnreachableError if _is_transient_status(error.__cause__) else TableError
        raise kind(f"no such file or folder{', or it is out of reach' if '://' in path else ''}") from None
    except Exception as error:  # each storage's client raises errors of its own; ImportError: it is not installed
        if not isinstance(error, (OSError, ValueError, ImportError, pa.ArrowException)) and "://" not in path:
            raise
        reason = str(getattr(error, "strerror", None) or error).replace(path, source_name(config))
        far = "://" in path and isinstance(error, OSError) and not isinstance(error, PermissionError)
        raise (UnreachableError if far else TableError)(f"can't be read: {reason[:300]}") from None


def _is_transient_status(cause: BaseException | None) -> bool:
    """Whether what fsspec found instead of a file over HTTP is that the server is not there, or busy."""
    status = getattr(cause, "status", None)
    if status is None:
        return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    return status in (429, 500, 502, 503, 504)


def _read_folder(system: Any, folder: str, config: TableData) -> Any:
    files = {PurePosixPath(str(entry["name"])).name: entry for entry in system.ls(folder, detail=True)}
    # what starts with _ or . is what Spark and others write beside their data
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
            where = first if differing[0] in columns_of[first] else file
            raise TableError(f"{file} and {first} differ: column {abbreviate(differing[0])} is in {where} alone")
        try:
            pa.unify_schemas([*(table.schema for table in tables[:1]), table.schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise TableError(f"{file}: other types than in {first}: {error}") from None
        tables.append(table)
    if not tables:
        raise TableError("no .parquet file lies in this folder")
    return pa.concat_tables(tables, promote_options="permissive")


def _read_parquet(system: Any, path: str, config: TableData) -> tuple[Any, list[str]]:
    """The columns used, and the names of all."""
    with system.open(path, "rb") as file:
        try:
            parquet = pa.parquet.ParquetFile(file)
            found = list(parquet.schema_arrow.names)
            used = select_columns(found, config)
            # one by one: reading them all at once takes twice the table's memory
            parts = [parquet.read_row_group(index, columns=used) for index in range(parquet.num_row_groups)]
            table = pa.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(f"not a Parquet file, or cut short: {str(error)[:200]}") from None
    if table.num_rows != (told := parquet.metadata.num_rows):
        raise TableError(f"damaged: {table.num_rows:,} rows are in it, and its footer tells of {told:,}")
    return table.select(used), found  # 'a' reads 'a.b' as well: select
