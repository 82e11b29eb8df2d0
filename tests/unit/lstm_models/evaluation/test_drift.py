"""The two drift statistics of a feature, against SciPy, a plain loop and manual computations."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from lstm_models.config import TableData
from lstm_models.data.builders import build_dataset
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation import drift as drift_module
from lstm_models.evaluation.drift import Drift, dataset_drift, feature_drift

values = st.lists(st.integers(-20, 20), min_size=1, max_size=60)  # with many ties; exact in float32


def drift(trained: object, new: object) -> Drift:
    return feature_drift(np.array(trained, dtype=float), np.array(new, dtype=float))


def psi(trained: list[int], new: list[int]) -> float:
    """Return the index, bin by bin; a bin's key is the number of deciles not above it and of repeated ones below it."""
    ordered = sorted(trained)
    times = Counter(ordered[len(ordered) * tenth // 10] for tenth in range(1, 10))
    deciles, repeated = sorted(times), sorted(value for value in times if times[value] > 1)
    shares = [
        Counter((bisect_right(deciles, value), bisect_left(repeated, value)) for value in sample)
        for sample in (trained, new)
    ]
    total = 0.0
    for key in set(shares[0]) | set(shares[1]):
        p, q = (max(share[key], 0.5) / share.total() for share in shares)
        total += (q - p) * math.log(q / p)
    return total


@pytest.mark.parametrize(
    ("trained", "new", "psi", "ks"),
    [
        # a tenth of 0 to 99 in each bin; of the new rows 6 in the first, 2 in the second, 2 in the last
        (
            range(100),
            [0, 1, 2, 3, 9, -7, 10, 19, 90, 500],
            (0.6 - 0.1) * math.log(6) + 2 * (0.2 - 0.1) * math.log(2) + 7 * (0.05 - 0.1) * math.log(0.5),
            0.6,  # at 19: 0.8 of the new rows and 0.2 of the others are not above it
        ),
        ([0, 0, 0, 1] * 10, [0, 1, 1, 1] * 5, 2 * (0.75 - 0.25) * math.log(3), 0.5),
        # one row in twenty has the value of all new rows: every decile is the other value
        *(
            ([rare, *[1 - rare] * 19] * 5, [rare] * 10, 0.95 * math.log(20) + 0.9 * math.log(19), 0.95)
            for rare in (0.0, 1.0)
        ),
        ([1], [1], 0, 0),
        ([2, 1], [1, 1, 2, 2], 0, 0),
    ],
)
def test_drift_computed_by_hand(trained: list[float], new: list[float], psi: float, ks: float) -> None:
    assert drift(trained, new) == Drift(pytest.approx(psi, rel=1e-12), pytest.approx(ks, rel=1e-12))


@pytest.mark.parametrize(
    ("trained", "new", "ks"), [([1, 2, 3], [4, 5], 1), ([4, 5], [1, 2, 3], 1), ([1, 2, 3, 4], [2, 3, 4, 5], 0.25)]
)
def test_the_statistic_is_two_sided(trained: list[int], new: list[int], ks: float) -> None:
    assert drift(trained, new).ks == ks


@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful")  # of the p-value
@given(
    trained=values, new=values, times=st.integers(1, 4), factor=st.sampled_from([0.25, 1, 3, 1000]),
    shift=st.integers(-1000, 1000),
)  # fmt: skip
def test_drift_of_any_values(trained: list[int], new: list[int], times: int, factor: float, shift: int) -> None:
    found = drift(trained, new)
    assert found.psi == pytest.approx(psi(trained, new), rel=1e-9, abs=1e-12)
    assert math.isfinite(found.psi)
    assert found.psi >= 0
    assert found.ks == pytest.approx(ks_2samp(trained, new, method="exact").statistic, rel=1e-12, abs=1e-12)
    # in another unit
    assert drift(np.array(trained) * factor + shift, np.array(new) * factor + shift) == found
    # identical rows, and identical shares of more rows, also with empty bins
    assert drift(trained, trained) == Drift(0, 0)
    more = drift(trained, trained * times)
    assert (more.psi, more.ks) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize("value", [0.0, -3.5, 0.1, 3e38])
def test_drift_of_a_constant_feature(value: float) -> None:
    assert drift([value] * 100_000, [value] * 24) == Drift(0, 0)
    for other in (value / 2 - 1, value / 4 + 1):
        assert drift([value] * 10, [other] * 5) == Drift(pytest.approx(0.95 * math.log(20) + 0.9 * math.log(10)), 1)
    half = drift([value] * 10, [value, value - abs(value) / 2 - 1] * 5)
    assert half == Drift(pytest.approx(0.5 * math.log(2) + 0.45 * math.log(10)), 0.5)


def test_values_are_compared_in_float32_and_not_modified() -> None:
    """0.1 in float64 and 0.1 in float32 are the same number for a model."""
    assert feature_drift(np.full(20, 0.1, dtype=np.float32), np.full(10, 0.1)) == Drift(0, 0)
    assert feature_drift(np.arange(20), np.arange(20.0)) == Drift(0, 0)
    trained, new = np.array([3, 1, 2], dtype=np.float32), np.array([2, 1], dtype=np.float32)
    feature_drift(trained, new)
    assert (trained.tolist(), new.tolist()) == ([3, 1, 2], [2, 1])


def test_a_random_sample_of_many_rows_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second row of two alternating values would have one value only."""
    monkeypatch.setattr(drift_module, "MAX_ROWS", 1000)
    by_day = np.resize([0.0, 1.0], 2000)
    found = feature_drift(by_day, np.array([0.0, 1.0] * 50))
    assert 0 < found.psi < 0.05
    assert 0 < found.ks < 0.1
    assert found == feature_drift(by_day, np.array([0.0, 1.0] * 50))
    assert feature_drift(by_day, by_day) == Drift(0, 0)


@pytest.mark.parametrize(
    ("trained", "new"),
    [([], [1, 2]), ([1, 2, 3], []), ([1, math.nan], [1]), ([1], [1, math.nan]), ([1], [1, -math.inf]), ([1e39], [1])],
)
def test_values_that_are_missing_or_not_finite_raise(trained: list[float], new: list[float]) -> None:
    with refused(ValueError, f"{len(trained)} training", f"{len(new)} new", "finite"):
        drift(trained, new)


# ---- drift between two datasets
FEATURES = ["y", "x"]
ONE_SERIES: dict[str, Any] = {"context_length": 3, "split": {"train": 20, "validation": 5}}


def dataset(table: pd.DataFrame, **changes: Any) -> Dataset:
    """Return a dataset of the columns y and x, with y as the default target."""
    settings = {"target": "y", "features": FEATURES, **changes}
    return build_dataset(table, TableData(kind="table", path="a.csv", **settings), 0)


def rows(count: int, seed: int = 0, moved: float = 0.0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    y, x = generator.integers(-20, 20, count) + moved, generator.integers(0, 5, count) / 4
    return pd.DataFrame({"t": np.arange(count), "y": y, "x": x})


def by_hand(trained: pd.DataFrame, now: pd.DataFrame) -> dict[str, Drift]:
    return {name: feature_drift(trained[name].to_numpy(), now[name].to_numpy()) for name in FEATURES}


def test_forecasts_compare_the_target_rows_of_the_training_and_the_new_test_part() -> None:
    before, after = rows(40), rows(60, seed=1, moved=7)
    trained, now = dataset(before, **ONE_SERIES), dataset(after, **ONE_SERIES)
    found = dataset_drift(trained, now)
    assert found == by_hand(before[3:20], after[25:60])
    assert list(found) == FEATURES
    assert found["y"].psi > found["x"].psi > 0
    assert found != dataset_drift(now, trained)
    # the first dataset's test part does not matter
    assert found == dataset_drift(dataset(before[:30], **ONE_SERIES), now)
    # targets from 2, 6, 10 and 14, of three steps each; then from 38, 43, 48 and 53 up to 58, where the test ends
    other: dict[str, Any] = {"context_length": 2, "horizon": 3, "stride": 4, "evaluation_stride": 5}
    trained = dataset(before, **other, split={"train": 0.5, "validation": 0.25})
    now = dataset(after, **other, split={"train": 30, "validation": 8, "test": 20})
    assert dataset_drift(trained, now) == by_hand(before[2:17], after[38:56])


def test_several_series_and_their_segments_are_concatenated() -> None:
    def cut(table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Add a gap before row 10."""
        return table.assign(t=table["t"] + np.where(table["t"] >= 10, 5, 0), g=name)

    before = [cut(rows(30, seed), name) for seed, name in enumerate("ab")]
    after = [cut(rows(40, seed + 2, moved=3), name) for seed, name in enumerate("abc")]
    settings: dict[str, Any] = {"time": "t", "group": "g", "gaps": "split", **ONE_SERIES}
    trained, now = (dataset(pd.concat(tables), **settings) for tables in (before, after))
    targets = [part for table in before for part in (table[3:10], table[13:20])]
    assert dataset_drift(trained, now) == by_hand(pd.concat(targets), pd.concat([table[25:] for table in after]))


def labelled(count: int, first: int = 0, moved: float = 0.0) -> pd.DataFrame:
    """Return groups of 1 to 4 rows, one group per day."""
    sizes = [1 + g % 4 for g in range(first, first + count)]
    table = rows(sum(sizes), seed=first, moved=moved).drop(columns="t")
    table["g"] = np.repeat(np.arange(first, first + count), sizes)
    table["t"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(table["g"], unit="D")
    table["t"] += pd.to_timedelta(table.groupby("g").cumcount(), unit="h")
    return table.assign(label=np.where(table["g"] % 2, "odd", "even"), number=table["g"] / 2)


@pytest.mark.parametrize(("task", "target"), [("classify", "label"), ("regress", "number")])
def test_labelled_groups_are_compared_by_all_their_rows(task: str, target: str) -> None:
    before, after = labelled(12), labelled(10, first=8, moved=5)
    settings: dict[str, Any] = {"task": task, "target": target, "group": "g", "time": "t"}
    trained = dataset(before, **settings, split={"train": "2024-01-07", "validation": "2024-01-09"})
    now = dataset(after, **settings, split={"train": "2024-01-12", "validation": "2024-01-14"})
    assert dataset_drift(trained, now) == by_hand(before.query("g < 6"), after.query("g >= 13"))


def test_shuffled_groups_are_compared_by_their_parts() -> None:
    table = labelled(12)
    settings: dict[str, Any] = {"task": "classify", "target": "label", "group": "g", "time": "t"}
    data = dataset(table, **settings, split={"train": 6, "validation": 2})
    assert data.series
    names = np.array([int(group.name) for group in data.series.segments])
    chosen = {
        part: names[data.series.segment_of(np.array(examples.row_spans())[:, 0])].tolist()
        for part, examples in (("train", data.train), ("test", data.test))
    }
    assert (len(chosen["train"]), len(chosen["test"])) == (6, 4)
    trained, now = (table[table["g"].isin(chosen[part])] for part in ("train", "test"))
    assert dataset_drift(data, data) == by_hand(trained, now)
