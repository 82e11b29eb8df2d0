"""A task's work is done once for the same arguments in the same run."""

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
done: list[float] = []


@result_cache.cached_in_run
def choose(loss: float, parent: ParentRun) -> tuple[AliasHolder, AliasHolder | None]:
    done.append(loss)
    return HOLDER, None


@result_cache.cached_in_run
def judge(loss: float, parent: ParentRun) -> list[BaselineResult]:
    done.append(loss)
    return [BASELINE]


@result_cache.cached_in_run
def breaks(parent: ParentRun) -> ParentRun:
    raise ZeroDivisionError


@pytest.fixture
def parent(workplace: Path) -> ParentRun:
    done.clear()
    return runs.start_parent_run(runs.comparison_spec(CONFIG))


def files(parent: ParentRun) -> list[str]:
    return [entry.path for entry in tracking.mlflow_client().list_artifacts(parent.run_id, result_cache.CACHE_DIR)]


def test_the_same_is_done_once_and_other_arguments_or_another_run_again(parent: ParentRun) -> None:
    assert choose(0.5, parent) == choose(0.5, parent) == choose(loss=0.5, parent=parent) == (HOLDER, None)
    assert done == [0.5]
    other = runs.start_parent_run(runs.comparison_spec(CONFIG))
    for loss in (0.5, math.inf, math.nan):
        for of in (parent, other):
            choose(loss, of)
            choose(loss, of)
    assert [str(loss) for loss in done] == ["0.5", "0.5", "inf", "inf", "nan", "nan"]


def test_another_tasks_answer_is_another_and_may_hold_no_number(parent: ParentRun) -> None:
    assert choose(0.5, parent) == (HOLDER, None)
    for _ in range(2):
        (baseline,) = judge(0.5, parent)
        assert math.isnan(baseline.metrics["mse"])
        assert baseline.model_copy(update={"metrics": {}}) == BASELINE.model_copy(update={"metrics": {}})
    assert len(files(parent)) == 2
    assert done == [0.5, 0.5]


@pytest.mark.parametrize("left", ["", "[{", '[{"contender": "an older program\'s"}, null]'])
def test_what_is_not_whole_or_not_understood_counts_as_none(parent: ParentRun, left: str) -> None:
    choose(0.5, parent)
    (file,) = files(parent)
    tracking.mlflow_client().log_text(parent.run_id, left, file)
    assert choose(0.5, parent) == (HOLDER, None)
    assert choose(0.5, parent) == (HOLDER, None)
    assert done == [0.5, 0.5]


def test_work_that_breaks_leaves_no_answer(parent: ParentRun) -> None:
    with pytest.raises(ZeroDivisionError):
        breaks(parent)
    assert files(parent) == []


def test_where_mlflow_can_not_be_asked_nothing_is_done(parent: ParentRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> Path:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(tracking, "download", away)
    with pytest.raises(requests.ConnectionError, match="no route"):
        choose(0.5, parent)
    assert done == []
