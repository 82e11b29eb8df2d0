"""The flow `fine_tune` on a growing table: how training continues, who is promoted, what is refused.

The flow runs take place once, in order, in one directory; the tests look at what each has left.
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
from helpers.cli_runner import lstm_flows, plain, webhook, working_in
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
from lstm_models.data.dataset import read_dataset
from lstm_models.data.holdout import DataLeakageError, RowRange, RowRanges
from lstm_models.evaluation.bootstrap import paired_difference
from lstm_models.evaluation.drift import feature_drift
from lstm_models.training.trainer import fit
from lstm_models.utils.errors import TableError, UserError
from tasks import data, tracking
from tasks.lineage import find_version, validate_new_data
from tasks.schemas import ComparisonReport, FineTuneResult, Score, TrainedVersion, TrainingRecord
from tasks.tracking import model_loader

pytestmark = pytest.mark.timeout(900)  # the first test's setup is a dozen flow runs

CONTEXT, MARGIN = 8, 0.05
DEMAND = f"""\
data: {{kind: table, path: demand.csv, time: time, target: load, context_length: {CONTEXT}, horizon: 2}}
contenders:
  hand_built: {{model: {{hidden_size: 4}}, training: {{max_epochs: 1, num_threads: 1}}, fine_tuning: {{max_epochs: 2}}}}
min_improvement: {MARGIN}
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
    """Six hours each of machines whose output falls or rises; each a day after the one before."""
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
class Step(NamedTuple):
    """One run of a flow, and what it has left: its runs in MLflow, the parent first, and versions; how things stood
    afterwards; what the webhook was sent."""

    answer: Any
    runs: list[Run]
    versions: list[ModelVersion]
    aliases: dict[str, int]
    judged: dict[int, Score]
    posts: list[dict[str, Any]]

    @property
    def parent(self) -> str:
        return str(self.runs[0].info.run_id)


def runs_of(experiment: str) -> list[Run]:
    return list(mlflow.MlflowClient().search_runs([tracking.get_or_create_experiment(experiment)]))


def step(experiment: str, act: Callable[[], Any], posts: list[dict[str, Any]]) -> Step:
    """Do it, and look at what is new."""
    before = {run.info.run_id for run in runs_of(experiment)}
    known = {tracking.version_number(version) for version in tracking.versions(experiment)}
    posts.clear()
    answer = act()
    runs = [run for run in runs_of(experiment) if run.info.run_id not in before]
    versions = tracking.versions(experiment)
    return Step(
        answer,
        sorted(runs, key=lambda run: ("mlflow.parentRunId" in run.data.tags, run.info.start_time)),
        [version for version in versions if tracking.version_number(version) not in known],
        tracking.aliases(experiment),
        {tracking.version_number(version): Score.model_validate_json(version.tags["score"]) for version in versions},
        list(posts),
    )


def night(**settings: Any) -> State[Any]:
    """The flow's last state."""
    state: State[Any] = fine_tune(FineTuneConfig(experiment="demand", **settings), return_state=True)
    return state


class Nights(NamedTuple):
    directory: Path
    steps: dict[str, Step]


@pytest.fixture(scope="module")
def nights(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Nights:
    directory = tmp_path_factory.mktemp("nights")
    (directory / "mlflow.db").write_bytes(database.read_bytes())
    (directory / "demand.yaml").write_text(DEMAND)
    weekly = recipes.load(str(directory / "demand.yaml"))
    stronger = recipes.load(weekly, MORE)
    steps: dict[str, Step] = {}

    def grown(rows: int) -> None:
        demand(rows).to_csv("demand.csv", index=False)

    with working_in(directory), webhook() as posts:

        def do(name: str, act: Callable[[], Any]) -> None:
            steps[name] = step("demand", act, posts)

        with plain():
            grown(300)
            do("compare", lambda: compare(weekly))
            do("nothing new", night)
        with plain(wholly=False):
            grown(340)
            do("promoted", lambda: night(epochs=20))
        with plain():
            do("promoted again", lambda: night(epochs=20))
            grown(440)
            wide = ("--set=epochs=2", "--set=min_improvement=0.99")
            do("wide margin", lambda: lstm_flows("fine-tune", "demand", *wide, "--json", "-q"))
            do("wide margin again", lambda: lstm_flows("fine-tune", "demand", *wide, "-q"))
            do("margin of compare", lambda: night(epochs=2))
            do("broken", lambda: night(mode="warm_start", learning_rate=1e30))
            warm = ("version=2", "mode=warm_start", "learning_rate=0.002", "epochs=2")
            do("warm", lambda: lstm_flows("fine-tune", "demand", *(f"--set={one}" for one in warm), "-q"))
            do("weekly", lambda: compare(weekly))
            grown(480)
            do("drifted", lambda: night(epochs=20, max_psi=1e-6, max_ks=1e-6))
            do("weekly, stronger", lambda: compare(stronger))
    return Nights(directory, steps)


@pytest.fixture
def at(nights: Nights) -> Iterator[dict[str, Step]]:
    """The nights, their directory being the working directory."""
    with working_in(nights.directory):
        yield nights.steps


def answer(done: Step) -> FineTuneResult:
    """What the flow answered, whichever way it was run."""
    if isinstance(done.answer, tuple):
        return FineTuneResult.model_validate_json(stored(done, "fine_tune.json"))
    found: FineTuneResult = done.answer.result()
    return found


def stored(done: Step, name: str) -> str:
    return tracking.download(f"runs:/{done.parent}/{name}").read_text()


def trained(number: int) -> TrainingRecord:
    """What the training of a version has left."""
    run_id = mlflow.MlflowClient().get_model_version("demand", str(number)).run_id
    return TrainingRecord.model_validate_json(tracking.download(f"runs:/{run_id}/training.json").read_text())


def losses(judged: Score) -> Any:
    return pd.read_parquet(tracking.download(str(judged.losses_uri)))["loss"].to_numpy()


def numbers(done: Step) -> list[int]:
    return [tracking.version_number(version) for version in done.versions]


# ---- nothing to do
@pytest.mark.parametrize(("name", "continued"), [("nothing new", 2), ("promoted again", 3)])
def test_without_new_rows_there_is_nothing_to_do(at: dict[str, Step], name: str, continued: int) -> None:
    done = at[name]
    state = done.answer
    assert (state.type, state.name) == (StateType.COMPLETED, "NothingToDo")
    assert names_all(state.message, "no new rows", f"version {continued}")
    assert state.result() == FineTuneResult(
        experiment="demand", outcome="skipped", message=state.message, base_version=continued
    )
    assert (done.runs, done.versions, done.posts) == ([], [], [])
    before = at[list(at)[list(at).index(name) - 1]]
    assert (done.aliases, done.judged) == (before.aliases, before.judged)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "NothingToDo")


def test_a_night_whose_challenger_was_kept_is_not_made_again(at: dict[str, Step]) -> None:
    done, before = at["wide margin again"], at["wide margin"]
    code, out, errors = done.answer
    assert (code, errors) == (0, "")
    assert names_all(" ".join(out.split()), "Skipped", "version 3", f"in run {before.parent}")
    assert (done.runs, done.versions, done.posts) == ([], [], [])
    assert (done.aliases, done.judged) == (before.aliases, before.judged)


# ---- promoted, or kept
def difference(done: Step) -> tuple[float, float, float]:
    """Challenger minus champion, from the losses that both have left: mean and 95 % interval."""
    comparison = answer(done).comparison
    assert comparison
    champion, challenger = comparison.results
    found = paired_difference(losses(challenger), losses(champion), challenger.block)
    assert challenger.block == champion.block
    return found.mean, found.low, found.high


def as_told(done: Step) -> tuple[str, str]:
    """The difference as messages have it."""
    mean, low, high = difference(done)
    return f"{mean:+.3g}", f"{low:+.3g} to {high:+.3g}"


def test_a_challenger_that_is_better_beyond_the_margin_is_promoted(at: dict[str, Step]) -> None:
    done = at["promoted"]
    found = answer(done)
    assert (done.answer.type, done.answer.name) == (StateType.COMPLETED, "Completed")
    assert (found.outcome, found.base_version, found.challenger) == ("promoted", 2, 3)
    assert done.aliases == {"champion": 3, "hand_built": 3}
    assert difference(done)[2] < -MARGIN * losses(done.judged[2]).mean()
    assert names_all(found.message, "Version 3", "better than version 2", "margin of 5 %", *as_told(done))
    assert found.comparison
    assert (found.comparison.champion.model_uri, found.comparison.champion.version) == ("models:/demand@champion", 3)
    assert found.comparison.challenger is None
    # with its reason and its flow run, for the registry and for the webhook
    flow_run = str(done.answer.state_details.flow_run_id)
    reason = f"loss {done.judged[3].loss:.6g}, better than version 2's {done.judged[2].loss:.6g}"
    crowned = {key: told for key, told in done.versions[0].tags.items() if key.startswith("lstm_flows.champion.")}
    ((key, told),) = crowned.items()
    assert re.fullmatch(r"lstm_flows\.champion\.\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", key)
    assert json.loads(told) == {"reason": reason, "flow_run": flow_run}
    (post,) = done.posts
    assert post.pop("text") == post["message"]
    assert names_all(post.pop("message"), "demand: version 3", reason)
    assert post == {"event": "promotion", "experiment": "demand", "flow_run": flow_run}
    kept = ("wide margin", "margin of compare", "warm", "weekly", "drifted")
    assert [at[name].posts for name in kept] == [[]] * len(kept)


KEPT = {
    "wide margin": (3, 4, ["margin of 99 %"]),  # the margin that is asked for
    "margin of compare": (3, 5, ["margin of 5 %"]),  # or else that of the comparison that the champion comes from
    "warm": (2, 6, ["worse"]),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_challenger_that_is_not_better_by_the_margin_is_kept(at: dict[str, Step], name: str) -> None:
    continued, version, parts = KEPT[name]
    done = at[name]
    found = answer(done)
    assert (found.outcome, found.base_version, found.challenger) == ("not promoted", continued, version)
    assert done.aliases == {"champion": 3, "challenger": version, "hand_built": version}
    assert names_all(found.message, "Version 3 stays", f"version {version} is challenger", *parts, *as_told(done))
    _, low, high = difference(done)
    if name == "warm":
        assert low > 0
    else:
        margin = 0.99 if name == "wide margin" else MARGIN
        assert -margin * losses(done.judged[3]).mean() < high < 0


def test_the_command_prints_the_result_as_json_or_drift_and_decision(at: dict[str, Step]) -> None:
    code, out, errors = at["wide margin"].answer
    assert (code, errors, out.count("\n")) == (0, "", 1)
    assert FineTuneResult.model_validate_json(out) == answer(at["wide margin"])
    done = at["warm"]
    code, out, errors = done.answer
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert re.match(r"contender +phase +epochs +mse +interval", lines[0])
    assert [line.split()[:2] for line in lines[2:4]] == [["champion", "fine_tuned"], ["challenger", "fine_tuned"]]
    assert "Differences in scaled_mse, on the same examples:" in lines
    assert " ".join(out.split()).endswith(answer(done).message)  # and with -q no hints
    assert re.search(r"^load +\d\.\d{3} +\d\.\d{3}$", out, re.MULTILINE)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["promoted", "wide margin", "margin of compare", "warm", "drifted"])
def test_champion_and_challenger_are_judged_on_the_same_examples(at: dict[str, Step], name: str) -> None:
    done = at[name]
    found = answer(done)
    assert found.comparison
    assert found.challenger is not None
    old, new = found.comparison.results
    assert old.version is not None
    assert (old.name.split("/")[0], new.name.split("/")[0]) == ("champion", "challenger")
    assert (old.version, new.version) == (2 if name == "promoted" else 3, found.challenger)
    assert done.judged[old.version] == old.score()
    assert done.judged[found.challenger] == new.score()
    assert old.dataset == new.dataset == found.comparison.dataset.digest == done.versions[0].tags["dataset"]
    # the newest fifth of the rows
    rows = {"promoted": 340, "drifted": 480}.get(name, 440)
    keys = [pd.read_parquet(tracking.download(str(one.losses_uri)))["time"].astype(str).tolist() for one in (old, new)]
    assert keys[0] == keys[1] == demand(rows)["time"][round(0.8 * rows) : -1].tolist()
    assert (old.losses_uri, new.losses_uri) == (
        f"runs:/{done.parent}/champion/losses.parquet",
        f"runs:/{new.run_id}/losses.parquet",
    )


def test_the_other_versions_judgements_stay(at: dict[str, Step]) -> None:
    before, after = at["broken"].judged, at["warm"].judged
    assert {number for number, judged in after.items() if judged != before.get(number)} == {3, 6}
    assert before[3].model_copy(update={"losses_uri": None}) == after[3].model_copy(update={"losses_uri": None})


# ---- how it goes on
def by_hand(config: CompareConfig, table: Path, directory: Path, **how: Any) -> Any:
    """A training by the library alone: its two checkpoints."""
    dataset = read_dataset(config.data.model_copy(update={"path": str(table)}), config.seed)
    contender, last, best = config.contenders["hand_built"], directory / "last.ckpt", directory / "best.ckpt"
    fit(contender, dataset, seed=config.seed, last_path=last, best_path=best, **how)
    return [checkpoint(path) for path in (last, best)]


def left(number: int) -> list[Any]:
    """The checkpoints of a version's training."""
    kept = trained(number).checkpoint
    return [checkpoint(tracking.download(uri)) for uri in (kept.uri, kept.best_uri)]


STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "lstm_flows")


@pytest.mark.parametrize(("number", "before", "rows", "epochs"), [(3, 2, 340, 22), (5, 3, 440, 24)])
def test_resuming_is_bit_identical_to_a_fit_by_hand(
    at: dict[str, Step], tmp_path: Path, number: int, before: int, rows: int, epochs: int
) -> None:
    demand(rows).to_csv(tmp_path / "demand.csv", index=False)
    resume_from = tracking.download(trained(before).checkpoint.uri)
    config = recipes.load("demand.yaml")
    expected = by_hand(config, tmp_path / "demand.csv", tmp_path, resume_from=resume_from, max_epochs=epochs)
    for own, its in zip(left(number), expected, strict=True):
        assert flat({key: own[key] for key in STATE}) == flat({key: its[key] for key in STATE})
    assert left(number)[0]["epoch"] == epochs
    # and it has moved
    assert not torch.equal(*(next(iter(some["state_dict"].values())) for some in (expected[0], left(before)[0])))


def test_what_is_asked_about_margin_changes_nothing_in_training(at: dict[str, Step]) -> None:
    for one, other in zip(left(4), left(5), strict=True):
        assert flat(one["state_dict"]) == flat(other["state_dict"])
    assert at["wide margin"].judged[4].loss == at["margin of compare"].judged[5].loss
    assert trained(4).config.min_improvement == MARGIN  # nor for the next night


def test_a_warm_start_takes_the_best_weights_alone(at: dict[str, Step], tmp_path: Path) -> None:
    demand(440).to_csv(tmp_path / "demand.csv", index=False)
    best = tracking.download(trained(2).checkpoint.best_uri)
    config = recipes.load("demand.yaml", ["contenders.hand_built.training.learning_rate=0.002"])
    expected = by_hand(config, tmp_path / "demand.csv", tmp_path, init_from=best, max_epochs=2)
    keys = [key for key in STATE if key != "lstm_flows"]
    for own, its in zip(left(6), expected, strict=True):
        assert flat({key: own[key] for key in keys}) == flat({key: its[key] for key in keys})
    last = left(6)[0]
    assert last["epoch"] == 2  # counted from there
    batches = -(-(round(0.7 * 440) - CONTEXT - 1) // 64)
    steps = {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()}
    assert steps == {2 * batches}  # the optimizer is fresh
    assert {group["lr"] for group in last["optimizer_states"][0]["param_groups"]} == {0.002}
    # the named version goes on and not the champion; and what comes of it can go on as well
    done, found = at["warm"], trained(6)
    assert (answer(done).base_version, done.versions[0].tags["continues"]) == (2, "2")
    params = mlflow.MlflowClient().get_run(done.parent).data.params
    assert (params["mode"], params["continues"], params["epochs"]) == ("warm_start", "2", "2")
    training = found.config.contenders["hand_built"].training
    assert (found.checkpoint.epochs, training.learning_rate, training.max_epochs) == (2, 0.002, 2)


def test_the_curves_of_a_resumed_training_go_on_where_the_one_before_ended(at: dict[str, Step]) -> None:
    before, after = (tracking.read_curve(trained(number).checkpoint.run_id, "val_loss") for number in (2, 3))
    batches = [-(-(round(0.7 * rows) - CONTEXT - 1) // 64) for rows in (300, 340)]
    assert list(before) == [2 * batches[0] - 1]
    assert list(after) == [2 * batches[0] + batches[1] * epoch - 1 for epoch in range(1, 21)]


def test_the_registered_program_has_the_best_weights(at: dict[str, Step]) -> None:
    weights = model_loader.load_model("models:/demand/3").program.state_dict()
    best = left(3)[1]["state_dict"]
    assert {key.removeprefix("network.") for key in weights} == {key.removeprefix("network.") for key in best}
    for key, value in best.items():
        assert torch.equal(weights[f"network.{key.removeprefix('network.')}"], value)


# ---- lineage
def test_runs_version_and_training_record_have_the_lineage(at: dict[str, Step]) -> None:
    done, found, before = at["promoted"], trained(3), trained(2)
    flow_run = str(done.answer.state_details.flow_run_id)
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
    assert [version.tags.get("continues") for version in at["compare"].versions] == [None, "1"]
    parent, child = done.runs
    assert {run.info.status for run in done.runs} == {"FINISHED"}
    assert (parent.info.run_name, child.info.run_name) == ("fine_tune demand", "hand_built/fine_tuned")
    assert parent.data.tags["lstm_flows.flow"] == "fine_tune"
    assert parent.data.tags["lstm_flows.prefect_flow_run_id"] == flow_run
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["lstm_flows.continues"] == before.checkpoint.run_id
    assert names_all(child.data.tags["mlflow.note.content"], "resumed at epoch 2", "to epoch 22")
    assert parent.data.params.items() >= {"mode": "continue", "continues": "2", "epochs": "20"}.items()
    assert stored(done, "fine_tune.yaml") == FineTuneConfig(experiment="demand", version=2, epochs=20).to_yaml()

    # what a later training takes up
    assert (found.checkpoint.run_id, found.checkpoint.epochs) == (version.run_id, 22)
    assert (found.dataset.digest, found.dataset.rows) == (version.tags["dataset"], 340)
    assert found.dataset.uri == f"runs:/{done.parent}/data/table.parquet"
    assert (found.columns, found.output.horizon, list(found.output.targets)) == (("load",), 2, ["load"])
    spans = [(CONTEXT, 237), (238, 271), (272, 339)]
    train, validation, test = ({"": RowRange(first=hour(first), last=hour(last))} for first, last in spans)
    assert found.rows == RowRanges(by="time", train=train, validation=validation, test=test)
    # with what the version before has learnt from
    assert before.trained_on
    assert before.trained_on.validation == {"": RowRange(first=hour(210), last=hour(239))}
    assert found.trained_on == found.rows.model_copy(
        update={"validation": {"": RowRange(first=hour(210), last=hour(271))}}
    )
    contender = found.config.contenders["hand_built"]
    assert (contender.training.max_epochs, contender.fine_tuning.max_epochs) == (2, 22)


# ---- what goes wrong on the way
def test_a_night_that_breaks_changes_nothing_and_is_told(at: dict[str, Step]) -> None:
    done = at["broken"]
    assert done.answer.type == StateType.FAILED
    assert [run.info.status for run in done.runs] == ["FAILED", "FAILED"]
    assert done.runs[0].data.tags["lstm_flows.error"].startswith("NonFiniteLoss: ")
    assert done.versions == []
    assert done.aliases == at["margin of compare"].aliases
    (post,) = done.posts
    assert (post["event"], post["experiment"]) == ("failure", None)
    assert post["flow_run"] == str(done.answer.state_details.flow_run_id)
    assert post["message"].startswith("fine_tune (")
    assert "NonFiniteLoss" in post["message"]


# ---- drift
def test_drift_is_that_of_the_newest_rows_from_the_champions_training_rows(at: dict[str, Step]) -> None:
    done = at["promoted"]
    loads = demand(340)["load"].to_numpy(np.float32)
    expected = feature_drift(loads[CONTEXT:210], loads[272:])  # 0.7 of the 300 that version 2 was made of
    (found,) = answer(done).drift
    assert (found.feature, found.psi, found.ks) == ("load", expected.psi, expected.ks)
    metrics = mlflow.MlflowClient().get_run(done.parent).data.metrics
    assert (metrics["drift/load/psi"], metrics["drift/load/ks"]) == (expected.psi, expected.ks)


def test_drift_stops_a_promotion(at: dict[str, Step]) -> None:
    done = at["drifted"]
    found = answer(done)
    (moved,) = found.drift
    number = found.challenger
    assert found.outcome == "not promoted"
    drifted = (f"PSI of load is {moved.psi:.3g}, above 1e-06", f"KS of load is {moved.ks:.3g}, above 1e-06")
    assert names_all(found.message, "Version 3 stays", f"version {number} is challenger", *drifted)
    assert done.aliases == {"champion": 3, "challenger": number, "hand_built": number}
    assert difference(done)[2] < 0  # though it is better


# ---- the weekly comparison
def test_the_weekly_comparison_on_a_nights_data_leaves_the_champion_that_is_better(at: dict[str, Step]) -> None:
    done, before = at["weekly"], at["warm"]
    comparison: ComparisonReport = done.answer
    assert comparison.dataset.digest == before.judged[3].dataset == done.judged[3].dataset
    assert numbers(done) == [7, 8]
    found = paired_difference(losses(done.judged[8]), losses(done.judged[3]), done.judged[8].block)
    assert found.verdict == "worse"
    assert done.aliases == {"champion": 3, "challenger": 8, "hand_built": 8}
    assert (comparison.champion.version, comparison.champion.model_uri) == (3, "models:/demand@champion")
    assert done.judged[3] == before.judged[3]


def test_the_weekly_comparison_promotes_by_the_same_rule(at: dict[str, Step]) -> None:
    done = at["weekly, stronger"]
    champion, best = done.judged[3], done.judged[11]
    assert numbers(done) == [10, 11]
    assert champion.dataset == best.dataset == done.answer.dataset.digest
    assert paired_difference(losses(best), losses(champion), best.block, min_improvement=MARGIN).verdict == "better"
    assert (done.aliases["champion"], done.aliases["hand_built"]) == (11, 11)
    assert done.aliases["challenger"] != 11  # nobody is both
    assert [post["event"] for post in done.posts] == ["promotion"]


# ---- the report
def test_the_report_says_what_became_of_it(at: dict[str, Step]) -> None:
    done = at["promoted"]
    found = answer(done)
    text = stored(done, "fine-tune.md")
    blocks = text.split("\n\n")
    assert names_all(blocks[0], "## demand", "version 2", "version 3")
    assert blocks[1] == found.message
    rows = [
        "| champion | fine_tuned | 2/2 | ",
        "| challenger | fine_tuned | 22/22 | ",
        "| last_value | baseline | - | ",
    ]
    assert all(f"\n{row}" in blocks[2] for row in rows)
    assert "scaled_mse" in blocks[3]
    assert "\n| challenger/fine_tuned | better | champion/fine_tuned | -0.0" in blocks[4]
    (moved,) = found.drift
    assert f"| feature | PSI | KS |\n| --- | --- | --- |\n| load | {moved.psi:.3f} | {moved.ks:.3f} |" in blocks
    assert re.findall(r"\d+", blocks[-1]) == ["229", "33", "67", "340", "340"]  # examples by part; rows
    parent = mlflow.MlflowClient().get_run(done.parent)
    assert parent.data.tags["mlflow.note.content"] == text
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(sort="CREATED_DESC", limit=200)
    assert any(one.key == "fine-tune" and one.data.startswith(text) for one in artifacts)


def files(run: Run, folder: str) -> set[str]:
    return {Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, folder)}


def test_a_night_has_its_files_and_pictures(at: dict[str, Step]) -> None:
    parent, child = at["promoted"].runs
    assert files(parent, "") == {
        *("result_cache", "baselines", "champion", "config.yaml", "data"),
        *("fine-tune.md", "fine_tune.json", "fine_tune.yaml", "error_by_step.png", "forecasts.png", "loss_curves.png"),
    }
    evaluated = {"losses.parquet", "predictions.parquet", "steps.csv"}
    assert files(parent, "champion") == evaluated
    assert files(child, "") == {*evaluated, "result_cache", "checkpoint", "training.json"}
    assert parent.data.metrics["champion/scaled_mse"] == at["promoted"].judged[2].loss
    assert child.data.metrics["scaled_mse"] == at["promoted"].judged[3].loss


# ---- what is refused
def test_what_can_not_be_trained_further_is_one_line_and_leaves_nothing(at: dict[str, Step], tmp_path: Path) -> None:
    def state() -> object:
        now = step("demand", lambda: None, [])
        return now.aliases, now.judged, {run.info.run_id: run.info.status for run in runs_of("demand")}

    demand(440).to_csv(tmp_path / "new.csv", index=False)
    before = state()
    for experiment, settings, parts in (
        # version 2 has not learnt from these rows, but the champion that it would be held against has
        ("demand", [f"path={tmp_path}/new.csv", "version=2"], [hour(352), "version 11 of demand", hour(383)]),
        ("demand", ["version=99"], ["experiment demand", "no version 99", "history demand"]),
        ("demand", ["path=nowhere.csv"], ["nowhere.csv: no such file"]),
        ("demand", ["mode=again"], ["experiment demand", "mode", "'again'", "'continue' or 'warm_start'"]),
        ("demnd", [], ["experiment demnd", "no champion", "lstm-flows compare"]),
    ):
        code, out, errors = lstm_flows("fine-tune", experiment, *(f"--set={one}" for one in settings), "-q")
        assert (code, out, errors.partition(": ")[0]) == (2, "", "lstm-flows")
        assert names_all(errors, *parts)
    assert state() == before
    assert mlflow.MlflowClient().get_experiment_by_name("demnd") is None


def look_at(version: TrainedVersion, rows: pd.DataFrame, path: Path, split: Split | None = None) -> str:
    """What the flow finds before anything begins, of this table as it is now: the data's digest, or an error."""
    rows.to_csv(path, index=False)
    asked = FineTuneConfig(experiment=version.name, path=str(path), split=split)
    config = fine_tuning_config(version.trained.config, version.contender, version.trained.checkpoint.epochs, asked)
    digest = validate_new_data.fn(config, [version])
    assert digest == data.validate_data.fn(config)
    return digest


def test_rows_that_the_champion_has_learnt_from_do_not_evaluate_it(at: dict[str, Step], tmp_path: Path) -> None:
    champion, path = find_version.fn("demand"), tmp_path / "new.csv"
    for split, first in ((Split(train=0.5, validation=0.1), hour(300)), (Split(train=300, validation=83), hour(383))):
        with pytest.raises(DataLeakageError) as caught:
            look_at(champion, demand(500), path, split)
        assert names_all(caught.value, first, "version 11 of demand", f"{hour(383)} (validation)")
    # the first row that it has not learnt from does
    assert look_at(champion, demand(500), path, Split(train=300, validation=84))
    # what makes no difference to the model: whole numbers where there were fractions; columns that are not read
    for change in ({"load": np.arange(500)}, {"note": 7, "more": "text"}):
        assert look_at(champion, demand(500).assign(**change), path)
    assert look_at(champion, demand(500).drop(columns="note"), path)
    with pytest.raises(TableError) as refused:
        look_at(champion, demand(500).assign(time=np.arange(500)), path)
    assert names_all(refused.value, "column time", "long", "datetime", "version 11 of demand", "compare anew")


def test_where_nothing_is_tracked_nothing_is_made(harness: None, empty_directory: Path) -> None:
    code, out, errors = lstm_flows("fine-tune", "demand", "-q")
    assert (code, out) == (2, "")
    assert names_all(errors, "experiment demand", "no mlflow.db in", empty_directory)
    assert list(empty_directory.iterdir()) == []


def test_a_dry_run_prints_the_settings_and_runs_nothing(empty_directory: Path) -> None:
    code, out, errors = lstm_flows("fine-tune", "demand", "--dry-run", "--set=epochs=3", "--set=split.train=0.6")
    assert (code, errors) == (0, "")
    (empty_directory / "asked.yaml").write_text(out)
    assert out.splitlines()[0] == "experiment: demand"
    assert FineTuneConfig(experiment="demand", epochs=3, split=Split(train=0.6)).to_yaml() == out
    assert [path.name for path in empty_directory.iterdir()] == ["asked.yaml"]


# ---- labelled sequences
@pytest.fixture(scope="module")
def labelled(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Nights:
    directory = tmp_path_factory.mktemp("labelled")
    (directory / "mlflow.db").write_bytes(database.read_bytes())
    (directory / "trends.yaml").write_text(TRENDS)
    later = Split(train="2024-02-04", validation="2024-02-09")
    steps = {}
    with working_in(directory), plain():
        machines(38).to_csv("machines.csv", index=False)
        steps["compare"] = step("trends", lambda: compare("trends.yaml"), [])
        machines(50).to_csv("machines.csv", index=False)
        config = FineTuneConfig(experiment="trends", epochs=2, split=later)
        steps["night"] = step("trends", lambda: fine_tune(config, return_state=True), [])
    return Nights(directory, steps)


def test_labelled_sequences_go_on_by_date(labelled: Nights) -> None:
    with working_in(labelled.directory):
        first, done = labelled.steps["compare"], labelled.steps["night"]
        found = answer(done)
        assert done.answer.type == StateType.COMPLETED
        assert found.comparison
        sizes = found.comparison.dataset.train, found.comparison.dataset.validation, found.comparison.dataset.test
        assert (first.answer.dataset.train, first.answer.dataset.validation, first.answer.dataset.test) == (24, 4, 10)
        assert sizes == (34, 5, 11)
        assert found.comparison.metric == "log_loss"
        assert (found.base_version, found.challenger) == (first.aliases["champion"], 3)
        champion, challenger = found.comparison.results
        assert champion.dataset == challenger.dataset
        keys = pd.read_parquet(tracking.download(str(champion.losses_uri)))["machine"].tolist()
        assert keys == [f"m{number}" for number in range(39, 50)]
        expected = paired_difference(losses(challenger), losses(champion), 1)
        assert found.outcome == ("promoted" if expected.verdict == "better" else "not promoted")
        (version,) = done.versions
        assert (version.tags["rows"], version.tags["continues"]) == ("34 groups", str(found.base_version))
        run = tracking.download(f"runs:/{version.run_id}/training.json").read_text()
        rows = TrainingRecord.model_validate_json(run).trained_on
        assert rows
        assert rows.by == "group"
        assert rows.train.keys() == {f"m{number:02}" for number in range(34)}
        # the validation groups of the version before were trained on since; they count as both
        assert rows.validation.keys() == {f"m{number:02}" for number in (*range(24, 28), *range(34, 39))}
        assert [one.feature for one in found.drift] == ["output", "heat"]


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
    ids=["a group that was learnt from", "a class", "a column gone", "a column more", "text", "boolean"],
)
def test_labelled_sequences_that_do_not_fit_are_refused(
    labelled: Nights,
    tmp_path: Path,
    error: type[UserError],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    split: Split | None,
    parts: list[str],
) -> None:
    with working_in(labelled.directory):
        champion = find_version.fn("trends")
        with pytest.raises(error) as caught:
            look_at(champion, change(machines(54)), tmp_path / "new.csv", split)
    assert names_all(caught.value, *parts, f"version {champion.number} of trends", "compare anew")
