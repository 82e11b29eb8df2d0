"""Logging gates and gradients to MLflow, without a flow."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import names_all
from matplotlib.figure import Figure
from pydantic import TypeAdapter
from torch import Tensor

from lstm_models import plots
from lstm_models.config import AddingProblemData, AnyModel, ConfigError, FigureOptions
from lstm_models.data.builders import build_dataset
from lstm_models.data.dataset import Dataset
from lstm_models.data.synthetic import adding
from lstm_models.data.windows import Batch
from lstm_models.nn.cells import Cell, Step, Weights
from lstm_models.nn.introspection import gradients_through_time, record_gates
from lstm_models.nn.lstm import LSTM
from lstm_models.nn.network import Network, build_network
from tasks import introspection, tracking

LENGTH = 6


def build(kind: str, **settings: Any) -> Network:
    """A network for two features, drawn from a seed."""
    config: AnyModel = TypeAdapter(AnyModel).validate_python({"kind": kind, "head": "linear", **settings})
    torch.manual_seed(7)
    return build_network(config, input_size=2).eval()


def dataset(count: int) -> Dataset:
    """Sequences of two features, named 1, 2, 3 and so on."""
    config = AddingProblemData(kind="adding", length=LENGTH, count=count)
    return build_dataset(adding.table(LENGTH, count, seed=0), config, 0)


def batch_of(*indices: int) -> Batch:
    """The sequences with these indices, of a dataset of four, as a batch."""
    return dataset(4).test.get_batch(torch.tensor(indices))


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.mlflow_client().get_metric_history(run_id, name)]


@pytest.fixture
def run_id(workplace: Path) -> str:
    return tracking.start_run(tracking.get_or_create_experiment("introspection"), "a run", tags={}, note="")


# ---- log_gates
@pytest.mark.parametrize(("numbers", "logged"), [(None, [1, 2]), ([3, 1], [3, 1]), ([4], [4])], ids=str)
@pytest.mark.parametrize("artifact_dir", ["", "a/untrained"])
def test_the_gates_of_the_configured_sequences_are_logged_as_a_figure(
    run_id: str, monkeypatch: pytest.MonkeyPatch, numbers: list[int] | None, logged: list[int], artifact_dir: str
) -> None:
    drawn: list[tuple[str, Tensor, Step, list[str]]] = []

    def draw(*arguments: Any) -> Figure:
        drawn.append(arguments)
        return Figure()

    monkeypatch.setattr(plots, "gates", draw)
    network = build("built_in", hidden_size=3)
    introspection.log_gates(
        FigureOptions(gate_examples=numbers), network, dataset(4), run_id, "a/initial", artifact_dir
    )
    stored = tracking.mlflow_client().list_artifacts(run_id, artifact_dir or None)
    assert [file.path for file in stored] == [f"{artifact_dir}/gates.png".lstrip("/")]
    ((name, x_BTD, gates, names),) = drawn
    expected_BTD = batch_of(*(number - 1 for number in logged)).x_BTD
    assert (name, names) == ("a/initial", [str(number) for number in logged])
    assert torch.equal(x_BTD, expected_BTD)
    with torch.no_grad():
        expected = record_gates(network.recurrent, expected_BTD)
    assert all(torch.equal(part, reference) for part, reference in zip(gates, expected, strict=True))


def test_a_plain_recurrent_network_has_no_gates_to_draw(run_id: str) -> None:
    introspection.log_gates(FigureOptions(), build("rnn", hidden_size=3), dataset(4), run_id, "rnn/initial")
    assert tracking.mlflow_client().list_artifacts(run_id) == []


def test_a_sequence_number_beyond_the_data_is_refused(run_id: str) -> None:
    with pytest.raises(ConfigError) as caught:
        introspection.log_gates(FigureOptions(gate_examples=[1, 5]), build("built_in"), dataset(4), run_id, "x")
    assert names_all(caught.value, "figures.gate_examples", "5 given", "4 examples")
    assert tracking.mlflow_client().list_artifacts(run_id) == []


# ---- log_gradients
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("hand_built", {"cell": "coupled_gates", "num_layers": 2, "hidden_size": 3}), ("built_in", {}), ("rnn", {})],
    ids=["hand_built", "built_in", "rnn"],
)
def test_gradients_are_curves_over_the_time_steps(run_id: str, kind: str, settings: dict[str, Any]) -> None:
    network = build(kind, **settings)
    for _ in range(2):  # logging again adds no points
        introspection.log_gradients(network, dataset(4), run_id, prefix="a/untrained")
    gradients = gradients_through_time(network, batch_of(0, 1, 2, 3))
    expected = {"a/untrained/dloss_dh": gradients.hidden_T.tolist()}
    if kind == "rnn":  # which has no cell state
        assert gradients.cell_T is None
    else:
        assert gradients.cell_T is not None
        expected["a/untrained/dloss_dc"] = gradients.cell_T.tolist()
    names = tracking.mlflow_client().get_run(run_id).data.metrics
    assert {name: curve(run_id, name) for name in names} == {
        name: list(enumerate(values, start=1)) for name, values in expected.items()
    }


def test_gradients_of_many_sequences_are_those_of_the_first_ones(run_id: str) -> None:
    network, large = build("built_in"), dataset(introspection.GRADIENT_BATCH_SIZE + 9)
    introspection.log_gradients(network, large, run_id)
    first = large.test.get_batch(torch.arange(introspection.GRADIENT_BATCH_SIZE))
    expected = gradients_through_time(network, first).hidden_T.tolist()
    assert [value for _, value in curve(run_id, "dloss_dh")] == expected


def test_a_gradient_that_is_not_finite_is_omitted(run_id: str) -> None:
    network = build("built_in")
    with torch.no_grad():
        network.head.weight.fill_(1e30)  # the squares overflow float32
    introspection.log_gradients(network, dataset(4), run_id)
    assert curve(run_id, "dloss_dh") == []


class HiddenStateOnly(Cell):
    """A gated recurrent unit: only h is carried over, and the cell state is never used."""

    gates = "fg"

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        f, g = self.preactivations(z_BG, previous, weights)
        f, g = f.sigmoid(), g.tanh()
        return Step(1 - f, f, g, torch.ones_like(f), previous.c, f * previous.h + (1 - f) * g)


def test_the_gradient_of_an_unused_cell_state_is_zero(run_id: str) -> None:
    network = build("hand_built", hidden_size=3)
    network.recurrent = LSTM(2, 3, batch_first=True, cell=HiddenStateOnly())
    introspection.log_gradients(network, dataset(4), run_id)
    assert [step for step, _ in curve(run_id, "dloss_dh")] == list(range(1, LENGTH + 1))
    assert {value for _, value in curve(run_id, "dloss_dc")} <= {0.0}
