"""A night that was interrupted goes on: the same challenger and decision, one champion, the rows that it began with."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from helpers.cli_runner import plain, working_in
from helpers.crash_simulation import Watch, assert_same, crashing, ended_process, left_behind, watched

from flows import recipes
from flows.compare import compare
from flows.fine_tune import fine_tune
from lstm_models.config import FineTuneConfig
from tasks import history, tracking
from tasks.champions import reigns
from tasks.references import FineTuned

DEMAND = """\
data: {kind: table, path: demand.csv, time: time, target: load, context_length: 8, horizon: 2}
contenders:
  hand_built:
    model: {hidden_size: 4}
    training: {max_epochs: 1, threads: 1, checkpoint_every_n_steps: 3}
    fine_tuning: {max_epochs: 2}
"""
NIGHTS = {
    "resume": FineTuneConfig(experiment="demand", epochs=10),
    "warm_start": FineTuneConfig(experiment="demand", mode="warm_start", learning_rate=0.01, epochs=10),
}


def grown(rows: int) -> None:
    hours = np.arange(rows)
    load = 10 + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * np.random.default_rng(0).normal(size=rows)
    time = pd.date_range("2024-01-01", periods=rows, freq="h")
    pd.DataFrame({"time": time, "load": load.round(4)}).to_csv("demand.csv", index=False)


def until_tonight() -> None:
    """A champion, and new rows since."""
    Path("demand.yaml").write_text(DEMAND)
    grown(300)
    with watched():
        compare.fn(recipes.load("demand.yaml"))
    grown(340)


def night(mode: str) -> FineTuned:
    done: FineTuned = fine_tune.fn(NIGHTS[mode])
    return done


def told() -> list[dict[str, Any]]:
    """The history, but for ids, flow runs and moments."""
    rows = [{key: row[key] for key in row.keys() - {"run", "flow_run", "made"}} for row in history.history("demand")]
    for row in rows:
        row["champion"] = [(time["why"], time["until"] is None) for time in row["champion"]]
    return rows


class Whole(NamedTuple):
    """A night that was not interrupted: what it did, answered and left."""

    did: Watch
    answer: FineTuned
    left: dict[str, Any]
    history: list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Callable[[str], Whole]:
    done: dict[str, Whole] = {}

    def made(mode: str) -> Whole:
        if mode not in done:
            directory = tmp_path_factory.mktemp(mode)
            (directory / "mlflow.db").write_bytes(database.read_bytes())
            with working_in(directory), plain():
                until_tonight()
                with watched() as did:
                    answer = night(mode)
                done[mode] = Whole(did, answer, left_behind("demand"), told())
        return done[mode]

    return made


TASKS = [
    *("find_interrupted", "find_version", "find_champion", "look_at_new_rows", "nothing_new", "store_data"),
    *("check_stored", "measure_drift", "evaluate_champion", "MODE", "evaluate", "register", "choose_champion"),
    *("evaluate_baselines", "report_fine_tuning"),
]
NO_ANSWER = {*TASKS[:5], "check_stored", "register"}


@pytest.mark.parametrize("mode", NIGHTS)
def test_a_night_is_these_tasks_and_promotes(whole: Callable[[str], Whole], mode: str) -> None:
    did = whole(mode).did
    assert did.calls == [mode if name == "MODE" else name for name in TASKS]
    # the table is stored in a step of its own
    assert did.answers == ["keep_table", *(name for name in did.calls if name not in NO_ANSWER)]
    assert (whole(mode).answer.outcome, whole(mode).answer.continued, whole(mode).answer.challenger) == (
        "promoted",
        2,
        3,
    )


@pytest.mark.parametrize(
    ("mode", "at"),
    [
        ("resume", "log_inputs 0"),  # the table is there; what is told of it is not
        ("resume", "after 1"),  # all is noted
        ("resume", "after 3"),  # the champion is judged anew
        ("resume", "step 25"),
        ("resume", "before 12"),  # before the decision
        ("resume", "set_registered_model_alias 1"),  # its record is there
        ("resume", "after 6"),  # the alias is set
        ("warm_start", "step 8"),
        ("warm_start", "after 6"),
    ],
)
def test_the_decision_is_the_same_though_the_table_has_grown_since(
    whole: Callable[[str], Whole], workplace: Path, mode: str, at: str
) -> None:
    expected = whole(mode)
    with plain():
        until_tonight()
        with watched(at) as first, crashing(ended_process()):
            night(mode)
        grown(400)
        with watched() as then:
            # as the command does: what was asked for comes from the run
            answer: FineTuned = fine_tune.fn(FineTuneConfig(experiment="demand"), "newest")
    assert answer.comparison
    assert expected.answer.comparison
    assert answer.comparison.dataset == expected.answer.comparison.dataset
    assert (answer.outcome, answer.message) == (expected.answer.outcome, expected.answer.message)
    assert_same(left_behind("demand"), expected.left)
    assert told() == expected.history
    assert [reign.version for reign in reigns(tracking.versions("demand"))] == [2, 3]
    assert tracking.aliases("demand") == {"champion": 3, "hand_built": 3}
    again = [first.answers[-1]] if at.startswith("after") else []
    assert Counter(first.answers + then.answers) == Counter(expected.did.answers + again)


def test_after_it_has_gone_on_there_is_nothing_to_do(whole: Callable[[str], Whole], workplace: Path) -> None:
    with plain():
        until_tonight()
        with watched("after 4"), crashing(ended_process()):
            night("resume")
        with watched():
            fine_tune.fn(FineTuneConfig(experiment="demand"), "newest")
            state = fine_tune.fn(NIGHTS["resume"])
    assert state.message == "Nothing to do: no new rows since version 3 was trained."
