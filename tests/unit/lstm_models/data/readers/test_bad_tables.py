"""Fuzzed tables: any bytes and any types result in a valid dataset, or in an error of one line."""

import csv
import io
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lstm_models.config import ConfigError, TableData, parse
from lstm_models.data.builders import build_dataset, read_table
from lstm_models.data.dataset import Dataset
from lstm_models.data.sequences import table_digest
from lstm_models.data.windows import Examples
from lstm_models.utils.errors import TableError

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
many = settings(max_examples=100, suppress_health_check=slow)  # 30 examples do not cover a table's dimensions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


# ---- checks
def check(path: Path, values: dict[str, Any], seed: int = 0) -> None:
    """Assert that the dataset matches its settings, or that an error of one line is raised."""
    try:
        config = parse(TableData, {"kind": "table", "path": str(path), **values}, "settings")
        table = read_table(config)
        data = build_dataset(table, config, seed)
    except (TableError, ConfigError) as error:
        fault = str(error)
    else:
        fault = ""
        check_dataset(data, table, config)
    assert fault.isprintable()


def check_dataset(data: Dataset, table: pd.DataFrame, config: TableData) -> None:
    assert len(table_digest(table)) == 32
    assert data.rows is not None
    assert data.rows.read == len(table) == data.rows.used + sum(data.rows.dropped.values())
    assert data.input_size == len(data.columns) > 0
    for scale in (data.mean_D, data.scale_D):
        assert scale is None or (scale.shape == (data.input_size,) and scale.isfinite().all())
    assert data.scale_D is None or (data.scale_D > 0).all()
    assert (data.mean_D is None) == (data.scale_D is None) == (config.scaling == "none")
    assert data.scales().isfinite().all()
    for part in (data.train, data.validation, data.test):
        if part is not None:
            check_examples(part, data, config)
    assert len(data.keys()) == data.test.count


def check_examples(part: Examples, data: Dataset, config: TableData) -> None:
    count = min(part.count, 100)
    assert count > 0
    x_BTD, y, lengths_B = part.get_batch(torch.arange(count))
    assert x_BTD.dtype == torch.float32
    assert x_BTD.isfinite().all()
    assert y.isfinite().all()
    assert (lengths_B is None) == (config.task == "forecast")
    longest = config.context_length if lengths_B is None else int(lengths_B.max())
    assert x_BTD.shape == (count, longest, data.input_size)
    assert y.shape == ((count, config.horizon, len(config.targets)) if lengths_B is None else (count,))
    assert lengths_B is None or (lengths_B > 0).all()
    if config.task == "classify":
        assert y.dtype == torch.int64
        assert 0 <= y.min() <= y.max() < len(data.output.classes)


# ---- settings
DATES = [
    "2024-01-01", "2024-01-03", "2024-01-05", "2024-01-05T06:00+02:00", "9999-12-31", "1677", "now", "x", "", "NaT",
]  # fmt: skip
parts = st.one_of(st.floats(0, 1), st.integers(0, 9), st.sampled_from([*DATES, 2**63 - 1]), st.floats(), st.integers())
splits = st.sampled_from(
    [{}, {"train": 2, "validation": 0}, {"train": 0.5, "validation": 0.2}, {"train": DATES[1], "validation": DATES[2]}]
) | st.fixed_dictionaries({"train": parts, "validation": parts}, optional={"test": st.none() | parts})


OTHERS: dict[str, list[Any]] = {
    "context_length": [1, 2, 3], "horizon": [1, 2, 3], "stride": [1, 2, 2**63 - 1],
    "evaluation_stride": [1, 2, 2**63 - 1], "season_length": [None, None, 1, 3, 2**63 - 1],
    "residual": ["none", "last_value"],
    "scaling": ["standard", "minmax", "none"], "missing": ["drop", "interpolate", "forward_fill", "error"],
    "gaps": ["allow", "allow", "split", "error"], "duplicates": ["first", "last", "mean", "error"],
    "unsorted": ["sort", "sort", "error"],
}  # fmt: skip
GROUP, TIME, TARGET, OTHER = range(4)  # the columns' order


@st.composite
def table_settings(draw: st.DrawFn, names: list[str], task: str) -> dict[str, Any]:
    """Draw settings for a table with these columns; one of the four roles may be any column."""
    chosen: dict[str, Any] = {
        "target": draw(st.sampled_from([names[TARGET], names[TARGET:OTHER]])),
        "time": draw(st.sampled_from([names[TIME], names[TIME], None])),
        "group": names[GROUP],
        "features": draw(st.sampled_from([None, names[OTHER:]])),
    }
    if draw(st.integers(0, 7)) == 7:
        column = st.sampled_from([*names, "none"])
        columns = st.lists(column)
        odd = {"target": column | columns, "features": columns, "time": column, "group": st.none() | column}
        role = draw(st.sampled_from(sorted(odd)))
        chosen[role] = draw(odd[role])
    others = {name: draw(st.sampled_from(values)) for name, values in OTHERS.items()}
    return chosen | others | {"task": task, "split": draw(splits)}


# ---- a valid table, and changes that break it
GROUPS, LENGTH = 4, 6


class Table(NamedTuple):
    """Columns of cells; the third is the group's label, or numbers for a forecast."""

    task: str
    names: list[str]
    columns: list[list[Any]]


@st.composite
def valid_table(draw: st.DrawFn) -> Table:
    task = draw(st.sampled_from(["forecast", "forecast", "classify", "regress"]))
    numbers = st.lists(st.floats(-100, 100, width=32), min_size=GROUPS * LENGTH, max_size=GROUPS * LENGTH)
    labels = [float(group % 2) for group in range(GROUPS) for _ in range(LENGTH)]
    names = [group for group in "abcd" for _ in range(LENGTH)]
    target = draw(numbers) if task == "forecast" else labels
    return Table(task, ["g", "t", "y", "x"], [names, [*range(LENGTH)] * GROUPS, target, draw(numbers)])


def with_other_rows(draw: st.DrawFn, table: Table) -> Table:
    """Return the table without rows, or with some rows in any order, possibly repeated."""
    count = len(table.columns[0])
    if not count:
        return table
    rows = draw(st.lists(st.integers(0, count - 1), max_size=2 * count) | st.permutations(range(count)))
    return table._replace(columns=[[column[row] for row in rows] for column in table.columns])


# ---- CSV
# ASCII, or any character except surrogates; st.characters() would write a file to the working directory
letters = st.integers(0, 127).map(chr) | st.integers(0, 0x10F7FF).map(lambda n: chr(n if n < 0xD800 else n + 0x800))


def some_of(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


odd_names = st.text(letters, max_size=8) | some_of(
    "", " ", "a\nb", 'a"b', "a,b", "__index_level_0__", "1", "nan", "x" * 300, "time", "Ä", "\ufeff"
)
days = st.integers(0, 9).map(lambda day: f"2024-01-{day + 1:02}")
CELLS: dict[str, st.SearchStrategy[str]] = {
    "few": some_of("a", "b"),
    "days": days,
    "moments": st.builds("{}T{:02}:00:00{}".format, days, st.integers(0, 24), some_of("", "Z", "+02:00", "-25")),
    "other dates": some_of("2024-02-30", "9999-12-31", "0001-01-01", "2024-W05", "31.12.2024", "2024-01-01 0:00"),
    "whole": st.integers(0, 9).map(str),
    "long": some_of(*(str(number) for number in (2**63 - 1, -(2**63), 2**63, 2**64, 10**400))),
    "numbers": st.floats(-100, 100).map(str),
    "extremes": some_of("1e308", "-1e308", "3.4e38", "-3.4e38", "1e-320", "1e39", "1e400", "0x1F", "1_000", "\uff11"),
    "odd": some_of("", "", "nan", "NaN", "inf", "-Infinity", "NULL", "N/A", "None", "true", "False", "0", "1"),
    "text": st.text(letters, max_size=5) | some_of("a\nb", 'a"b', ",", " ", "\r\n", "\x1b[31m", "x" * 300),
}
any_cell = st.one_of(list(CELLS.values()))


@st.composite
def csv_tables(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    table = draw(valid_table())
    task, names, columns = table._replace(columns=[[str(cell) for cell in column] for column in table.columns])
    columns[TIME] = [f"2024-01-0{day + 1}" for day in table.columns[TIME]]
    for broken in draw(st.lists(st.sampled_from(["cell", "cell", "column", "name", "rows"]), max_size=3)):
        column, count = draw(st.integers(0, 3)), len(columns[0])
        row = draw(st.integers(0, max(count - 1, 0)))
        match broken:
            case "cell" if count:
                columns[column][row] = draw(any_cell)
            case "column":
                cells = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=2))
                cell = st.one_of([CELLS[kind] for kind in cells])
                columns[column] = draw(st.lists(cell, min_size=count, max_size=count))
            case "name":
                names[column] = draw(odd_names)
            case "rows":
                columns = with_other_rows(draw, Table(task, names, columns)).columns
    rows = [list(row) for row in zip(*columns, strict=True)]
    text = io.StringIO(newline="")
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    csv.writer(text, lineterminator=ending, quoting=quoting).writerows([names, *rows])
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1"]))
    content = text.getvalue().encode(encoding, "replace")
    if draw(st.integers(0, 9)) == 9:  # truncated
        content = content[: draw(st.integers(0, len(content)))]
    return content, draw(table_settings(names, task))


PLAIN: dict[str, Any] = {"target": "y", "context_length": 1}
LABELS = PLAIN | {"task": "classify", "group": "", "split": {"train": 3, "validation": 0}}


@example(case=(b",x,y\na,1,0\nb,1,1\nc,1,0\nd,1,1\n", LABELS), seed=0)
@example(case=(b"y\n1\n2\n3\n", PLAIN | {"split": {"train": 6, "validation": 2**63 - 1, "test": 5}}), seed=0)
@example(case=(b"y\n1\n2\n3\n", PLAIN | {"split": {"train": 2**63, "validation": 1}}), seed=0)
@given(case=csv_tables(), seed=st.integers(0, 3))
@many
def test_any_csv_table_results_in_a_dataset_or_a_one_line_error(
    folder: Path, case: tuple[bytes, dict[str, Any]], seed: int
) -> None:
    content, values = case
    path = folder / "t.csv"
    path.write_bytes(content)
    check(path, values, seed)


marks = [b",", b"\n", b"\r", b'"', b"a", b"1", b"nan", b"\0", b"\xff", b"\xef\xbb\xbf", b" ", b";", b"\t", b"'"]
marked = st.lists(st.sampled_from(marks), max_size=30).map(b"".join)


@given(
    content=st.binary(max_size=60) | marked | marked.map(lambda lines: b"a,1,b,nan\n" + lines),
    values=table_settings(["a", "1", "b", "nan"], "forecast"),
    name=st.sampled_from(["t.csv", "t.csv", "t.parquet"]),
)
@many
def test_any_bytes_result_in_a_dataset_or_a_one_line_error(
    folder: Path, content: bytes, values: dict[str, Any], name: str
) -> None:
    path = folder / name
    path.write_bytes(content)
    check(path, values)


# ---- Parquet
DAY = 86_400
WIDE = [0, 1, -1, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]


def steps(scale: int, bits: int = 64) -> st.SearchStrategy[int]:
    """Return a strategy for counts of a unit: consecutive days, or any number of so many bits."""
    wide = [number for number in WIDE if abs(number) < 2 ** (bits - 1)]
    return st.integers(0, 9).map(lambda day: (19_700 + day) * scale) | st.sampled_from(wide)


def stamped(unit: str, scale: int) -> Iterator[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    bits = 64 if scale > 1 else 53  # seconds are stored as milliseconds
    for zone in (None, "UTC", "Europe/Berlin", "+02:00"):
        yield pa.timestamp(unit, zone), steps(DAY * scale, bits)
    yield pa.duration(unit), steps(DAY * scale, bits)


floats = st.one_of(*20 * [st.floats(-100, 100)], st.sampled_from([float("nan"), float("inf"), 3.4e38, 1e308]))
words = st.sampled_from("ab") | st.text(letters, max_size=5) | days
small, few = st.integers(0, 100), st.integers(0, 9)
TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int32(), steps(1, 32) | few), (pa.int64(), steps(1) | few),
    *((kind, small) for kind in (pa.int8(), pa.int16(), pa.uint8(), pa.uint16(), pa.uint32())),
    (pa.uint64(), few | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1])),
    (pa.float16(), st.floats(width=16)), (pa.float32(), st.floats(width=32)), (pa.float64(), floats),
    (pa.decimal128(10, 2), st.decimals(-100, 100, places=2)),
    (pa.decimal256(70, 0), st.sampled_from([Decimal(0), Decimal(1), Decimal(10**60)])),
    (pa.bool_(), st.booleans()), (pa.null(), st.none()),
    *((kind, words) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    (pa.dictionary(pa.int8(), pa.string()), words), (pa.dictionary(pa.int8(), pa.int64()), few),
    *((kind, st.binary(max_size=4)) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.binary(2), st.binary(min_size=2, max_size=2)), (pa.uuid(), st.binary(min_size=16, max_size=16)),
    (pa.date32(), steps(1, 32)), (pa.date64(), st.integers(-(10**5), 10**5).map(lambda day: day * DAY * 1000)),
    (pa.time32("s"), st.integers(0, DAY - 1)), (pa.time64("us"), st.integers(0, DAY * 10**6 - 1)),
    *stamped("s", 1), *stamped("ms", 10**3), *stamped("us", 10**6), *stamped("ns", 10**9),
    (pa.list_(pa.timestamp("us")), st.lists(st.datetimes(), max_size=2)),
    (pa.list_(pa.int64()), st.lists(few, max_size=2)), (pa.large_list(pa.string()), st.lists(words, max_size=2)),
    (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
    (pa.struct({"a": pa.int64()}), st.fixed_dictionaries({"a": few})),
    (pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(words, few), max_size=2)),
    (pa.json_(), st.sampled_from(["1", "{}", "[1]"])),
]  # fmt: skip
COUNTED = {pa.types.is_timestamp: pa.int64(), pa.types.is_duration: pa.int64(), pa.types.is_date32: pa.int32()}


def array_of(kind: pa.DataType, values: list[Any]) -> Any:
    """Return an array; times are counts, including some outside the range of Python's types."""
    for is_it, stored in COUNTED.items():
        if is_it(kind):
            return pa.array(values, stored).view(kind)
    if pa.types.is_date64(kind):
        return pa.array(values, pa.int64()).view(kind)
    if isinstance(kind, pa.BaseExtensionType):
        return kind.wrap_array(pa.array(values, kind.storage_type))
    return pa.array(values, kind)


@st.composite
def parquet_tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, Any]]:
    table = draw(valid_table())
    task, names, columns = table
    columns[TIME] = [(19_700 + day) * DAY for day in columns[TIME]]
    kinds = [pa.string(), pa.timestamp("s"), pa.float64(), pa.float32()]
    for broken in draw(st.lists(st.sampled_from(["column", "column", "name", "rows"]), max_size=3)):
        column, count = draw(st.integers(0, 3)), len(columns[0])
        match broken:
            case "column":
                kinds[column], cells = draw(st.sampled_from(TYPES))
                cells = draw(st.sampled_from([cells, cells, cells | st.none()]))
                columns[column] = draw(st.lists(cells, min_size=count, max_size=count))
            case "name":
                names[column] = draw(odd_names)
            case "rows":
                columns = with_other_rows(draw, Table(task, names, columns)).columns
    arrays = [array_of(kind, column) for kind, column in zip(kinds, columns, strict=True)]
    return pa.table(arrays, names=names), draw(table_settings(names, task))


def times(kind: pa.DataType, count: int) -> tuple[pa.Table, dict[str, Any]]:
    """Return a table with times or durations, one of them with this count."""
    table = pa.table({"t": array_of(kind, [0, None, count, 1]), "y": [1.0, 2.0, 3.0, 4.0]})
    return table, PLAIN | {"group" if pa.types.is_duration(kind) else "time": "t", "missing": "drop", "gaps": "split"}


def groups(kind: pa.DataType, *names: Any) -> tuple[pa.Table, dict[str, Any]]:
    """Return a table with four groups of this type."""
    return pa.table({"g": array_of(kind, list(names)), "x": [1, 1, 1, 1], "y": [0, 1, 0, 1]}), LABELS | {"group": "g"}


@example(case=times(pa.timestamp("us", "UTC"), 2**62), rows=2, seed=0)
@example(case=times(pa.timestamp("ns", "+02:00"), 2**63 - 1), rows=2, seed=0)
@example(case=times(pa.date64(), -(10**6) * DAY * 1000), rows=2, seed=0)
@example(case=times(pa.date32(), 2**30), rows=2, seed=0)
@example(case=times(pa.duration("ms"), -(2**62)), rows=2, seed=0)
@example(case=groups(pa.string_view(), *"abcd"), rows=9, seed=0)
@example(case=groups(pa.binary_view(), b"a", b"b", b"c", b"d"), rows=9, seed=0)
@example(case=groups(pa.list_(pa.int8()), [], [1], [2], [3]), rows=9, seed=0)
@example(case=groups(pa.map_(pa.string(), pa.int8()), [], [("a", 1)], [("b", 1)], [("c", 1)]), rows=9, seed=0)
@given(case=parquet_tables(), rows=st.integers(1, 30), seed=st.integers(0, 3))
@many
def test_any_parquet_table_results_in_a_dataset_or_a_one_line_error(
    folder: Path, case: tuple[pa.Table, dict[str, Any]], rows: int, seed: int
) -> None:
    table, values = case
    path = folder / "t.parquet"
    pq.write_table(table, path, row_group_size=rows)
    check(path, values, seed)
