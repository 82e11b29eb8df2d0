"""Which of two is better, by their losses on the same examples."""

import math

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from lstm_models.evaluation.bootstrap import paired_difference
from lstm_models.evaluation.model_selection import Verdict
from tasks import tracking
from tasks.schemas import BaselineResult, PhaseResult, Score, ScoreDifference


def paired_verdict(a: Score, b: Score, min_improvement: float = 0.0) -> Verdict:
    """What a is in comparison with b; "not significant" where they were judged on different data, or losses are gone.

    In sample the losses are all that there is to know, and the lower one is better. On other data than was trained on
    they are a sample, and a difference counts where its 95 % interval does not hold 0. With a margin it has to be
    larger than that share of b's loss too.
    """
    if a.dataset != b.dataset:
        return "not significant"
    if a.losses_uri is None or b.losses_uri is None:
        away = a.loss - b.loss
        return (
            "not significant"
            if not away or abs(away) <= min_improvement * b.loss
            else "better"
            if away < 0
            else "worse"
        )
    try:
        return paired_difference(_read_losses(a), _read_losses(b), a.block, min_improvement=min_improvement).verdict
    except (MlflowException, OSError):  # someone has deleted the run, and with it the losses
        return "not significant"


def score_difference(a: PhaseResult | BaselineResult, b: PhaseResult | BaselineResult) -> ScoreDifference:
    """How a's losses differ from b's on the same examples; not in sample."""
    found = paired_difference(_read_losses(a), _read_losses(b), a.block)
    known = math.isfinite(found.high - found.low)
    return ScoreDifference(
        model=a.name,
        reference=b.name,
        mean=found.mean,
        low=found.low if known else None,
        high=found.high if known else None,
        verdict=found.verdict,
    )


def _read_losses(judged: Score) -> NDArray[np.float64]:
    assert judged.losses_uri is not None
    return pd.read_parquet(tracking.download(judged.losses_uri))["loss"].to_numpy()
