"""Whether inputs are still what a model was trained on: two figures a feature. N training rows, M new ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lstm_models.data.dataset import Dataset
from lstm_models.data.windows import Examples, LabelledSequences, Windows

BINS = 10
MAX_ROWS = 200_000  # rows of either kind that are looked at: a draw that is always the same, which no season escapes

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Drift:
    """How far a feature has moved.

    psi: the population stability index, the training rows' deciles as bins: sum of (q - p) ln(q / p) over the shares p
        of the training rows and q of the new ones; by custom below 0.1 is stable, above 0.25 another population. Where
        nothing has moved chance alone makes it about 9 (1 / N + 1 / M): 0.25 takes more than a few dozen new rows.
    ks: the Kolmogorov-Smirnov statistic, the largest distance between the two distribution functions, 0 to 1.
    """

    psi: float
    ks: float


def dataset_drift(trained: Dataset, now: Dataset) -> dict[str, Drift]:
    """How far each input has moved, by its name: the rows that one dataset is judged by against those that another one
    trains on. Both are of tables with a time step a row, and have the same columns."""
    trained_ND, now_ND = _rows(trained, trained.train), _rows(now, now.test)
    return {name: feature_drift(trained_ND[:, place], now_ND[:, place]) for place, name in enumerate(now.columns)}


def _rows(dataset: Dataset, examples: Examples) -> Floats:
    assert dataset.series
    assert isinstance(examples, Windows | LabelledSequences)
    return np.concatenate([dataset.series.values[begin:end] for begin, end in examples.spans()])


def feature_drift(trained_N: Floats, new_M: Floats) -> Drift:
    """Hold a feature's new values against those of the training rows; in float32, as a model sees them.

    A share that is 0 of one kind alone counts as half a row, so that the index stays finite.

    Source: Siddiqi 2006 for the index.

    Raises:
        ValueError: if there are no rows of either kind, or a value is not finite in float32.
    """
    with np.errstate(over="ignore"):  # then it is infinite
        trained_N, new_M = (np.asarray(values, dtype=np.float32) for values in (trained_N, new_M))
    if not len(trained_N) or not len(new_M) or not np.isfinite(trained_N).all() or not np.isfinite(new_M).all():
        raise ValueError(
            f"{len(trained_N)} training values and {len(new_M)} new ones given: it takes some of both, all finite"
        )
    trained_N, new_M = (np.sort(_has_few_values(values)) for values in (trained_N, new_M))
    return Drift(_psi(trained_N, new_M), _ks(trained_N, new_M))


def _has_few_values(values: Floats) -> Floats:
    return values if len(values) <= MAX_ROWS else np.random.default_rng(0).choice(values, MAX_ROWS, replace=False)


def _psi(trained_N: Floats, new_M: Floats) -> float:
    """Of sorted values. A bin holds its lower edge; a value that is several deciles has a bin of its own."""
    tenths = [len(trained_N) * tenth // BINS for tenth in range(1, BINS)]
    deciles, times = np.unique(trained_N[tenths], return_counts=True)
    often = deciles[times > 1]
    trained, new = (
        np.bincount(
            np.searchsorted(deciles, values, side="right") + np.searchsorted(often, values, side="left"),
            minlength=len(deciles) + len(often) + 1,
        )
        for values in (trained_N, new_M)
    )
    some = trained + new > 0
    p, q = np.maximum(trained[some], 0.5) / len(trained_N), np.maximum(new[some], 0.5) / len(new_M)
    return float(((q - p) * np.log(q / p)).sum())


def _ks(trained_N: Floats, new_M: Floats) -> float:
    """Of sorted values."""
    steps = np.concatenate([trained_N, new_M])
    below_N, below_M = (np.searchsorted(values, steps, side="right") / len(values) for values in (trained_N, new_M))
    return float(np.abs(below_N - below_M).max())
