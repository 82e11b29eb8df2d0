"""The two figures of a feature's drift: against SciPy, a plain loop and what can be reckoned by hand."""

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from lstm_models import drift as module
from lstm_models.config import TableData
from lstm_models.data.dataset import Dataset, of_table
from lstm_models.drift import Drift, drift, drifts

few = settings(derandomize=True, deadline=None, max_examples=60)  # a shared machine may pause for longer
values = st.lists(st.integers(-20, 20), min_size=1, max_size=60)  # with many ties; exact in float32


def of(trained: object, new: object) -> Drift:
    return drift(np.array(trained, dtype=float), np.array(new, dtype=float))


def psi(trained: list[int], new: list[int]) -> float:
    """Bin by bin; a bin is called by the number of deciles that are not above it, and of frequent ones below it."""
    ordered = sorted(trained)
    times = Counter(ordered[len(ordered) * tenth // 10] for tenth in range(1, 10))
    deciles, often = sorted(times), sorted(value for value in times if times[value] > 1)
    shares = [
        Counter((bisect_right(deciles, value), bisect_left(often, value)) for value in some) for some in (trained, new)
    ]
    total = 0.0
    for place in set(shares[0]) | set(shares[1]):
        p, q = (max(share[place], 0.5) / share.total() for share in shares)
        total += (q - p) * math.log(q / p)
    return total


# ---- the population stability index
def test_the_index_by_hand() -> None:
    """A tenth of 0 to 99 in each bin; of the new rows 6 in the first, 2 in the second, 2 in the last."""
    new = [0, 1, 2, 3, 9, -7, 10, 19, 90, 500]
    expected = (0.6 - 0.1) * math.log(6) + 2 * (0.2 - 0.1) * math.log(2) + 7 * (0.05 - 0.1) * math.log(0.5)
    assert of(range(100), new).psi == pytest.approx(expected, rel=1e-12)


def test_shares_of_two_values_by_hand() -> None:
    """Three in four are 0, then one in four."""
    expected = 2 * (0.75 - 0.25) * math.log(3)
    assert of([0, 0, 0, 1] * 10, [0, 1, 1, 1] * 5).psi == pytest.approx(expected, rel=1e-12)


@given(trained=values, new=values)
@few
def test_the_index_is_a_plain_loops(trained: list[int], new: list[int]) -> None:
    found = of(trained, new).psi
    assert found == pytest.approx(psi(trained, new), rel=1e-9, abs=1e-12)
    assert math.isfinite(found)
    assert found >= 0


@pytest.mark.parametrize("rare", [0.0, 1.0])
def test_what_was_rare_is_noticed_once_it_is_frequent(rare: float) -> None:
    """One row in twenty: all deciles are the other value."""
    trained = np.where(np.arange(100) % 20 == 0, rare, 1 - rare)
    expected = (1 - 0.05) * math.log(1 / 0.05) + (0.05 - 0.95) * math.log(0.05 / 0.95)
    assert of(trained, [rare] * 10) == Drift(pytest.approx(expected, rel=1e-12), pytest.approx(0.95))


# ---- the Kolmogorov-Smirnov statistic
@pytest.mark.filterwarnings("ignore:ks_2samp. Exact calculation unsuccessful")  # of the p-value
@given(trained=values, new=values)
@few
def test_the_statistic_is_scipys(trained: list[int], new: list[int]) -> None:
    expected = ks_2samp(trained, new, method="exact").statistic
    assert of(trained, new).ks == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("trained", "new", "expected"),
    [
        ([1, 2, 3], [4, 5], 1),
        ([4, 5], [1, 2, 3], 1),
        ([1], [1], 0),
        ([2, 1], [1, 1, 2, 2], 0),
        ([1, 2, 3, 4], [2, 3, 4, 5], 0.25),
    ],
)
def test_the_statistic_by_hand(trained: list[int], new: list[int], expected: float) -> None:
    assert of(trained, new).ks == expected


# ---- both
@given(some=values, times=st.integers(1, 4))
@few
def test_nothing_has_moved(some: list[int], times: int) -> None:
    """The same shares of more rows are the same shares, also where none is in a bin."""
    assert of(some, some) == Drift(0, 0)
    found = of(some, some * times)
    assert found.psi == pytest.approx(0, abs=1e-12)
    assert found.ks == pytest.approx(0, abs=1e-12)


@given(trained=values, new=values, factor=st.sampled_from([0.25, 1, 3, 1000]), shift=st.integers(-1000, 1000))
@few
def test_another_unit_changes_nothing(trained: list[int], new: list[int], factor: float, shift: int) -> None:
    assert of(np.array(trained) * factor + shift, np.array(new) * factor + shift) == of(trained, new)


@pytest.mark.parametrize("value", [0.0, -3.5, 0.1, 3e38])
def test_a_constant_stays_or_goes(value: float) -> None:
    assert of([value] * 100_000, [value] * 24) == Drift(0, 0)
    for other in (value / 2 - 1, value / 4 + 1):
        assert of([value] * 10, [other] * 5) == Drift(pytest.approx(0.95 * math.log(20) + 0.9 * math.log(10)), 1)
    half = of([value] * 10, [value, value - abs(value) / 2 - 1] * 5)
    assert half == Drift(pytest.approx(0.5 * math.log(2) + 0.45 * math.log(10)), 0.5)


def test_it_is_the_numbers_that_a_model_sees() -> None:
    """0.1 of a file and 0.1 of float32 are one number."""
    assert drift(np.full(20, 0.1, dtype=np.float32), np.full(10, 0.1)) == Drift(0, 0)
    assert drift(np.arange(20), np.arange(20.0)) == Drift(0, 0)


def test_of_many_rows_some_are_looked_at_whatever_the_season(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row in two would be the nights alone."""
    monkeypatch.setattr(module, "MOST", 1000)
    by_day = np.resize([0.0, 1.0], 2000)
    found = drift(by_day, np.array([0.0, 1.0] * 50))
    assert found.psi < 0.05
    assert found.ks < 0.1
    assert found == drift(by_day, np.array([0.0, 1.0] * 50))
    assert drift(by_day, by_day) == Drift(0, 0)


def test_the_values_are_left_as_they_are() -> None:
    trained, new = np.array([3, 1, 2], dtype=np.float32), np.array([2, 1], dtype=np.float32)
    drift(trained, new)
    assert (trained.tolist(), new.tolist()) == ([3, 1, 2], [2, 1])


@pytest.mark.parametrize(
    ("trained", "new", "text"),
    [
        ([], [1, 2], "0 training values and 2 new ones given: it takes some of both, all finite"),
        ([1, 2, 3], [], "3 training values and 0 new ones given: it takes some of both, all finite"),
        ([1, math.nan], [1], "2 training values and 1 new ones given: it takes some of both, all finite"),
        ([1], [1, math.nan], "1 training values and 2 new ones given: it takes some of both, all finite"),
        ([1], [1, -math.inf], "1 training values and 2 new ones given: it takes some of both, all finite"),
        ([1e39], [1], "1 training values and 1 new ones given: it takes some of both, all finite"),
    ],
)
def test_refusals(trained: list[float], new: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        of(trained, new)


# ---- of two datasets
FEATURES = ["y", "x"]
ONE_SERIES: dict[str, Any] = {"context_length": 3, "split": {"train": 20, "validation": 5}}


def dataset(table: pd.DataFrame, **changes: Any) -> Dataset:
    """Of the columns y and x; y is to be told, if nothing else is."""
    values = {"target": "y", "features": FEATURES, **changes}
    return of_table(table, TableData(kind="table", path="a.csv", **values), 0)


def rows(count: int, seed: int = 0, moved: float = 0.0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "t": np.arange(count),
            "y": generator.integers(-20, 20, count) + moved,
            "x": generator.integers(0, 5, count) / 4,
        }
    )


def by_hand(trained: pd.DataFrame, now: pd.DataFrame) -> dict[str, Drift]:
    return {name: drift(trained[name].to_numpy(), now[name].to_numpy()) for name in FEATURES}


def test_of_forecasts_the_rows_that_are_told_count() -> None:
    """Those before the first window's targets, the validation's, and of new rows those before the test, do not."""
    before, after = rows(40), rows(60, seed=1, moved=7)
    found = drifts(dataset(before, **ONE_SERIES), dataset(after, **ONE_SERIES))
    assert found == by_hand(before[3:20], after[25:60])
    assert list(found) == FEATURES
    assert found["y"].psi > found["x"].psi > 0


def test_another_split_and_horizon_are_other_rows() -> None:
    before, after = rows(40), rows(60, seed=1)
    settings: dict[str, Any] = {"context_length": 2, "horizon": 3, "stride": 4, "evaluation_stride": 5}
    trained = dataset(before, **settings, split={"train": 0.5, "validation": 0.25})
    now = dataset(after, **settings, split={"train": 30, "validation": 8, "test": 20})
    # targets from 2, 6, 10 and 14, of three steps each; then from 38, 43, 48 and 53 up to 58, where the test ends
    assert drifts(trained, now) == by_hand(before[2:17], after[38:56])


def test_a_model_is_held_against_the_rows_that_it_was_trained_on_whatever_the_table_is_now() -> None:
    before, after = rows(40), rows(60, seed=1)
    trained, now = dataset(before, **ONE_SERIES), dataset(after, **ONE_SERIES)
    assert drifts(trained, now) != drifts(now, trained)
    assert drifts(trained, now) == drifts(dataset(before[:30], **ONE_SERIES), now)  # its own test does not matter


def test_several_series_and_their_pieces_are_put_together() -> None:
    def cut(table: pd.DataFrame, name: str) -> pd.DataFrame:
        """With a hole before row 10."""
        return table.assign(t=table["t"] + np.where(table["t"] >= 10, 5, 0), g=name)

    before = [cut(rows(30, seed), name) for seed, name in enumerate("ab")]
    after = [cut(rows(40, seed + 2, moved=3), name) for seed, name in enumerate("abc")]
    settings: dict[str, Any] = {"time": "t", "group": "g", "gaps": "split", **ONE_SERIES}
    trained, now = (dataset(pd.concat(some), **settings) for some in (before, after))
    told = [part for table in before for part in (table[3:10], table[13:20])]
    assert drifts(trained, now) == by_hand(pd.concat(told), pd.concat([table[25:] for table in after]))


def labelled(count: int, first: int = 0, moved: float = 0.0) -> pd.DataFrame:
    """Groups of 1 to 4 rows, each a day after the one before."""
    sizes = [1 + g % 4 for g in range(first, first + count)]
    table = rows(sum(sizes), seed=first, moved=moved).drop(columns="t")
    table["g"] = np.repeat(np.arange(first, first + count), sizes)
    table["t"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(table["g"], unit="D")
    table["t"] += pd.to_timedelta(table.groupby("g").cumcount(), unit="h")
    return table.assign(label=np.where(table["g"] % 2, "odd", "even"), number=table["g"] / 2)


@pytest.mark.parametrize(("task", "target"), [("classify", "label"), ("regress", "number")])
def test_of_labelled_groups_all_their_rows_count(task: str, target: str) -> None:
    before, after = labelled(12), labelled(10, first=8, moved=5)
    settings: dict[str, Any] = {"task": task, "target": target, "group": "g", "time": "t"}
    trained = dataset(before, **settings, split={"train": "2024-01-07", "validation": "2024-01-09"})
    now = dataset(after, **settings, split={"train": "2024-01-12", "validation": "2024-01-14"})
    assert drifts(trained, now) == by_hand(before.query("g < 6"), after.query("g >= 13"))


def test_groups_that_are_drawn_are_those_that_were_drawn() -> None:
    table = labelled(12)
    settings: dict[str, Any] = {"task": "classify", "target": "label", "group": "g", "time": "t"}
    some = dataset(table, **settings, split={"train": 6, "validation": 2})
    assert some.series
    names = np.array([int(group.name) for group in some.series.groups])
    chosen = {
        part: names[some.series.group_of(np.array(examples.spans())[:, 0])].tolist()
        for part, examples in (("train", some.train), ("test", some.test))
    }
    assert (len(chosen["train"]), len(chosen["test"])) == (6, 4)
    trained, now = (table[table["g"].isin(chosen[part])] for part in ("train", "test"))
    assert drifts(some, some) == by_hand(trained, now)


def test_of_the_same_rows_nothing_has_moved() -> None:
    """Seventeen rows that are told in training, then the same ones to judge by."""
    table = rows(20)
    some = dataset(pd.concat([table, rows(5, seed=1), table[3:]]).assign(t=np.arange(42)), time="t", **ONE_SERIES)
    assert drifts(some, some) == {"y": Drift(0, 0), "x": Drift(0, 0)}
    groups = labelled(8)
    again = groups.assign(g=groups["g"] + 8, t=groups["t"] + pd.Timedelta(days=8))
    both = dataset(
        pd.concat([groups, again]), task="regress", target="number", group="g", time="t",
        split={"train": "2024-01-09", "validation": "2024-01-09"},
    )  # fmt: skip
    assert drifts(both, both) == {"y": Drift(0, 0), "x": Drift(0, 0)}
