"""Drift of the inputs between training data and new data, as two statistics per feature.

Shapes: N training rows, M new rows, D columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lstm_models.data.dataset import Dataset
from lstm_models.data.windows import Examples, LabelledSequences, Windows

BINS = 10
MAX_ROWS = 200_000  # rows that are compared; of more rows, a random sample with a fixed seed

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Drift:
    """How far a feature's distribution has moved.

    Attributes:
        psi: The population stability index, with the training rows' deciles as bins: the sum of (q - p) ln(q / p) over
            the bins' shares p of the training rows and q of the new ones. By convention, a feature is stable below
            0.1 and has shifted above 0.25. Without drift its expected value is about 9 (1 / N + 1 / M), so that a
            threshold of 0.25 needs more than a few dozen new rows.
        ks: The Kolmogorov-Smirnov statistic, the largest distance between the two distribution functions, 0 to 1.
    """

    psi: float
    ks: float


def dataset_drift(trained: Dataset, new: Dataset) -> dict[str, Drift]:
    """Return each input's drift, by name, from one dataset's training rows to another one's test rows.

    Both are datasets of tables with one time step per row, and have the same columns.
    """
    trained_ND, new_ND = _rows(trained, trained.train), _rows(new, new.test)
    return {name: feature_drift(trained_ND[:, index], new_ND[:, index]) for index, name in enumerate(new.columns)}


def _rows(dataset: Dataset, examples: Examples) -> Floats:
    assert dataset.series
    assert isinstance(examples, Windows | LabelledSequences)
    return np.concatenate([dataset.series.values[begin:end] for begin, end in examples.row_spans()])


def feature_drift(trained_N: Floats, new_M: Floats) -> Drift:
    """Compare a feature's new values with those of the training rows, in float32, the precision of a model's input.

    A share of 0 on one side only counts as half a row, so that the index is finite.

    Source of the index: Siddiqi 2006.

    Raises:
        ValueError: If either array is empty, or a value is not finite in float32.
    """
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is checked below
        trained_N, new_M = (np.asarray(values, dtype=np.float32) for values in (trained_N, new_M))
    if not len(trained_N) or not len(new_M) or not np.isfinite(trained_N).all() or not np.isfinite(new_M).all():
        raise ValueError(
            f"{len(trained_N)} training values and {len(new_M)} new values: both must have some, all finite"
        )
    trained_N, new_M = (np.sort(_sample(values)) for values in (trained_N, new_M))
    return Drift(_psi(trained_N, new_M), _ks(trained_N, new_M))


def _sample(values: Floats) -> Floats:
    # random, because every n-th row of seasonal data could be always the same hour
    return values if len(values) <= MAX_ROWS else np.random.default_rng(0).choice(values, MAX_ROWS, replace=False)


def _psi(trained_N: Floats, new_M: Floats) -> float:
    """Return the index of sorted values.

    A bin includes its lower edge. A value that equals several deciles has a bin of its own.
    """
    tenths = [len(trained_N) * tenth // BINS for tenth in range(1, BINS)]
    deciles, times = np.unique(trained_N[tenths], return_counts=True)
    repeated = deciles[times > 1]
    trained, new = (
        np.bincount(
            np.searchsorted(deciles, values, side="right") + np.searchsorted(repeated, values, side="left"),
            minlength=len(deciles) + len(repeated) + 1,
        )
        for values in (trained_N, new_M)
    )
    occupied = trained + new > 0
    p, q = np.maximum(trained[occupied], 0.5) / len(trained_N), np.maximum(new[occupied], 0.5) / len(new_M)
    return float(((q - p) * np.log(q / p)).sum())


def _ks(trained_N: Floats, new_M: Floats) -> float:
    """Return the statistic of sorted values."""
    steps = np.concatenate([trained_N, new_M])
    below_N, below_M = (np.searchsorted(values, steps, side="right") / len(values) for values in (trained_N, new_M))
    return float(np.abs(below_N - below_M).max())
