"""The flow `compare`, end to end under Prefect's test harness, on a real SQLite MLflow."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest
from helpers.cli_runner import without_plots, working_in
from helpers.configurations import TINY
from helpers.crash_simulation import curve, runs_of, tensorboard_curves
from helpers.errors import names_all
from prefect.client.orchestration import get_client

from flows import recipes
from flows.compare import compare
from lstm_models.config import ConfigError
from lstm_models.training.module import NonFiniteLoss
from tasks import tracking
from tasks.orchestration.resume import find_finished_run
from tasks.schemas import ComparisonReport

CONFIG = recipes.load("tutorial", TINY)
PHASES = ("untrained", 0), ("initial", 2), ("fine_tuned", 4)


@pytest.fixture(scope="module")
def compared(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[Path, ComparisonReport]:
    """A directory in which the flow has run once, with all figures and exports, and its result."""
    directory = tmp_path_factory.mktemp("compared")
    with working_in(directory, database):
        return directory, compare(CONFIG)


@pytest.fixture
def report(compared: tuple[Path, ComparisonReport], monkeypatch: pytest.MonkeyPatch) -> ComparisonReport:
    """The flow's result, with its directory as the working directory."""
    monkeypatch.chdir(compared[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{compared[0]}/mlflow.db")
    return compared[1]


def test_the_result_as_json_has_the_documented_form(report: ComparisonReport) -> None:
    assert not report.reused
    values = report.model_dump(mode="json")
    assert (values["experiment"], values["metric"], values["baselines"], values["differences"]) == (
        *("tutorial", "mse", [], []),
    )
    assert values["dataset"] == {
        "name": "tutorial",
        "digest": report.dataset.digest,
        "in_sample": True,
        "train": 2,
        "validation": 0,
        "test": 2,
        "rows": None,
        "notes": [],
        "names": ["A", "B"],
    }
    results = values["results"]
    assert [(result["contender"], result["phase"], result["epochs"]) for result in results] == [
        (contender, *phase) for contender in ("hand_built", "built_in") for phase in PHASES
    ]
    # without validation there is no best epoch
    assert {(result["best_epoch"], result["dataset"]) for result in results} == {(None, report.dataset.digest)}
    untrained, initial = results[:2]
    assert (untrained["run_id"], untrained["model_uri"]) == (report.parent_run_id, None)
    assert (initial["targets"], len(initial["predictions"]), initial["replicas"]) == ([0.0, 1.0], 2, None)
    assert initial["metrics"].keys() == {"mse", "mae", "max_error"}
    assert (initial["loss"], initial["low"], initial["losses_uri"]) == (initial["metrics"]["mse"], None, None)
    assert initial["model_uri"] == "models:/tutorial/1"
    champion = values["champion"]
    versions = {(result.contender, result.phase): result.version for result in report.results}
    version = versions[champion["contender"], champion["phase"]]
    assert version is not None
    assert champion == {
        "contender": champion["contender"],
        "phase": champion["phase"],
        "model_uri": "models:/tutorial@champion",
        "version": version,
    }


def test_runs_are_a_parent_and_four_children_with_their_artifacts(report: ComparisonReport) -> None:
    client = mlflow.MlflowClient()
    parent, *children = runs_of("tutorial")
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert parent.info.run_id == report.parent_run_id
    names = [f"{contender}/{phase}" for contender in ("hand_built", "built_in") for phase, _ in PHASES[1:]]
    assert [child.info.run_name for child in children] == names
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {report.parent_run_id}
    assert children[1].data.tags["lstm_flows.continues"] == children[0].info.run_id
    assert "lstm_flows.continues" not in children[0].data.tags

    files = {file.path for file in client.list_artifacts(report.parent_run_id)}
    assert files >= {"config.yaml", "comparison.json", "comparison.md", "loss_curves.png", "predictions.png", "data"}
    assert not files & {"replicas.png", "gradients_through_time.png"}  # only if they apply
    for contender in CONFIG.contenders:
        names = [Path(file.path).name for file in client.list_artifacts(report.parent_run_id, f"{contender}/untrained")]
        assert names == ["gates.png", "predictions.csv"]
    for run in (parent, *children):
        (dataset,) = run.inputs.dataset_inputs
        assert (dataset.dataset.name, dataset.dataset.digest) == (report.dataset.name, report.dataset.digest)
    table = pd.read_parquet(tracking.download(f"runs:/{report.parent_run_id}/data/tutorial.parquet"))
    assert table.columns.tolist() == ["company", "day_1", "day_2", "day_3", "day_4", "label"]
    for run in children:
        assert run.data.params["seed"] == "42"
        assert [file.path for file in client.list_artifacts(run.info.run_id, "checkpoint")] == ["checkpoint/last.ckpt"]
        assert run.data.metrics.keys() >= {"mse", "mae", "max_error", "train_loss", "train_loss_epoch"}
        assert "val_loss" not in run.data.metrics
        assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"gates.png", "predictions.csv"}


def test_curves_have_the_tutorials_names_and_continue_at_the_last_step(report: ComparisonReport) -> None:
    _, *trained = runs_of("tutorial")
    names = ("train_loss", "out_1", "train_loss_epoch")
    curves = [{name: curve(run.info.run_id, name) for name in names} for run in trained[:2]]
    assert [{name: [step for step, _ in points] for name, points in each.items()} for each in curves] == [
        {"train_loss": [0, 1, 2, 3], "out_1": [1, 2, 3], "train_loss_epoch": [1, 3]},
        {"train_loss": [4, 5, 6, 7], "out_1": [4, 5, 6, 7], "train_loss_epoch": [5, 7]},
    ]
    # the first step after the checkpoint trains on company A: B's latest prediction is still the previous one
    assert curves[1]["out_1"][0][1] == curves[0]["out_1"][-1][1]
    # TensorBoard has the same
    assert tensorboard_curves(trained[0])["train_loss"] == curves[0]["train_loss"]


def test_prefect_has_the_comparison_with_a_link(report: ComparisonReport) -> None:
    with get_client(sync_client=True) as client:
        (artifact, *_) = client.read_artifacts(sort="CREATED_DESC")
    assert f"/runs/{report.parent_run_id})" in artifact.data
    assert "| hand_built | fine_tuned | 4 |" in artifact.data


def test_an_equal_run_is_reused_and_force_reproduces_it(report: ComparisonReport) -> None:
    runs = len(runs_of("tutorial"))
    assert compare(CONFIG) == report.model_copy(update={"reused": True})
    assert len(runs_of("tutorial")) == runs
    with without_plots():
        again = compare(CONFIG, force=True)
    assert not again.reused
    assert again.parent_run_id != report.parent_run_id
    assert [result.predictions for result in again.results] == [result.predictions for result in report.results]


def test_omitting_a_contender_does_not_change_the_other(report: ComparisonReport) -> None:
    config = recipes.load("tutorial", [*TINY, "experiment=alone", "contenders.hand_built=null"])
    with without_plots():
        alone = compare(config)
    assert [result.predictions for result in alone.results] == [
        result.predictions for result in report.results if result.contender == "built_in"
    ]
    # the result is not reused if its model has been deleted
    assert find_finished_run.fn(config, alone.dataset.digest) == alone.model_copy(update={"reused": True})
    mlflow.MlflowClient().delete_registered_model("alone")
    assert find_finished_run.fn(config, alone.dataset.digest) is None


def test_a_loss_that_is_not_finite_fails_everywhere_and_registers_nothing(harness: None, workplace: Path) -> None:
    config = recipes.load(
        "tutorial",
        [*TINY, "contenders.hand_built.model.head=linear", "contenders.hand_built.training.learning_rate=1e25"],
    )
    with pytest.raises(NonFiniteLoss) as caught, without_plots():
        compare(config)
    assert names_all(caught.value, "inf", "epoch 1", "learning_rate", "1e+25")
    parent, child = runs_of("tutorial")
    statuses = {run.info.run_name: run.info.status for run in (parent, child)}
    assert statuses == {"compare tutorial": "FAILED", "hand_built/initial": "FAILED"}
    assert parent.data.tags["lstm_flows.error"].startswith("NonFiniteLoss: ")
    with get_client(sync_client=True) as client:
        (flow_run, *_) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
    assert flow_run.state_name == "Failed"
    assert mlflow.MlflowClient().search_registered_models() == []


def test_a_recipe_is_given_by_name_and_validated(harness: None, empty_directory: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compare("tutoria")
    assert names_all(caught.value, "'tutoria'", "did you mean tutorial")
    assert list(empty_directory.iterdir()) == []
