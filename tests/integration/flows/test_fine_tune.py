"""The flow `fine_tune` on a growing table: training, promotion, errors.

The flow runs are executed once, in order, in one directory; the tests check what each has left.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.cli_runner import lstm_flows, webhook, without_plots, working_in
from helpers.errors import names_all
from helpers.hourly_load import hour, hourly_load
from helpers.outcomes import checkpoint, flat
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from flows import recipes
from flows.compare import compare
from flows.fine_tune import fine_tune
from lstm_models.config import CompareConfig, FineTuneConfig, Split, fine_tuning_config
from lstm_models.data.builders import read_dataset
from lstm_models.data.holdout import DataLeakageError, RowRange, RowRanges
from lstm_models.evaluation.bootstrap import paired_difference
from lstm_models.evaluation.drift import feature_drift
from lstm_models.evaluation.model_selection import Score
from lstm_models.training.trainer import fit
from lstm_models.utils.errors import TableError, UserError
from tasks import data, tracking
from tasks.lineage import find_version, validate_new_data
from tasks.schemas import ComparisonReport, FineTuneResult, TrainedVersion, TrainingRecord
from tasks.tracking import model_loader

pytestmark = pytest.mark.timeout(900)  # the first test's setup is a dozen flow runs

CONTEXT, MIN_IMPROVEMENT = 8, 0.05
DEMAND = f"""\
data: {{kind: table, path: demand.csv, time: time, target: load, context_length: {CONTEXT}, horizon: 2}}
contenders:
  hand_built: {{model: {{hidden_size: 4}}, training: {{max_epochs: 1, num_threads: 1}}, fine_tuning: {{max_epochs: 2}}}}
min_improvement: {MIN_IMPROVEMENT}
"""
MORE = (
    "contenders.hand_built.training.max_epochs=10",
    "contenders.hand_built.fine_tuning.max_epochs=20",
    "contenders.hand_built.training.learning_rate=0.005",
)
TRENDS = """\
data:
  kind: table
  path: machines.csv
  task: classify
  target: trend
  group: machine
  time: hour
  split: {train: "2024-01-25", validation: "2024-01-29"}
contenders: {hand_built: {model: {hidden_size: 4}, training: {max_epochs: 2, num_threads: 1}}}
"""


def demand(rows: int) -> pd.DataFrame:
    return hourly_load(rows).assign(note="as usual")


def machines(count: int) -> pd.DataFrame:
    """Six hours each of machines whose output falls or rises; each machine starts a day after the previous one."""
    parts = []
    for number in range(count):
        hours = np.arange(6)
        slope = (number % 5 - 2.5) / 5
        output = np.round(5 + slope * hours + 0.1 * np.sin(hours + number), 4)
        heat = np.round(np.cos(hours / 3 + number), 4)
        time = pd.date_range("2024-01-01", periods=6, freq="h") + pd.Timedelta(number, "D")
        trend = "falls" if slope < 0 else "rises"
        parts.append(
            pd.DataFrame(
                {"machine": f"m{number:02}", "hour": time.astype(str), "output": output, "heat": heat, "trend": trend}
            )
        )
    return pd.concat(parts, ignore_index=True)


# ---- what runs
class FlowRun(NamedTuple):
    """A flow run: what it returned, its new MLflow runs, the parent first, and versions; all aliases and scores
    afterwards; and what was sent to the webhook."""

    returned: Any
    runs: list[Run]
    versions: list[ModelVersion]
    aliases: dict[str, int]
    scores: dict[int, Score]
    posts: list[dict[str, Any]]

    @property
    def parent(self) -> str:
        return str(self.runs[0].info.run_id)


def runs_of(experiment: str) -> list[Run]:
    return list(mlflow.MlflowClient().search_runs([tracking.get_or_create_experiment(experiment)]))


def record_run(experiment: str, act: Callable[[], Any], posts: list[dict[str, Any]]) -> FlowRun:
    """Call a function that runs a flow, and collect what it has added."""
    before = {run.info.run_id for run in runs_of(experiment)}
    known = {tracking.version_number(version) for version in tracking.versions(experiment)}
    posts.clear()
    returned = act()
    runs = [run for run in runs_of(experiment) if run.info.run_id not in before]
    versions = tracking.versions(experiment)
    return FlowRun(
        returned,
        sorted(runs, key=lambda run: ("mlflow.parentRunId" in run.data.tags, run.info.start_time)),
        [version for version in versions if tracking.version_number(version) not in known],
        tracking.aliases(experiment),
        {tracking.version_number(version): Score.model_validate_json(version.tags["score"]) for version in versions},
        list(posts),
    )


def run_fine_tune(**settings: Any) -> State[Any]:
    """Run the flow on the experiment `demand` and return its last state."""
    state: State[Any] = fine_tune(FineTuneConfig(experiment="demand", **settings), return_state=True)
    return state


class FineTuneRuns(NamedTuple):
    directory: Path
    flow_runs: dict[str, FlowRun]


@pytest.fixture(scope="module")
def fine_tune_runs(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> FineTuneRuns:
    directory = tmp_path_factory.mktemp("fine_tune_runs")
    (directory / "demand.yaml").write_text(DEMAND)
    weekly = recipes.load(str(directory / "demand.yaml"))
    stronger = recipes.load(weekly, MORE)
    flow_runs: dict[str, FlowRun] = {}

    def write_table(rows: int) -> None:
        demand(rows).to_csv("demand.csv", index=False)

    with working_in(directory, database), webhook() as posts:

        def do(name: str, act: Callable[[], Any]) -> None:
            flow_runs[name] = record_run("demand", act, posts)

        with without_plots():
            write_table(300)
            do("compare", lambda: compare(weekly))
            do("no new rows", run_fine_tune)
        with without_plots(export=True):
            write_table(340)
            do("promoted", lambda: run_fine_tune(epochs=20))
        with without_plots():
            do("promoted again", lambda: run_fine_tune(epochs=20))
            write_table(440)
            large = ("--set=epochs=2", "--set=min_improvement=0.99")
            do("large min_improvement", lambda: lstm_flows("fine-tune", "demand", *large, "--json", "-q"))
            do("large min_improvement again", lambda: lstm_flows("fine-tune", "demand", *large, "-q"))
            do("min_improvement of compare", lambda: run_fine_tune(epochs=2))
            do("broken", lambda: run_fine_tune(mode="warm_start", learning_rate=1e30))
            warm = ("version=2", "mode=warm_start", "learning_rate=0.002", "epochs=2")
            do("warm", lambda: lstm_flows("fine-tune", "demand", *(f"--set={setting}" for setting in warm), "-q"))
            do("weekly", lambda: compare(weekly))
            write_table(480)
            do("drifted", lambda: run_fine_tune(epochs=20, max_psi=1e-6, max_ks=1e-6))
            do("weekly, stronger", lambda: compare(stronger))
    return FineTuneRuns(directory, flow_runs)


@pytest.fixture
def flow_runs(fine_tune_runs: FineTuneRuns) -> Iterator[dict[str, FlowRun]]:
    """The flow runs by name, with their directory as the working directory."""
    with working_in(fine_tune_runs.directory):
        yield fine_tune_runs.flow_runs


def result_of(done: FlowRun) -> FineTuneResult:
    """The flow's result, from its state or, for a command, from its run."""
    if isinstance(done.returned, tuple):
        return FineTuneResult.model_validate_json(stored(done, "fine_tune.json"))
    result: FineTuneResult = done.returned.result()
    return result


def stored(done: FlowRun, name: str) -> str:
    return tracking.download(f"runs:/{done.parent}/{name}").read_text()


def trained(number: int) -> TrainingRecord:
    """The training record of a version."""
    run_id = mlflow.MlflowClient().get_model_version("demand", str(number)).run_id
    return TrainingRecord.model_validate_json(tracking.download(f"runs:/{run_id}/training.json").read_text())


def losses(score: Score) -> Any:
    return pd.read_parquet(tracking.download(str(score.losses_uri)))["loss"].to_numpy()


def numbers(done: FlowRun) -> list[int]:
    return [tracking.version_number(version) for version in done.versions]


# ---- skipped
@pytest.mark.parametrize(("name", "continued"), [("no new rows", 2), ("promoted again", 3)])
def test_without_new_rows_the_run_is_skipped(flow_runs: dict[str, FlowRun], name: str, continued: int) -> None:
    done = flow_runs[name]
    state = done.returned
    assert (state.type, state.name) == (StateType.COMPLETED, "Skipped")
    assert names_all(state.message, "no new rows", f"version {continued}")
    assert state.result() == FineTuneResult(
        experiment="demand", outcome="skipped", message=state.message, base_version=continued
    )
    assert (done.runs, done.versions, done.posts) == ([], [], [])
    before = flow_runs[list(flow_runs)[list(flow_runs).index(name) - 1]]
    assert (done.aliases, done.scores) == (before.aliases, before.scores)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "Skipped")


def test_a_run_with_the_same_settings_and_data_is_skipped(flow_runs: dict[str, FlowRun]) -> None:
    done, before = flow_runs["large min_improvement again"], flow_runs["large min_improvement"]
    code, out, errors = done.returned
    assert (code, errors) == (0, "")
    assert names_all(" ".join(out.split()), "Skipped", "version 3", f"in run {before.parent}")
    assert (done.runs, done.versions, done.posts) == ([], [], [])
    assert (done.aliases, done.scores) == (before.aliases, before.scores)


# ---- promoted or not
def difference(done: FlowRun) -> tuple[float, float, float]:
    """Challenger minus champion, from the stored losses: mean and 95 % interval."""
    comparison = result_of(done).comparison
    assert comparison
    champion, challenger = comparison.results
    expected = paired_difference(losses(challenger), losses(champion), challenger.block)
    assert challenger.block == champion.block
    return expected.mean, expected.low, expected.high


def formatted_difference(done: FlowRun) -> tuple[str, str]:
    """The difference as in messages: mean and interval."""
    mean, low, high = difference(done)
    return f"{mean:+.3g}", f"{low:+.3g} to {high:+.3g}"


def test_a_challenger_that_is_better_by_min_improvement_is_promoted(flow_runs: dict[str, FlowRun]) -> None:
    done = flow_runs["promoted"]
    result = result_of(done)
    assert (done.returned.type, done.returned.name) == (StateType.COMPLETED, "Completed")
    assert (result.outcome, result.base_version, result.challenger) == ("promoted", 2, 3)
    assert done.aliases == {"champion": 3, "hand_built": 3}
    assert difference(done)[2] < -MIN_IMPROVEMENT * losses(done.scores[2]).mean()
    assert names_all(
        result.message,
        "Version 3 is now champion",
        "better than version 2",
        "min_improvement of 5 %",
        *formatted_difference(done),
    )
    assert result.comparison
    assert (result.comparison.champion.model_uri, result.comparison.champion.version) == ("models:/demand@champion", 3)
    assert result.comparison.challenger is None
    # the registry and the webhook have the reason and the flow run
    flow_run = str(done.returned.state_details.flow_run_id)
    reason = f"loss {done.scores[3].loss:.6g}, better than version 2's {done.scores[2].loss:.6g}"
    promotions = {key: tag for key, tag in done.versions[0].tags.items() if key.startswith("lstm_flows.champion.")}
    ((key, tag),) = promotions.items()
    assert re.fullmatch(r"lstm_flows\.champion\.\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", key)
    assert json.loads(tag) == {"reason": reason, "flow_run": flow_run}
    (post,) = done.posts
    assert post.pop("text") == post["message"]
    assert names_all(post.pop("message"), "demand: version 3", reason)
    assert post == {"event": "promotion", "experiment": "demand", "flow_run": flow_run}
    not_promoted = ("large min_improvement", "min_improvement of compare", "warm", "weekly", "drifted")
    assert [flow_runs[name].posts for name in not_promoted] == [[]] * len(not_promoted)


NOT_PROMOTED = {
    "large min_improvement": (3, 4, ["min_improvement of 99 %"]),  # as set for the run
    "min_improvement of compare": (3, 5, ["min_improvement of 5 %"]),  # default: the comparison's
    "warm": (2, 6, ["worse"]),
}


@pytest.mark.parametrize("name", NOT_PROMOTED)
def test_a_challenger_that_is_not_better_by_min_improvement_is_not_promoted(
    flow_runs: dict[str, FlowRun], name: str
) -> None:
    continued, version, parts = NOT_PROMOTED[name]
    done = flow_runs[name]
    result = result_of(done)
    assert (result.outcome, result.base_version, result.challenger) == ("not promoted", continued, version)
    assert done.aliases == {"champion": 3, "challenger": version, "hand_built": version}
    assert names_all(
        result.message,
        "Version 3 remains champion",
        f"version {version} is challenger",
        *parts,
        *formatted_difference(done),
    )
    _, low, high = difference(done)
    if name == "warm":
        assert low > 0
    else:
        min_improvement = 0.99 if name == "large min_improvement" else MIN_IMPROVEMENT
        assert -min_improvement * losses(done.scores[3]).mean() < high < 0


def test_the_command_prints_the_result_as_json_or_drift_and_decision(flow_runs: dict[str, FlowRun]) -> None:
    code, out, errors = flow_runs["large min_improvement"].returned
    assert (code, errors, out.count("\n")) == (0, "", 1)
    assert FineTuneResult.model_validate_json(out) == result_of(flow_runs["large min_improvement"])
    done = flow_runs["warm"]
    code, out, errors = done.returned
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert re.match(r"contender +phase +epochs +mse +interval", lines[0])
    assert [line.split()[:2] for line in lines[2:4]] == [["champion", "fine_tuned"], ["challenger", "fine_tuned"]]
    assert "Differences in scaled_mse, on the same examples:" in lines
    assert " ".join(out.split()).endswith(result_of(done).message)  # and with -q no hints
    assert re.search(r"^load +\d\.\d{3} +\d\.\d{3}$", out, re.MULTILINE)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["promoted", "large min_improvement", "min_improvement of compare", "warm", "drifted"])
def test_champion_and_challenger_are_evaluated_on_the_same_examples(flow_runs: dict[str, FlowRun], name: str) -> None:
    done = flow_runs[name]
    result = result_of(done)
    assert result.comparison
    assert result.challenger is not None
    old, new = result.comparison.results
    assert old.version is not None
    assert (old.name.split("/")[0], new.name.split("/")[0]) == ("champion", "challenger")
    assert (old.version, new.version) == (2 if name == "promoted" else 3, result.challenger)
    assert done.scores[old.version] == old.score()
    assert done.scores[result.challenger] == new.score()
    assert old.dataset == new.dataset == result.comparison.dataset.digest == done.versions[0].tags["dataset"]
    # the newest fifth of the rows
    rows = {"promoted": 340, "drifted": 480}.get(name, 440)
    keys = [
        pd.read_parquet(tracking.download(str(result.losses_uri)))["time"].astype(str).tolist() for result in (old, new)
    ]
    assert keys[0] == keys[1] == demand(rows)["time"][round(0.8 * rows) : -1].tolist()
    assert (old.losses_uri, new.losses_uri) == (
        f"runs:/{done.parent}/champion/losses.parquet",
        f"runs:/{new.run_id}/losses.parquet",
    )


def test_the_other_versions_keep_their_scores(flow_runs: dict[str, FlowRun]) -> None:
    before, after = flow_runs["broken"].scores, flow_runs["warm"].scores
    assert {number for number, score in after.items() if score != before.get(number)} == {3, 6}
    assert before[3].model_copy(update={"losses_uri": None}) == after[3].model_copy(update={"losses_uri": None})


# ---- training
def by_hand(config: CompareConfig, table: Path, directory: Path, **options: Any) -> Any:
    """Train with the library alone and return the last and the best checkpoint."""
    dataset = read_dataset(config.data.model_copy(update={"path": str(table)}), config.seed)
    contender, last, best = config.contenders["hand_built"], directory / "last.ckpt", directory / "best.ckpt"
    fit(contender, dataset, seed=config.seed, last_path=last, best_path=best, **options)
    return [checkpoint(path) for path in (last, best)]


def checkpoints_of(number: int) -> list[Any]:
    """The last and the best checkpoint of a version's training."""
    reference = trained(number).checkpoint
    return [checkpoint(tracking.download(uri)) for uri in (reference.uri, reference.best_uri)]


STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "lstm_flows")


@pytest.mark.parametrize(("number", "base", "rows", "epochs"), [(3, 2, 340, 22), (5, 3, 440, 24)])
def test_fine_tuning_is_bit_identical_to_a_fit_by_hand(
    flow_runs: dict[str, FlowRun], tmp_path: Path, number: int, base: int, rows: int, epochs: int
) -> None:
    demand(rows).to_csv(tmp_path / "demand.csv", index=False)
    resume_from = tracking.download(trained(base).checkpoint.uri)
    config = recipes.load("demand.yaml")
    expected = by_hand(config, tmp_path / "demand.csv", tmp_path, resume_from=resume_from, max_epochs=epochs)
    for actual, reference in zip(checkpoints_of(number), expected, strict=True):
        assert flat({key: actual[key] for key in STATE}) == flat({key: reference[key] for key in STATE})
    assert checkpoints_of(number)[0]["epoch"] == epochs
    # the weights have changed
    assert not torch.equal(
        *(next(iter(state["state_dict"].values())) for state in (expected[0], checkpoints_of(base)[0]))
    )


def test_min_improvement_does_not_change_training(flow_runs: dict[str, FlowRun]) -> None:
    for first, second in zip(checkpoints_of(4), checkpoints_of(5), strict=True):
        assert flat(first["state_dict"]) == flat(second["state_dict"])
    assert flow_runs["large min_improvement"].scores[4].loss == flow_runs["min_improvement of compare"].scores[5].loss
    assert trained(4).config.min_improvement == MIN_IMPROVEMENT  # for the next run it is the comparison's again


def test_a_warm_start_uses_the_best_weights_alone(flow_runs: dict[str, FlowRun], tmp_path: Path) -> None:
    demand(440).to_csv(tmp_path / "demand.csv", index=False)
    best = tracking.download(trained(2).checkpoint.best_uri)
    config = recipes.load("demand.yaml", ["contenders.hand_built.training.learning_rate=0.002"])
    expected = by_hand(config, tmp_path / "demand.csv", tmp_path, init_from=best, max_epochs=2)
    keys = [key for key in STATE if key != "lstm_flows"]
    for actual, reference in zip(checkpoints_of(6), expected, strict=True):
        assert flat({key: actual[key] for key in keys}) == flat({key: reference[key] for key in keys})
    last = checkpoints_of(6)[0]
    assert last["epoch"] == 2  # counted from the warm start
    batches = -(-(round(0.7 * 440) - CONTEXT - 1) // 64)
    steps = {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()}
    assert steps == {2 * batches}  # the optimizer is fresh
    assert {group["lr"] for group in last["optimizer_states"][0]["param_groups"]} == {0.002}
    # version 2 is fine-tuned, not the champion; and its result can be fine-tuned in turn
    done, record = flow_runs["warm"], trained(6)
    assert (result_of(done).base_version, done.versions[0].tags["continues"]) == (2, "2")
    params = mlflow.MlflowClient().get_run(done.parent).data.params
    assert (params["mode"], params["continues"], params["epochs"]) == ("warm_start", "2", "2")
    training = record.config.contenders["hand_built"].training
    assert (record.checkpoint.epochs, training.learning_rate, training.max_epochs) == (2, 0.002, 2)


def test_the_curves_of_fine_tuning_continue_at_the_last_step_of_the_previous_run(flow_runs: dict[str, FlowRun]) -> None:
    before, after = (tracking.read_curve(trained(number).checkpoint.run_id, "val_loss") for number in (2, 3))
    batches = [-(-(round(0.7 * rows) - CONTEXT - 1) // 64) for rows in (300, 340)]
    assert list(before) == [2 * batches[0] - 1]
    assert list(after) == [2 * batches[0] + batches[1] * epoch - 1 for epoch in range(1, 21)]


def test_the_registered_program_has_the_best_weights(flow_runs: dict[str, FlowRun]) -> None:
    weights = model_loader.load_model("models:/demand/3").program.state_dict()
    best = checkpoints_of(3)[1]["state_dict"]
    assert {key.removeprefix("network.") for key in weights} == {key.removeprefix("network.") for key in best}
    for key, value in best.items():
        assert torch.equal(weights[f"network.{key.removeprefix('network.')}"], value)


# ---- lineage
def test_runs_version_and_training_record_have_the_lineage(flow_runs: dict[str, FlowRun]) -> None:
    done, record, previous = flow_runs["promoted"], trained(3), trained(2)
    flow_run = str(done.returned.state_details.flow_run_id)
    (version,) = done.versions
    assert (
        version.tags.items()
        >= {
            "continues": "2",
            "rows": f"to {hour(round(0.7 * 340) - 1)[:16].replace('T', ' ')}",
            "prefect_flow_run_id": flow_run,
            "phase": "fine_tuned",
            "contender": "hand_built",
        }.items()
    )
    assert [version.tags.get("continues") for version in flow_runs["compare"].versions] == [None, "1"]
    parent, child = done.runs
    assert {run.info.status for run in done.runs} == {"FINISHED"}
    assert (parent.info.run_name, child.info.run_name) == ("fine_tune demand", "hand_built/fine_tuned")
    assert parent.data.tags["lstm_flows.flow"] == "fine_tune"
    assert parent.data.tags["lstm_flows.prefect_flow_run_id"] == flow_run
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["lstm_flows.continues"] == previous.checkpoint.run_id
    assert names_all(child.data.tags["mlflow.note.content"], "fine-tuned from epoch 2", "to epoch 22")
    assert parent.data.params.items() >= {"mode": "continue", "continues": "2", "epochs": "20"}.items()
    assert stored(done, "fine_tune.yaml") == FineTuneConfig(experiment="demand", version=2, epochs=20).to_yaml()

    # what a later training needs
    assert (record.checkpoint.run_id, record.checkpoint.epochs) == (version.run_id, 22)
    assert (record.dataset.digest, record.dataset.rows) == (version.tags["dataset"], 340)
    assert record.dataset.uri == f"runs:/{done.parent}/data/table.parquet"
    assert (record.columns, record.output.horizon, list(record.output.targets)) == (("load",), 2, ["load"])
    ranges = [(CONTEXT, 237), (238, 271), (272, 339)]
    train, validation, test = ({"": RowRange(first=hour(first), last=hour(last))} for first, last in ranges)
    assert record.rows == RowRanges(by="time", train=train, validation=validation, test=test)
    # merged with the rows of the previous version
    assert previous.trained_on
    assert previous.trained_on.validation == {"": RowRange(first=hour(210), last=hour(239))}
    assert record.trained_on == record.rows.model_copy(
        update={"validation": {"": RowRange(first=hour(210), last=hour(271))}}
    )
    contender = record.config.contenders["hand_built"]
    assert (contender.training.max_epochs, contender.fine_tuning.max_epochs) == (2, 22)


# ---- failures
def test_a_failed_run_changes_nothing_and_is_notified(flow_runs: dict[str, FlowRun]) -> None:
    done = flow_runs["broken"]
    assert done.returned.type == StateType.FAILED
    assert [run.info.status for run in done.runs] == ["FAILED", "FAILED"]
    assert done.runs[0].data.tags["lstm_flows.error"].startswith("NonFiniteLoss: ")
    assert done.versions == []
    assert done.aliases == flow_runs["min_improvement of compare"].aliases
    (post,) = done.posts
    assert (post["event"], post["experiment"]) == ("failure", None)
    assert post["flow_run"] == str(done.returned.state_details.flow_run_id)
    assert post["message"].startswith("fine_tune (")
    assert "NonFiniteLoss" in post["message"]


# ---- drift
def test_drift_is_that_of_the_newest_rows_from_the_champions_training_rows(flow_runs: dict[str, FlowRun]) -> None:
    done = flow_runs["promoted"]
    loads = demand(340)["load"].to_numpy(np.float32)
    expected = feature_drift(loads[CONTEXT:210], loads[272:])  # 0.7 of the 300 rows of version 2
    (drift,) = result_of(done).drift
    assert (drift.feature, drift.psi, drift.ks) == ("load", expected.psi, expected.ks)
    metrics = mlflow.MlflowClient().get_run(done.parent).data.metrics
    assert (metrics["drift/load/psi"], metrics["drift/load/ks"]) == (expected.psi, expected.ks)


def test_drift_stops_a_promotion(flow_runs: dict[str, FlowRun]) -> None:
    done = flow_runs["drifted"]
    result = result_of(done)
    (drift,) = result.drift
    number = result.challenger
    assert result.outcome == "not promoted"
    drifted = (f"PSI of load is {drift.psi:.3g}, above 1e-06", f"KS of load is {drift.ks:.3g}, above 1e-06")
    assert names_all(result.message, "Version 3 remains champion", f"version {number} is challenger", *drifted)
    assert done.aliases == {"champion": 3, "challenger": number, "hand_built": number}
    assert difference(done)[2] < 0  # though it is better


# ---- the weekly comparison
def test_the_weekly_comparison_on_the_same_data_keeps_a_better_champion(flow_runs: dict[str, FlowRun]) -> None:
    done, before = flow_runs["weekly"], flow_runs["warm"]
    comparison: ComparisonReport = done.returned
    assert comparison.dataset.digest == before.scores[3].dataset == done.scores[3].dataset
    assert numbers(done) == [7, 8]
    expected = paired_difference(losses(done.scores[8]), losses(done.scores[3]), done.scores[8].block)
    assert expected.verdict == "worse"
    assert done.aliases == {"champion": 3, "challenger": 8, "hand_built": 8}
    assert (comparison.champion.version, comparison.champion.model_uri) == (3, "models:/demand@champion")
    assert done.scores[3] == before.scores[3]


def test_the_weekly_comparison_promotes_by_the_same_rule(flow_runs: dict[str, FlowRun]) -> None:
    done = flow_runs["weekly, stronger"]
    champion, best = done.scores[3], done.scores[11]
    assert numbers(done) == [10, 11]
    assert champion.dataset == best.dataset == done.returned.dataset.digest
    assert (
        paired_difference(losses(best), losses(champion), best.block, min_improvement=MIN_IMPROVEMENT).verdict
        == "better"
    )
    assert (done.aliases["champion"], done.aliases["hand_built"]) == (11, 11)
    assert done.aliases["challenger"] != 11  # no version is both
    assert [post["event"] for post in done.posts] == ["promotion"]


# ---- the report
def test_the_report_has_the_decision_the_results_and_the_drift(flow_runs: dict[str, FlowRun]) -> None:
    done = flow_runs["promoted"]
    result = result_of(done)
    text = stored(done, "fine-tune.md")
    blocks = text.split("\n\n")
    assert names_all(blocks[0], "## demand", "version 2", "version 3")
    assert blocks[1] == result.message
    rows = [
        "| champion | fine_tuned | 2/2 | ",
        "| challenger | fine_tuned | 22/22 | ",
        "| last_value | baseline | - | ",
    ]
    assert all(f"\n{row}" in blocks[2] for row in rows)
    assert "scaled_mse" in blocks[3]
    assert "\n| challenger/fine_tuned | better | champion/fine_tuned | -0.0" in blocks[4]
    (drift,) = result.drift
    assert f"| feature | PSI | KS |\n| --- | --- | --- |\n| load | {drift.psi:.3f} | {drift.ks:.3f} |" in blocks
    assert re.findall(r"\d+", blocks[-1]) == ["229", "33", "67", "340", "340"]  # examples by part; rows
    parent = mlflow.MlflowClient().get_run(done.parent)
    assert parent.data.tags["mlflow.note.content"] == text
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(sort="CREATED_DESC", limit=200)
    assert any(artifact.key == "fine-tune" and artifact.data.startswith(text) for artifact in artifacts)


def files(run: Run, folder: str) -> set[str]:
    return {Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, folder)}


def test_a_run_has_its_files_and_figures(flow_runs: dict[str, FlowRun]) -> None:
    parent, child = flow_runs["promoted"].runs
    assert files(parent, "") == {
        *("result_cache", "baselines", "champion", "config.yaml", "data"),
        *("fine-tune.md", "fine_tune.json", "fine_tune.yaml", "error_by_step.png", "forecasts.png", "loss_curves.png"),
    }
    evaluated = {"losses.parquet", "predictions.parquet", "steps.csv"}
    assert files(parent, "champion") == evaluated
    assert files(child, "") == {*evaluated, "result_cache", "checkpoint", "training.json"}
    assert parent.data.metrics["champion/scaled_mse"] == flow_runs["promoted"].scores[2].loss
    assert child.data.metrics["scaled_mse"] == flow_runs["promoted"].scores[3].loss


# ---- errors
def test_what_can_not_be_fine_tuned_is_one_line_and_changes_nothing(
    flow_runs: dict[str, FlowRun], tmp_path: Path
) -> None:
    def state() -> object:
        now = record_run("demand", lambda: None, [])
        return now.aliases, now.scores, {run.info.run_id: run.info.status for run in runs_of("demand")}

    demand(440).to_csv(tmp_path / "new.csv", index=False)
    before = state()
    for experiment, settings, parts in (
        # version 2 was not trained on these rows, but the champion, which it would be compared with, was
        ("demand", [f"path={tmp_path}/new.csv", "version=2"], [hour(352), "version 11 of demand", hour(383)]),
        ("demand", ["version=99"], ["experiment demand", "no version 99", "history demand"]),
        ("demand", ["path=nowhere.csv"], ["nowhere.csv: no such file"]),
        ("demand", ["mode=again"], ["experiment demand", "mode", "'again'", "'continue' or 'warm_start'"]),
        ("demnd", [], ["experiment demnd", "no champion", "lstm-flows compare"]),
    ):
        code, out, errors = lstm_flows("fine-tune", experiment, *(f"--set={setting}" for setting in settings), "-q")
        assert (code, out, errors.partition(": ")[0]) == (2, "", "lstm-flows")
        assert names_all(errors, *parts)
    assert state() == before
    assert mlflow.MlflowClient().get_experiment_by_name("demnd") is None


def validate(version: TrainedVersion, rows: pd.DataFrame, path: Path, split: Split | None = None) -> str:
    """Validate this table as the flow does before it starts a run; return the data's digest."""
    rows.to_csv(path, index=False)
    request = FineTuneConfig(experiment=version.name, path=str(path), split=split)
    config = fine_tuning_config(version.trained.config, version.contender, version.trained.checkpoint.epochs, request)
    digest = validate_new_data.fn(config, [version])
    assert digest == data.validate_data.fn(config)
    return digest


def test_the_champion_is_not_evaluated_on_rows_that_it_was_trained_on(
    flow_runs: dict[str, FlowRun], tmp_path: Path
) -> None:
    champion, path = find_version.fn("demand"), tmp_path / "new.csv"
    for split, first in ((Split(train=0.5, validation=0.1), hour(300)), (Split(train=300, validation=83), hour(383))):
        with pytest.raises(DataLeakageError) as caught:
            validate(champion, demand(500), path, split)
        assert names_all(caught.value, first, "version 11 of demand", f"{hour(383)} (validation)")
    # the test part may start at the first row that it was not trained on
    assert validate(champion, demand(500), path, Split(train=300, validation=84))
    # compatible changes: integers instead of floats; columns that are not read
    for change in ({"load": np.arange(500)}, {"note": 7, "more": "text"}):
        assert validate(champion, demand(500).assign(**change), path)
    assert validate(champion, demand(500).drop(columns="note"), path)
    with pytest.raises(TableError) as refused:
        validate(champion, demand(500).assign(time=np.arange(500)), path)
    assert names_all(
        refused.value, "column time", "long", "datetime", "version 11 of demand", "lstm-flows compare again"
    )


def test_without_a_database_nothing_is_created(harness: None, empty_directory: Path) -> None:
    code, out, errors = lstm_flows("fine-tune", "demand", "-q")
    assert (code, out) == (2, "")
    assert names_all(errors, "experiment demand", "no mlflow.db in", empty_directory)
    assert list(empty_directory.iterdir()) == []


def test_a_dry_run_prints_the_settings_and_runs_nothing(empty_directory: Path) -> None:
    code, out, errors = lstm_flows("fine-tune", "demand", "--dry-run", "--set=epochs=3", "--set=split.train=0.6")
    assert (code, errors) == (0, "")
    (empty_directory / "printed.yaml").write_text(out)
    assert out.splitlines()[0] == "experiment: demand"
    assert FineTuneConfig(experiment="demand", epochs=3, split=Split(train=0.6)).to_yaml() == out
    assert [path.name for path in empty_directory.iterdir()] == ["printed.yaml"]


# ---- labelled sequences
@pytest.fixture(scope="module")
def labelled(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> FineTuneRuns:
    directory = tmp_path_factory.mktemp("labelled")
    (directory / "trends.yaml").write_text(TRENDS)
    later = Split(train="2024-02-04", validation="2024-02-09")
    flow_runs = {}
    with working_in(directory, database), without_plots():
        machines(38).to_csv("machines.csv", index=False)
        flow_runs["compare"] = record_run("trends", lambda: compare("trends.yaml"), [])
        machines(50).to_csv("machines.csv", index=False)
        config = FineTuneConfig(experiment="trends", epochs=2, split=later)
        flow_runs["fine_tune"] = record_run("trends", lambda: fine_tune(config, return_state=True), [])
    return FineTuneRuns(directory, flow_runs)


def test_labelled_sequences_are_fine_tuned_by_date(labelled: FineTuneRuns) -> None:
    with working_in(labelled.directory):
        first, done = labelled.flow_runs["compare"], labelled.flow_runs["fine_tune"]
        result = result_of(done)
        assert done.returned.type == StateType.COMPLETED
        assert result.comparison
        sizes = result.comparison.dataset.train, result.comparison.dataset.validation, result.comparison.dataset.test
        assert (first.returned.dataset.train, first.returned.dataset.validation, first.returned.dataset.test) == (
            24,
            4,
            10,
        )
        assert sizes == (34, 5, 11)
        assert result.comparison.metric == "log_loss"
        assert (result.base_version, result.challenger) == (first.aliases["champion"], 3)
        champion, challenger = result.comparison.results
        assert champion.dataset == challenger.dataset
        keys = pd.read_parquet(tracking.download(str(champion.losses_uri)))["machine"].tolist()
        assert keys == [f"m{number}" for number in range(39, 50)]
        expected = paired_difference(losses(challenger), losses(champion), 1)
        assert result.outcome == ("promoted" if expected.verdict == "better" else "not promoted")
        (version,) = done.versions
        assert (version.tags["rows"], version.tags["continues"]) == ("34 groups", str(result.base_version))
        run = tracking.download(f"runs:/{version.run_id}/training.json").read_text()
        rows = TrainingRecord.model_validate_json(run).trained_on
        assert rows
        assert rows.by == "group"
        assert rows.train.keys() == {f"m{number:02}" for number in range(34)}
        # the previous version's validation groups are in the training part now; they count as both
        assert rows.validation.keys() == {f"m{number:02}" for number in (*range(24, 28), *range(34, 39))}
        assert [drift.feature for drift in result.drift] == ["output", "heat"]


@pytest.mark.parametrize(
    ("error", "change", "split", "parts"),
    [
        (
            DataLeakageError,
            lambda table: table,
            Split(train="2024-01-10", validation="2024-01-20"),
            ["group m24", "(validation)", "split by date"],
        ),
        (
            TableError,
            lambda table: table.assign(trend=table["trend"].where(table["machine"] != "m53", "stays")),
            None,
            ["classes", "falls, rises, stays", "falls, rises;"],
        ),
        (TableError, lambda table: table.drop(columns="heat"), None, ["column heat"]),
        (TableError, lambda table: table.assign(more=1.5), None, ["columns", "output, heat, more", "output, heat;"]),
        (TableError, lambda table: table.assign(heat="warm"), None, ["column heat", "string", "double"]),
        (TableError, lambda table: table.assign(heat=True), None, ["column heat", "boolean", "double"]),
    ],
    ids=["a group that was trained on", "a class", "a column gone", "a column more", "text", "boolean"],
)
def test_labelled_sequences_that_do_not_fit_are_refused(
    labelled: FineTuneRuns,
    tmp_path: Path,
    error: type[UserError],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    split: Split | None,
    parts: list[str],
) -> None:
    with working_in(labelled.directory):
        champion = find_version.fn("trends")
        with pytest.raises(error) as caught:
            validate(champion, change(machines(54)), tmp_path / "new.csv", split)
    remedy = "compare" if error is DataLeakageError else "run lstm-flows compare again"
    assert names_all(caught.value, *parts, f"version {champion.number} of trends", remedy)
