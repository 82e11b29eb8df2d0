"""What an evaluation leaves in MLflow."""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.cli_runner import plain
from helpers.errors import names_all

from flows import recipes
from lstm_models.config import CompareConfig
from lstm_models.data.dataset import build_dataset
from lstm_models.data.synthetic import tutorial
from lstm_models.evaluation.evaluate import evaluate
from lstm_models.evaluation.model_selection import wilson_interval
from lstm_models.nn.introspection import gradients_through_time
from lstm_models.nn.replicas import Replicas
from lstm_models.training.trainer import new_network
from tasks import tracking
from tasks.data import load_dataset, store_data
from tasks.evaluation import MAX_INLINE_PREDICTIONS, _evaluate, evaluate_baselines, evaluate_untrained
from tasks.schemas import DatasetRef, ParentRun, PhaseResult, ReplicaStats
from tasks.tracking import runs

COPIES = 5
SEED = 2**32 - 2  # so that the third copy's seed begins again at 0
SEEDS = [2**32 - 2, 2**32 - 1, 0, 1, 2]
KINDS = ["hand_built", "built_in"]
ERRORS = ["mse", "mae", "max_error"]
Place = tuple[ParentRun, DatasetRef]


def configuration(*changes: str) -> CompareConfig:
    replicas = [f"contenders.{kind}.replicas={COPIES}" for kind in KINDS]
    return recipes.load("parity", [f"seed={SEED}", *replicas, *changes])


CONFIG = configuration()


@pytest.fixture
def place(workplace: Path) -> Place:
    """The tutorial's two sequences, and the parent run that has them."""
    parent = runs.start_parent_run(runs.comparison_spec(CONFIG))
    return parent, store_data.fn(CONFIG, parent)


@pytest.fixture
def no_pictures() -> Iterator[None]:
    """The gates are not drawn, which would take most of a test's time; test_inside.py has them."""
    with plain(wholly=False):
        yield


def metrics(run_id: str) -> dict[str, float]:
    return dict(tracking.mlflow_client().get_run(run_id).data.metrics)


def files(run_id: str, folder: str = "") -> list[str]:
    return sorted(
        file.path.removeprefix(f"{folder}/") for file in tracking.mlflow_client().list_artifacts(run_id, folder)
    )


class FirstDay(torch.nn.Module):
    """Tells of each company what its first day was."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD[:, 0, 0]


def record(count: int, dataset: DatasetRef) -> PhaseResult:
    """An evaluation of so many sequences, of which 0/8, 1/8, 2/8 ... are told, recorded in a run."""
    run_id = tracking.start_run(tracking.get_or_create_experiment("evaluated"), "a run", tags={}, note="")
    days = {name: [number / 8 for number in range(count)] for name in tutorial.COLUMNS.inputs}
    table = pd.DataFrame({"company": [f"c{number}" for number in range(count)], **days, "label": 0.0})
    stored = dataset.model_copy(update={"name": "many", "digest": "d"})
    return _evaluate(
        CONFIG, FirstDay(), build_dataset(table, CONFIG.data, 0), stored, run_id, "hand_built", "initial", ""
    )


@pytest.mark.usefixtures("no_pictures")
def test_few_predictions_are_carried_and_stored_as_csv(place: Place) -> None:
    parent, dataset = place
    result = record(MAX_INLINE_PREDICTIONS, dataset)
    predictions = [number / 8 for number in range(MAX_INLINE_PREDICTIONS)]
    assert (result.predictions, result.targets) == (predictions, [0.0] * MAX_INLINE_PREDICTIONS)
    assert (result.loss, result.dataset) == (result.metrics["mse"], "d")
    mean, square = (sum(value**power for value in predictions) / MAX_INLINE_PREDICTIONS for power in (1, 2))
    expected = {"mse": square, "mae": mean, "max_error": predictions[-1]}
    assert metrics(result.run_id) == pytest.approx(expected, rel=1e-15)
    # in sample there is nothing else: no losses, no interval, no baselines
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.csv"
    assert (result.low, result.high, result.losses_uri) == (None, None, None)
    assert files(result.run_id) == ["predictions.csv"]
    stored = pd.read_csv(tracking.download(result.predictions_uri))
    assert stored.columns.tolist() == ["company", "target", "prediction"]
    assert stored["prediction"].tolist() == predictions
    assert evaluate_baselines.fn(dataset, parent) == []
    assert metrics(parent.run_id) == {}


@pytest.mark.usefixtures("no_pictures")
def test_many_predictions_go_to_parquet_instead(place: Place) -> None:
    result = record(MAX_INLINE_PREDICTIONS + 1, place[1])
    assert (result.targets, result.predictions) == (None, None)
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.parquet"
    stored = pd.read_parquet(tracking.download(result.predictions_uri))
    assert stored["prediction"].tolist() == [number / 8 for number in range(MAX_INLINE_PREDICTIONS + 1)]
    assert stored["company"].tolist()[-1] == f"c{MAX_INLINE_PREDICTIONS}"


# ---- copies: that they are judged well is tested in the unit lane
def untrained(contender: str, dataset: DatasetRef) -> Replicas:
    copies = new_network(CONFIG.contenders[contender], load_dataset(dataset), SEED)
    assert isinstance(copies, Replicas)
    return copies


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("contender", "metric"), [("hand_built", "max_error"), ("built_in", "mse"), ("built_in", "mae")]
)
def test_copies_are_recorded_one_by_one_and_the_median_one_speaks(place: Place, contender: str, metric: str) -> None:
    parent, dataset = place
    data, copies = load_dataset(dataset), untrained(contender, dataset)
    expected = evaluate(copies, data)
    judgement, errors = expected.evaluation, [own for own in expected.replica_metrics if own]
    # the third one's own error is not below itself
    threshold = sorted(own[metric] for own in errors)[2]
    converged = f"converged={{metric: {metric}, threshold: {threshold!r}}}"
    config = configuration(converged, "figures={gradients_through_time: true}")
    result = evaluate_untrained.fn(config, contender, dataset, parent)

    assert result.replicas
    assert names_all(result.replicas.criterion, metric, f"{threshold:g}")
    low, high = wilson_interval(2, COPIES)
    assert result.replicas == ReplicaStats(
        count=COPIES, criterion=result.replicas.criterion, converged=2, low=low, high=high,
        median=expected.replica, errors=[own["mse"] for own in errors],
    )  # fmt: skip
    assert (result.metrics, result.predictions) == (judgement.metrics, judgement.predictions.tolist())
    assert result.parameters == 16  # one copy's: four gates, two weights and two biases each

    folder = f"{contender}/untrained"
    # to the last digit: what stands in the CSV reads back as the same number
    table = pd.read_csv(tracking.download(f"runs:/{parent.run_id}/{folder}/copies.csv"))
    assert table.to_dict("records") == [{"seed": seed, **own} for seed, own in zip(SEEDS, errors, strict=True)]
    every = data.test.get_batch(torch.arange(data.test.count))
    norms = gradients_through_time(copies.member(expected.replica).eval(), every)
    assert norms.cell_T is not None
    curves = {"dloss_dh": norms.hidden_T.tolist(), "dloss_dc": norms.cell_T.tolist()}
    for name, values in curves.items():
        assert tracking.read_curve(parent.run_id, f"{folder}/{name}") == dict(enumerate(values, start=1))
    single = {**judgement.metrics, "converged": 2 / 5, **{name: values[-1] for name, values in curves.items()}}
    assert metrics(parent.run_id) == {f"{folder}/{name}": value for name, value in single.items()}


@pytest.mark.parametrize("replicas", [COPIES, 1])
def test_an_untrained_contenders_figures_stand_on_the_parent_by_its_name(place: Place, replicas: int) -> None:
    parent, dataset = place
    config = configuration(f"contenders.hand_built.replicas={replicas}")
    result = evaluate_untrained.fn(config, "hand_built", dataset, parent)
    of_copies = replicas > 1
    assert (result.replicas is not None) is of_copies
    names = ["copies.csv"] * of_copies + ["gates.png", "predictions.csv"]
    assert files(parent.run_id, "hand_built/untrained") == names
    names = sorted([*ERRORS, *["converged"] * of_copies])
    assert sorted(metrics(parent.run_id)) == [f"hand_built/untrained/{name}" for name in names]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("contender", KINDS)
def test_a_copy_that_predicts_nan_counts_as_failed_and_nothing_else_changes(place: Place, contender: str) -> None:
    parent, dataset = place
    data, copies = load_dataset(dataset), untrained(contender, dataset)
    before = evaluate(copies, data).replica_metrics
    with torch.no_grad():
        for weight in copies.weights.values():
            weight[0] = math.nan
        for parameter in copies.networks[0].parameters() if copies.networks else ():
            parameter.fill_(math.nan)
    config = configuration("converged={threshold: 1e9}")
    result = _evaluate(config, copies, data, dataset, parent.run_id, contender, "untrained", "here")
    assert result.replicas
    assert result.replicas.errors == [None, *(own and own["mse"] for own in before[1:])]
    assert (result.replicas.count, result.replicas.converged) == (COPIES, 4)
    assert result.replicas.median == evaluate(copies, data).replica
    table = pd.read_csv(tracking.download(f"runs:/{parent.run_id}/here/copies.csv"))
    assert table["seed"].tolist() == SEEDS
    assert table[ERRORS].isna().all(axis=1).tolist() == [True, False, False, False, False]
    assert PhaseResult.model_validate_json(result.model_dump_json()) == result
