"""A comparison that was interrupted between two tasks, or in one, goes on: what it leaves is what one leaves that was
not, and nothing is done twice."""

from collections import Counter
from pathlib import Path

import pytest
from helpers.cli_runner import plain
from helpers.configurations import TINY
from helpers.crash_simulation import Whole, assert_same, crashing, ended_process, left_behind, uninterrupted, watched

from flows import recipes
from flows.compare import compare

ALONE = recipes.load("tutorial", [*TINY, "contenders.hand_built=null"])
TASKS = [
    *("find_interrupted", "look_at_data", "find_earlier", "store_data", "evaluate_untrained", "train", "evaluate"),
    *("resume", "evaluate", "register", "register", "evaluate_baselines", "choose_champion", "report"),
]
LOOKING = 3  # that many leave nothing to go on with
ANSWERED = [
    "keep_table",
    *(name for name in TASKS[LOOKING:] if name != "register"),
]  # the table is stored in a step of its own


@pytest.fixture(scope="module")
def gone() -> dict[str, str]:
    return ended_process()


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


BOUNDARIES = [
    *(f"before {n}" for n in range(LOOKING, len(TASKS))),
    *(f"after {n}" for n in range(len(ANSWERED))),
]
AMID = [
    "log_inputs 0",  # the data is stored
    "log_inputs 1",  # the training's run is there
    "create_model_version 0",  # a model without a version
    "set_registered_model_alias 0",  # a version without its alias
    "set_registered_model_alias 1",  # the champion's record is there, the alias is not
]


@pytest.mark.parametrize("at", [*BOUNDARIES, *AMID])
def test_what_is_left_is_the_same_and_nothing_is_done_twice(
    whole: Whole, gone: dict[str, str], workplace: Path, at: str
) -> None:
    with plain():
        with watched(at) as first, crashing(gone):
            compare.fn(ALONE)
        with watched() as then:
            compare.fn(resume="newest")
    assert_same(left_behind("tutorial"), whole.left)
    # an answer that was not written was come to again, and no other one
    again = [first.answers[-1]] if at.startswith("after") else []
    assert Counter(first.answers + then.answers) == Counter(ANSWERED + again)
    assert first.fits + then.fits == whole.did.fits


@pytest.mark.parametrize("number", range(LOOKING))
def test_before_there_is_anything_to_go_on_with_nothing_is_left(
    gone: dict[str, str], workplace: Path, number: int
) -> None:
    with watched(f"before {number}"), crashing(gone):
        compare.fn(ALONE)
    assert [path.name for path in workplace.iterdir() if not path.name.startswith("mlflow.db")] == []
