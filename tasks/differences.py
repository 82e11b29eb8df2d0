"""Which of two is better, by their losses on the same examples."""

import math

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from lstm_models.comparison import Verdict
from lstm_models.intervals import paired_difference
from tasks import tracking
from tasks.references import Baseline, Difference, Judged, Result


def verdict(a: Judged, b: Judged, margin: float = 0.0) -> Verdict:
    """What a is in comparison with b; "can't tell" where they were judged on different data, or losses are gone.

    In sample the losses are all that there is to know, and the lower one is better. On other data than was trained on
    they are a sample, and a difference counts where its 95 % interval does not hold 0. With a margin it has to be
    larger than that share of b's loss too.
    """
    if a.dataset != b.dataset:
        return "can't tell"
    if a.losses_uri is None or b.losses_uri is None:
        away = a.loss - b.loss
        return "can't tell" if not away or abs(away) <= margin * b.loss else "better" if away < 0 else "worse"
    try:
        return paired_difference(_losses(a), _losses(b), a.block, margin=margin).verdict
    except (MlflowException, OSError):  # someone has deleted the run, and with it the losses
        return "can't tell"


def difference(a: Result | Baseline, b: Result | Baseline) -> Difference:
    """How a's losses differ from b's on the same examples; not in sample."""
    found = paired_difference(_losses(a), _losses(b), a.block)
    known = math.isfinite(found.high - found.low)
    return Difference(
        of=a.name,
        than=b.name,
        mean=found.mean,
        low=found.low if known else None,
        high=found.high if known else None,
        verdict=found.verdict,
    )


def _losses(judged: Judged) -> NDArray[np.float64]:
    assert judged.losses_uri is not None
    return pd.read_parquet(tracking.download(judged.losses_uri))["loss"].to_numpy()
