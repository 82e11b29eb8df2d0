"""What MLflow is told of a network's inside, and a registered model opened; the tasks alone, without a flow."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.artifacts import load_image
from pydantic import TypeAdapter
from torch import Tensor

from lstm_models import figures
from lstm_models.cells import Cell, Step, Weights
from lstm_models.config import AddingData, AnyModel, ConfigError, Figures
from lstm_models.data import adding
from lstm_models.data.dataset import Dataset, of_table
from lstm_models.data.examples import Batch
from lstm_models.lstm import LSTM
from lstm_models.network import Network, build_network
from lstm_models.tracing import gradients_through_time, trace
from tasks import inside, tracking

LENGTH = 6


def build(kind: str, **settings: Any) -> Network:
    """A network for two features, drawn from a seed."""
    config: AnyModel = TypeAdapter(AnyModel).validate_python({"kind": kind, "head": "linear", **settings})
    torch.manual_seed(7)
    return build_network(config, input_size=2).eval()


def dataset(count: int) -> Dataset:
    """Sequences of two features, named 1, 2, 3 and so on."""
    config = AddingData(kind="adding", length=LENGTH, count=count)
    return of_table(adding.table(LENGTH, count, seed=0), config, 0)


def first(count: int) -> Batch:
    """So many of four of them as one batch."""
    return dataset(4).test.take(torch.arange(count))


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.client().get_metric_history(run_id, name)]


@pytest.fixture
def run_id(workplace: Path) -> str:
    return tracking.start_run(tracking.experiment_id("inside"), "a run", tags={}, note="")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that MLflow has been given, by their path."""
    given: dict[str, Figure] = {}
    log_figure = MlflowClient.log_figure

    def record(self: MlflowClient, run_id: str, figure: Figure, artifact_file: str) -> None:
        given[artifact_file] = figure
        log_figure(self, run_id, figure, artifact_file)

    monkeypatch.setattr(MlflowClient, "log_figure", record)
    return given


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


# ---- log_gates
def test_a_run_gets_a_picture_of_its_gates(run_id: str, logged: dict[str, Figure]) -> None:
    network = build("hand_built", hidden_size=1, head="none")
    inside.log_gates(Figures(), network, dataset(4), run_id, "hand_built/initial")
    width, height = load_image(f"runs:/{run_id}/gates.png").size
    assert width == 800
    assert height > 400
    figure = logged["gates.png"]
    assert titles(figure) == ["1", "2"]
    assert figure.get_suptitle().startswith("hand_built/initial: 1 and 2 are ")
    written = [text.get_text() for axes in figure.axes for text in axes.texts]
    opened = trace(network.recurrent, first(2).x_BTD)
    # x has two features, hence twelve numbers; the parts are rows, the sequences columns
    shown = [f"{value:.2f}" for part in opened for column in part[0] for value in column.flatten().tolist()]
    assert written[2 * 2 * LENGTH :] == shown


def test_the_picture_of_an_untrained_contender_has_a_folder_of_its_own(run_id: str) -> None:
    inside.log_gates(Figures(), build("built_in"), dataset(4), run_id, "a/untrained", place="a/untrained")
    assert [file.path for file in tracking.client().list_artifacts(run_id, "a/untrained")] == ["a/untrained/gates.png"]


@pytest.mark.parametrize(("rows", "names"), [(None, ["1", "2"]), ([3, 1], ["3", "1"]), ([4], ["4"])], ids=str)
def test_the_configuration_chooses_the_sequences(
    run_id: str, logged: dict[str, Figure], rows: list[int] | None, names: list[str]
) -> None:
    inside.log_gates(Figures(gates_of=rows), build("built_in", hidden_size=3), dataset(4), run_id, "x")
    assert titles(logged["gates.png"]) == names


def test_a_plain_recurrent_network_has_no_gates_to_draw(run_id: str) -> None:
    inside.log_gates(Figures(), build("rnn", hidden_size=3), dataset(4), run_id, "rnn/initial")
    assert tracking.client().list_artifacts(run_id) == []


def test_a_row_that_the_data_has_not_is_refused(run_id: str) -> None:
    with pytest.raises(ConfigError) as caught:
        inside.log_gates(Figures(gates_of=[1, 5]), build("built_in"), dataset(4), run_id, "x")
    assert str(caught.value) == "figures.gates_of: 5 given, but the data has 4 examples to judge by"
    assert tracking.client().list_artifacts(run_id) == []


# ---- log_gradients
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("hand_built", {"cell": "coupled_gates", "num_layers": 2, "hidden_size": 3}), ("built_in", {"hidden_size": 3})],
    ids=["hand_built", "built_in"],
)
def test_gradients_are_curves_over_the_time_steps(run_id: str, kind: str, settings: dict[str, Any]) -> None:
    network = build(kind, **settings)
    inside.log_gradients(network, dataset(4), run_id)
    expected = gradients_through_time(network, first(4))
    assert expected.cell_T is not None
    steps = range(1, LENGTH + 1)
    assert curve(run_id, "dloss_dh") == list(zip(steps, expected.hidden_T.tolist(), strict=True))
    assert curve(run_id, "dloss_dc") == list(zip(steps, expected.cell_T.tolist(), strict=True))


def test_a_plain_recurrent_network_has_no_gradient_of_a_cell_state(run_id: str) -> None:
    network = build("rnn", hidden_size=3)
    inside.log_gradients(network, dataset(4), run_id)
    metrics = tracking.client().get_run(run_id).data.metrics
    assert metrics == {"dloss_dh": gradients_through_time(network, first(4)).hidden_T[-1].item()}


def test_gradients_logged_twice_are_no_second_points(run_id: str) -> None:
    for _ in range(2):
        inside.log_gradients(build("built_in"), dataset(4), run_id, place="built_in/untrained")
    for name in ("dloss_dh", "dloss_dc"):
        assert [step for step, _ in curve(run_id, f"built_in/untrained/{name}")] == list(range(1, LENGTH + 1))


def test_gradients_are_of_the_first_sequences_where_there_are_many(run_id: str) -> None:
    network, many = build("built_in"), dataset(inside.GRADIENT_OF + 9)
    inside.log_gradients(network, many, run_id)
    few = many.test.take(torch.arange(inside.GRADIENT_OF))
    expected = gradients_through_time(network, few).hidden_T.tolist()
    assert [value for _, value in curve(run_id, "dloss_dh")] == expected


def test_a_gradient_that_is_no_number_is_left_out(run_id: str) -> None:
    network = build("built_in")
    with torch.no_grad():
        network.head.weight.fill_(1e30)  # the squares overflow float32
    inside.log_gradients(network, dataset(4), run_id)
    assert curve(run_id, "dloss_dh") == []


def test_a_contender_without_a_finite_gradient_does_not_spoil_the_picture() -> None:
    """What `log_gradients` has left out is missing in what the picture is drawn from."""
    curves = {"a": {"h": {1: 0.1, 2: 1.0}, "c": {1: 0.2, 2: 1.0}}, "b": {}}
    figure = figures.gradients_through_time({"untrained": curves, "initial": curves})
    assert len(figure.axes[0].lines) == 2


class Carried(Cell):
    """A gated recurrent unit: h alone is carried, and the cell state is never used."""

    gates = "fg"

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        f, g = self.sums(z_BG, before, weights)
        f, g = f.sigmoid(), g.tanh()
        return Step(1 - f, f, g, torch.ones_like(f), before.c, f * before.h + (1 - f) * g)


def test_a_cell_state_that_the_loss_does_not_depend_on_is_no_obstacle(run_id: str) -> None:
    network = build("hand_built", hidden_size=3)
    network.recurrent = LSTM(2, 3, batch_first=True, cell=Carried())
    inside.log_gradients(network, dataset(4), run_id)
    assert [step for step, _ in curve(run_id, "dloss_dh")] == list(range(1, LENGTH + 1))
    assert {value for _, value in curve(run_id, "dloss_dc")} <= {0.0}


# ---- Opened
def opened(layers: int = 1, units: int = 1, names: tuple[str, ...] = ("A", "B")) -> inside.Opened:
    """Two time steps; each number tells where it lies: 0.1234 is layer 1, sequence 2, step 3, unit 4, each from 0."""
    place = torch.tensor([0.1, 0.01, 0.001, 0.0001])
    shape = (layers, len(names), 2, units)
    numbers = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in shape)) @ place.double()
    parts = (numbers.reshape(shape) + letter for letter in range(6))
    return inside.Opened("models:/m/1", list(names), torch.zeros(len(names), 2, 1), Step(*parts))


def test_the_table_has_a_line_for_each_sequence_and_step() -> None:
    table = opened().table()
    assert table.columns.tolist() == ["sequence", "step", "i", "f", "g", "o", "c", "h"]
    assert table.to_numpy().tolist() == [
        ["A", "1", "0.0000", "1.0000", "2.0000", "3.0000", "4.0000", "5.0000"],
        ["A", "2", "0.0010", "1.0010", "2.0010", "3.0010", "4.0010", "5.0010"],
        ["B", "1", "0.0100", "1.0100", "2.0100", "3.0100", "4.0100", "5.0100"],
        ["B", "2", "0.0110", "1.0110", "2.0110", "3.0110", "4.0110", "5.0110"],
    ]


def test_the_table_names_layers_where_there_are_several_and_takes_the_mean_of_units() -> None:
    table = opened(layers=2, units=3).table()
    means = [f"{letter}, mean" for letter in "ifgoch"]
    assert table.columns.tolist() == ["sequence", "layer", "step", *means]
    assert table[["sequence", "layer", "step", "f, mean"]].to_numpy().tolist() == [
        ["A", "1", "1", "1.0001"],
        ["A", "1", "2", "1.0011"],
        ["A", "2", "1", "1.1001"],
        ["A", "2", "2", "1.1011"],
        ["B", "1", "1", "1.0101"],
        ["B", "1", "2", "1.0111"],
        ["B", "2", "1", "1.1101"],
        ["B", "2", "2", "1.1111"],
    ]


def test_json_has_every_unit_by_layer_and_step() -> None:
    one = opened(layers=2, units=3)
    answer = json.loads(one.to_json())
    assert answer.keys() == {"model", "sequences"}
    assert answer["model"] == "models:/m/1"
    assert [list(sequence) for sequence in answer["sequences"]] == [["sequence", *"ifgoch"]] * 2
    assert [sequence["sequence"] for sequence in answer["sequences"]] == ["A", "B"]
    for number, sequence in enumerate(answer["sequences"]):
        for letter, part in zip("ifgoch", one.trace, strict=True):
            assert sequence[letter] == part[:, number].tolist()


def test_the_figure_shows_the_first_four_sequences_under_the_models_name() -> None:
    figure = opened(names=("A", "B", "C", "D", "E")).figure()
    assert titles(figure) == ["A", "B", "C", "D"]
    assert figure.get_suptitle() == "m/1: after step 2 the cell states are up to 0.03 apart"
