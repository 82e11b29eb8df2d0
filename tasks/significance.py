"""Paired comparison of two models by their losses on the same examples."""

import math

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from lstm_models.evaluation.bootstrap import paired_difference
from lstm_models.evaluation.model_selection import Score, Verdict
from tasks import tracking
from tasks.schemas import BaselineResult, PhaseResult, ScoreDifference


def paired_verdict(a: Score, b: Score, min_improvement: float = 0.0) -> Verdict:
    """Return the verdict on a compared with b.

    In sample there is no sampling error, so the lower loss is better. On held-out data the losses are a sample, so a
    difference is significant only if its 95 % interval does not contain 0. With `min_improvement` it must also exceed
    that share of b's loss. It is "not significant" if the two were evaluated on different data, or if their losses were
    deleted.
    """
    if a.dataset != b.dataset:
        return "not significant"
    if a.losses_uri is None or b.losses_uri is None:
        difference = a.loss - b.loss
        return (
            "not significant"
            if not difference or abs(difference) <= min_improvement * b.loss
            else "better"
            if difference < 0
            else "worse"
        )
    try:
        return paired_difference(_read_losses(a), _read_losses(b), a.block, min_improvement=min_improvement).verdict
    except (MlflowException, OSError):  # the run was deleted, and with it the losses
        return "not significant"


def score_difference(a: PhaseResult | BaselineResult, b: PhaseResult | BaselineResult) -> ScoreDifference:
    """Return the mean difference of a's and b's losses on the same examples, which must not be in sample."""
    difference = paired_difference(_read_losses(a), _read_losses(b), a.block)
    finite = math.isfinite(difference.high - difference.low)
    return ScoreDifference(
        model=a.name,
        reference=b.name,
        mean=difference.mean,
        low=difference.low if finite else None,
        high=difference.high if finite else None,
        verdict=difference.verdict,
    )


def _read_losses(score: Score) -> NDArray[np.float64]:
    assert score.losses_uri is not None
    return pd.read_parquet(tracking.download(score.losses_uri))["loss"].to_numpy()
