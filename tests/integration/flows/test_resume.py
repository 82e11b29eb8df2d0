"""Comparisons that crash between or within tasks, and are resumed by the command or by a retry of Prefect.

The outcome must equal that of an uninterrupted comparison, and no work may be repeated.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.cli_runner import lstm_flows, without_plots
from helpers.configurations import TINY
from helpers.crash_simulation import (
    UninterruptedRun,
    assert_same,
    collect_outcome,
    crash_at_each,
    crashing,
    recording,
    run_uninterrupted,
    runs_of,
)

from flows import recipes
from flows.compare import compare
from tasks import evaluation, tracking

ALONE = recipes.load("tutorial", [*TINY, "contenders.hand_built=null"])
TASKS = [
    *(
        "find_interrupted_run",
        "validate_data",
        "find_finished_run",
        "store_data",
        "evaluate_untrained",
        "train",
        "evaluate",
    ),
    *("fine_tune", "evaluate", "register", "register", "evaluate_baselines", "promote_best", "report"),
]
READ_ONLY = 3  # the first tasks store nothing, so there is nothing to resume
# the table is stored by a cached function of its own
CACHED = ["store_table", *(name for name in TASKS[READ_ONLY:] if name != "register")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, database: Path) -> UninterruptedRun:
    return run_uninterrupted(lambda: compare.fn(ALONE), "tutorial", tmp_path_factory.mktemp("uninterrupted"), database)


def test_the_list_of_tasks_is_complete(uninterrupted: UninterruptedRun) -> None:
    assert (uninterrupted.record.calls, uninterrupted.record.cached_results) == (TASKS, CACHED)
    assert uninterrupted.outcome["aliases"].keys() == {"built_in", "champion"}
    assert len(uninterrupted.outcome["<built_in/initial>"]["curves"]["train_loss"]) == 4
    assert uninterrupted.outcome["<built_in/initial>"]["tensorboard"]["train_loss"] == [
        (step, pytest.approx(loss))  # TensorBoard has float32
        for step, loss in uninterrupted.outcome["<built_in/initial>"]["curves"]["train_loss"]
    ]


CRASHES = {
    # a resumed run neither validates the data nor searches a finished run: two tasks less
    "before each task": ["before 3", *(f"before {n - 2}" for n in range(READ_ONLY + 1, len(TASKS)))],
    # each process first computes the result that the previous crash lost
    "before each result is stored": ["after 0", *["after 1"] * (len(CACHED) - 1)],
    "within tasks": [
        "log_inputs 0",  # the data is stored
        "log_inputs 1",  # the training's run exists
        "create_model_version 0",  # a model without a version
        "set_registered_model_alias 0",  # a version without its alias
        "set_registered_model_alias 1",  # the promotion is recorded, but the alias is not set
    ],
}


@pytest.mark.parametrize("crashes", CRASHES.values(), ids=CRASHES)
def test_the_outcome_is_the_same_and_no_work_is_repeated(
    uninterrupted: UninterruptedRun, workplace: Path, crashes: Sequence[str]
) -> None:
    """The n-th process crashes at the n-th point."""
    records = crash_at_each(crashes, lambda: compare.fn(ALONE), lambda: compare.fn(resume="newest"))
    assert_same(collect_outcome("tutorial"), uninterrupted.outcome)
    # only a result that was not stored is computed a second time
    repeated = CACHED if crashes[0] == "after 0" else []
    assert Counter(name for each in records for name in each.cached_results) == Counter([*CACHED, *repeated])
    assert [steps for each in records for steps in each.fits] == uninterrupted.record.fits


def test_a_crash_in_a_read_only_task_leaves_nothing(workplace: Path) -> None:
    for number in range(READ_ONLY):
        with recording(f"before {number}"), crashing():
            compare.fn(ALONE)
        assert [path.name for path in workplace.iterdir() if not path.name.startswith("mlflow.db")] == []


# ---- under Prefect
@pytest.mark.usefixtures("harness")
def test_the_command_resumes_under_prefect_even_if_other_code_started_the_run(
    uninterrupted: UninterruptedRun, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with without_plots():
        with recording("after 3", engine=True) as first, crashing():
            compare(ALONE)
        (parent, _) = runs_of("tutorial")
        tracking.mlflow_client().set_tag(parent.info.run_id, f"{tracking.TAG}code", "other")
        with recording(engine=True) as second, caplog.at_level(logging.WARNING, "lstm_flows"):
            code, out, _ = lstm_flows("compare", "--resume", parent.info.run_id, "-q")
    assert (code, out.splitlines()[0].split()[:2]) == (0, ["contender", "phase"])
    (warning,) = [record.message for record in caplog.records if record.name == "lstm_flows"]
    assert parent.info.run_id in warning
    assert "another version" in warning
    outcome, tags = collect_outcome("tutorial"), uninterrupted.outcome["<compare tutorial>"]["tags"]
    assert outcome["<compare tutorial>"]["tags"] == tags | {"code": "other"}
    outcome["<compare tutorial>"]["tags"] = tags
    assert_same(outcome, uninterrupted.outcome)
    assert first.fits + second.fits == uninterrupted.record.fits


@pytest.mark.usefixtures("harness")
def test_a_retried_flow_run_resumes_its_mlflow_run_and_a_new_flow_run_does_not(
    uninterrupted: UninterruptedRun, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_evaluation, failed = evaluation._log_evaluation, []

    def fail_twice(result: Any, data: Any, dataset: Any, run_id: str, name: str) -> Any:
        if "fine_tuned" in str(tracking.mlflow_client().get_run(run_id).info.run_name) and len(failed) < 2:
            failed.append({run.info.run_name: run.info.status for run in runs_of("tutorial")})
            raise RuntimeError("no")
        return log_evaluation(result, data, dataset, run_id, name)

    monkeypatch.setattr(evaluation, "_log_evaluation", fail_twice)
    running = {"compare tutorial": "RUNNING", "built_in/initial": "RUNNING", "built_in/fine_tuned": "RUNNING"}
    with without_plots():
        with recording(engine=True) as record:
            compare.with_options(retries=2)(ALONE)
        assert failed == [running, running]
        assert_same(collect_outcome("tutorial"), uninterrupted.outcome)
        assert record.fits == uninterrupted.record.fits
        assert sorted(record.cached_results) == sorted(uninterrupted.record.cached_results)
        assert (record.calls.count("find_interrupted_run"), record.calls.count("validate_data")) == (3, 1)
        assert runs_of("tutorial")[0].data.tags[f"{tracking.TAG}prefect_flow_run_id"] != "none"

        # without --resume, only a retry resumes an interrupted run
        with recording("before 4", engine=True), crashing():
            compare(ALONE, force=True)
        with recording("before 4", engine=True), crashing():
            compare(ALONE, force=True)
    assert [run.info.run_name for run in runs_of("tutorial")].count("compare tutorial") == 3
