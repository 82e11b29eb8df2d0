"""The flow `fine_tune`, night after night on a growing table: what goes on, who is promoted, what is refused.

The nights run once, in order, in one directory; the tests look at what each has left.
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
from helpers.outcomes import checkpoint, flat
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from flows import recipes
from flows.compare import compare
from flows.fine_tune import fine_tune
from lstm_models.config import CompareConfig, FineTuneConfig, Split
from lstm_models.data.dataset import load
from lstm_models.drift import drift
from lstm_models.held_out import Span
from lstm_models.intervals import paired_difference
from lstm_models.training import fit
from tasks import data, registry, tracking
from tasks.references import Comparison, FineTuned, Judged, Trained

CONTEXT, MARGIN = 8, 0.05
DEMAND = f"""\
data: {{kind: table, path: demand.csv, time: time, target: load, context_length: {CONTEXT}, horizon: 2}}
contenders:
  hand_built: {{model: {{hidden_size: 4}}, training: {{max_epochs: 1, threads: 1}}, fine_tuning: {{max_epochs: 2}}}}
margin: {MARGIN}
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
contenders: {hand_built: {model: {hidden_size: 4}, training: {max_epochs: 2, threads: 1}}}
"""


def demand(rows: int) -> pd.DataFrame:
    """An hourly load: a day's sine and noise. A longer table begins like a shorter one."""
    hours = np.arange(rows)
    load = 10 + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * np.random.default_rng(0).normal(size=rows)
    time = pd.date_range("2024-01-01", periods=rows, freq="h").astype(str)
    return pd.DataFrame({"time": time, "load": np.round(load, 4), "note": "as usual"})


def hour(row: int) -> str:
    """When a row of it was, as lineage has it."""
    return (pd.Timestamp("2024-01-01") + pd.Timedelta(row, "h")).isoformat()


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
    judged: dict[int, Judged]
    posts: list[dict[str, Any]]

    @property
    def parent(self) -> str:
        return str(self.runs[0].info.run_id)


def runs_of(experiment: str) -> list[Run]:
    return list(mlflow.MlflowClient().search_runs([tracking.experiment_id(experiment)]))


def step(experiment: str, act: Callable[[], Any], posts: list[dict[str, Any]]) -> Step:
    """Do it, and look at what is new."""
    before = {run.info.run_id for run in runs_of(experiment)}
    known = {tracking.number(version) for version in tracking.versions(experiment)}
    posts.clear()
    answer = act()
    runs = [run for run in runs_of(experiment) if run.info.run_id not in before]
    versions = tracking.versions(experiment)
    return Step(
        answer,
        sorted(runs, key=lambda run: ("mlflow.parentRunId" in run.data.tags, run.info.start_time)),
        [version for version in versions if tracking.number(version) not in known],
        tracking.aliases(experiment),
        {tracking.number(version): Judged.model_validate_json(version.tags["judged"]) for version in versions},
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
            wide = ("--set=epochs=2", "--set=margin=0.99")
            do("wide margin", lambda: lstm_flows("fine-tune", "demand", *wide, "--json", "-q"))
            do("wide margin again", lambda: lstm_flows("fine-tune", "demand", *wide, "-q"))
            do("margin of compare", lambda: night(epochs=2))
            do("broken", lambda: night(mode="warm_start", learning_rate=1e30))
            warm = ("version=2", "mode=warm_start", "learning_rate=0.002", "epochs=2")
            do("warm", lambda: lstm_flows("fine-tune", "demand", *(f"--set={one}" for one in warm), "-q"))
            do("weekly", lambda: compare(weekly))
            grown(480)
            do("weekly, other data", lambda: compare(stronger))
            do("drifted", lambda: night(epochs=20, max_psi=1e-6, max_ks=1e-6))
            do("weekly, same data", lambda: compare(stronger, again=True))
    return Nights(directory, steps)


@pytest.fixture
def at(nights: Nights) -> Iterator[dict[str, Step]]:
    """The nights, their directory being the working directory."""
    with working_in(nights.directory):
        yield nights.steps


def answer(done: Step) -> FineTuned:
    """What the flow answered, whichever way it was run."""
    if isinstance(done.answer, tuple):
        return FineTuned.model_validate_json(stored(done, "fine_tune.json"))
    found: FineTuned = done.answer.result()
    return found


def stored(done: Step, name: str) -> str:
    return tracking.download(f"runs:/{done.parent}/{name}").read_text()


def trained(number: int) -> Trained:
    """What the training of a version has left."""
    run_id = mlflow.MlflowClient().get_model_version("demand", str(number)).run_id
    return Trained.model_validate_json(tracking.download(f"runs:/{run_id}/training.json").read_text())


def losses(judged: Judged) -> Any:
    return pd.read_parquet(tracking.download(str(judged.losses_uri)))["loss"].to_numpy()


def numbers(done: Step) -> list[int]:
    return [tracking.number(version) for version in done.versions]


# ---- nothing to do
@pytest.mark.parametrize(
    ("name", "continued", "reason"),
    [
        ("nothing new", 2, "no new rows since version 2 was trained"),
        ("promoted again", 3, "no new rows since version 3 was trained"),
    ],
)
def test_without_new_rows_there_is_nothing_to_do(at: dict[str, Step], name: str, continued: int, reason: str) -> None:
    done = at[name]
    state = done.answer
    assert (state.type, state.name, state.message) == (
        StateType.COMPLETED,
        "NothingToDo",
        f"Nothing to do: {reason}.",
    )
    assert state.result() == FineTuned(
        experiment="demand", outcome="nothing to do", message=state.message, continued=continued
    )
    assert (done.runs, done.versions, done.posts) == ([], [], [])
    before = at[list(at)[list(at).index(name) - 1]]
    assert (done.aliases, done.judged) == (before.aliases, before.judged)
    assert not Path("mlruns/.trash").exists()


def test_prefect_knows_a_run_with_nothing_to_do_by_its_name(at: dict[str, Step]) -> None:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(at["nothing new"].answer.state_details.flow_run_id)
    assert (run.state_type, run.state_name) == (StateType.COMPLETED, "NothingToDo")


def test_a_night_whose_challenger_was_kept_is_not_made_again(at: dict[str, Step]) -> None:
    done, before = at["wide margin again"], at["wide margin"]
    message = f"Nothing to do: version 3 has gone on with these rows before, in run {before.parent}."
    code, out, errors = done.answer
    assert (code, " ".join(out.split()), errors) == (0, message, "")
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


def test_a_challenger_that_is_better_beyond_the_margin_is_promoted(at: dict[str, Step]) -> None:
    done = at["promoted"]
    found = answer(done)
    assert (done.answer.type, done.answer.name) == (StateType.COMPLETED, "Completed")
    assert (found.outcome, found.continued, found.challenger) == ("promoted", 2, 3)
    assert done.aliases == {"champion": 3, "hand_built": 3}
    mean, low, high = difference(done)
    assert high < -MARGIN * losses(done.judged[2]).mean()
    assert found.message == (
        f"Version 3 is champion now: better than version 2 by more than the margin of 5 % (scaled_mse {mean:+.3g}, "
        f"95 % interval {low:+.3g} to {high:+.3g})."
    )
    assert found.comparison
    assert (found.comparison.champion.model_uri, found.comparison.champion.version) == ("models:/demand@champion", 3)
    assert found.comparison.challenger is None


def test_a_promotion_is_recorded_with_its_reason_and_its_flow_run(at: dict[str, Step]) -> None:
    done = at["promoted"]
    crowned = {key: told for key, told in done.versions[0].tags.items() if key.startswith("lstm_flows.champion.")}
    ((key, told),) = crowned.items()
    assert re.fullmatch(r"lstm_flows\.champion\.\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", key)
    assert json.loads(told) == {
        "why": f"loss {done.judged[3].loss:.6g}, better than version 2's {done.judged[2].loss:.6g}",
        "flow_run": str(done.answer.state_details.flow_run_id),
    }


def test_the_webhook_is_told_of_a_promotion_alone(at: dict[str, Step]) -> None:
    judged = at["promoted"].judged
    reason = f"loss {judged[3].loss:.6g}, better than version 2's {judged[2].loss:.6g}"
    message = f"demand: version 3 is champion now: {reason}"
    assert at["promoted"].posts == [
        {
            "event": "promotion",
            "message": message,
            "text": message,
            "experiment": "demand",
            "flow_run": str(at["promoted"].answer.state_details.flow_run_id),
        }
    ]
    kept = ("wide margin", "margin of compare", "warm", "weekly", "weekly, other data", "drifted")
    assert [at[name].posts for name in kept] == [[]] * len(kept)


@pytest.mark.parametrize(("name", "version", "margin"), [("wide margin", 4, 0.99), ("margin of compare", 5, MARGIN)])
def test_a_challenger_that_is_better_inside_the_margin_is_kept(
    at: dict[str, Step], name: str, version: int, margin: float
) -> None:
    """The margin that is asked for; or else that of the comparison that the champion comes from."""
    done = at[name]
    found = answer(done)
    assert (found.outcome, found.continued, found.challenger) == ("kept", 3, version)
    assert done.aliases == {"champion": 3, "challenger": version, "hand_built": version}
    mean, low, high = difference(done)
    assert -margin * losses(done.judged[3]).mean() < high < 0
    assert found.message == (
        f"Version 3 stays champion, and version {version} is challenger: better, but not by more than the margin of "
        f"{100 * margin:g} % (scaled_mse {mean:+.3g}, 95 % interval {low:+.3g} to {high:+.3g})."
    )


def test_json_is_the_answer_and_nothing_else(at: dict[str, Step]) -> None:
    code, out, errors = at["wide margin"].answer
    assert (code, errors) == (0, "")
    assert FineTuned.model_validate_json(out) == answer(at["wide margin"])
    assert out.count("\n") == 1


def test_the_terminal_shows_both_the_drift_and_the_decision(at: dict[str, Step]) -> None:
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


def test_a_challenger_that_is_worse_is_kept(at: dict[str, Step]) -> None:
    done = at["warm"]
    mean, low, high = difference(done)
    assert low > 0
    assert answer(done).message == (
        f"Version 3 stays champion, and version 6 is challenger: it is worse (scaled_mse {mean:+.3g}, 95 % interval "
        f"{low:+.3g} to {high:+.3g})."
    )
    assert done.aliases == {"champion": 3, "challenger": 6, "hand_built": 6}


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
    assert done.judged[old.version] == old.judged()
    assert done.judged[found.challenger] == new.judged()
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
    dataset = load(config.data.model_copy(update={"path": str(table)}), config.seed)
    contender, last, best = config.contenders["hand_built"], directory / "last.ckpt", directory / "best.ckpt"
    fit(contender, dataset, seed=config.seed, save_to=last, best_to=best, **how)
    return [checkpoint(path) for path in (last, best)]


def left(number: int) -> list[Any]:
    """The checkpoints of a version's training."""
    kept = trained(number).checkpoint
    return [checkpoint(tracking.download(uri)) for uri in (kept.uri, kept.best_uri)]


KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "lstm_flows")


@pytest.mark.parametrize(("number", "before", "rows", "epochs"), [(3, 2, 340, 22), (5, 3, 440, 24)])
def test_resuming_is_bit_identical_to_a_fit_by_hand(
    at: dict[str, Step], tmp_path: Path, number: int, before: int, rows: int, epochs: int
) -> None:
    demand(rows).to_csv(tmp_path / "demand.csv", index=False)
    resume_from = tracking.download(trained(before).checkpoint.uri)
    config = recipes.load("demand.yaml")
    expected = by_hand(config, tmp_path / "demand.csv", tmp_path, resume_from=resume_from, max_epochs=epochs)
    for own, its in zip(left(number), expected, strict=True):
        assert flat({key: own[key] for key in KEPT}) == flat({key: its[key] for key in KEPT})
    assert left(number)[0]["epoch"] == epochs
    # and it has moved
    assert not torch.equal(*(next(iter(some["state_dict"].values())) for some in (expected[0], left(before)[0])))


def test_what_is_asked_about_margin_changes_nothing_in_training(at: dict[str, Step]) -> None:
    for one, other in zip(left(4), left(5), strict=True):
        assert flat(one["state_dict"]) == flat(other["state_dict"])
    assert at["wide margin"].judged[4].loss == at["margin of compare"].judged[5].loss


def test_a_warm_start_takes_the_best_weights_alone(at: dict[str, Step], tmp_path: Path) -> None:
    demand(440).to_csv(tmp_path / "demand.csv", index=False)
    best = tracking.download(trained(2).checkpoint.best_uri)
    config = recipes.load("demand.yaml", ["contenders.hand_built.training.learning_rate=0.002"])
    expected = by_hand(config, tmp_path / "demand.csv", tmp_path, warm_from=best, max_epochs=2)
    keys = [key for key in KEPT if key != "lstm_flows"]
    for own, its in zip(left(6), expected, strict=True):
        assert flat({key: own[key] for key in keys}) == flat({key: its[key] for key in keys})
    last = left(6)[0]
    assert last["epoch"] == 2  # counted from there
    batches = -(-(round(0.7 * 440) - CONTEXT - 1) // 64)
    steps = {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()}
    assert steps == {2 * batches}  # the optimizer is fresh
    assert {group["lr"] for group in last["optimizer_states"][0]["param_groups"]} == {0.002}


def test_the_named_version_goes_on_and_not_the_champion(at: dict[str, Step]) -> None:
    done = at["warm"]
    assert answer(done).continued == 2
    assert done.versions[0].tags["continues"] == "2"
    params = mlflow.MlflowClient().get_run(done.parent).data.params
    assert (params["mode"], params["continues"], params["epochs"]) == ("warm_start", "2", "2")


def test_the_curves_of_a_resumed_training_go_on_where_the_one_before_ended(at: dict[str, Step]) -> None:
    before, after = (tracking.read_curve(trained(number).checkpoint.run_id, "val_loss") for number in (2, 3))
    batches = [-(-(round(0.7 * rows) - CONTEXT - 1) // 64) for rows in (300, 340)]
    assert list(before) == [2 * batches[0] - 1]
    assert list(after) == [2 * batches[0] + batches[1] * epoch - 1 for epoch in range(1, 21)]


def test_the_registered_program_has_the_best_weights(at: dict[str, Step]) -> None:
    weights = registry.load_model("models:/demand/3").program.state_dict()
    best = left(3)[1]["state_dict"]
    assert {key.removeprefix("network.") for key in weights} == {key.removeprefix("network.") for key in best}
    for key, value in best.items():
        assert torch.equal(weights[f"network.{key.removeprefix('network.')}"], value)


# ---- lineage
def test_a_version_tells_what_it_continues_on_which_rows_and_by_which_flow_run(at: dict[str, Step]) -> None:
    flow_run = str(at["promoted"].answer.state_details.flow_run_id)
    (version,) = at["promoted"].versions
    expected = {"continues": "2", "rows": "to 2024-01-10 21:00", "prefect_flow_run_id": flow_run}
    assert version.tags.items() >= {**expected, "phase": "fine_tuned", "contender": "hand_built"}.items()
    assert hour(round(0.7 * 340) - 1).startswith("2024-01-10T21:00")
    assert "continues" not in at["compare"].versions[0].tags
    assert at["compare"].versions[1].tags["continues"] == "1"


def test_the_runs_are_a_parent_and_a_child_that_continues_another(at: dict[str, Step]) -> None:
    done = at["promoted"]
    parent, child = done.runs
    assert {run.info.status for run in done.runs} == {"FINISHED"}
    assert (parent.info.run_name, child.info.run_name) == ("fine_tune demand", "hand_built/fine_tuned")
    assert parent.data.tags["lstm_flows.flow"] == "fine_tune"
    assert parent.data.tags["lstm_flows.prefect_flow_run_id"] == str(done.answer.state_details.flow_run_id)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["lstm_flows.continues"] == trained(2).checkpoint.run_id
    assert child.data.tags["mlflow.note.content"].endswith("resumed at epoch 2 and trained to epoch 22.")
    assert parent.data.params.items() >= {"mode": "resume", "continues": "2", "epochs": "20"}.items()
    asked = FineTuneConfig(experiment="demand", version=2, epochs=20)
    assert stored(done, "fine_tune.yaml") == asked.to_yaml()


def test_a_training_leaves_what_a_later_one_goes_on_from(at: dict[str, Step]) -> None:
    found, before = trained(3), trained(2)
    (version,) = at["promoted"].versions
    assert (found.checkpoint.run_id, found.checkpoint.epochs) == (version.run_id, 22)
    assert (found.dataset.digest, found.dataset.rows) == (version.tags["dataset"], 340)
    assert found.dataset.uri == f"runs:/{at['promoted'].parent}/data/table.parquet"
    assert found.columns == ("load",)
    assert (found.output.steps, list(found.output.targets)) == (2, ["load"])
    assert found.rows
    assert found.rows.by == "time"
    assert found.rows.train == {"": Span(first=hour(CONTEXT), last=hour(237))}
    assert found.rows.validation == {"": Span(first=hour(238), last=hour(271))}
    assert found.rows.test == {"": Span(first=hour(272), last=hour(339))}
    # with what the version before has learnt from
    assert before.seen
    assert before.seen.validation == {"": Span(first=hour(210), last=hour(239))}
    assert found.seen == found.rows.model_copy(update={"validation": {"": Span(first=hour(210), last=hour(271))}})
    contender = found.config.contenders["hand_built"]
    assert (contender.training.max_epochs, contender.fine_tuning.max_epochs) == (2, 22)


def test_a_warm_started_training_can_go_on_as_well(at: dict[str, Step]) -> None:
    found = trained(6)
    assert found.checkpoint.epochs == 2
    training = found.config.contenders["hand_built"].training
    assert (training.learning_rate, training.max_epochs) == (0.002, 2)


def test_the_margin_of_one_night_is_not_that_of_the_next(at: dict[str, Step]) -> None:
    """FineTuneConfig.margin: none: compare's."""
    assert trained(4).config.margin == MARGIN


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
    expected = drift(loads[CONTEXT:210], loads[272:])  # 0.7 of the 300 that version 2 was made of
    (found,) = answer(done).drift
    assert (found.feature, found.psi, found.ks) == ("load", expected.psi, expected.ks)
    metrics = mlflow.MlflowClient().get_run(done.parent).data.metrics
    assert (metrics["drift/load/psi"], metrics["drift/load/ks"]) == (expected.psi, expected.ks)


def test_drift_stops_a_promotion(at: dict[str, Step]) -> None:
    done = at["drifted"]
    found = answer(done)
    (moved,) = found.drift
    number = found.challenger
    assert found.outcome == "kept"
    assert found.message == (
        f"Version 3 stays champion, and version {number} is challenger: the inputs have drifted, PSI of load is "
        f"{moved.psi:.3g}, above 1e-06; KS of load is {moved.ks:.3g}, above 1e-06."
    )
    assert done.aliases == {"champion": 3, "challenger": number, "hand_built": number}
    assert difference(done)[2] < 0  # though it is better


# ---- the weekly comparison
def test_the_weekly_comparison_on_a_nights_data_leaves_the_champion_that_is_better(at: dict[str, Step]) -> None:
    done, before = at["weekly"], at["warm"]
    comparison: Comparison = done.answer
    assert comparison.dataset.digest == before.judged[3].dataset == done.judged[3].dataset
    assert numbers(done) == [7, 8]
    found = paired_difference(losses(done.judged[8]), losses(done.judged[3]), done.judged[8].block)
    assert found.verdict == "worse"
    assert done.aliases == {"champion": 3, "challenger": 8, "hand_built": 8}
    assert (comparison.champion.version, comparison.champion.model_uri) == (3, "models:/demand@champion")
    assert done.judged[3] == before.judged[3]


def test_the_weekly_comparison_on_other_data_leaves_the_champion(at: dict[str, Step]) -> None:
    done = at["weekly, other data"]
    assert done.judged[3].dataset != done.answer.dataset.digest
    assert min(judged.loss for judged in done.judged.values()) == done.judged[10].loss < done.judged[3].loss
    assert done.aliases == {"champion": 3, "challenger": 10, "hand_built": 10}


def test_the_weekly_comparison_promotes_by_the_same_rule(at: dict[str, Step]) -> None:
    done = at["weekly, same data"]
    champion, best = done.judged[3], done.judged[13]
    assert numbers(done) == [12, 13]
    assert champion.dataset == best.dataset == done.answer.dataset.digest
    found = paired_difference(losses(best), losses(champion), best.block, margin=MARGIN)
    assert done.aliases["champion"] == (13 if found.verdict == "better" else 3)
    assert found.verdict == "better"
    assert done.aliases["hand_built"] == 13
    assert done.aliases["challenger"] != 13  # nobody is both
    assert [post["event"] for post in done.posts] == ["promotion"]


# ---- the report
def test_the_report_says_what_became_of_it(at: dict[str, Step]) -> None:
    done = at["promoted"]
    found = answer(done)
    text = stored(done, "fine-tune.md")
    assert text.startswith(f"## demand: version 2 went on as version 3\n\n{found.message}\n\n| contender | phase |")
    assert "\n| champion | fine_tuned | 2/2 | " in text
    assert "\n| challenger | fine_tuned | 22/22 | " in text
    assert "\n| last_value | baseline | - | " in text
    assert "\n\nDifferences in scaled_mse, on the same examples:\n\n| this | is | than |" in text
    assert "\n| challenger/fine_tuned | better | champion/fine_tuned | -0.0" in text
    (moved,) = found.drift
    assert f"\n\n| feature | PSI | KS |\n| --- | --- | --- |\n| load | {moved.psi:.3f} | {moved.ks:.3f} |\n\n" in text
    assert text.endswith(
        "\n\nTrained on 229, validated on 33, judged on 67 examples. Rows: 340 read, 340 used, none left out."
    )
    parent = mlflow.MlflowClient().get_run(done.parent)
    assert parent.data.tags["mlflow.note.content"] == text
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(sort="CREATED_DESC", limit=200)
    assert any(one.key == "fine-tune" and one.data.startswith(text) for one in artifacts)


def test_a_night_has_its_files_and_pictures(at: dict[str, Step]) -> None:
    client = mlflow.MlflowClient()
    parent, child = at["promoted"].runs
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {
        *(
            "answers",
            "baselines",
            "champion",
            "config.yaml",
            "data",
            "fine-tune.md",
            "fine_tune.json",
            "fine_tune.yaml",
        ),
        *("error_by_step.png", "forecasts.png", "loss_curves.png"),
    }
    champion = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "champion")}
    assert champion == {"losses.parquet", "predictions.parquet", "steps.csv"}
    files = {file.path for file in client.list_artifacts(child.info.run_id)}
    assert files == {
        *("answers", "checkpoint", "losses.parquet", "predictions.parquet", "steps.csv", "training.json"),
    }
    assert parent.data.metrics["champion/scaled_mse"] == at["promoted"].judged[2].loss
    assert child.data.metrics["scaled_mse"] == at["promoted"].judged[3].loss


# ---- what is refused
@pytest.fixture
def refusing(at: dict[str, Step]) -> Iterator[Callable[..., str]]:
    """Run fine-tune with these settings: it is refused in one line, which is returned, and nothing is left behind."""
    before = step("demand", lambda: None, [])
    begun = {run.info.run_id: run.info.status for run in runs_of("demand")}

    def refused(*settings: str, experiment: str = "demand") -> str:
        code, out, errors = lstm_flows("fine-tune", experiment, *(f"--set={one}" for one in settings), "-q")
        assert (code, out) == (2, "")
        assert errors.startswith("lstm-flows: ")
        assert errors.count("\n") == 1
        return errors.removeprefix("lstm-flows: ").removesuffix("\n")

    yield refused
    after = step("demand", lambda: None, [])
    assert (after.aliases, after.judged) == (before.aliases, before.judged)
    assert {run.info.run_id: run.info.status for run in runs_of("demand")} == begun


def test_rows_that_the_champion_has_learnt_from_are_no_judges(refusing: Callable[..., str], tmp_path: Path) -> None:
    demand(500).to_csv(tmp_path / "new.csv", index=False)
    split = "split={train: 0.5, validation: 0.1}"
    assert refusing(f"path={tmp_path}/new.csv", split) == (
        f"the rows to judge by begin at {hour(300)}, but version 13 of demand has learnt from rows up to {hour(383)} "
        "(validation); move the split, or compare anew"
    )


def test_the_first_row_after_what_was_learnt_from_is_a_judge_and_the_last_one_of_it_is_not(
    at: dict[str, Step], refusing: Callable[..., str], tmp_path: Path
) -> None:
    from tasks.lineage import find_version, look_at_new_rows

    demand(500).to_csv(tmp_path / "new.csv", index=False)
    champion = find_version.fn("demand")
    split = "split={train: 300, validation: 83}"
    assert refusing(f"path={tmp_path}/new.csv", split).startswith(f"the rows to judge by begin at {hour(383)}, but")
    table = champion.trained.config.data.model_copy(
        update={"path": str(tmp_path / "new.csv"), "split": Split(train=300, validation=84)}
    )
    settings = champion.trained.config.model_copy(update={"data": table})
    digest = look_at_new_rows.fn(settings, [champion])
    assert digest == data.look_at_data.fn(settings)


def test_neither_of_the_two_may_have_learnt_from_the_judges(refusing: Callable[..., str], tmp_path: Path) -> None:
    """Version 2 has not; the champion that it would be held against has."""
    demand(440).to_csv(tmp_path / "new.csv", index=False)
    assert refusing(f"path={tmp_path}/new.csv", "version=2") == (
        f"the rows to judge by begin at {hour(352)}, but version 13 of demand has learnt from rows up to {hour(383)} "
        "(validation); move the split, or compare anew"
    )


def test_the_target_that_is_gone_is_refused(refusing: Callable[..., str], tmp_path: Path) -> None:
    demand(500).rename(columns={"load": "power"}).to_csv(tmp_path / "new.csv", index=False)
    message = refusing(f"path={tmp_path}/new.csv")
    assert message == f"{tmp_path}/new.csv: column load is missing; found: time, power, note"


def test_another_kind_of_time_is_refused(refusing: Callable[..., str], tmp_path: Path) -> None:
    demand(500).assign(time=np.arange(500)).to_csv(tmp_path / "new.csv", index=False)
    assert refusing(f"path={tmp_path}/new.csv") == (
        "column time holds values of type long now, but datetime when version 13 of demand was made; mend it, or "
        "compare anew"
    )


def test_text_in_the_target_is_refused(refusing: Callable[..., str], tmp_path: Path) -> None:
    table = demand(500).astype({"load": object})
    table.loc[450, "load"] = "much"
    table.to_csv(tmp_path / "new.csv", index=False)
    assert refusing(f"path={tmp_path}/new.csv") == (
        f"{tmp_path}/new.csv: column load, row 451: 'much' is no number; correct it, or leave the column out"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.assign(load=np.arange(500)),
        lambda table: table.drop(columns="note"),
        lambda table: table.assign(note=7, more="text"),
    ],
    ids=["whole numbers where there were fractions", "an unread column gone", "another unread column"],
)
def test_what_makes_no_difference_to_the_model_is_not_refused(
    at: dict[str, Step], tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    from tasks.lineage import find_version, look_at_new_rows

    change(demand(500)).to_csv(tmp_path / "new.csv", index=False)
    champion = find_version.fn("demand")
    table = champion.trained.config.data.model_copy(update={"path": str(tmp_path / "new.csv")})
    assert look_at_new_rows.fn(champion.trained.config.model_copy(update={"data": table}), [champion])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["version=99"], "experiment demand: no version 99; see lstm-flows history demand"),
        (
            ["learning_rate=0.1"],
            "experiment demand: the configuration: learning_rate 0.1 with mode resume: the optimizer goes on as it is; "
            "set mode=warm_start",
        ),
        (["margin=1"], "experiment demand: margin: 1 given, must be less than 1"),
        (["epochs=0"], "experiment demand: epochs: 0 given, must be greater than or equal to 1"),
        (["mode=again"], "experiment demand: mode: 'again' given, must be 'resume' or 'warm_start'"),
        (["path=nowhere.csv"], "nowhere.csv: no such file or folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_that_make_no_sense_are_refused(
    refusing: Callable[..., str], settings: list[str], message: str
) -> None:
    assert refusing(*settings) == message


def test_an_experiment_that_is_not_there_is_refused(refusing: Callable[..., str]) -> None:
    assert refusing(experiment="demnd") == "experiment demnd: no champion; lstm-flows compare makes one"
    assert mlflow.MlflowClient().get_experiment_by_name("demnd") is None


def test_where_nothing_is_tracked_nothing_is_made(harness: None, empty_directory: Path) -> None:
    code, out, errors = lstm_flows("fine-tune", "demand", "-q")
    message = f"experiment demand: no models here, since there is no mlflow.db in {empty_directory}"
    assert (code, out, errors) == (2, "", f"lstm-flows: {message}\n")
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
        assert (found.continued, found.challenger) == (first.aliases["champion"], 3)
        champion, challenger = found.comparison.results
        assert champion.dataset == challenger.dataset
        keys = pd.read_parquet(tracking.download(str(champion.losses_uri)))["machine"].tolist()
        assert keys == [f"m{number}" for number in range(39, 50)]
        expected = paired_difference(losses(challenger), losses(champion), 1)
        assert found.outcome == ("promoted" if expected.verdict == "better" else "kept")
        (version,) = done.versions
        assert (version.tags["rows"], version.tags["continues"]) == ("34 groups", str(found.continued))
        run = tracking.download(f"runs:/{version.run_id}/training.json").read_text()
        rows = Trained.model_validate_json(run).seen
        assert rows
        assert rows.by == "group"
        assert rows.train.keys() == {f"m{number:02}" for number in range(34)}
        # the validation groups of the version before were trained on since; they count as both
        assert rows.validation.keys() == {f"m{number:02}" for number in (*range(24, 28), *range(34, 39))}
        assert [one.feature for one in found.drift] == ["output", "heat"]


@pytest.fixture
def refusing_labelled(labelled: Nights, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The same of the labelled table, the version as V; of these rows where there are some."""
    champion = labelled.steps["night"].aliases["champion"]

    def refused(rows: pd.DataFrame | None, *settings: str) -> str:
        if rows is not None:
            rows.to_csv(tmp_path / "new.csv", index=False)
            settings = (*settings, f"path={tmp_path}/new.csv")
        code, out, errors = lstm_flows("fine-tune", "trends", *(f"--set={one}" for one in settings), "-q")
        assert (code, out, errors.count("\n")) == (2, "", 1)
        return errors.removeprefix("lstm-flows: ").strip().replace(f"version {champion} of trends", "V")

    with working_in(labelled.directory):
        before = len(runs_of("trends")), tracking.aliases("trends")
        yield refused
        assert (len(runs_of("trends")), tracking.aliases("trends")) == before


def test_groups_that_were_learnt_from_are_no_judges(refusing_labelled: Callable[..., str]) -> None:
    message = refusing_labelled(None, 'split={train: "2024-01-10", validation: "2024-01-20"}')
    assert message == "group m24 is to judge by, but V has learnt from it (validation); split by date, or compare anew"


def test_another_class_is_refused(refusing_labelled: Callable[..., str]) -> None:
    table = machines(54)
    table.loc[table["machine"] == "m53", "trend"] = "stays"
    assert refusing_labelled(table) == (
        "the classes are now falls, rises, stays, but V knows falls, rises; compare anew"
    )


def test_a_column_that_is_gone_is_refused(refusing_labelled: Callable[..., str]) -> None:
    assert refusing_labelled(machines(54).drop(columns="heat")) == (
        "column heat is gone, which V was made with; bring it back, or compare anew"
    )


def test_another_column_that_would_be_an_input_is_refused(refusing_labelled: Callable[..., str]) -> None:
    assert refusing_labelled(machines(54).assign(more=1.5)) == (
        "the columns are now output, heat, more, but V knows output, heat; compare anew"
    )


@pytest.mark.parametrize(("value", "kind"), [("warm", "string"), (True, "boolean")])
def test_another_type_is_refused(refusing_labelled: Callable[..., str], value: object, kind: str) -> None:
    assert refusing_labelled(machines(54).assign(heat=value)) == (
        f"column heat holds values of type {kind} now, but double when V was made; mend it, or compare anew"
    )
