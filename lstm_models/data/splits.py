"""Training, validation and test: parts of the data that follow one another, so that no future teaches the past."""

from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pandas as pd

from lstm_models.config import ConfigError, Split


class SplitBounds(NamedTuple):
    """Of so many rows, or groups, in their order: where training, validation and test end (each begins where the one
    before ends)."""

    train: int
    validation: int
    test: int


def split_bounds(count: int, split: Split, times: np.ndarray | None = None) -> SplitBounds:
    """Where the parts end.

    Args:
        count: of the rows of one series, or of the groups.
        split: as the configuration says it: fractions, counts or dates.
        times: each row's time, in order; for dates.

    Raises:
        ConfigError: if the split asks for more than there is, mixes its forms, or leaves training or test nothing.
    """
    parts = [split.train, split.validation, split.test]
    given = [part for part in parts if part is not None]
    if all(isinstance(part, str) for part in given):
        found = _by_date(split, times, count)
    elif all(isinstance(part, float) or part == 0 for part in given):
        found = _by_fraction(given, count)
    elif all(isinstance(part, int) for part in given):
        found = _by_count(given, count)
    else:
        raise ConfigError(f"data.split: {given} given; write fractions such as 0.7, or counts, or dates, not several")
    for name, size in (("training", found.train), ("the test", found.test - found.validation)):
        # by date a series may lie in one part alone
        if size == 0 and not isinstance(split.train, str):
            raise ConfigError(f"data.split: of {count} nothing is left for {name}")
    return found


def _by_fraction(parts: list[float | int | str], count: int) -> SplitBounds:
    fractions = [float(part) for part in parts]
    if any(not 0 <= part <= 1 for part in fractions) or sum(fractions) > 1 + 1e-9:
        raise ConfigError(f"data.split: the fractions {fractions} must lie between 0 and 1 and sum to at most 1")
    stops = [round(count * float(total)) for total in np.cumsum(fractions)]
    return SplitBounds(stops[0], stops[1], stops[2] if len(stops) == 3 else count)


def _by_count(parts: list[float | int | str], count: int) -> SplitBounds:
    stops = list(accumulate(int(part) for part in parts))
    if min(int(part) for part in parts) < 0 or stops[-1] > count:
        raise ConfigError(f"data.split: {', '.join(map(str, parts))} given, but there are {count}")
    return SplitBounds(stops[0], stops[1], stops[2] if len(stops) == 3 else count)


def _utc(moment: str) -> np.datetime64:
    """As the rows' times are kept: without a zone."""
    stamp = pd.Timestamp(moment)
    return np.datetime64(stamp.tz_convert(None) if stamp.tzinfo else stamp)


def _by_date(split: Split, times: np.ndarray | None, count: int) -> SplitBounds:
    if times is None:
        raise ConfigError("data.split: dates need data.time, the column that holds the rows' times")
    stops = []
    for name in ("train", "validation", "test"):
        moment = getattr(split, name)
        try:
            stops.append(count if moment is None else int(np.searchsorted(times, _utc(moment))))
        except (ValueError, TypeError):
            raise ConfigError(f"data.split.{name}: {moment!r} given, must be a date such as 2017-06-30") from None
    if stops != sorted(stops):
        raise ConfigError("data.split: the dates of train, validation and test must follow one another")
    return SplitBounds(*stops)
