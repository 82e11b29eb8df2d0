"""The result cache: a function runs once for the same arguments in the same run."""

import math
from pathlib import Path

import pytest
import requests
from helpers.configurations import TINY

from flows import recipes
from tasks import tracking
from tasks.orchestration import result_cache
from tasks.schemas import AliasHolder, BaselineResult, ParentRun
from tasks.tracking import runs

CONFIG = recipes.load("tutorial", TINY)
HOLDER = AliasHolder(contender="hand_built", phase="initial", model_uri="models:/tutorial@champion", version=1)
BASELINE = BaselineResult(name="mean", loss=0.1, parameters=0, dataset="d", metrics={"mse": math.nan}, run_id="r")
calls: list[float] = []


@result_cache.cached_in_run
def promote(loss: float, parent: ParentRun) -> tuple[AliasHolder, AliasHolder | None]:
    calls.append(loss)
    return HOLDER, None


@result_cache.cached_in_run
def evaluate_baseline(loss: float, parent: ParentRun) -> list[BaselineResult]:
    calls.append(loss)
    return [BASELINE]


@result_cache.cached_in_run
def breaks(parent: ParentRun) -> ParentRun:
    raise ZeroDivisionError


@pytest.fixture
def parent(workplace: Path) -> ParentRun:
    calls.clear()
    return runs.start_parent_run(runs.comparison_spec(CONFIG))


def files(parent: ParentRun) -> list[str]:
    return [entry.path for entry in tracking.mlflow_client().list_artifacts(parent.run_id, result_cache.CACHE_DIR)]


def test_equal_calls_run_once_and_others_run_again(parent: ParentRun) -> None:
    assert promote(0.5, parent) == promote(0.5, parent) == promote(loss=0.5, parent=parent) == (HOLDER, None)
    assert calls == [0.5]
    other = runs.start_parent_run(runs.comparison_spec(CONFIG))
    for loss in (0.5, math.inf, math.nan):
        for run in (parent, other):
            promote(loss, run)
            promote(loss, run)
    assert [str(loss) for loss in calls] == ["0.5", "0.5", "inf", "inf", "nan", "nan"]


def test_functions_have_separate_results_which_may_contain_nan(parent: ParentRun) -> None:
    assert promote(0.5, parent) == (HOLDER, None)
    for _ in range(2):
        (baseline,) = evaluate_baseline(0.5, parent)
        assert math.isnan(baseline.metrics["mse"])
        assert baseline.model_copy(update={"metrics": {}}) == BASELINE.model_copy(update={"metrics": {}})
    assert len(files(parent)) == 2
    assert calls == [0.5, 0.5]


@pytest.mark.parametrize("stored", ["", "[{", '[{"contender": "an older version\'s"}, null]'])
def test_an_incomplete_or_incompatible_result_is_ignored(parent: ParentRun, stored: str) -> None:
    promote(0.5, parent)
    (file,) = files(parent)
    tracking.mlflow_client().log_text(parent.run_id, stored, file)
    assert promote(0.5, parent) == (HOLDER, None)
    assert promote(0.5, parent) == (HOLDER, None)
    assert calls == [0.5, 0.5]


def test_an_exception_stores_no_result(parent: ParentRun) -> None:
    with pytest.raises(ZeroDivisionError):
        breaks(parent)
    assert files(parent) == []


def test_the_function_does_not_run_if_mlflow_cannot_be_reached(
    parent: ParentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: str) -> Path:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(tracking, "download", unreachable)
    with pytest.raises(requests.ConnectionError, match="no route"):
        promote(0.5, parent)
    assert calls == []
