"""Tables with one sequence per row: digest, conversion to tensors, and rejected tables."""

import os
import tracemalloc
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st

from lstm_models.data.readers.csv import read_csv
from lstm_models.data.sequences import SequenceColumns, column_tensor, read_inputs, table_digest, to_sequences
from lstm_models.data.synthetic import tutorial
from lstm_models.utils.errors import TableError


def table() -> pd.DataFrame:
    return pd.DataFrame({"name": ["x", "y", "z"], "a": [0.0, 0.5, 2.0], "b": [1, 2, 3]})


def test_equal_tables_have_equal_digests() -> None:
    assert table_digest(table()) == table_digest(table())
    assert table_digest(table()) == table_digest(table().set_index(pd.Index([7, 8, 9])))  # the index does not count
    assert table_digest(tutorial.table()) == "ef3694b90db678e4d9d7b47a725caa17"  # results are compared by this digest


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(a=[0.0, 0.5, 2.0000000000000004]), lambda t: t.assign(b=[1, 2, 4]),
        lambda t: t.assign(name=["x", "y", "Z"]), lambda t: t.assign(a=[0.0, 0.5, np.nan]),
        lambda t: t.rename(columns={"a": "A"}), lambda t: t.rename(columns={"a": "b", "b": "a"}),
        lambda t: t[["name", "b", "a"]], lambda t: t.drop(columns="b"), lambda t: t.assign(c=0),
        lambda t: t.assign(b=t["b"].astype("int32")), lambda t: t.assign(b=t["b"].astype("float64")),
        lambda t: t.iloc[[1, 0, 2]], lambda t: t.iloc[:2], lambda t: pd.concat([t, t.iloc[:1]]),
    ],
)  # fmt: skip
def test_every_change_affects_the_digest(change: Any) -> None:
    assert table_digest(change(table())) != table_digest(table())


@given(
    values=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=5),
    cell=st.tuples(st.integers(0, 4), st.integers(0, 2)),
    other=st.floats(-1e6, 1e6),
)
def test_each_value_affects_the_digest(values: list[list[float]], cell: tuple[int, int], other: float) -> None:
    row, column = cell[0] % len(values), cell[1]
    changed = [list(numbers) for numbers in values]
    changed[row][column] = other
    before, after = (pd.DataFrame(rows, columns=["a", "b", "c"]) for rows in (values, changed))
    assert (table_digest(before) == table_digest(after)) is (values[row][column] == other)


def test_rows_become_sequences_with_one_column_per_step() -> None:
    source = pd.DataFrame({"t": [9, 8], "b": [1.5, 2.5], "a": [0, 1], "other": ["x", None]})
    sequences = to_sequences(source, SequenceColumns(("a", "b"), "t"))
    assert torch.equal(sequences.x_BTD, torch.tensor([[[0.0], [1.5]], [[1.0], [2.5]]]))
    assert torch.equal(sequences.y_B, torch.tensor([9.0, 8.0]))
    assert sequences.x_BTD.dtype == sequences.y_B.dtype == torch.float32
    of_tutorial = to_sequences(tutorial.table(), tutorial.COLUMNS)
    assert of_tutorial.x_BTD.squeeze(-1).tolist() == [[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0]]
    assert of_tutorial.y_B.tolist() == [0.0, 1.0]


def test_tensors_are_copies_and_numbers_may_be_text() -> None:
    source = pd.DataFrame({"a": np.array([1.0, 2.0], dtype=np.float32)})
    column_tensor(source, ("a",)).fill_(7)
    assert source["a"].tolist() == [1.0, 2.0]
    assert column_tensor(pd.DataFrame({"a": ["2", "-1.5e1"]}), ("a",)).flatten().tolist() == [2.0, -15.0]


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"a": [1], "c": [2]}, ("column b ", "a, b", "a, c")),
        ({}, ("column a ", "a, b", "none")),
        ({"a": [], "b": []}, ("no rows",)),
        ({"a": [1, 2, 3], "b": [1, "x", "y"]}, ("column b, row 2: 'x'", "finite")),
        ({"a": [1], "b": ["two\nlines"]}, ("column b, row 1: 'two\\nlines'", "finite")),
        *(({"a": [1.0, 2.0, bad], "b": 1}, (f"column a, row 3: {bad}", "finite")) for bad in (np.nan, np.inf, -np.inf)),
        ({"a": [1, 1e39], "b": 1}, ("column a, row 2: 1e+39", "float32")),
    ],
)
def test_columns_that_are_not_numeric_are_rejected(columns: dict[str, Any], texts: tuple[str, ...]) -> None:
    with refused(TableError, *texts):
        column_tensor(pd.DataFrame(columns), ("a", "b"))


def test_a_missing_target_is_rejected() -> None:
    with refused(TableError, "column label ", "day_1"):
        to_sequences(pd.DataFrame({"day_1": [1]}), SequenceColumns(("day_1",), "label"))


# ---- CSV
def test_a_csv_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table().to_csv(path, index=False)
    assert table_digest(read_csv(path)) == table_digest(table())
    read, x_BTD = read_inputs(path, SequenceColumns(("b", "a"), "none"))
    assert table_digest(read) == table_digest(table())
    assert x_BTD.tolist() == [[[1], [0]], [[2], [0.5]], [[3], [2]]]
    with refused(TableError, f"{path}: column name, row 1: 'x'"):
        read_inputs(path, SequenceColumns(("name",), "none"))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (None, ("No such file",)),
        (b"", ("not a CSV table", "No columns")),
        (b"\n\n", ("not a CSV table", "No columns")),
        (b"a,b\n1,2\n1,2,3\n", ("not a CSV table", "2 fields in line 3, saw 3")),
        (b"a,b\n1,2,3\n1,2,3\n", ("a row has more fields than the header",)),
        (b'a,b\n"1,2\n', ("not a CSV table", "inside string")),
        (b"\x89PNG\r\n\x1a\n\x00", ("not a CSV table", "utf-8", "0x89")),
    ],
)
def test_files_that_are_not_csv_tables_are_rejected(
    tmp_path: Path, content: bytes | None, texts: tuple[str, ...]
) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with refused(TableError, f"{path}: ", *texts):
        read_csv(path)
    with refused(TableError, f"{tmp_path}: ", "directory"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("start", "line", "text"),
    [
        (b"a,b\r\n1,", b"2" * 60_000_000 + b"\r\n", "10 MB"),
        (b"\r\n\r\n", b"a," * 10_000 + b"\n1\n", "10,001 columns; at most 10,000"),
        (b"", b"a," * 10_000, "10,001 columns; at most 10,000"),
    ],
)
def test_endless_lines_are_rejected_with_little_memory(tmp_path: Path, start: bytes, line: bytes, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(start + line)
    tracemalloc.start()
    with refused(TableError, f"{path}: ", text):
        read_csv(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 55e6  # less than the length of the line


def test_lines_up_to_the_limit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\na,b\n1," + b"x" * 9_000_000 + b"\n" + b"2,y\n" * 100)
    assert read_csv(path)["a"].tolist() == [1] + [2] * 100
    path.write_text(",".join(f"c{i}" for i in range(10_000)) + "\n" + "1," * 9999 + "1\n")
    assert read_csv(path).shape == (1, 10_000)


def test_a_csv_file_may_come_through_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    os.mkfifo(path)
    writer = Thread(target=path.write_text, args=("a,b\n1,2\n",))
    writer.start()
    assert read_csv(path).to_dict("list") == {"a": [1], "b": [2]}
    writer.join()
