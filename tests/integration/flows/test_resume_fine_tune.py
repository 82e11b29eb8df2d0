"""A fine-tuning that crashed and is resumed: the same challenger and decision, one champion, the rows it began with."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.cli_runner import plain, working_in
from helpers.crash_simulation import assert_same, crash_at_each, left_behind, watched
from helpers.hourly_load import write_load

from flows import recipes
from flows.compare import compare
from flows.fine_tune import fine_tune
from lstm_models.config import FineTuneConfig
from tasks import tracking
from tasks.schemas import FineTuneResult
from tasks.tracking import history
from tasks.tracking.history import promotion_history

DEMAND = """\
data: {kind: table, path: demand.csv, time: time, target: load, context_length: 8, horizon: 2}
contenders:
  hand_built:
    model: {hidden_size: 4}
    training: {max_epochs: 1, num_threads: 1, checkpoint_every_n_steps: 3}
    fine_tuning: {max_epochs: 2}
"""
CONFIGS = {
    "fine_tune": FineTuneConfig(experiment="demand", epochs=10),
    "warm_start": FineTuneConfig(experiment="demand", mode="warm_start", learning_rate=0.01, epochs=10),
}
TASKS = [
    *("find_interrupted_run", "find_version", "find_champion", "validate_new_data", "find_skip_reason", "store_data"),
    *("validate_stored_data", "measure_drift", "evaluate_champion", "MODE", "evaluate", "register", "promote_best"),
    *("evaluate_baselines", "report_fine_tuning"),
]
NO_ANSWER = {*TASKS[:5], "validate_stored_data", "register"}
# where each process crashes, counted in itself; and whose results are computed a second time
CRASHES = {
    "fine_tune": (
        [
            "log_inputs 0",  # the table is there; what is noted of it is not
            "after 0",  # all is noted
            "after 2",  # the champion is evaluated
            "step 25",
            "before 10",  # before the decision
            "set_registered_model_alias 1",  # its record is there
            "after 0",  # the alias is set
        ],
        ["store_data", "evaluate_champion", "promote_best"],
    ),
    "warm_start": (["step 8", "after 2"], ["promote_best"]),
}


def with_new_rows() -> None:
    """A champion, and new rows since."""
    Path("demand.yaml").write_text(DEMAND)
    write_load(300)
    with watched():
        compare.fn(recipes.load("demand.yaml"))
    write_load(340)


def shown_history() -> list[dict[str, Any]]:
    """The history, but for ids, flow runs and moments."""
    rows = [
        {key: row[key] for key in row.keys() - {"run", "flow_run", "created"}}
        for row in history.version_history("demand")
    ]
    for row in rows:
        row["champion"] = [(time["reason"], time["until"] is None) for time in row["champion"]]
    return rows


@pytest.mark.parametrize("mode", CONFIGS)
def test_the_decision_is_the_same_though_the_table_has_grown_since(
    tmp_path_factory: pytest.TempPathFactory, database: Path, workplace: Path, mode: str
) -> None:
    directory, config = tmp_path_factory.mktemp(mode), CONFIGS[mode]
    (directory / "mlflow.db").write_bytes(database.read_bytes())
    with working_in(directory), plain():
        with_new_rows()
        with watched() as did:
            expected: FineTuneResult = fine_tune.fn(config)
        left, rows = left_behind("demand"), shown_history()
    assert did.calls == [mode if name == "MODE" else name for name in TASKS]
    # the table is stored in a step of its own
    assert did.answers == ["store_table", *(name for name in did.calls if name not in NO_ANSWER)]
    assert (expected.outcome, expected.base_version, expected.challenger) == ("promoted", 2, 3)

    crashes, again = CRASHES[mode]
    answers: list[FineTuneResult] = []

    def resume() -> None:
        write_load(400)
        # as the command does: what was asked for comes from the run
        answers.append(fine_tune.fn(FineTuneConfig(experiment="demand"), "newest"))

    with plain():
        with_new_rows()
    done = crash_at_each(crashes, lambda: fine_tune.fn(config), resume)
    (answer,) = answers
    assert answer.comparison
    assert expected.comparison
    assert answer.comparison.dataset == expected.comparison.dataset
    assert (answer.outcome, answer.message) == (expected.outcome, expected.message)
    assert_same(left_behind("demand"), left)
    assert shown_history() == rows
    assert [reign.version for reign in promotion_history(tracking.versions("demand"))] == [2, 3]
    assert tracking.aliases("demand") == {"champion": 3, "hand_built": 3}
    assert Counter(name for each in done for name in each.answers) == Counter([*did.answers, *again])

    write_load(340)
    with watched():
        state = fine_tune.fn(config)
    assert state.name == "NothingToDo"
    assert "no new rows since version 3" in state.message
