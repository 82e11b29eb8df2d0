"""Sequences opened in a model: as a table, as JSON, as a figure."""

import json

import pandas as pd
import torch

from lstm_models import plots
from lstm_models.nn.cells import Step
from tasks import introspection


def opened(layers: int = 1, units: int = 1, names: tuple[str, ...] = ("A", "B")) -> introspection.GateInspection:
    """Two time steps; each number tells where it lies: 0.1234 is layer 1, sequence 2, step 3, unit 4, each from 0."""
    place = torch.tensor([0.1, 0.01, 0.001, 0.0001])
    shape = (layers, len(names), 2, units)
    numbers = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in shape)) @ place.double()
    parts = (numbers.reshape(shape) + letter for letter in range(6))
    return introspection.GateInspection("models:/m/1", list(names), torch.zeros(len(names), 2, 1), Step(*parts))


def test_the_table_names_layers_where_there_are_several_and_takes_the_mean_of_units() -> None:
    table = opened(layers=2, units=3).table()
    means = [f"{letter}, mean" for letter in "ifgoch"]
    assert table.columns.tolist() == ["sequence", "layer", "step", *means]
    expected = pd.DataFrame(
        [
            ["A", "1", "1", "1.0001"], ["A", "1", "2", "1.0011"], ["A", "2", "1", "1.1001"], ["A", "2", "2", "1.1011"],
            ["B", "1", "1", "1.0101"], ["B", "1", "2", "1.0111"], ["B", "2", "1", "1.1101"], ["B", "2", "2", "1.1111"],
        ],
        columns=["sequence", "layer", "step", "f, mean"],
    )  # fmt: skip
    pd.testing.assert_frame_equal(table[expected.columns], expected)


def test_json_has_every_unit_by_layer_and_step() -> None:
    one = opened(layers=2, units=3)
    parts = dict(zip("ifgoch", one.trace, strict=True))
    assert json.loads(one.to_json()) == {
        "model": "models:/m/1",
        "sequences": [
            {"sequence": name, **{letter: part[:, number].tolist() for letter, part in parts.items()}}
            for number, name in enumerate("AB")
        ],
    }
    assert list(json.loads(one.to_json())["sequences"][0]) == ["sequence", *"ifgoch"]


def test_the_figure_shows_the_first_four_sequences_under_the_models_name() -> None:
    figure = opened(names=("A", "B", "C", "D", "E")).figure()
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["A", "B", "C", "D"]
    assert figure.get_suptitle().startswith("m/1: ")
    assert "step 2" in figure.get_suptitle()
    assert "0.03" in figure.get_suptitle()  # of the first four alone


def test_a_contender_without_a_finite_gradient_does_not_spoil_the_picture() -> None:
    """What `log_gradients` has left out is missing in what the picture is drawn from."""
    curves = {"a": {"h": {1: 0.1, 2: 1.0}, "c": {1: 0.2, 2: 1.0}}, "b": {}}
    figure = plots.gradients_through_time({"untrained": curves, "initial": curves})
    assert len(figure.axes[0].lines) == 2
