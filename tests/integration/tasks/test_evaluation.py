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
from lstm_models.comparison import wilson_interval
from lstm_models.config import CompareConfig
from lstm_models.data import tutorial
from lstm_models.data.dataset import of_table
from lstm_models.data.examples import Batch
from lstm_models.module import NonFiniteLoss
from lstm_models.replicas import Replicas
from lstm_models.tracing import gradients_through_time
from lstm_models.training import new_network
from tasks import runs, tracking
from tasks.data import load_dataset, store_data
from tasks.evaluation import MOST_INLINE, _evaluate, evaluate_baselines, evaluate_untrained
from tasks.references import DatasetRef, ParentRun, Result

COPIES = 5
SEED = 2**32 - 2  # so that the third copy's seed begins again at 0
KINDS = ["hand_built", "built_in"]
Place = tuple[ParentRun, DatasetRef]


def configuration(*changes: str) -> CompareConfig:
    replicas = [f"contenders.{kind}.replicas={COPIES}" for kind in KINDS]
    return recipes.load("parity", [f"seed={SEED}", *replicas, *changes])


CONFIG = configuration()


@pytest.fixture
def place(workplace: Path) -> Place:
    """The tutorial's two sequences, and the parent run that has them."""
    parent = runs.start_parent(runs.comparison(CONFIG))
    return parent, store_data.fn(CONFIG, parent)


@pytest.fixture
def no_pictures() -> Iterator[None]:
    """The gates are not drawn, which would take most of a test's time; test_inside.py has them."""
    with plain(wholly=False):
        yield


def files(run_id: str, folder: str = "") -> list[str]:
    return sorted(file.path.removeprefix(f"{folder}/") for file in tracking.client().list_artifacts(run_id, folder))


class FirstDay(torch.nn.Module):
    """Tells of each company what its first day was."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD[:, 0, 0]


def record(count: int, dataset: DatasetRef) -> Result:
    """An evaluation of so many sequences, of which 0/8, 1/8, 2/8 ... are told, recorded in a run."""
    run_id = tracking.start_run(tracking.experiment_id("evaluated"), "a run", tags={}, note="")
    days = {name: [number / 8 for number in range(count)] for name in tutorial.COLUMNS.inputs}
    table = pd.DataFrame({"company": [f"c{number}" for number in range(count)], **days, "label": 0.0})
    stored = dataset.model_copy(update={"name": "many", "digest": "d"})
    return _evaluate(CONFIG, FirstDay(), of_table(table, CONFIG.data, 0), stored, run_id, "hand_built", "initial", "")


@pytest.mark.usefixtures("no_pictures")
def test_few_predictions_are_carried_and_stored_as_csv(place: Place) -> None:
    parent, dataset = place
    result = record(MOST_INLINE, dataset)
    predictions = [number / 8 for number in range(MOST_INLINE)]
    assert (result.predictions, result.targets) == (predictions, [0.0] * MOST_INLINE)
    # in sample there is nothing else: no losses, no interval, no baselines
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.csv"
    assert (result.low, result.high, result.losses_uri) == (None, None, None)
    assert files(result.run_id) == ["predictions.csv"]
    stored = pd.read_csv(tracking.download(result.predictions_uri))
    assert stored.columns.tolist() == ["company", "target", "prediction"]
    assert stored["prediction"].tolist() == predictions
    assert evaluate_baselines.fn(dataset, parent) == []
    assert tracking.client().get_run(parent.run_id).data.metrics == {}


@pytest.mark.usefixtures("no_pictures")
def test_many_predictions_go_to_parquet_instead(place: Place) -> None:
    result = record(MOST_INLINE + 1, place[1])
    assert (result.targets, result.predictions) == (None, None)
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.parquet"
    stored = pd.read_parquet(tracking.download(result.predictions_uri))
    assert stored["prediction"].tolist() == [number / 8 for number in range(MOST_INLINE + 1)]
    assert stored["company"].tolist()[-1] == f"c{MOST_INLINE}"


@pytest.mark.usefixtures("no_pictures")
def test_metrics_stand_on_the_run_with_their_data(place: Place) -> None:
    result = record(3, place[1])
    metrics = tracking.client().get_run(result.run_id).data.metrics
    # of 0, 1/8 and 2/8 instead of 0
    assert metrics == pytest.approx({"mse": 5 / 64 / 3, "mae": 1 / 8, "max_error": 1 / 4}, rel=1e-15)
    assert (result.loss, result.dataset) == (result.metrics["mse"], "d")


# ---- copies
def everything(dataset: DatasetRef) -> Batch:
    """All examples that are judged by, as one batch."""
    test = load_dataset(dataset).test
    return test.take(torch.arange(test.count))


def untrained(contender: str, dataset: DatasetRef) -> Replicas:
    copies = new_network(CONFIG.contenders[contender], load_dataset(dataset), SEED)
    assert isinstance(copies, Replicas)
    return copies.eval()


def members_errors(copies: Replicas, dataset: DatasetRef) -> list[dict[str, float]]:
    """Each copy's errors, from the copy by itself."""
    x_BTD, y_B, _ = everything(dataset)
    found = []
    for number in range(copies.count):
        with torch.no_grad():
            off = copies.member(number).eval()(x_BTD).double() - y_B.double()
        found.append({"mse": off.square().mean().item(), "mae": off.abs().mean().item()})
        found[-1]["max_error"] = off.abs().max().item()
    return found


def middle(values: list[float]) -> int:
    """Where the median lies; of two in the middle, the lower one."""
    return sorted(range(len(values)), key=values.__getitem__)[(len(values) - 1) // 2]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("contender", KINDS)
def test_copies_are_judged_one_by_one_and_the_median_one_speaks(place: Place, contender: str) -> None:
    parent, dataset = place
    result = evaluate_untrained.fn(CONFIG, contender, dataset, parent)
    copies = untrained(contender, dataset)
    expected = members_errors(copies, dataset)
    assert result.copies
    # float32: vmapped, a copy's sums may be taken in another order than by itself
    close = {"rel": 1e-5, "abs": 1e-7}
    assert result.copies.errors == pytest.approx([own["mse"] for own in expected], **close)
    assert (result.copies.count, result.copies.median) == (COPIES, middle([own["mse"] for own in expected]))
    assert result.metrics == pytest.approx(expected[result.copies.median], **close)
    assert result.metrics["mse"] == result.copies.errors[result.copies.median]
    with torch.no_grad():
        predictions = copies.member(result.copies.median).eval()(everything(dataset).x_BTD)
    assert result.predictions == pytest.approx(predictions.tolist(), **close)
    assert result.parameters == 16  # one copy's: four gates, two weights and two biases each

    table = pd.read_csv(tracking.download(f"runs:/{parent.run_id}/{contender}/untrained/copies.csv"))
    assert table.columns.tolist() == ["seed", "mse", "mae", "max_error"]
    assert table["seed"].tolist() == [2**32 - 2, 2**32 - 1, 0, 1, 2]
    # to the last digit: what stands in the CSV reads back as the same number
    assert table["mse"].tolist() == result.copies.errors
    if contender == "built_in":  # nn.LSTM's copies run one by one, so they are the same by themselves
        assert table.drop(columns="seed").to_dict("records") == expected


def test_an_untrained_contenders_copies_stand_on_the_parent_by_its_name(place: Place) -> None:
    parent, dataset = place
    result = evaluate_untrained.fn(CONFIG, "hand_built", dataset, parent)
    assert files(parent.run_id, "hand_built/untrained") == ["copies.csv", "gates.png", "predictions.csv"]
    assert result.copies
    assert tracking.client().get_run(parent.run_id).data.metrics == {
        "hand_built/untrained/converged": result.copies.converged / COPIES,
        **{f"hand_built/untrained/{name}": value for name, value in result.metrics.items()},
    }


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("metric", ["max_error", "mse", "mae"])
def test_a_copy_has_converged_where_the_configured_error_is_below_the_threshold(place: Place, metric: str) -> None:
    parent, dataset = place
    errors = sorted(own[metric] for own in members_errors(untrained("built_in", dataset), dataset))
    # the third one's own error is not below itself
    config = configuration(f"converged={{metric: {metric}, below: {errors[2]!r}}}")
    copies = evaluate_untrained.fn(config, "built_in", dataset, parent).copies
    assert copies
    assert (copies.converged, (copies.low, copies.high)) == (2, wilson_interval(2, COPIES))
    metrics = tracking.client().get_run(parent.run_id).data.metrics
    assert metrics["built_in/untrained/converged"] == 2 / 5


@torch.no_grad()
def spoil(copies: Replicas, number: int) -> None:
    """Give a copy weights that are no numbers."""
    for weight in copies.weights.values():
        weight[number] = math.nan
    if copies.networks:
        for parameter in copies.networks[number].parameters():
            parameter.fill_(math.nan)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("contender", KINDS)
def test_a_copy_that_predicts_nan_counts_as_failed_and_nothing_else_changes(place: Place, contender: str) -> None:
    parent, dataset = place
    config = configuration("converged={below: 1e9}")
    copies = untrained(contender, dataset)
    before = evaluate_untrained.fn(config, contender, dataset, parent)
    assert before.copies
    spoil(copies, 0)
    name = f"{contender}/untrained"
    result = _evaluate(config, copies, load_dataset(dataset), dataset, parent.run_id, contender, "untrained", name)
    assert result.copies
    assert result.copies.errors == [None, *before.copies.errors[1:]]
    assert (result.copies.count, result.copies.converged, before.copies.converged) == (COPIES, 4, 5)
    assert result.copies.median == middle([math.inf, *(error or 0 for error in before.copies.errors[1:])])
    table = pd.read_csv(tracking.download(f"runs:/{parent.run_id}/{contender}/untrained/copies.csv"))
    assert table["seed"].tolist() == [2**32 - 2, 2**32 - 1, 0, 1, 2]
    assert table[["mse", "mae", "max_error"]].isna().all(axis=1).tolist() == [True, False, False, False, False]
    assert Result.model_validate_json(result.model_dump_json()) == result


@pytest.mark.usefixtures("no_pictures")
def test_copies_of_which_most_predict_nan_fail_together(place: Place) -> None:
    parent, dataset = place
    copies = untrained("hand_built", dataset)
    for number in range(3):
        spoil(copies, number)
    with pytest.raises(NonFiniteLoss) as caught:
        _evaluate(CONFIG, copies, load_dataset(dataset), dataset, parent.run_id, "hand_built", "untrained", "here")
    assert names_all(caught.value, "NaN or infinity", "learning_rate")


@pytest.mark.usefixtures("no_pictures")
def test_a_contender_without_replicas_has_no_copies(place: Place) -> None:
    parent, dataset = place
    config = configuration("contenders.hand_built.replicas=1")
    assert evaluate_untrained.fn(config, "hand_built", dataset, parent).copies is None
    metrics = tracking.client().get_run(parent.run_id).data.metrics
    assert sorted(metrics) == [f"hand_built/untrained/{name}" for name in ("mae", "max_error", "mse")]
    assert files(parent.run_id, "hand_built/untrained") == ["predictions.csv"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("contender", KINDS)
def test_gradients_through_time_are_the_median_copys_where_asked_for(place: Place, contender: str) -> None:
    parent, dataset = place
    config = configuration("figures={gradients_through_time: true}")
    copies = evaluate_untrained.fn(config, contender, dataset, parent).copies
    assert copies
    expected = gradients_through_time(untrained(contender, dataset).member(copies.median).eval(), everything(dataset))
    assert expected.cell_T is not None
    for state, norm_T in (("h", expected.hidden_T), ("c", expected.cell_T)):
        points = tracking.read_curve(parent.run_id, f"{contender}/untrained/dloss_d{state}")
        assert points == dict(enumerate(norm_T.tolist(), start=1))
