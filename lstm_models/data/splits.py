"""Bounds of the training, validation and test parts.

The parts are in chronological order, so no model is trained on data that is later than its test data.
"""

from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pandas as pd

from lstm_models.config import ConfigError, Split


class SplitBounds(NamedTuple):
    """Exclusive ends of the training, validation and test parts; each part starts where the previous one ends."""

    train: int
    validation: int
    test: int


def split_bounds(count: int, split: Split, times: np.ndarray | None = None) -> SplitBounds:
    """Return the bounds of the parts.

    Args:
        count: number of rows of one series, or of groups.
        split: the configured fractions, counts or dates.
        times: time of each row or group, ascending; required for a split by date.

    Raises:
        ConfigError: if the split exceeds the data, mixes fractions, counts and dates, or leaves the training or the
            test part empty.
    """
    parts = [split.train, split.validation, split.test]
    configured = [part for part in parts if part is not None]
    if all(isinstance(part, str) for part in configured):
        bounds = _by_date(split, times, count)
    elif all(isinstance(part, float) or part == 0 for part in configured):
        bounds = _by_fraction(configured, count)
    elif all(isinstance(part, int) for part in configured):
        bounds = _by_count(configured, count)
    else:
        raise ConfigError(f"data.split: {configured} given; use only fractions such as 0.7, only counts, or only dates")
    for name, size in (("training", bounds.train), ("test", bounds.test - bounds.validation)):
        # in a split by date, all rows of a series may be in one part
        if size == 0 and not isinstance(split.train, str):
            raise ConfigError(
                f"data.split: {configured} given, which leaves none of {count} for the {name} part; change the split"
            )
    return bounds


def _by_fraction(parts: list[float | int | str], count: int) -> SplitBounds:
    fractions = [float(part) for part in parts]
    if any(not 0 <= part <= 1 for part in fractions) or sum(fractions) > 1 + 1e-9:
        raise ConfigError(f"data.split: {fractions} given; fractions must lie between 0 and 1 and sum to at most 1")
    stops = [round(count * float(total)) for total in np.cumsum(fractions)]
    return SplitBounds(stops[0], stops[1], stops[2] if len(stops) == 3 else count)


def _by_count(parts: list[float | int | str], count: int) -> SplitBounds:
    stops = list(accumulate(int(part) for part in parts))
    if min(int(part) for part in parts) < 0 or stops[-1] > count:
        raise ConfigError(
            f"data.split: {', '.join(map(str, parts))} given, but there are {count}; counts must be at least 0 and sum "
            f"to at most {count}"
        )
    return SplitBounds(stops[0], stops[1], stops[2] if len(stops) == 3 else count)


def _utc(moment: str) -> np.datetime64:
    """Return a date as the rows' times are stored: in UTC, without a zone."""
    stamp = pd.Timestamp(moment)
    return np.datetime64(stamp.tz_convert(None) if stamp.tzinfo else stamp)


def _by_date(split: Split, times: np.ndarray | None, count: int) -> SplitBounds:
    if times is None:
        raise ConfigError("data.split: a split by date requires data.time, the name of the time column")
    stops = []
    for name in ("train", "validation", "test"):
        moment = getattr(split, name)
        try:
            stops.append(count if moment is None else int(np.searchsorted(times, _utc(moment))))
        except (ValueError, TypeError):
            raise ConfigError(f"data.split.{name}: {moment!r} given; must be a date such as 2017-06-30") from None
    if stops != sorted(stops):
        raise ConfigError("data.split: the dates of train, validation and test must be in ascending order")
    return SplitBounds(*stops)
