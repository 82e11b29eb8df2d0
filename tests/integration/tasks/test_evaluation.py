"""The metrics and artifacts of evaluations in MLflow."""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.cli_runner import without_plots
from helpers.errors import names_all

from flows import recipes
from lstm_models.config import CompareConfig
from lstm_models.data.builders import build_dataset
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

REPLICAS = 5
SEED = 2**32 - 2  # the third replica's seed wraps around to 0
SEEDS = [2**32 - 2, 2**32 - 1, 0, 1, 2]
KINDS = ["hand_built", "built_in"]
ERRORS = ["mse", "mae", "max_error"]
Stored = tuple[ParentRun, DatasetRef]


def configuration(*changes: str) -> CompareConfig:
    replicas = [f"contenders.{kind}.replicas={REPLICAS}" for kind in KINDS]
    return recipes.load("parity", [f"seed={SEED}", *replicas, *changes])


CONFIG = configuration()


@pytest.fixture
def stored_data(workplace: Path) -> Stored:
    """Return a parent run, and the tutorial's two sequences stored in it."""
    parent = runs.start_parent_run(runs.comparison_spec(CONFIG))
    return parent, store_data.fn(CONFIG, parent)


@pytest.fixture
def no_plots() -> Iterator[None]:
    """Skip the gate plots, which would take most of a test's time; test_introspection.py covers them."""
    with without_plots(export=True):
        yield


def metrics(run_id: str) -> dict[str, float]:
    return dict(tracking.mlflow_client().get_run(run_id).data.metrics)


def files(run_id: str, folder: str = "") -> list[str]:
    return sorted(
        file.path.removeprefix(f"{folder}/") for file in tracking.mlflow_client().list_artifacts(run_id, folder)
    )


class FirstDay(torch.nn.Module):
    """Model that predicts the first day of each company."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD[:, 0, 0]


def log_predictions(count: int, dataset: DatasetRef) -> PhaseResult:
    """Evaluate this number of sequences, with predictions 0/8, 1/8, 2/8 ..., and log the evaluation to a run."""
    run_id = tracking.start_run(tracking.get_or_create_experiment("evaluated"), "a run", tags={}, note="")
    days = {name: [number / 8 for number in range(count)] for name in tutorial.COLUMNS.inputs}
    table = pd.DataFrame({"company": [f"c{number}" for number in range(count)], **days, "label": 0.0})
    stored = dataset.model_copy(update={"name": "many", "digest": "d"})
    return _evaluate(
        CONFIG, FirstDay(), build_dataset(table, CONFIG.data, 0), stored, run_id, "hand_built", "initial", ""
    )


@pytest.mark.usefixtures("no_plots")
def test_few_predictions_are_in_the_result_and_stored_as_csv(stored_data: Stored) -> None:
    parent, dataset = stored_data
    result = log_predictions(MAX_INLINE_PREDICTIONS, dataset)
    predictions = [number / 8 for number in range(MAX_INLINE_PREDICTIONS)]
    assert (result.predictions, result.targets) == (predictions, [0.0] * MAX_INLINE_PREDICTIONS)
    assert (result.loss, result.dataset) == (result.metrics["mse"], "d")
    mean, square = (sum(value**power for value in predictions) / MAX_INLINE_PREDICTIONS for power in (1, 2))
    expected = {"mse": square, "mae": mean, "max_error": predictions[-1]}
    assert metrics(result.run_id) == pytest.approx(expected, rel=1e-15)
    # in sample there are no losses, no interval and no baselines
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.csv"
    assert (result.low, result.high, result.losses_uri) == (None, None, None)
    assert files(result.run_id) == ["predictions.csv"]
    stored = pd.read_csv(tracking.download(result.predictions_uri))
    assert stored.columns.tolist() == ["company", "target", "prediction"]
    assert stored["prediction"].tolist() == predictions
    assert evaluate_baselines.fn(dataset, parent) == []
    assert metrics(parent.run_id) == {}


@pytest.mark.usefixtures("no_plots")
def test_many_predictions_are_stored_as_parquet_only(stored_data: Stored) -> None:
    result = log_predictions(MAX_INLINE_PREDICTIONS + 1, stored_data[1])
    assert (result.targets, result.predictions) == (None, None)
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.parquet"
    stored = pd.read_parquet(tracking.download(result.predictions_uri))
    assert stored["prediction"].tolist() == [number / 8 for number in range(MAX_INLINE_PREDICTIONS + 1)]
    assert stored["company"].tolist()[-1] == f"c{MAX_INLINE_PREDICTIONS}"


# ---- replicas: the unit tests cover their evaluation
def untrained(contender: str, dataset: DatasetRef) -> Replicas:
    replicas = new_network(CONFIG.contenders[contender], load_dataset(dataset), SEED)
    assert isinstance(replicas, Replicas)
    return replicas


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("contender", "metric"), [("hand_built", "max_error"), ("built_in", "mse"), ("built_in", "mae")]
)
def test_each_replica_is_logged_and_the_median_one_is_evaluated(
    stored_data: Stored, contender: str, metric: str
) -> None:
    parent, dataset = stored_data
    data, replicas = load_dataset(dataset), untrained(contender, dataset)
    expected = evaluate(replicas, data)
    evaluation, errors = expected.evaluation, [values for values in expected.replica_metrics if values]
    # two replicas are below the third one's error
    threshold = sorted(values[metric] for values in errors)[2]
    converged = f"converged={{metric: {metric}, threshold: {threshold!r}}}"
    config = configuration(converged, "figures={gradients_through_time: true}")
    result = evaluate_untrained.fn(config, contender, dataset, parent)

    assert result.replicas
    assert names_all(result.replicas.criterion, metric, f"{threshold:g}")
    low, high = wilson_interval(2, REPLICAS)
    assert result.replicas == ReplicaStats(
        count=REPLICAS, criterion=result.replicas.criterion, converged=2, low=low, high=high,
        median=expected.replica, errors=[values["mse"] for values in errors],
    )  # fmt: skip
    assert (result.metrics, result.predictions) == (evaluation.metrics, evaluation.predictions.tolist())
    assert result.parameters == 16  # of one replica: four gates, two weights and two biases each

    folder = f"{contender}/untrained"
    # exactly: the numbers survive the round trip through CSV
    table = pd.read_csv(tracking.download(f"runs:/{parent.run_id}/{folder}/replicas.csv"))
    assert table.to_dict("records") == [{"seed": seed, **values} for seed, values in zip(SEEDS, errors, strict=True)]
    every = data.test.get_batch(torch.arange(data.test.count))
    norms = gradients_through_time(replicas.member(expected.replica).eval(), every)
    assert norms.cell_T is not None
    curves = {"dloss_dh": norms.hidden_T.tolist(), "dloss_dc": norms.cell_T.tolist()}
    for name, values in curves.items():
        assert tracking.read_curve(parent.run_id, f"{folder}/{name}") == dict(enumerate(values, start=1))
    single = {**evaluation.metrics, "converged": 2 / 5, **{name: values[-1] for name, values in curves.items()}}
    assert metrics(parent.run_id) == {f"{folder}/{name}": value for name, value in single.items()}


@pytest.mark.parametrize("replicas", [REPLICAS, 1])
def test_an_untrained_contenders_metrics_are_logged_to_the_parent_by_name(stored_data: Stored, replicas: int) -> None:
    parent, dataset = stored_data
    config = configuration(f"contenders.hand_built.replicas={replicas}")
    result = evaluate_untrained.fn(config, "hand_built", dataset, parent)
    replicated = replicas > 1
    assert (result.replicas is not None) is replicated
    names = ["gates.png", "predictions.csv"] + ["replicas.csv"] * replicated
    assert files(parent.run_id, "hand_built/untrained") == names
    names = sorted([*ERRORS, *["converged"] * replicated])
    assert sorted(metrics(parent.run_id)) == [f"hand_built/untrained/{name}" for name in names]


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("contender", KINDS)
def test_a_replica_that_predicts_nan_counts_as_not_converged_and_nothing_else_changes(
    stored_data: Stored, contender: str
) -> None:
    parent, dataset = stored_data
    data, replicas = load_dataset(dataset), untrained(contender, dataset)
    before = evaluate(replicas, data).replica_metrics
    with torch.no_grad():
        for weight in replicas.weights.values():
            weight[0] = math.nan
        for parameter in replicas.networks[0].parameters() if replicas.networks else ():
            parameter.fill_(math.nan)
    config = configuration("converged={threshold: 1e9}")
    result = _evaluate(config, replicas, data, dataset, parent.run_id, contender, "untrained", "folder")
    assert result.replicas
    assert result.replicas.errors == [None, *(values and values["mse"] for values in before[1:])]
    assert (result.replicas.count, result.replicas.converged) == (REPLICAS, 4)
    assert result.replicas.median == evaluate(replicas, data).replica
    table = pd.read_csv(tracking.download(f"runs:/{parent.run_id}/folder/replicas.csv"))
    assert table["seed"].tolist() == SEEDS
    assert table[ERRORS].isna().all(axis=1).tolist() == [True, False, False, False, False]
    assert PhaseResult.model_validate_json(result.model_dump_json()) == result
