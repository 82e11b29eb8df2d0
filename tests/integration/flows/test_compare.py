"""The flow `compare`, end to end under Prefect's test harness, on a real SQLite MLflow."""

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from helpers.configurations import TINY
from mlflow.entities import Run
from prefect.client.orchestration import get_client

from flows import recipes
from flows.compare import compare
from lstm_models.config import ConfigError
from lstm_models.module import NonFiniteLoss
from tasks import tracking
from tasks.references import Comparison

CONFIG = recipes.load("tutorial", TINY)


@pytest.fixture(scope="module")
def compared(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[Path, Comparison]:
    """A directory in which the flow has run once, and what it answered."""
    directory = tmp_path_factory.mktemp("compared")
    (directory / "mlflow.db").write_bytes(database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        return directory, compare(CONFIG)


@pytest.fixture
def there(compared: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """The answer, with its directory as the working directory."""
    monkeypatch.chdir(compared[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{compared[0]}/mlflow.db")
    return compared[1]


def runs_of(experiment: str) -> list[Run]:
    return mlflow.MlflowClient().search_runs([tracking.experiment_id(experiment)], order_by=["attributes.start_time"])


def test_the_answer_names_every_contender_and_phase(there: Comparison) -> None:
    assert [(result.contender, result.phase, result.epochs) for result in there.results] == [
        ("hand_built", "untrained", 0),
        ("hand_built", "initial", 2),
        ("hand_built", "fine_tuned", 4),
        ("built_in", "untrained", 0),
        ("built_in", "initial", 2),
        ("built_in", "fine_tuned", 4),
    ]
    assert not there.reused


def test_json_has_the_promised_form(there: Comparison) -> None:
    answer = json.loads(there.model_dump_json())
    assert {"experiment", "parent_run_id", "dataset", "results", "champion"} <= answer.keys()
    assert answer["dataset"] == {
        "name": "tutorial",
        "digest": there.dataset.digest,
        "in_sample": True,
        "train": 2,
        "validation": 0,
        "test": 2,
        "rows": None,
        "notes": [],
        "names": ["A", "B"],
    }
    assert (answer["metric"], answer["baselines"], answer["differences"]) == ("mse", [], [])
    untrained, initial = answer["results"][:2]
    assert (untrained["run_id"], untrained["model_uri"]) == (there.parent_run_id, None)
    assert initial["targets"] == [0.0, 1.0]
    assert len(initial["predictions"]) == 2
    assert initial["metrics"].keys() == {"mse", "mae", "max_error"}
    assert initial["copies"] is None
    assert (initial["loss"], initial["low"], initial["losses_uri"]) == (initial["metrics"]["mse"], None, None)
    assert (initial["best_epoch"], initial["dataset"]) == (None, there.dataset.digest)
    assert initial["model_uri"] == "models:/tutorial/1"
    assert answer["champion"].keys() == {"contender", "phase", "model_uri", "version"}
    assert answer["champion"]["model_uri"] == "models:/tutorial@champion"
    versions = {(result.contender, result.phase): result.version for result in there.results}
    assert answer["champion"]["version"] == versions[there.champion.contender, there.champion.phase] is not None


def test_runs_are_a_parent_and_four_children_and_all_finished(there: Comparison) -> None:
    parent, *children = runs_of("tutorial")
    assert parent.info.run_id == there.parent_run_id
    assert [child.info.run_name for child in children] == [
        "hand_built/initial",
        "hand_built/fine_tuned",
        "built_in/initial",
        "built_in/fine_tuned",
    ]
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {there.parent_run_id}
    assert children[1].data.tags["lstm_flows.continues"] == children[0].info.run_id
    assert "lstm_flows.continues" not in children[0].data.tags


def test_curves_have_the_tutorials_names_and_go_on_where_the_first_ended(there: Comparison) -> None:
    _, initial, fine_tuned, *_ = runs_of("tutorial")
    client = mlflow.MlflowClient()
    steps = {
        key: [
            [point.step for point in client.get_metric_history(run.info.run_id, key)] for run in (initial, fine_tuned)
        ]
        for key in ("train_loss", "out_1", "train_loss_epoch")
    }
    assert steps == {
        "train_loss": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "out_1": [[1, 2, 3], [4, 5, 6, 7]],
        "train_loss_epoch": [[1, 3], [5, 7]],
    }
    # the first step from the checkpoint sees company A: of B the latest prediction is the one before
    outputs = [tracking.read_curve(run.info.run_id, "out_1") for run in (initial, fine_tuned)]
    assert outputs[1][4] == outputs[0][3]


def test_the_checkpoint_is_the_best_one_where_nothing_is_validated(there: Comparison) -> None:
    assert not any("val_loss" in run.data.metrics for run in runs_of("tutorial"))
    assert {result.best_epoch for result in there.results} == {None}


def test_the_parent_holds_what_belongs_to_all(there: Comparison) -> None:
    parent = mlflow.MlflowClient().get_run(there.parent_run_id)
    assert parent.data.metrics.keys() == {
        f"{contender}/untrained/{metric}" for contender in CONFIG.contenders for metric in ("mse", "mae", "max_error")
    }
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(there.parent_run_id)}
    assert files >= {"config.yaml", "comparison.json", "comparison.md", "loss_curves.png", "predictions.png", "data"}
    assert not files & {"copies.png", "gradients_through_time.png"}  # only where there is something to show
    (dataset,) = parent.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == (there.dataset.name, there.dataset.digest)
    table = pd.read_parquet(tracking.download(f"runs:/{there.parent_run_id}/data/tutorial.parquet"))
    assert table.columns.tolist() == ["company", "day_1", "day_2", "day_3", "day_4", "label"]


def test_every_trained_run_has_its_data_parameters_and_checkpoint(there: Comparison) -> None:
    client = mlflow.MlflowClient()
    for run in runs_of("tutorial")[1:]:
        assert run.inputs.dataset_inputs[0].dataset.digest == there.dataset.digest
        assert run.data.params["seed"] == "42"
        assert [file.path for file in client.list_artifacts(run.info.run_id, "checkpoint")] == ["checkpoint/last.ckpt"]
        assert run.data.metrics.keys() >= {"mse", "mae", "max_error", "train_loss", "train_loss_epoch"}
        assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"gates.png", "predictions.csv"}


def test_tensorboard_has_the_same_curves(there: Comparison) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (board,) = Path("tensorboard/tutorial").glob("*/hand_built/initial")
    events = EventAccumulator(str(board)).Reload()
    history = mlflow.MlflowClient().get_metric_history(there.results[1].run_id, "train_loss")
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [
        (point.step, point.value) for point in history
    ]


def test_prefect_has_the_comparison_with_a_link(there: Comparison) -> None:
    with get_client(sync_client=True) as client:
        (found, *_) = client.read_artifacts(sort="CREATED_DESC")
    assert f"/runs/{there.parent_run_id})" in found.data
    assert "| hand_built | fine_tuned | 4 |" in found.data


def test_an_equal_run_is_not_made_again(there: Comparison) -> None:
    before = len(runs_of("tutorial"))
    again = compare(CONFIG)
    assert again == there.model_copy(update={"reused": True})
    assert len(runs_of("tutorial")) == before


def test_it_is_made_again_where_that_is_asked_for_and_comes_out_the_same(there: Comparison) -> None:
    again = compare(CONFIG, again=True)
    assert not again.reused
    assert again.parent_run_id != there.parent_run_id
    assert [result.predictions for result in again.results] == [result.predictions for result in there.results]


def test_leaving_a_contender_out_changes_nothing_for_the_other(there: Comparison) -> None:
    alone = compare(recipes.load("tutorial", [*TINY, "contenders.hand_built=null"]))
    assert [result.predictions for result in alone.results] == [
        result.predictions for result in there.results if result.contender == "built_in"
    ]


def test_a_deleted_model_is_made_again(there: Comparison) -> None:
    config = recipes.load("tutorial", [*TINY, "experiment=deleted", "contenders.hand_built=null"])
    compare(config)
    mlflow.MlflowClient().delete_registered_model("deleted")
    assert not compare(config).reused


def test_a_loss_that_is_not_finite_fails_everywhere_and_registers_nothing(harness: None, workplace: Path) -> None:
    config = recipes.load(
        "tutorial",
        [*TINY, "contenders.hand_built.model.head=linear", "contenders.hand_built.training.learning_rate=1e25"],
    )
    with pytest.raises(NonFiniteLoss, match=r"the loss became inf in epoch 1; a learning_rate below 1e\+25 may help"):
        compare(config)
    parent, child = runs_of("tutorial")
    statuses = {run.info.run_name: run.info.status for run in (parent, child)}
    assert statuses == {
        "compare tutorial": "FAILED",
        "hand_built/initial": "FAILED",
    }
    assert parent.data.tags["lstm_flows.error"].startswith("NonFiniteLoss: the loss became")
    with get_client(sync_client=True) as client:
        (flow_run, *_) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
    assert flow_run.state_name == "Failed"
    assert mlflow.MlflowClient().search_registered_models() == []


def test_a_recipe_can_be_named_and_is_checked(harness: None, empty_directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tutoria': no such recipe; did you mean tutorial\?"):
        compare("tutoria")
    assert list(empty_directory.iterdir()) == []
