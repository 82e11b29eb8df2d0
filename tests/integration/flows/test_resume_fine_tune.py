"""A crashed fine-tuning run is resumed with the rows that it started with: same challenger, same decision."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.cli_runner import without_plots, working_in
from helpers.crash_simulation import assert_same, collect_outcome, crash_at_each, recording
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
NOT_CACHED = {*TASKS[:5], "validate_stored_data", "register"}
# the points at which each process crashes, counted within the process; the results that are computed a second time
CRASHES = {
    "fine_tune": (
        [
            "log_inputs 0",  # the table is stored, but not logged as an input
            "after 0",  # it is logged
            "after 2",  # the champion is evaluated
            "step 25",
            "before 10",  # before the decision
            "set_registered_model_alias 1",  # the promotion is recorded
            "after 0",  # the alias is set
        ],
        ["store_data", "evaluate_champion", "promote_best"],
    ),
    "warm_start": (["step 8", "after 2"], ["promote_best"]),
}


def with_new_rows() -> None:
    """Train a champion, and add new rows to the table."""
    Path("demand.yaml").write_text(DEMAND)
    write_load(300)
    with recording():
        compare.fn(recipes.load("demand.yaml"))
    write_load(340)


def stable_history() -> list[dict[str, Any]]:
    """Return the history without ids, flow runs and times."""
    rows = [
        {key: row[key] for key in row.keys() - {"run", "flow_run", "created"}}
        for row in history.version_history("demand")
    ]
    for row in rows:
        row["champion"] = [(time["reason"], time["until"] is None) for time in row["champion"]]
    return rows


@pytest.mark.parametrize("mode", CONFIGS)
def test_a_resumed_run_makes_the_same_decision_although_the_table_has_grown(
    tmp_path_factory: pytest.TempPathFactory, database: Path, workplace: Path, mode: str
) -> None:
    directory, config = tmp_path_factory.mktemp(mode), CONFIGS[mode]
    with working_in(directory, database), without_plots():
        with_new_rows()
        with recording() as record:
            expected: FineTuneResult = fine_tune.fn(config)
        outcome, rows = collect_outcome("demand"), stable_history()
    assert record.calls == [mode if name == "MODE" else name for name in TASKS]
    # the table is stored by a cached function of its own
    assert record.cached_results == ["store_table", *(name for name in record.calls if name not in NOT_CACHED)]
    assert (expected.outcome, expected.base_version, expected.challenger) == ("promoted", 2, 3)

    crashes, repeated = CRASHES[mode]
    results: list[FineTuneResult] = []

    def resume() -> None:
        write_load(400)
        # as the command does: the settings come from the run
        results.append(fine_tune.fn(FineTuneConfig(experiment="demand"), "newest"))

    with without_plots():
        with_new_rows()
    records = crash_at_each(crashes, lambda: fine_tune.fn(config), resume)
    (result,) = results
    assert result.comparison
    assert expected.comparison
    assert result.comparison.dataset == expected.comparison.dataset
    assert (result.outcome, result.message) == (expected.outcome, expected.message)
    assert_same(collect_outcome("demand"), outcome)
    assert stable_history() == rows
    assert [tenure.version for tenure in promotion_history(tracking.versions("demand"))] == [2, 3]
    assert tracking.aliases("demand") == {"champion": 3, "hand_built": 3}
    assert Counter(name for each in records for name in each.cached_results) == Counter(
        [*record.cached_results, *repeated]
    )

    write_load(340)
    with recording():
        state = fine_tune.fn(config)
    assert state.name == "Skipped"
    assert "no new rows since version 3" in state.message
