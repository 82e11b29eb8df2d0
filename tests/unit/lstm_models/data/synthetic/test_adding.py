"""The adding problem's table: two marked steps per sequence, their sum, and no use of global random generators."""

import math

import numpy as np
import pandas as pd
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lstm_models.data.sequences import table_digest, to_sequences
from lstm_models.data.synthetic import adding


def parts(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return values and marks, (count, length) each."""
    columns = [table[[name for name in table.columns if name.startswith(f"{role}_")]] for role in ("value", "mark")]
    return columns[0].to_numpy(), columns[1].to_numpy()


def test_a_row_is_a_sequence_with_its_name_and_its_sum() -> None:
    table = adding.table(3, 2, 0)
    inputs = ["value_1", "mark_1", "value_2", "mark_2", "value_3", "mark_3"]
    assert list(table.columns) == ["sequence", *inputs, "sum"]
    assert adding.columns(3) == (tuple(inputs), "sum", 2)
    assert (table["sequence"].tolist(), table.index.tolist()) == (["1", "2"], [0, 1])
    assert set(table.drop(columns="sequence").dtypes) == {np.dtype("float32")}
    # results are compared by the table's digest: fail if a NumPy version draws other numbers
    assert table_digest(adding.table(100, 10, 0)) == "2b4e1c2bcf90d5ffe74b411086265dfb"


@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 2**32 - 1))
@example(2, 1, 0)  # both steps are marked
@example(3, 5, 0)  # the first half is one step, the second two
@example(7, 5, 2**32 - 1)
def test_one_value_in_each_half_is_marked_and_their_sum_is_the_target(length: int, count: int, seed: int) -> None:
    table = adding.table(length, count, seed)
    values, marks = parts(table)
    assert values.shape == marks.shape == (count, length)
    assert 0 <= values.min() <= values.max() < 1
    assert set(np.unique(marks)) <= {0.0, 1.0}
    half = length // 2  # for an odd length the second half contains the middle step
    assert (marks[:, :half].sum(axis=1) == 1).all()
    assert (marks[:, half:].sum(axis=1) == 1).all()
    first, second = (values[:, part][marks[:, part] == 1] for part in (slice(half), slice(half, None)))
    assert table["sum"].tolist() == (first + second).tolist()  # float32, bitwise

    x_BTD, y_B = to_sequences(table, adding.columns(length))
    assert (x_BTD.dtype, y_B.dtype) == (torch.float32, torch.float32)
    assert torch.equal(x_BTD, torch.from_numpy(np.stack([values, marks], axis=2)))
    assert y_B.tolist() == table["sum"].tolist()


def test_the_table_depends_on_its_arguments_only_and_changes_no_global_generator() -> None:
    tables, drawn = [], []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        if drawn:
            tables.append(adding.table(10, 8, 3))
        drawn.append((np.random.rand(), torch.rand(1).item()))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert drawn[0] == drawn[1]
    assert len({table_digest(adding.table(*some)) for some in [(10, 8, 3), (10, 8, 4), (10, 9, 3), (11, 8, 3)]}) == 4
    rows = {tuple(row) for seed in range(3) for row in adding.table(10, 100, seed)[["value_1", "value_2"]].to_numpy()}
    assert len(rows) == 300  # no sequence occurs twice


def test_values_are_uniform_and_marks_are_uniform_and_independent() -> None:
    """With a fixed seed; each bound is five standard deviations, which 6 seeds in ten million exceed."""
    count, length = 20_000, 7
    table = adding.table(length, count, 0)
    values, marks = parts(table)
    # x = u + v - 1 of two uniform numbers has the density 1 - |x| on [-1, 1]: E[x^2] = 1/6, the mean squared error of
    # predicting 1; Var[x^2] = E[x^4] - E[x^2]^2 = 1/15 - 1/36 = 7/180
    squares = (table["sum"].to_numpy(np.float64) - 1) ** 2
    assert abs(squares.mean() - 1 / 6) < 5 * math.sqrt(7 / 180 / count)
    for share, of_steps in ((1 / 3, marks[:, :3]), (1 / 4, marks[:, 3:])):
        assert np.abs(of_steps.mean(axis=0) - share).max() < 5 * math.sqrt(share * (1 - share) / count)
    # independent numbers have a correlation of mean 0 and standard deviation 1 / sqrt(n)
    first, second = marks[:, :3].argmax(axis=1), marks[:, 3:].argmax(axis=1)
    correlations = np.corrcoef(np.column_stack([first, second, values]), rowvar=False)
    assert np.abs(correlations - np.eye(length + 2)).max() < 5 / math.sqrt(count)
