"""Tables of one's own: what is read from files, folders, URLs and queries, and what is said where they can't be."""

import io
import logging
import pickle
import re
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
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_models.config import ConfigError, Sql, TableData, parse_config
from lstm_models.data import source
from lstm_models.data.source import read
from lstm_models.data.tables import TableError

CSV = b"day,a,b,shop\n2024-01-01,1,0.5,x\n2024-01-02,2,,y\n"


def data(path: object, **settings: object) -> TableData:
    return TableData.model_validate({"kind": "table", "path": str(path), "target": "a"} | settings)


def query(url: str, text: str, **settings: object) -> TableData:
    named = {key: settings.pop(key) for key in list(settings) if key == "password_env"}
    return TableData(kind="table", sql=Sql(url=url, query=text, **named), **({"target": "a"} | settings))


def refused(text: str) -> "pytest.RaisesExc[TableError]":
    return pytest.raises(TableError, match=f"^{re.escape(text)}$")


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


# What is read


def test_a_csv_file_with_arrow_types(csv: Path) -> None:
    table = read(data(csv, features=["b"], time="day", group="shop"))
    assert types(table) == {
        "b": "double[pyarrow]",
        "a": "int64[pyarrow]",
        "day": "date32[day][pyarrow]",
        "shop": "string[pyarrow]",
    }
    assert table["a"].tolist() == [1, 2]
    assert table["b"].isna().tolist() == [False, True]


def test_only_the_columns_that_are_named_are_read(csv: Path, tmp_path: Path, database: str) -> None:
    file = parquet(tmp_path / "t.parquet", **{"a": [1, 2, 3], "b": [1, 2, 3], "a.b": [4, 5, 6]})
    for config in (data(csv), data(file), query(database, "select * from t")):
        assert list(read(config).columns) == ["a"]
        assert list(read(config.model_copy(update={"features": ["b"]})).columns) == ["b", "a"]


def test_all_that_have_a_name_are_read_where_features_are_the_others(tmp_path: Path, database: str) -> None:
    frame = pd.DataFrame({"g": ["x", "y"], "n": [1, 2], "a": [0, 1]}, index=[5, 7])
    frame.to_csv(tmp_path / "t.csv")  # the index gets a column without a name, and is none of the features
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        assert list(read(data(tmp_path / name, task="classify", group="g")).columns) == ["g", "n", "a"]
    everything = query(database, "select * from t", task="classify", group="shop")
    assert list(read(everything).columns) == ["day", "a", "b", "shop"]


def test_an_index_that_has_a_name_is_a_column(tmp_path: Path) -> None:
    index = pd.date_range("2024-01-01", periods=2, name="day")
    pd.DataFrame({"a": [1, 2]}, index=index).to_parquet(tmp_path / "t.parquet")
    assert list(read(data(tmp_path / "t.parquet", time="day")).columns) == ["a", "day"]


def test_the_same_by_url(csv: Path, tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/some/t.csv", CSV)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}), buffer)
    memory.pipe("/some/t.parquet", buffer.getvalue())
    memory.pipe("/parts/2.parquet", buffer.getvalue())
    memory.pipe("/parts/1.parquet", buffer.getvalue())
    urls = [f"file://{csv}", "memory://some/t.csv", "memory://some/t.parquet", "memory://some/t.parquet?x=secret"]
    for url in urls[:3]:
        assert read(data(url))["a"].tolist() == [1, 2]
    assert read(data("memory://parts"))["a"].tolist() == [1, 2, 1, 2]
    assert source.name(data(urls[3])) == "memory://some/t.parquet"
    assert source.name(data("s3://key@bucket/t.csv?token=x")) == "s3://bucket/t.csv"


def test_identifiers_are_text(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", a=[1, 2], g=pa.array([uuid.UUID(int=1), None]))
    table = read(data(file, group="g"))
    assert types(table) == {"a": "int64[pyarrow]", "g": "string[pyarrow]"}
    assert table["g"].iloc[0] == str(uuid.UUID(int=1))


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    parquet(tmp_path / "b.parquet", a=[3.5], b=["x"])
    parquet(tmp_path / "c.PARQUET", b=["y"], a=pa.array([None], pa.float32()))
    parquet(tmp_path / "a.parquet", a=[1, 2], b=["x", "y"])
    for other in ("_SUCCESS", "_part.parquet", ".hidden.parquet", "notes.txt"):
        (tmp_path / other).write_text("no table")
    (tmp_path / "sub.parquet").mkdir()
    table = read(data(tmp_path))
    assert table["a"].tolist()[:3] == [1, 2, 3.5]
    assert table["a"].isna().tolist() == [False, False, False, True]
    assert types(table) == {"a": "double[pyarrow]"}  # what all files' types fit in


def test_types_that_the_first_block_of_a_csv_file_does_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + b"1,\n" * 400_000 + b"1.5,2024-01-01\n")
    table = read(data(path, features=["b"]))
    assert types(table) == {"b": "date32[day][pyarrow]", "a": "double[pyarrow]"}
    assert len(table) == 400_001
    assert table["a"].iloc[-1] == 1.5


def test_quotes_byte_order_marks_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.CSV"
    path.write_bytes('\ufeff"a","the ""b"""\r\n1,"two\nlines, ü"\r\n\r\n2,NA\r\n'.encode())
    table = read(data(path, features=['the "b"']))
    assert table['the "b"'].tolist()[0] == "two\nlines, ü"
    assert table["a"].tolist() == [1, 2]
    path.write_bytes(b"a\n1\n\n3\n")  # one column: an empty line is a row
    assert read(data(path))["a"].isna().tolist() == [False, True, False]


def test_a_query_with_arrow_types_and_marks_that_mean_something_elsewhere(database: str) -> None:
    text = "-- 'a' comment; select\n WITH u AS (SELECT * FROM t) select a, b from u where shop not like '%:nothing%d'"
    table = read(query(database, text, features=["b"]))
    assert types(table) == {"b": "double[pyarrow]", "a": "int64[pyarrow]"}
    assert table["a"].tolist() == [1, 2, 3]


def test_a_long_result_is_one_table_though_its_parts_differ(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lstm_models.data.query.CHUNK", 1)
    table = read(query(database, "select a, b, null as c from t order by a desc", features=["b", "c"]))
    assert types(table) == {"b": "double[pyarrow]", "c": "null[pyarrow]", "a": "int64[pyarrow]"}
    assert table["b"].isna().tolist() == [False, True, False]


def test_nothing_that_a_query_does_stays(database: str) -> None:
    with pytest.raises(TableError, match="attempt to write a readonly database"):
        read(query(database, "with x as (select 1) insert into t select 9, 9, 9, 9"))
    assert len(read(query(database, "select * from t"))) == 3


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.floats(allow_nan=False)), min_size=1))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_every_way_gives_the_same_table(rows: list[tuple[int, float | None]]) -> None:
    memory = fsspec.filesystem("memory")
    frame = pd.DataFrame({"a": [a for a, _ in rows], "b": pd.array([b for _, b in rows], dtype="double[pyarrow]")})
    with memory.open("/t.csv", "wb") as file:
        frame.to_csv(file, index=False)
    with memory.open("/t.parquet", "wb") as file:
        frame.to_parquet(file, row_group_size=7)
    for name in ("t.csv", "t.parquet"):
        table = read(data(f"memory://{name}", features=["b"]))
        assert table["a"].tolist() == frame["a"].tolist()
        np.testing.assert_array_equal(
            table["b"].to_numpy(dtype=float, na_value=np.nan), frame["b"].to_numpy(dtype=float, na_value=np.nan)
        )


# For as long as the process: Arrow's threads give memory back to it after the test, and died of it when it was gone.
WATCHED = pa.proxy_memory_pool(pa.system_memory_pool())


def test_a_parquet_file_is_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=1_000_000)
    file = parquet(tmp_path / "t.parquet", 50_000, a=values)
    usual = pa.default_memory_pool()
    monkeypatch.setattr(pa, "system_memory_pool", lambda: WATCHED)
    assert len(read(data(file))) == 1_000_000
    assert values.nbytes < WATCHED.max_memory() < 1.3 * values.nbytes
    assert pa.default_memory_pool().backend_name == usual.backend_name  # as it was


# What is refused


def test_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    with refused(f"{path}: no such file or folder"):
        read(data(path))
    with refused(f"{tmp_path}: no .parquet file lies in this folder"):
        read(data(tmp_path))
    with refused("memory://nowhere/t.csv: no such file or folder, or it is out of reach"):
        read(data("memory://nowhere/t.csv"))
    with pytest.raises(TableError, match=r"^nosuch://x/t\.csv: can't be read: Protocol not known: nosuch"):
        read(data("nosuch://x/t.csv"))


def test_a_storages_own_errors(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    class StorageError(Exception):
        pass

    def open_(path: str, mode: str) -> None:
        raise StorageError(f"403:\nmemory://{path.strip('/')}")

    memory.pipe("/t.parquet?part=private", CSV)
    monkeypatch.setattr(memory, "open", open_)
    with refused("memory://t.parquet: can't be read: 403: memory://t.parquet"):
        read(data("memory://t.parquet?part=private"))


@pytest.mark.parametrize(
    ("name", "ending"), [("t.xlsx", ".xlsx"), ("t", "(none)"), ("t.csv.gz", ".gz"), ("t.pkl", ".pkl")]
)
def test_an_ending_that_is_not_read(tmp_path: Path, name: str, ending: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(1))
    allowed = "not read; .csv, .parquet and folders of .parquet are"
    with refused(f"{tmp_path / name}: the ending {ending} is {allowed}"):
        read(data(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.parquet", b"", "the file is empty"),
        ("t.csv", b"\n\n", "the file has no header line"),
        ("t.csv", b"\xef\xbb\xbf", "the file has no header line"),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0", "not a CSV table: a zero byte is in it"),
        ("t.csv", b"a,b\n1,\xfc\n", "not a CSV table in UTF-8: byte 0xfc"),
        ("t.csv", b"PAR1\x15\0", "not a CSV table: a zero byte is in it"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "not a CSV table: row 2: Expected 2 columns, got 3: 1,2,3"),
        ("t.csv", b"a,b\n1,2\n1\n", "not a CSV table: row 2: Expected 2 columns, got 1: 1"),
        ("t.csv", b'a,b\n"1,2\n', 'not a CSV table: row 1: Expected 2 columns, got 1: "1,2 '),
        (
            "t.csv",
            b"1,2.5,-3e4\n1,2,3\n",
            "row 1 has no column names: it is 1, 2.5, -3e4; write a line with names above it",
        ),
        ("t.csv", b"a;b\n1;2\n", "its fields are separated by ';'; write it with commas"),
        ("t.csv", b"b,a,a\n1,2,3\n", "column a is there twice; give each column a name of its own"),
        ("t.csv", b"b,A\n1,2\n", "column a is missing; found: b, A; did you mean A?"),
        ("t.csv", b"b\n1\n", "column a is missing; found: b"),
        ("t.csv", b"a\n" + b"1\n" * 600_000 + b"\xfc\n", "column a is no text in UTF-8; save the file in UTF-8"),
        ("t.parquet", CSV, "not a Parquet file, or cut short: Parquet magic bytes not found in footer."),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError) as raised:
        read(data(tmp_path / name))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / name}: {text}".rstrip())
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 300


def test_a_parquet_file_that_is_damaged(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", a=list(range(1000)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableError, match=r"t\.parquet: not a Parquet file, or cut short: "):
        read(data(file))
    file.write_bytes(b"\xff" * 1000 + whole[1000:])
    with pytest.raises(TableError, match=r"t\.parquet: (can't be read|not a Parquet file)"):
        read(data(file))


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (b"\xf0\x2e", None),  # 3000, as Thrift writes it: the truth
        (b"\xc0\x3e", "damaged: 3,000 rows are in it, and its footer tells of 4,000"),
        (b"\x80\xa0\x94\xa5\x8d\x1d", r"can't be read: malloc of size \d+ failed"),
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "can't be read: Allocation size too large (corrupt file?)"),
        (b"\x01", "can't be read: Negative size (corrupt file?)"),
    ],
)
def test_a_parquet_file_whose_footer_lies(tmp_path: Path, told: bytes, fault: str | None) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": np.arange(3000.0)}), file)
    whole = file.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer = whole[start:-8].replace(b"\xf0\x2e", told)
    file.write_bytes(whole[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    if fault is None:
        assert len(read(data(file))) == 3000
        return
    with pytest.raises(TableError) as raised:
        read(data(file))
    assert re.match(re.escape(f"{file}: ") + (fault if "\\" in fault else re.escape(fault)), str(raised.value))


def test_a_parquet_file_with_a_name_twice(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), tmp_path / "t.parquet")
    with refused(f"{tmp_path}/t.parquet: column a is there twice; give each column a name of its own"):
        read(data(tmp_path / "t.parquet"))


def test_files_of_a_folder_that_differ(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", a=[1], b=[1])
    parquet(tmp_path / "2.parquet", a=[1], c=[1])
    with refused(f"{tmp_path}: 2.parquet and 1.parquet differ: column b is in 1.parquet alone"):
        read(data(tmp_path))
    parquet(tmp_path / "2.parquet", a=[1], b=[1], c=[1])
    with refused(f"{tmp_path}: 2.parquet and 1.parquet differ: column c is in 2.parquet alone"):
        read(data(tmp_path))
    parquet(tmp_path / "2.parquet", a=["x"], b=[1])
    with pytest.raises(
        TableError, match=r"2\.parquet: other types than in 1\.parquet: .*Field a has incompatible types"
    ):
        read(data(tmp_path))
    parquet(tmp_path / "2.parquet", b=[1])
    with refused(f"{tmp_path}: 2.parquet: column a is missing; found: b"):
        read(data(tmp_path))
    parquet(tmp_path / "1.parquet", a=pa.nulls(1))  # fits the two others, which do not fit each other
    parquet(tmp_path / "2.parquet", a=[1])
    parquet(tmp_path / "3.parquet", a=["x"])
    with pytest.raises(TableError, match=r"can't be read: .*Field a has incompatible types: int64 vs string"):
        read(data(tmp_path))
    (tmp_path / "2.parquet").write_bytes(b"")
    with pytest.raises(TableError, match=r": 2\.parquet: not a Parquet file, or cut short: "):
        read(data(tmp_path))


def test_many_columns_are_listed_in_short(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(f"column_{i}" for i in range(5000)) + "\n")
    with pytest.raises(TableError) as raised:
        read(data(tmp_path / "t.csv", target="colum_77"))
    assert str(raised.value).endswith("column_8, column_9 and 4,990 more; did you mean column_77?")
    assert len(str(raised.value)) < len(str(tmp_path)) + 250


@pytest.mark.parametrize(
    ("start", "line", "text"),
    [
        (b"", b"a" * 60_000_000, "a line is longer than 10 MB"),
        (b"a,b\n1,", b"2" * 60_000_000, "a line is longer than 10 MB"),
        (b"a,b\r1,", b"2" * 60_000_000 + b"\r", "a line is longer than 10 MB"),
        (b'a,b\n1,"', b"x,\n2" * 15_000_000, "a line is longer than 10 MB; is a quote opened and not closed?"),
        (b"", b"a," * 30_000_000 + b"\n", "a line is longer than 10 MB"),
        (b"\n", b"a," * 4_000_000 + b"\n1\n", "4,000,001 columns; at most 10,000 are read"),
        (b"", b"a," * 10_000 + b"\n1\n", "10,001 columns; at most 10,000 are read"),
    ],
)
def test_lines_without_end_are_refused_within_little_memory(
    start: bytes, line: bytes, text: str, memory: fsspec.AbstractFileSystem
) -> None:
    memory.pipe("/t.csv", start + line)
    memory.info("/t.csv")  # makes a copy
    tracemalloc.start()
    with refused(f"memory://t.csv: {text}"):
        read(data("memory://t.csv"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 55e6


def test_lines_up_to_the_limit_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1," + b"x" * 9_000_000 + b"\n2,y\n")
    assert read(data(tmp_path / "t.csv"))["a"].tolist() == [1, 2]
    (tmp_path / "t.csv").write_text(",".join(f"c{i}" for i in range(9_999)) + ",a\n" + "1," * 9_999 + "7\n")
    assert read(data(tmp_path / "t.csv"))["a"].tolist() == [7]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"target": []}, "target must name at least one column, and none twice"),
        ({"target": ["a", "a"]}, "target must name at least one column, and none twice"),
        ({"features": []}, "features must name at least one column, and none twice"),
        ({"time": "a"}, "the target can't be time or group as well"),
        ({"time": "b", "group": "b"}, "one column can't be both time and group"),
        (
            {"task": "classify", "group": "g", "target": ["a", "b"]},
            "task classify tells one column; target names several",
        ),
        ({"task": "regress", "group": "g", "features": ["a", "b"]}, "the label can't be a feature as well"),
        ({"task": "regress"}, "task regress needs a group column: a label for each"),
        (
            {"group": "prediction"},
            "no time or group column can be called prediction, target, steps_ahead, loss: columns of these names are "
            "written",
        ),
        ({"path": None}, "give either path or sql"),
    ],
)
def test_columns_named_for_two_things(settings: dict[str, object], text: str) -> None:
    values = {"experiment": "x", "data": {"kind": "table", "path": "t.csv", "target": "a", **settings}}
    with pytest.raises(ConfigError) as error:
        parse_config(values, "my.yaml")
    assert str(error.value) == f"my.yaml: data: {text}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("select nope from t", "can't be run: no such column: nope"),
        ("select a from t where a > 9", "the query returns no rows"),
        ("select b from t", "column a is missing; found: b"),
        ("select a, a from t", "column a is there twice; give each column a name of its own"),
        ("delete from t", "is no SELECT; only a SELECT, or WITH ... SELECT, is run"),
        ("/* select */ drop table t", "is no SELECT; only a SELECT, or WITH ... SELECT, is run"),
        ("", "is no SELECT; only a SELECT, or WITH ... SELECT, is run"),
    ],
)
def test_a_query_that_gives_no_table(database: str, text: str, fault: str) -> None:
    with refused(f"query {text!r}: {fault}"):
        read(query(database, text))


def test_a_long_query_is_shown_in_short(database: str) -> None:
    with pytest.raises(TableError, match=r"^query 'select a, b{47}\.\.\.': can't be run: "):
        read(query(database, f"select a, {'b' * 1000} from t"))


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with refused(f"query 'select a': no such database file: {tmp_path}/none.db"):
        read(query(f"sqlite:///{tmp_path}/none.db", "select a"))
    assert not (tmp_path / "none.db").exists()
    with refused("query 'select a': No module named 'oracledb': install the database's driver"):
        read(query("oracle+oracledb://user@localhost/x", "select a"))
    with refused("query 'select a': can't be run: Can't load plugin: sqlalchemy.dialects:nosuch"):
        read(query("nosuch://user@localhost/x", "select a"))
    with refused("query 'select a': sql.url is no SQLAlchemy URL, such as postgresql://user@host/database"):
        read(query("t.db", "select a"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:geheim@host/x",
        "postgresql://host/x?user=u&password=geheim",
        "mssql+pyodbc://?odbc_connect=DRIVER%3Dx%3BPWD%3Dgeheim",
        "postgresql://user@host:geheim/x",
    ],
)
def test_a_url_with_a_password_is_refused(url: str) -> None:
    with pytest.raises(
        TableError, match=r"^query 'select a': sql\.url (contains a password|is no SQLAlchemy URL)"
    ) as raised:
        read(query(url, "select a"))
    assert "geheim" not in "".join(traceback.format_exception(raised.value))


def test_a_path_with_a_password_is_refused() -> None:
    text = "the URL contains a password: leave it to the settings of the storage's own client"
    with refused(f"ftp://host/t.csv: {text}"):
        read(data("ftp://user:geheim@host/t.csv"))


def test_the_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[sa.URL] = []

    def create_engine(url: sa.URL) -> sa.Engine:
        seen.append(url)
        return sqlite("sqlite://")

    sqlite = sa.create_engine
    monkeypatch.setattr(sa, "create_engine", create_engine)
    config = query("postgresql://user@host/x", "select 1 as a", password_env="TABLE_PASSWORD")
    text = "the environment variable TABLE_PASSWORD (sql.password_env) is not set, or empty"
    with refused(f"query 'select 1 as a': {text}"):
        read(config)
    monkeypatch.setenv("TABLE_PASSWORD", "")
    with refused(f"query 'select 1 as a': {text}"):
        read(config)
    monkeypatch.setenv("TABLE_PASSWORD", "ge/heim @1")
    assert read(config)["a"].tolist() == [1]
    assert seen[0].password == "ge/heim @1"
    assert "heim" not in repr(seen[0])


@pytest.mark.parametrize("password", ["geheim", "ge heim/@:%", "ge'heim\\"])
def test_the_password_is_in_no_message(
    password: str, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TABLE_PASSWORD", password)
    url = database.replace("sqlite://", "sqlite://user@")  # SQLite takes no user and no password, and says so
    config = query(url, "select a", password_env="TABLE_PASSWORD")
    with pytest.raises(
        TableError, match=r"^query 'select a': can't be run: Invalid SQLite URL: sqlite://user:\*\*\*@"
    ) as first:
        read(config)

    def create_engine(url: sa.URL) -> sa.Engine:
        shown = f"{url.password} {url.password!r} {quote(url.password)} {quote_plus(url.password)} {url}"
        raise sa.exc.OperationalError("select a", {}, Exception(f"login failed:\n{shown}"))

    monkeypatch.setattr(sa, "create_engine", create_engine)
    with pytest.raises(TableError, match=r"^query 'select a': can't be run: login failed: \*\*\* ") as second:
        read(config)
    for error in (first.value, second.value):
        assert error.__context__ is not None  # the same error without the source's name, and nothing before it
        assert error.__context__.__context__ is None
        for text in (str(error), repr(error), "".join(traceback.format_exception(error)), caplog.text, repr(config)):
            assert "heim" not in text
        assert "\n" not in str(error)


@pytest.mark.parametrize("secret", ["sig=abc", "se=1&sig=abc", "X-Amz-Signature=abc", "access_token=abc", "Key=abc"])
def test_a_signed_url_is_refused_before_it_is_stored_anywhere(secret: str) -> None:
    with pytest.raises(TableError) as error:
        read(data(f"https://127.0.0.1:9/t.csv?{secret}"))
    assert str(error.value) == (
        "https://127.0.0.1:9/t.csv: the URL is signed, and would be stored: leave the key to the settings of the "
        "storage's client"
    )
