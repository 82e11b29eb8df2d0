"""The adding problem: a test of whether a network remembers two numbers over a long sequence.

Each time step has a number drawn uniformly from [0, 1) and a mark, 0 or 1. Two steps are marked, one in the first
half of the sequence and one in the second; the target is the sum of the two marked numbers. A model that always
predicts 1 has a mean squared error of 1/6.

Source: Hochreiter and Schmidhuber 1997, experiment 4; in the form of Le, Jaitly and Hinton 2015.
"""

import numpy as np
import pandas as pd

from lstm_models.data.sequences import SequenceColumns


def columns(length: int) -> SequenceColumns:
    """Return the columns of a table of sequences of this length: value_1, mark_1, value_2, and so on."""
    return SequenceColumns(
        tuple(f"{name}_{step}" for step in range(1, length + 1) for name in ("value", "mark")), "sum", 2
    )


def table(length: int, count: int, seed: int) -> pd.DataFrame:
    """Return a table of float32 numbers with one row per sequence; equal arguments give an equal table."""
    generator = np.random.default_rng(seed)
    values = generator.random((count, length), dtype=np.float32)
    half = length // 2
    marked = np.stack([generator.integers(0, half, count), generator.integers(half, length, count)], axis=1)
    marks = np.zeros_like(values)
    np.put_along_axis(marks, marked, 1, axis=1)
    steps = np.stack([values, marks], axis=2).reshape(count, 2 * length)
    rows = pd.DataFrame(steps, columns=list(columns(length).inputs))
    rows["sum"] = np.take_along_axis(values, marked, axis=1).sum(axis=1)
    rows.insert(0, "sequence", np.arange(1, count + 1).astype(str))
    return rows
