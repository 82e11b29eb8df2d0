"""Read a table from a database with a query.

The query runs in a transaction that is never committed and, on SQLite and PostgreSQL, is read-only. No message contains
the password, whatever error the driver raises.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from lstm_models.config import Sql, TableData
from lstm_models.data.readers.schema import select_columns
from lstm_models.utils.errors import TableError, UnreachableError

READ_ONLY = {"sqlite": "PRAGMA query_only = ON", "postgresql": "SET TRANSACTION READ ONLY"}
CHUNK_ROWS = 100_000  # number of rows of a result that are in memory as Python objects at once


def run_query(config: TableData, sql: Sql) -> Any:
    """Return the query's result as a pyarrow.Table.

    Raises:
        TableError: if the query is no SELECT, fails, returns no rows, or lacks a column; or if the URL is invalid.
        UnreachableError: if the database can't be reached; a retry may succeed.
    """
    start = r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with|values)\b"
    if not re.match(start, sql.query, re.IGNORECASE | re.DOTALL):
        raise TableError("not a SELECT; only a SELECT, or WITH ... SELECT, is allowed")
    url = _connection_url(sql)
    connected = False
    try:
        engine = sa.create_engine(url)
        try:
            # no_parameters: % and : in the query are no placeholders
            options = {"stream_results": True, "no_parameters": True}
            with engine.connect().execution_options(**options) as connection:
                connected = True
                if engine.dialect.name in READ_ONLY:
                    connection.exec_driver_sql(READ_ONLY[engine.dialect.name])
                parts = pd.read_sql_query(sql.query, connection, chunksize=CHUNK_ROWS, dtype_backend="pyarrow")
                tables = [_to_arrow(part, config) for part in parts]
        finally:
            engine.dispose()
        table = pa.concat_tables(tables, promote_options="permissive")
        fault, kind = "" if len(table) else "the query returns no rows", TableError
    except TableError:
        raise
    except Exception as error:  # noqa: BLE001  # each driver raises its own errors, and any may contain the password
        fault = _describe_database_error(error, url.password)
        is_transient = isinstance(error, sa.exc.OperationalError) and not connected and "authentication" not in fault
        kind = UnreachableError if is_transient else TableError
    if fault:  # raised outside the except block, so that the driver's error, with the password, is not its context
        raise kind(fault)
    return table


def _connection_url(sql: Sql) -> sa.URL:
    """Return the URL of the database, with the password from the environment variable."""
    try:
        url = sa.make_url(sql.url)
    except (sa.exc.ArgumentError, ValueError):  # their text may contain the password
        raise TableError("sql.url is not a SQLAlchemy URL; write one such as postgresql://user@host/database") from None
    if url.password is not None or re.search(r"(?i)(password|passwd|pwd)\W*=", str(url.query) + sql.url):
        raise TableError(
            "sql.url contains a password; set sql.password_env to the name of an environment variable instead"
        )
    file = url.database if url.get_backend_name() == "sqlite" else None
    if file and not file.startswith((":memory:", "file:")) and not Path(file).is_file():  # SQLite would create it
        raise TableError(f"no such database file: {file}")
    if sql.password_env is None:
        return url
    if not (password := os.environ.get(sql.password_env)):
        raise TableError(f"the environment variable {sql.password_env} (sql.password_env) is not set or empty; set it")
    return url.set(password=password)


def _to_arrow(part: pd.DataFrame, config: TableData) -> Any:
    """Return the selected columns of a chunk as a pyarrow.Table."""
    columns = select_columns([str(column) for column in part.columns], config)
    table = pa.Table.from_pandas(part[columns], preserve_index=False)
    for index, column in enumerate(table.columns):
        if column.null_count == len(column):  # pandas types it as text; null takes the type of the other chunks
            table = table.set_column(index, columns[index], pa.nulls(len(column)))
    return table


def _describe_database_error(error: BaseException, password: str | None) -> str:
    """Return the message for an error of the database, without the password."""
    cause = error.__cause__ or error  # pandas wraps SQLAlchemy's error, which wraps the driver's
    text = " ".join(str(getattr(cause, "orig", None) or cause).split())
    if password:
        for secret in (password, quote(password), quote_plus(password), repr(password)[1:-1]):
            text = text.replace(secret, "***")
    if isinstance(error, ImportError):
        return f"{text}; install the database's driver"
    return f"can't be run: {text[:300]}"
