"""What an evaluation leaves in MLflow."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

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
from tasks import inside, runs, tracking
from tasks.data import load_dataset, store_data
from tasks.evaluation import MOST_INLINE, _evaluate, evaluate_baselines, evaluate_untrained
from tasks.references import DatasetRef, ParentRun, Result


class FirstDay(torch.nn.Module):
    """Tells of each company what its first day was."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD[:, 0, 0]


def record(count: int) -> Result:
    """An evaluation of so many sequences, of which 0/8, 1/8, 2/8 ... are told, recorded in a run."""
    run_id = tracking.start_run(tracking.experiment_id("evaluated"), "a run", tags={}, note="")
    days = {name: [number / 8 for number in range(count)] for name in tutorial.COLUMNS.inputs}
    table = pd.DataFrame({"company": [f"c{number}" for number in range(count)], **days, "label": 0.0})
    stored = store_data.fn(CONFIG, runs.start_parent(runs.comparison(CONFIG))).model_copy(
        update={"name": "many", "digest": "d"}
    )
    return _evaluate(CONFIG, FirstDay(), of_table(table, CONFIG.data, 0), stored, run_id, "hand_built", "initial", "")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gates are not drawn, which would take most of a test's time; test_inside.py has them."""
    monkeypatch.setattr(inside, "log_gates", lambda *_: None)


@pytest.mark.usefixtures("workplace", "no_pictures")
def test_few_predictions_are_carried_and_stored_as_csv() -> None:
    result = record(MOST_INLINE)
    assert result.predictions == [number / 8 for number in range(MOST_INLINE)]
    assert result.targets == [0.0] * MOST_INLINE
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.csv"
    stored = pd.read_csv(tracking.download(result.predictions_uri))
    assert stored.columns.tolist() == ["company", "target", "prediction"]
    assert stored["prediction"].tolist() == result.predictions


@pytest.mark.usefixtures("workplace", "no_pictures")
def test_many_predictions_go_to_parquet_instead() -> None:
    result = record(MOST_INLINE + 1)
    assert (result.targets, result.predictions) == (None, None)
    assert result.predictions_uri == f"runs:/{result.run_id}/predictions.parquet"
    stored = pd.read_parquet(tracking.download(result.predictions_uri))
    assert stored["prediction"].tolist() == [number / 8 for number in range(MOST_INLINE + 1)]
    assert stored["company"].tolist()[-1] == f"c{MOST_INLINE}"


@pytest.mark.usefixtures("workplace", "no_pictures")
def test_metrics_stand_on_the_run_with_their_data() -> None:
    result = record(3)
    run = tracking.client().get_run(result.run_id)
    # of 0, 1/8 and 2/8 instead of 0
    expected = {"mse": 5 / 64 / 3, "mae": 1 / 8, "max_error": 1 / 4}
    assert run.data.metrics == pytest.approx(expected, rel=1e-15)
    assert (result.loss, result.dataset) == (result.metrics["mse"], "d")


@pytest.mark.usefixtures("workplace", "no_pictures")
def test_in_sample_there_are_no_losses_no_interval_and_no_baselines() -> None:
    result = record(3)
    assert (result.low, result.high, result.losses_uri) == (None, None, None)
    assert [file.path for file in tracking.client().list_artifacts(result.run_id)] == ["predictions.csv"]
    parent = runs.start_parent(runs.comparison(CONFIG))
    assert evaluate_baselines.fn(store_data.fn(CONFIG, parent), parent) == []
    assert tracking.client().get_run(parent.run_id).data.metrics == {}


# ---- copies
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


def everything(dataset: DatasetRef) -> Batch:
    """All examples that are judged by, as one batch."""
    test = load_dataset(dataset).test
    return test.take(torch.arange(test.count))


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
    copies = new_network(CONFIG.contenders[contender], load_dataset(dataset), SEED)
    assert isinstance(copies, Replicas)
    expected = members_errors(copies.eval(), dataset)
    assert result.copies
    # float32: vmapped, a copy's sums may be taken in another order than by itself
    close = {"rel": 1e-5, "abs": 1e-7}
    assert result.copies.errors == pytest.approx([own["mse"] for own in expected], **close)
    assert (result.copies.count, result.copies.median) == (COPIES, middle([own["mse"] for own in expected]))
    median = expected[result.copies.median]
    assert result.metrics == pytest.approx(median, **close)
    assert result.metrics["mse"] == result.copies.errors[result.copies.median]
    with torch.no_grad():
        predictions = copies.member(result.copies.median).eval()(everything(dataset).x_BTD)
    assert result.predictions == pytest.approx(predictions.tolist(), **close)
    assert result.parameters == 16  # one copy's: four gates, two weights and two biases each


def test_an_untrained_contenders_copies_stand_on_the_parent_by_its_name(place: Place) -> None:
    parent, dataset = place
    result = evaluate_untrained.fn(CONFIG, "hand_built", dataset, parent)
    client = tracking.client()
    assert {file.path for file in client.list_artifacts(parent.run_id, "hand_built/untrained")} == {
        f"hand_built/untrained/{name}" for name in ("copies.csv", "gates.png", "predictions.csv")
    }
    assert result.copies
    metrics = client.get_run(parent.run_id).data.metrics
    assert metrics["hand_built/untrained/converged"] == result.copies.converged / COPIES
    assert metrics["hand_built/untrained/mse"] == result.metrics["mse"]


@pytest.mark.usefixtures("no_pictures")
def test_the_table_of_copies_has_each_ones_seed_and_errors(place: Place) -> None:
    parent, dataset = place
    result = evaluate_untrained.fn(CONFIG, "built_in", dataset, parent)
    table = pd.read_csv(tracking.download(f"runs:/{parent.run_id}/built_in/untrained/copies.csv"))
    assert table.columns.tolist() == ["seed", "mse", "mae", "max_error"]
    assert table["seed"].tolist() == [2**32 - 2, 2**32 - 1, 0, 1, 2]
    assert result.copies
    # to the last digit: what stands in the CSV reads back as the same number
    assert table["mse"].tolist() == result.copies.errors
    # nn.LSTM's copies run one by one, so they are the same by themselves
    copies = new_network(CONFIG.contenders["built_in"], load_dataset(dataset), SEED)
    assert isinstance(copies, Replicas)
    assert table.drop(columns="seed").to_dict("records") == members_errors(copies.eval(), dataset)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("metric", ["max_error", "mse", "mae"])
def test_a_copy_has_converged_where_the_configured_error_is_below_the_threshold(place: Place, metric: str) -> None:
    parent, dataset = place
    copies = new_network(CONFIG.contenders["built_in"], load_dataset(dataset), SEED)
    assert isinstance(copies, Replicas)
    errors = sorted(own[metric] for own in members_errors(copies.eval(), dataset))
    # the third one's own error is not below itself
    config = configuration(f"converged={{metric: {metric}, below: {errors[2]!r}}}")
    result = evaluate_untrained.fn(config, "built_in", dataset, parent)
    assert result.copies
    assert result.copies.converged == 2
    # Wilson 1927 for 2 of 5
    z, share = 1.959964, 2 / 5
    centre = (share + z**2 / (2 * COPIES)) / (1 + z**2 / COPIES)
    half = z / (1 + z**2 / COPIES) * math.sqrt(share * (1 - share) / COPIES + z**2 / (4 * COPIES**2))
    # z is rounded
    assert (result.copies.low, result.copies.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert (result.copies.low, result.copies.high) == wilson_interval(2, COPIES)
    metrics = tracking.client().get_run(parent.run_id).data.metrics
    assert metrics["built_in/untrained/converged"] == 2 / 5


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("contender", KINDS)
def test_a_copy_that_predicts_nan_counts_as_failed_and_nothing_else_changes(place: Place, contender: str) -> None:
    parent, dataset = place
    config = configuration("converged={below: 1e9}")
    copies = new_network(config.contenders[contender], load_dataset(dataset), SEED)
    assert isinstance(copies, Replicas)
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
    copies = new_network(CONFIG.contenders["hand_built"], load_dataset(dataset), SEED)
    assert isinstance(copies, Replicas)
    for number in range(3):
        spoil(copies, number)
    with pytest.raises(NonFiniteLoss, match="the network predicts NaN or infinity; a lower learning_rate may help"):
        _evaluate(CONFIG, copies, load_dataset(dataset), dataset, parent.run_id, "hand_built", "untrained", "here")


@torch.no_grad()
def spoil(copies: Replicas, number: int) -> None:
    """Give a copy weights that are no numbers."""
    for weight in copies.weights.values():
        weight[number] = math.nan
    if copies.networks:
        for parameter in copies.networks[number].parameters():
            parameter.fill_(math.nan)


@pytest.mark.usefixtures("no_pictures")
def test_a_contender_without_replicas_has_no_copies(place: Place) -> None:
    parent, dataset = place
    config = configuration("contenders.hand_built.replicas=1")
    assert evaluate_untrained.fn(config, "hand_built", dataset, parent).copies is None
    assert "hand_built/untrained/converged" not in tracking.client().get_run(parent.run_id).data.metrics
    files = [file.path for file in tracking.client().list_artifacts(parent.run_id, "hand_built/untrained")]
    assert "hand_built/untrained/copies.csv" not in files


@pytest.mark.usefixtures("no_pictures")
def test_gradients_through_time_are_the_median_copys_and_only_where_asked_for(place: Place) -> None:
    parent, dataset = place
    evaluate_untrained.fn(CONFIG, "hand_built", dataset, parent)
    assert "hand_built/untrained/dloss_dh" not in tracking.client().get_run(parent.run_id).data.metrics
    config = configuration("figures={gradients_through_time: true}")
    for contender in KINDS:
        result = evaluate_untrained.fn(config, contender, dataset, parent)
        copies = new_network(config.contenders[contender], load_dataset(dataset), SEED)
        assert isinstance(copies, Replicas)
        assert result.copies
        expected = gradients_through_time(copies.member(result.copies.median).eval(), everything(dataset))
        assert expected.cell_T is not None
        for state, norm_T in (("h", expected.hidden_T), ("c", expected.cell_T)):
            points = tracking.read_curve(parent.run_id, f"{contender}/untrained/dloss_d{state}")
            assert points == dict(enumerate(norm_T.tolist(), start=1))
