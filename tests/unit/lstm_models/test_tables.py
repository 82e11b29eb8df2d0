"""Tables: their digest, how they become tensors, and what is said where they can't."""

import os
import re
import tracemalloc
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_models.data import tutorial
from lstm_models.data.tables import Columns, TableError, digest, numbers, read_csv, to_sequences


def table() -> pd.DataFrame:
    return pd.DataFrame({"name": ["x", "y", "z"], "a": [0.0, 0.5, 2.0], "b": [1, 2, 3]})


def refused(text: str) -> "pytest.RaisesExc[TableError]":
    return pytest.raises(TableError, match=f"^{re.escape(text)}$")


def test_the_tutorials_table_has_a_digest_that_stays() -> None:
    assert digest(tutorial.table()) == "ef3694b90db678e4d9d7b47a725caa17"


def test_equal_tables_have_equal_digests() -> None:
    assert digest(table()) == digest(table())
    assert digest(table()) == digest(table().set_index(pd.Index([7, 8, 9])))  # the index is no content


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(a=[0.0, 0.5, 2.0000000000000004]),
        lambda t: t.assign(b=[1, 2, 4]),
        lambda t: t.assign(name=["x", "y", "Z"]),
        lambda t: t.assign(a=[0.0, 0.5, np.nan]),
        lambda t: t.rename(columns={"a": "A"}),
        lambda t: t.iloc[[1, 0, 2]],
        lambda t: t[["name", "b", "a"]],
        lambda t: t.assign(b=t["b"].astype("int32")),
        lambda t: t.assign(b=t["b"].astype("float64")),
        lambda t: t.iloc[:2],
        lambda t: pd.concat([t, t.iloc[:1]]),
        lambda t: t.drop(columns="b"),
        lambda t: t.assign(c=0),
        lambda t: t.rename(columns={"a": "b", "b": "a"}),
    ],
    ids=[
        "one float, by its last bit",
        "one integer",
        "one text",
        "one missing",
        "a column's name",
        "the order of rows",
        "the order of columns",
        "integers of another size",
        "floats instead of integers",
        "a row less",
        "a row more",
        "a column less",
        "a column more",
        "two names swapped",
    ],
)
def test_every_change_changes_the_digest(change) -> None:
    assert digest(change(table())) != digest(table())


@given(
    values=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=5),
    place=st.tuples(st.integers(0, 4), st.integers(0, 2)),
    other=st.floats(-1e6, 1e6),
)
@settings(deadline=None)  # a shared machine may pause for longer than the default allows
def test_any_one_value_changes_the_digest(values: list[list[float]], place: tuple[int, int], other: float) -> None:
    row, column = place[0] % len(values), place[1]
    changed = [list(numbers) for numbers in values]
    changed[row][column] = other
    before, after = (pd.DataFrame(rows, columns=["a", "b", "c"]) for rows in (values, changed))
    assert (digest(before) == digest(after)) is (values[row][column] == other)


def test_rows_become_sequences_one_column_a_step() -> None:
    sequences = to_sequences(
        pd.DataFrame({"t": [9, 8], "b": [1.5, 2.5], "a": [0, 1], "other": ["x", None]}), Columns(("a", "b"), "t")
    )
    assert torch.equal(sequences.x_BTD, torch.tensor([[[0.0], [1.5]], [[1.0], [2.5]]]))
    assert torch.equal(sequences.y_B, torch.tensor([9.0, 8.0]))
    assert sequences.x_BTD.dtype == sequences.y_B.dtype == torch.float32


def test_the_tutorials_sequences() -> None:
    sequences = to_sequences(tutorial.table(), tutorial.COLUMNS)
    assert sequences.x_BTD.squeeze(-1).tolist() == [[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0]]
    assert sequences.y_B.tolist() == [0.0, 1.0]


def test_tensors_do_not_share_memory_with_the_table() -> None:
    source = pd.DataFrame({"a": np.array([1.0, 2.0], dtype=np.float32)})
    numbers(source, ("a",)).fill_(7)
    assert source["a"].tolist() == [1.0, 2.0]


def test_numbers_written_as_text_are_numbers() -> None:
    assert numbers(pd.DataFrame({"a": ["2", "-1.5e1"]}), ("a",)).flatten().tolist() == [2.0, -15.0]


def test_a_missing_column_is_named_with_those_there_are() -> None:
    with refused("column b is missing; needed: a, b; found: a, c"):
        numbers(pd.DataFrame({"a": [1], "c": [2]}), ("a", "b"))
    with refused("column label is missing; needed: label; found: day_1"):
        to_sequences(pd.DataFrame({"day_1": [1]}), Columns(("day_1",), "label"))
    with refused("column a is missing; needed: a; found: none"):
        numbers(pd.DataFrame(), ("a",))


def test_a_table_without_rows_is_refused() -> None:
    with refused("the table has no rows"):
        numbers(pd.DataFrame({"a": []}), ("a",))


def test_what_is_no_number_is_named_by_column_and_row() -> None:
    with refused("column b, row 2: 'x' is not a finite number"):
        numbers(pd.DataFrame({"a": [1, 2, 3], "b": [1, "x", "y"]}), ("a", "b"))
    with refused("column b, row 1: 'two\\nlines' is not a finite number"):
        numbers(pd.DataFrame({"a": [1], "b": ["two\nlines"]}), ("a", "b"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_named_by_column_and_row(value: float) -> None:
    with pytest.raises(TableError, match=r"^column a, row 3: .* is not a finite number$"):
        numbers(pd.DataFrame({"a": [1.0, 2.0, value]}), ("a",))


def test_a_csv_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table().to_csv(path, index=False)
    assert digest(read_csv(path)) == digest(table())


def test_a_csv_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    with refused(f"{path}: can't be read: No such file or directory"):
        read_csv(path)
    with refused(f"{tmp_path}: can't be read: Is a directory"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "No columns to parse from file"),
        (b"\n\n", "No columns to parse from file"),
        (b"a,b\n1,2\n1,2,3\n", "Error tokenizing data. C error: Expected 2 fields in line 3, saw 3"),
        (b'a,b\n"1,2\n', "Error tokenizing data. C error: EOF inside string starting at row 1"),
        (b"\x89PNG\r\n\x1a\n\x00", "'utf-8' codec can't decode byte 0x89 in position 0: invalid start byte"),
    ],
    ids=["empty", "blank lines", "a field too many", "an open quote", "an image"],
)
def test_a_file_that_is_no_csv_table(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with refused(f"{path}: not a CSV table: {text}"):
        read_csv(path)


@pytest.mark.parametrize(
    ("start", "line", "text"),
    [
        (b"", b"a" * 60_000_000, "a line is longer than 10 MB"),
        (b"a,b\n1,", b"2" * 60_000_000, "a line is longer than 10 MB"),
        (b"a,b\r\n1,", b"2" * 60_000_000 + b"\r\n", "a line is longer than 10 MB"),
        (b"", b"a," * 999_999 + b"a\n1\n", "1,000,000 columns; at most 10,000 are read"),
        (b"\r\n\r\n", b"a," * 10_000 + b"\n1\n", "10,001 columns; at most 10,000 are read"),
        (b"", b"a," * 10_000, "10,001 columns; at most 10,000 are read"),
    ],
)
def test_lines_without_end_are_refused_within_little_memory(
    tmp_path: Path, start: bytes, line: bytes, text: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(start + line)
    tracemalloc.start()
    with refused(f"{path}: {text}"):
        read_csv(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 55e6


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
