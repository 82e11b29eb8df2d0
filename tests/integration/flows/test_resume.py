"""A comparison that crashed, between two tasks or in one, and is resumed: it leaves what an uninterrupted one leaves,
and nothing is done twice. By the command, and by a retry of Prefect's as well."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.cli_runner import lstm_flows, plain
from helpers.configurations import TINY
from helpers.crash_simulation import (
    Whole,
    assert_same,
    crash_at_each,
    crashing,
    left_behind,
    runs_of,
    uninterrupted,
    watched,
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
LOOKING = 3  # that many leave nothing to resume
# the table is stored in a step of its own
ANSWERED = ["store_table", *(name for name in TASKS[LOOKING:] if name != "register")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Whole:
    return uninterrupted(lambda: compare.fn(ALONE), "tutorial", tmp_path_factory.mktemp("whole"), database)


def test_the_boundaries_are_all_that_there_are(whole: Whole) -> None:
    assert (whole.did.calls, whole.did.answers) == (TASKS, ANSWERED)
    assert whole.left["aliases"].keys() == {"built_in", "champion"}
    assert len(whole.left["<built_in/initial>"]["curves"]["train_loss"]) == 4
    assert whole.left["<built_in/initial>"]["boards"]["train_loss"] == [
        (step, pytest.approx(loss))  # TensorBoard has float32
        for step, loss in whole.left["<built_in/initial>"]["curves"]["train_loss"]
    ]


CRASHES = {
    # a resumed run does not look at the data, nor for an earlier run: two tasks less
    "before each task": ["before 3", *(f"before {n - 2}" for n in range(LOOKING + 1, len(TASKS)))],
    # the result that the crash before lost comes first
    "before each result is stored": ["after 0", *["after 1"] * (len(ANSWERED) - 1)],
    "within tasks": [
        "log_inputs 0",  # the data is stored
        "log_inputs 1",  # the training's run is there
        "create_model_version 0",  # a model without a version
        "set_registered_model_alias 0",  # a version without its alias
        "set_registered_model_alias 1",  # the champion's record is there, the alias is not
    ],
}


@pytest.mark.parametrize("crashes", CRASHES.values(), ids=CRASHES)
def test_what_is_left_is_the_same_and_nothing_is_done_twice(
    whole: Whole, workplace: Path, crashes: Sequence[str]
) -> None:
    """The run crashes at each point in turn: in the n-th process, at the n-th."""
    done = crash_at_each(crashes, lambda: compare.fn(ALONE), lambda: compare.fn(resume="newest"))
    assert_same(left_behind("tutorial"), whole.left)
    # only a result that was not stored is computed a second time
    again = ANSWERED if crashes[0] == "after 0" else []
    assert Counter(name for each in done for name in each.answers) == Counter([*ANSWERED, *again])
    assert [steps for each in done for steps in each.fits] == whole.did.fits


def test_before_there_is_anything_to_resume_nothing_is_left(workplace: Path) -> None:
    for number in range(LOOKING):
        with watched(f"before {number}"), crashing():
            compare.fn(ALONE)
        assert [path.name for path in workplace.iterdir() if not path.name.startswith("mlflow.db")] == []


# ---- under Prefect
@pytest.mark.usefixtures("harness")
def test_by_the_command_under_prefect_even_if_other_code_began_it(
    whole: Whole, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with plain():
        with watched("after 3", engine=True) as first, crashing():
            compare(ALONE)
        (parent, _) = runs_of("tutorial")
        tracking.mlflow_client().set_tag(parent.info.run_id, f"{tracking.TAG}code", "other")
        with watched(engine=True) as then, caplog.at_level(logging.WARNING, "lstm_flows"):
            code, out, _ = lstm_flows("compare", "--resume", parent.info.run_id, "-q")
    assert (code, out.splitlines()[0].split()[:2]) == (0, ["contender", "phase"])
    (warning,) = [record.message for record in caplog.records if record.name == "lstm_flows"]
    assert parent.info.run_id in warning
    assert "another version" in warning
    left, tags = left_behind("tutorial"), whole.left["<compare tutorial>"]["tags"]
    assert left["<compare tutorial>"]["tags"] == tags | {"code": "other"}
    left["<compare tutorial>"]["tags"] = tags
    assert_same(left, whole.left)
    assert first.fits + then.fits == whole.did.fits


@pytest.mark.usefixtures("harness")
def test_a_flow_run_that_prefect_tries_again_resumes_its_own_run_and_a_new_one_does_not(
    whole: Whole, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, failed = evaluation._log_evaluation, []

    def recorded(judgement: Any, data: Any, dataset: Any, run_id: str, place: str) -> Any:
        if "fine_tuned" in str(tracking.mlflow_client().get_run(run_id).info.run_name) and len(failed) < 2:
            failed.append({run.info.run_name: run.info.status for run in runs_of("tutorial")})
            raise RuntimeError("no")
        return record(judgement, data, dataset, run_id, place)

    monkeypatch.setattr(evaluation, "_log_evaluation", recorded)
    running = {"compare tutorial": "RUNNING", "built_in/initial": "RUNNING", "built_in/fine_tuned": "RUNNING"}
    with plain():
        with watched(engine=True) as did:
            compare.with_options(retries=2)(ALONE)
        assert failed == [running, running]
        assert_same(left_behind("tutorial"), whole.left)
        assert did.fits == whole.did.fits
        assert sorted(did.answers) == sorted(whole.did.answers)
        assert (did.calls.count("find_interrupted_run"), did.calls.count("validate_data")) == (3, 1)
        assert runs_of("tutorial")[0].data.tags[f"{tracking.TAG}prefect_flow_run_id"] != "none"

        # though one was interrupted: only a retry resumes it unasked
        with watched("before 4", engine=True), crashing():
            compare(ALONE, force=True)
        with watched("before 4", engine=True), crashing():
            compare(ALONE, force=True)
    assert [run.info.run_name for run in runs_of("tutorial")].count("compare tutorial") == 3
