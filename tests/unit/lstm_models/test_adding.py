"""The adding problem's table: two marks in each sequence, the sum of what is marked, and nothing by chance."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_models.data import adding
from lstm_models.data.tables import digest, to_sequences


def parts(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Values and marks, (count, length) each."""
    named = [table[[name for name in table.columns if name.startswith(f"{what}_")]] for what in ("value", "mark")]
    return named[0].to_numpy(), named[1].to_numpy()


def test_a_row_is_a_sequence_of_values_and_marks_with_its_name_and_its_sum() -> None:
    table = adding.table(3, 2, 0)
    assert list(table.columns) == [
        "sequence", "value_1", "mark_1", "value_2", "mark_2", "value_3", "mark_3", "sum",
    ]  # fmt: skip
    assert table["sequence"].tolist() == ["1", "2"]
    assert table.index.tolist() == [0, 1]
    assert set(table.drop(columns="sequence").dtypes) == {np.dtype("float32")}


def test_the_columns_are_two_features_a_step_and_the_sum() -> None:
    assert adding.columns(2) == (("value_1", "mark_1", "value_2", "mark_2"), "sum", 2)


@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 2**32 - 1))
@example(2, 1, 0)  # both are marked
@example(3, 5, 0)  # the first half is one step, the second two
@example(7, 5, 2**32 - 1)
@settings(derandomize=True, deadline=None, max_examples=50)
def test_one_value_in_each_half_is_marked_and_their_sum_is_the_target(length: int, count: int, seed: int) -> None:
    table = adding.table(length, count, seed)
    values, marks = parts(table)
    assert values.shape == marks.shape == (count, length)
    assert values.min() >= 0
    assert values.max() < 1
    assert set(np.unique(marks)) <= {0.0, 1.0}
    half = length // 2  # of an odd length the second half has the step in the middle
    assert (marks[:, :half].sum(axis=1) == 1).all()
    assert (marks[:, half:].sum(axis=1) == 1).all()
    first, second = (values[:, part][marks[:, part] == 1] for part in (slice(half), slice(half, None)))
    assert table["sum"].tolist() == (first + second).tolist()  # float32's sum, to the last bit

    x_BTD, y_B = to_sequences(table, adding.columns(length))
    assert (x_BTD.dtype, y_B.dtype) == (torch.float32, torch.float32)
    assert torch.equal(x_BTD, torch.from_numpy(np.stack([values, marks], axis=2)))
    assert y_B.tolist() == table["sum"].tolist()


def test_of_two_steps_both_are_marked() -> None:
    x_BTD, y_B = to_sequences(adding.table(2, 5, 1), adding.columns(2))
    assert x_BTD.shape == (5, 2, 2)
    assert torch.equal(x_BTD[:, :, 1], torch.ones(5, 2))
    assert torch.equal(x_BTD[:, 0, 0] + x_BTD[:, 1, 0], y_B)


def test_the_same_arguments_give_the_same_table_whatever_was_drawn_in_between() -> None:
    before = adding.table(10, 8, 3)
    np.random.seed(0)
    torch.manual_seed(0)
    pd.testing.assert_frame_equal(adding.table(10, 8, 3), before, check_exact=True)


def test_nothing_is_drawn_from_the_global_generators() -> None:
    drawn = []
    for between in (lambda: None, lambda: adding.table(10, 8, 3)):
        np.random.seed(0)
        torch.manual_seed(0)
        between()
        drawn.append((np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_every_argument_changes_the_table() -> None:
    arguments = [(10, 8, 3), (10, 8, 4), (10, 9, 3), (11, 8, 3)]
    assert len({digest(adding.table(*given)) for given in arguments}) == 4


def test_with_another_seed_no_sequence_comes_again() -> None:
    rows = {tuple(row) for seed in range(3) for row in adding.table(10, 100, seed)[["value_1", "value_2"]].to_numpy()}
    assert len(rows) == 300


def test_the_table_stays_what_it_is() -> None:
    """Results of one data set are compared by its digest: another NumPy that draws otherwise is to be noticed."""
    assert digest(adding.table(100, 10, 0)) == "2b4e1c2bcf90d5ffe74b411086265dfb"


COUNT, LENGTH = 20_000, 7


@pytest.fixture(scope="module")
def large() -> pd.DataFrame:
    return adding.table(LENGTH, COUNT, 0)


def test_who_always_predicts_1_has_a_mean_squared_error_of_a_sixth(large: pd.DataFrame) -> None:
    """x = u + v - 1 of two uniform numbers has the density 1 - |x| on [-1, 1], so that E[x^2] = 1/6, E[x^4] = 1/15 and
    Var[x^2] = 1/15 - 1/36 = 7/180. The mean over n sequences stays within 5 standard deviations, sqrt(7/180/n) each,
    for all but 6 seeds in ten million, and this is one seed."""
    squares = (large["sum"].to_numpy(np.float64) - 1) ** 2
    assert abs(squares.mean() - 1 / 6) < 5 * math.sqrt(7 / 180 / COUNT)


def test_every_step_of_a_half_is_marked_equally_often(large: pd.DataFrame) -> None:
    """A share of p over n sequences has the standard deviation sqrt(p (1 - p) / n); 5 of them as above."""
    _, marks = parts(large)
    for share, of_steps in ((1 / 3, marks[:, :3]), (1 / 4, marks[:, 3:])):
        assert np.abs(of_steps.mean(axis=0) - share).max() < 5 * math.sqrt(share * (1 - share) / COUNT)


def test_the_two_marks_are_drawn_apart_from_each_other_and_from_the_values(large: pd.DataFrame) -> None:
    """Independent numbers have a correlation of mean 0 and standard deviation 1 / sqrt(n); 5 of them as above."""
    values, marks = parts(large)
    first, second = marks[:, :3].argmax(axis=1), marks[:, 3:].argmax(axis=1)
    correlations = np.corrcoef(np.column_stack([first, second, values]), rowvar=False)
    assert np.abs(correlations - np.eye(LENGTH + 2)).max() < 5 / math.sqrt(COUNT)
