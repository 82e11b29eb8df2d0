"""Tables from files, directories, URLs and queries: types, columns, and rejected sources."""

import io
import logging
import pickle
import sqlite3
import traceback
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st

from lstm_models.config import ConfigError, Sql, TableData, parse_config
from lstm_models.data.readers import files
from lstm_models.data.readers.files import read_source
from lstm_models.utils.errors import TableError

CSV = b"day,a,b,shop\n2024-01-01,1,0.5,x\n2024-01-02,2,,y\n"


def data(path: object, **settings: object) -> TableData:
    return TableData.model_validate({"kind": "table", "path": str(path), "target": "a"} | settings)


def query(url: str, text: str, **settings: object) -> TableData:
    named = {key: settings.pop(key) for key in list(settings) if key == "password_env"}
    return TableData(kind="table", sql=Sql(url=url, query=text, **named), **({"target": "a"} | settings))


def types(table: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in table.dtypes.items()}


def parquet(path: Path, row_group_size: int = 2, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(CSV)
    return path


@pytest.fixture
def database(tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("create table t (day, a, b, shop)")
        rows = [("2024-01-01", 1, 0.5, "x"), ("2024-01-02", 2, None, "y"), ("2024-01-03", 3, 1.5, "50%:z")]
        connection.executemany("insert into t values (?, ?, ?, ?)", rows)
    connection.close()
    return f"sqlite:///{tmp_path}/t.db"


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


# ---- reading
def test_files_have_arrow_types(csv: Path) -> None:
    table = read_source(data(csv, features=["b"], time="day", group="shop"))
    assert types(table) == {
        "b": "double[pyarrow]", "a": "int64[pyarrow]", "day": "date32[day][pyarrow]", "shop": "string[pyarrow]",
    }  # fmt: skip
    assert table["a"].tolist() == [1, 2]
    assert table["b"].isna().tolist() == [False, True]
    file = parquet(csv.with_suffix(".parquet"), a=[1, 2], g=pa.array([uuid.UUID(int=1), None]))
    table = read_source(data(file, group="g"))
    assert types(table) == {"a": "int64[pyarrow]", "g": "string[pyarrow]"}
    assert table["g"].iloc[0] == str(uuid.UUID(int=1))


def test_which_columns_are_read(csv: Path, tmp_path: Path, database: str) -> None:
    """The requested columns, or all that have a name if the features are all other columns."""
    file = parquet(tmp_path / "t.parquet", **{"a": [1, 2, 3], "b": [1, 2, 3], "a.b": [4, 5, 6]})
    for config in (data(csv), data(file), query(database, "select * from t")):
        assert list(read_source(config).columns) == ["a"]
        assert list(read_source(config.model_copy(update={"features": ["b"]})).columns) == ["b", "a"]
    frame = pd.DataFrame({"g": ["x", "y"], "n": [1, 2], "a": [0, 1]}, index=[5, 7])
    frame.to_csv(csv)  # the index becomes an unnamed column, which is not a feature
    frame.to_parquet(file)
    for path in (csv, file):
        assert list(read_source(data(path, task="classify", group="g")).columns) == ["g", "n", "a"]
    everything = query(database, "select * from t", task="classify", group="shop")
    assert list(read_source(everything).columns) == ["day", "a", "b", "shop"]
    frame.set_index(pd.Index(["x", "y"], name="day")).to_parquet(file)  # a named index is a column
    assert list(read_source(data(file, time="day")).columns) == ["a", "day"]


def test_files_by_url(csv: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/some/t.csv", CSV)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}), buffer)
    for name in ("some/t", "parts/2", "parts/1"):
        memory.pipe(f"/{name}.parquet", buffer.getvalue())
    for url in (f"file://{csv}", "memory://some/t.csv", "memory://some/t.parquet"):
        assert read_source(data(url))["a"].tolist() == [1, 2]
    assert read_source(data("memory://parts"))["a"].tolist() == [1, 2, 1, 2]
    # the name of a source contains no secret
    assert files.source_name(data("memory://some/t.parquet?x=secret")) == "memory://some/t.parquet"
    assert files.source_name(data("s3://key@bucket/t.csv?token=x")) == "s3://bucket/t.csv"


def test_a_directory_is_read_in_the_order_of_file_names(tmp_path: Path) -> None:
    parquet(tmp_path / "b.parquet", a=[3.5], b=["x"])
    parquet(tmp_path / "c.PARQUET", b=["y"], a=pa.array([None], pa.float32()))
    parquet(tmp_path / "a.parquet", a=[1, 2], b=["x", "y"])
    for other in ("_SUCCESS", "_part.parquet", ".hidden.parquet", "notes.txt"):
        (tmp_path / other).write_text("not a table")
    (tmp_path / "sub.parquet").mkdir()
    table = read_source(data(tmp_path))
    assert table["a"].tolist()[:3] == [1, 2, 3.5]
    assert table["a"].isna().tolist() == [False, False, False, True]
    assert types(table) == {"a": "double[pyarrow]"}  # the common type of all files


def test_the_types_of_a_csv_file_are_inferred_from_all_blocks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + b"1,\n" * 400_000 + b"1.5,2024-01-01\n")
    table = read_source(data(path, features=["b"]))
    assert types(table) == {"b": "date32[day][pyarrow]", "a": "double[pyarrow]"}
    assert (len(table), table["a"].iloc[-1]) == (400_001, 1.5)


def test_quotes_byte_order_marks_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.CSV"
    path.write_bytes('\ufeff"a","the ""b"""\r\n1,"two\nlines, ü"\r\n\r\n2,NA\r\n'.encode())
    table = read_source(data(path, features=['the "b"']))
    assert table['the "b"'].tolist()[0] == "two\nlines, ü"
    assert table["a"].tolist() == [1, 2]
    path.write_bytes(b"a\n1\n\n3\n")  # with one column, an empty line is a row
    assert read_source(data(path))["a"].isna().tolist() == [False, True, False]


def test_a_query_has_arrow_types_and_its_percent_signs_and_colons_are_no_placeholders(database: str) -> None:
    text = "-- 'a' comment; select\n WITH u AS (SELECT * FROM t) select a, b from u where shop not like '%:nothing%d'"
    table = read_source(query(database, text, features=["b"]))
    assert types(table) == {"b": "double[pyarrow]", "a": "int64[pyarrow]"}
    assert table["a"].tolist() == [1, 2, 3]


def test_chunks_of_different_types_become_one_table(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lstm_models.data.readers.sql.CHUNK_ROWS", 1)
    table = read_source(query(database, "select a, b, null as c from t order by a desc", features=["b", "c"]))
    assert types(table) == {"b": "double[pyarrow]", "c": "null[pyarrow]", "a": "int64[pyarrow]"}
    assert table["b"].isna().tolist() == [False, True, False]


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.floats(allow_nan=False)), min_size=1))
def test_csv_and_parquet_give_the_same_table(rows: list[tuple[int, float | None]]) -> None:
    memory = fsspec.filesystem("memory")
    frame = pd.DataFrame({"a": [a for a, _ in rows], "b": pd.array([b for _, b in rows], dtype="double[pyarrow]")})
    with memory.open("/t.csv", "wb") as file:
        frame.to_csv(file, index=False)
    with memory.open("/t.parquet", "wb") as file:
        frame.to_parquet(file, row_group_size=7)
    for name in ("t.csv", "t.parquet"):
        table = read_source(data(f"memory://{name}", features=["b"]))
        assert table["a"].tolist() == frame["a"].tolist()
        np.testing.assert_array_equal(
            table["b"].to_numpy(dtype=float, na_value=np.nan), frame["b"].to_numpy(dtype=float, na_value=np.nan)
        )


# Global, because Arrow's threads free memory in it after the test, which crashed when the pool was gone.
COUNTING_POOL = pa.proxy_memory_pool(pa.system_memory_pool())


def test_a_parquet_file_is_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=1_000_000)
    file = parquet(tmp_path / "t.parquet", 50_000, a=values)
    default = pa.default_memory_pool()
    monkeypatch.setattr(pa, "system_memory_pool", lambda: COUNTING_POOL)
    assert len(read_source(data(file))) == 1_000_000
    assert values.nbytes < COUNTING_POOL.max_memory() < 1.3 * values.nbytes
    assert pa.default_memory_pool().backend_name == default.backend_name  # restored


# ---- rejected sources
def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    for path, *texts in (
        (tmp_path / "none.csv", "no such file or directory"),
        (tmp_path, "no .parquet file in this directory"),
        ("memory://nowhere/t.csv", "no such file or directory", "unreachable"),
        ("nosuch://x/t.csv", "can't be read", "Protocol not known: nosuch"),
    ):
        with refused(TableError, f"{path}: ", *texts):
            read_source(data(path))
    for url, *texts in (
        (f"sqlite:///{tmp_path}/none.db", f"{tmp_path}/none.db"),
        ("oracle+oracledb://user@localhost/x", "No module named 'oracledb'", "install"),
        ("nosuch://user@localhost/x", "can't be run", "sqlalchemy.dialects:nosuch"),
        ("t.db", "sql.url", "postgresql://user@host/database"),
    ):
        with refused(TableError, "query 'select a': ", *texts):
            read_source(query(url, "select a"))
    assert not (tmp_path / "none.db").exists()


def test_errors_of_a_storage_client(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    class StorageError(Exception):
        pass

    def open_(path: str, mode: str) -> None:
        raise StorageError(f"403:\nmemory://{path.strip('/')}")

    memory.pipe("/t.parquet?part=private", CSV)
    monkeypatch.setattr(memory, "open", open_)
    with refused(TableError, "memory://t.parquet: ", "403: memory://t.parquet") as raised:
        read_source(data("memory://t.parquet?part=private"))
    assert "private" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("t.csv", b"", ("empty",)),
        ("t.parquet", b"", ("empty",)),
        ("t.csv", b"\n\n", ("no header line",)),
        ("t.csv", b"\xef\xbb\xbf", ("no header line",)),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0", ("not a CSV table", "zero byte")),
        ("t.csv", b"a,b\n1,\xfc\n", ("UTF-8", "0xfc")),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", ("not a CSV table: row 2: ", "Expected 2 columns, got 3: 1,2,3")),
        ("t.csv", b"a,b\n1,2\n1\n", ("not a CSV table: row 2: ", "Expected 2 columns, got 1: 1")),
        ("t.csv", b'a,b\n"1,2\n', ("not a CSV table: row 1: ", 'Expected 2 columns, got 1: "1,2')),
        ("t.csv", b"1,2.5,-3e4\n1,2,3\n", ("row 1 has no column names", "1, 2.5, -3e4", "insert a header line")),
        ("t.csv", b"a;b\n1;2\n", ("';'", "separate them with commas")),
        ("t.csv", b"b,a,a\n1,2,3\n", ("column a occurs twice", "must be unique")),
        ("t.csv", b"b,A\n1,2\n", ("column a is missing", "found: b, A", "did you mean A?")),
        ("t.csv", b"b\n1\n", ("column a is missing", "found: b")),
        ("t.csv", b"a\n" + b"1\n" * 600_000 + b"\xfc\n", ("column a ", "UTF-8")),
        ("t.parquet", CSV, ("not a Parquet file", "magic bytes")),
        ("t.xlsx", CSV, ("suffix .xlsx ", ".csv, .parquet")),
        ("t", CSV, ("suffix (none) ", ".csv, .parquet")),
        ("t.csv.gz", CSV, ("suffix .gz ", ".csv, .parquet")),
        ("t.pkl", pickle.dumps(1), ("suffix .pkl ", ".csv, .parquet")),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_files_that_are_not_tables_are_rejected(
    tmp_path: Path, name: str, content: bytes, texts: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(TableError, f"{tmp_path / name}: ", *texts) as raised:
        read_source(data(tmp_path / name))
    assert len(str(raised.value)) < len(str(tmp_path)) + 300


def test_damaged_parquet_files_are_rejected(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", a=list(range(1000)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with refused(TableError, f"{file}: not a Parquet file"):
        read_source(data(file))
    file.write_bytes(b"\xff" * 1000 + whole[1000:])
    with pytest.raises(TableError, match=r"t\.parquet: (can't be read|not a Parquet file)"):
        read_source(data(file))
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), file)
    with refused(TableError, f"{file}: column a occurs twice"):
        read_source(data(file))


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        (b"\xf0\x2e", ()),  # 3000 in Thrift's encoding: correct
        (b"\xc0\x3e", ("damaged", "3,000 rows", "4,000")),
        (b"\x80\xa0\x94\xa5\x8d\x1d", ("can't be read: malloc of size ", " failed")),
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", ("can't be read: Allocation size too large",)),
        (b"\x01", ("can't be read: Negative size",)),
    ],
)
def test_a_parquet_file_with_a_wrong_footer_is_rejected(tmp_path: Path, rows: bytes, texts: tuple[str, ...]) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": np.arange(3000.0)}), file)
    whole = file.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer = whole[start:-8].replace(b"\xf0\x2e", rows)
    file.write_bytes(whole[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    if not texts:
        assert len(read_source(data(file))) == 3000
        return
    with refused(TableError, f"{file}: ", *texts):
        read_source(data(file))


def test_files_of_a_directory_that_differ_are_rejected(tmp_path: Path) -> None:
    def write(number: int, **columns: object) -> None:
        parquet(tmp_path / f"{number}.parquet", **columns)

    def refuse(*texts: str) -> None:
        with refused(TableError, f"{tmp_path}: ", *texts):
            read_source(data(tmp_path))

    write(1, a=[1], b=[1])
    write(2, a=[1], c=[1])
    refuse("2.parquet and 1.parquet differ", "column b is in 1.parquet only")
    write(2, a=[1], b=[1], c=[1])
    refuse("2.parquet and 1.parquet differ", "column c is in 2.parquet only")
    write(2, a=["x"], b=[1])
    refuse("2.parquet: the column types differ from those in 1.parquet", "Field a has incompatible types")
    write(2, b=[1])
    refuse("2.parquet: column a is missing", "found: b")
    write(1, a=pa.nulls(1))  # compatible with both others, which are not compatible with each other
    write(2, a=[1])
    write(3, a=["x"])
    refuse("can't be read", "Field a has incompatible types: int64 vs string")
    (tmp_path / "2.parquet").write_bytes(b"")
    refuse("2.parquet: not a Parquet file")


def test_a_list_of_many_columns_is_abbreviated(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(f"column_{i}" for i in range(500)) + "\n")
    with refused(TableError, "column_8, column_9 and 490 more; did you mean column_77?") as raised:
        read_source(data(tmp_path / "t.csv", target="colum_77"))
    assert len(str(raised.value)) < len(str(tmp_path)) + 250


@pytest.mark.parametrize(
    ("start", "line", "texts"),
    [
        (b"", b"a" * 60_000_000, ["10 MB"]),
        (b"a,b\r1,", b"2" * 60_000_000 + b"\r", ["10 MB"]),
        (b'a,b\n1,"', b"x,\n2" * 15_000_000, ["10 MB", "is a quote opened and not closed?"]),
        (b"\n", b"a," * 4_000_000 + b"\n1\n", ["4,000,001 columns; at most 10,000"]),
        (b"", b"a," * 10_000 + b"\n1\n", ["10,001 columns; at most 10,000"]),
    ],
)
def test_endless_lines_are_rejected_with_little_memory(
    start: bytes, line: bytes, texts: list[str], memory: fsspec.AbstractFileSystem
) -> None:
    memory.pipe("/t.csv", start + line)
    memory.info("/t.csv")  # makes a copy
    tracemalloc.start()
    with refused(TableError, "memory://t.csv: ", *texts):
        read_source(data("memory://t.csv"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 55e6  # less than the length of the line


def test_lines_up_to_the_limit_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1," + b"x" * 9_000_000 + b"\n2,y\n")
    assert read_source(data(tmp_path / "t.csv"))["a"].tolist() == [1, 2]
    (tmp_path / "t.csv").write_text(",".join(f"c{i}" for i in range(9_999)) + ",a\n" + "1," * 9_999 + "7\n")
    assert read_source(data(tmp_path / "t.csv"))["a"].tolist() == [7]


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({"target": []}, "target must, at least one, none twice"),
        ({"target": ["a", "a"]}, "target must, at least one, none twice"),
        ({"features": []}, "features must, at least one, none twice"),
        ({"features": ["b", "b"]}, "features must, at least one, none twice"),
        ({"time": "a"}, "target, time or group"),
        ({"time": "b", "group": "b"}, "both time and group"),
        ({"task": "classify", "group": "g", "target": ["a", "b"]}, "task classify, one column, target"),
        ({"task": "regress", "group": "g", "features": ["a", "b"]}, "label, feature"),
        ({"task": "regress"}, "task regress, group column"),
        ({"group": "prediction"}, "time or group, prediction, target, steps_ahead, loss"),
        ({"path": None}, "either path or sql"),
        ({"sql": {"url": "sqlite://", "query": "select 1"}}, "either path or sql"),
    ],
)
def test_contradictory_settings_are_rejected(settings: dict[str, object], texts: str) -> None:
    values = {"experiment": "x", "data": {"kind": "table", "path": "t.csv", "target": "a", **settings}}
    with refused(ConfigError, "my.yaml: data: ", *texts.split(", ")):
        parse_config(values, "my.yaml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("select nope from t", "no such column: nope"),
        ("select a from t where a > 9", "no rows"),
        ("select b from t", "column a is missing; found: b"),
        ("select a, a from t", "column a occurs twice"),
        ("delete from t", "only a SELECT"),
        ("/* select */ drop table t", "only a SELECT"),
        ("", "only a SELECT"),
        ("with x as (select 1) insert into t select 9, 9, 9, 9", "readonly database"),
        (f"select a, {'b' * 1000} from t", "no such column: bbb"),
    ],
)
def test_invalid_queries_are_rejected(database: str, text: str, fault: str) -> None:
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    with refused(TableError, f"query {shown!r}: ", fault):
        read_source(query(database, text))
    assert len(read_source(query(database, "select * from t"))) == 3  # nothing was written


# ---- secrets
@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://user:geheim@host/x", "sql.password_env"),
        ("postgresql://host/x?user=u&password=geheim", "sql.password_env"),
        ("mssql+pyodbc://?odbc_connect=DRIVER%3Dx%3BPWD%3Dgeheim", "sql.password_env"),
        ("postgresql://user@host:geheim/x", "SQLAlchemy URL"),
    ],
)
def test_a_database_url_with_a_password_is_rejected(url: str, text: str) -> None:
    with refused(TableError, "query 'select a': sql.url ", text) as raised:
        read_source(query(url, "select a"))
    assert "geheim" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("ftp://user:geheim@host/t.csv", ["ftp://host/t.csv: ", "password", "settings"]),
        *(
            (f"https://127.0.0.1:9/t.csv?{key}=geheim", ["https://127.0.0.1:9/t.csv: ", "signed", "settings"])
            for key in ("sig", "se=1&sig", "X-Amz-Signature", "access_token", "Key")
        ),
    ],
)
def test_a_path_with_a_secret_is_rejected(path: str, texts: list[str]) -> None:
    """Before any request is sent and anything is stored."""
    with refused(TableError, *texts) as raised:
        read_source(data(path))
    assert "geheim" not in str(raised.value)


def test_the_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[sa.URL] = []

    def create_engine(url: sa.URL) -> sa.Engine:
        seen.append(url)
        return sqlite("sqlite://")

    sqlite = sa.create_engine
    monkeypatch.setattr(sa, "create_engine", create_engine)
    config = query("postgresql://user@host/x", "select 1 as a", password_env="TABLE_PASSWORD")
    for empty in (None, ""):
        if empty is not None:
            monkeypatch.setenv("TABLE_PASSWORD", empty)
        with refused(TableError, "query 'select 1 as a': ", "TABLE_PASSWORD", "sql.password_env", "not set"):
            read_source(config)
    monkeypatch.setenv("TABLE_PASSWORD", "ge/heim @1")
    assert read_source(config)["a"].tolist() == [1]
    assert seen[0].password == "ge/heim @1"
    assert "heim" not in repr(seen[0])


@pytest.mark.parametrize("password", ["geheim", "ge heim/@:%", "ge'heim\\"])
def test_no_message_contains_the_password(
    password: str, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TABLE_PASSWORD", password)
    # SQLite accepts no user and no password; its error contains the URL
    url = database.replace("sqlite://", "sqlite://user@")
    config = query(url, "select a", password_env="TABLE_PASSWORD")
    with refused(TableError, "query 'select a': ", "Invalid SQLite URL: sqlite://user:***@") as first:
        read_source(config)

    def create_engine(url: sa.URL) -> sa.Engine:
        shown = f"{url.password} {url.password!r} {quote(url.password)} {quote_plus(url.password)} {url}"
        raise sa.exc.OperationalError("select a", {}, Exception(f"login failed:\n{shown}"))

    monkeypatch.setattr(sa, "create_engine", create_engine)
    with refused(TableError, "query 'select a': ", "login failed: *** ") as second:
        read_source(config)
    for error in (first.value, second.value):
        assert error.__context__ is not None  # the same error without the source's name, which has no context
        assert error.__context__.__context__ is None
        for text in (str(error), repr(error), "".join(traceback.format_exception(error)), caplog.text, repr(config)):
            assert "heim" not in text
