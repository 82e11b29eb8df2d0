"""A GateInspection as a table, as JSON and as a figure."""

import json

import pandas as pd
import torch

from lstm_models import plots
from lstm_models.nn.cells import Step
from tasks import introspection


def gate_inspection(
    layers: int = 1, units: int = 1, names: tuple[str, ...] = ("A", "B")
) -> introspection.GateInspection:
    """Two time steps. Each value encodes its index: 0.1234 is layer 1, sequence 2, step 3, unit 4, each from 0."""
    digits = torch.tensor([0.1, 0.01, 0.001, 0.0001])
    shape = (layers, len(names), 2, units)
    numbers = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in shape)) @ digits.double()
    parts = (numbers.reshape(shape) + letter for letter in range(6))
    return introspection.GateInspection("models:/m/1", list(names), torch.zeros(len(names), 2, 1), Step(*parts))


def test_the_table_numbers_several_layers_and_has_the_mean_of_several_units() -> None:
    table = gate_inspection(layers=2, units=3).table()
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
    inspection = gate_inspection(layers=2, units=3)
    parts = dict(zip("ifgoch", inspection.trace, strict=True))
    assert json.loads(inspection.to_json()) == {
        "model": "models:/m/1",
        "sequences": [
            {"sequence": name, **{letter: part[:, number].tolist() for letter, part in parts.items()}}
            for number, name in enumerate("AB")
        ],
    }
    assert list(json.loads(inspection.to_json())["sequences"][0]) == ["sequence", *"ifgoch"]


def test_the_figure_shows_the_first_four_sequences_under_the_models_name() -> None:
    figure = gate_inspection(names=("A", "B", "C", "D", "E")).figure()
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["A", "B", "C", "D"]
    assert figure.get_suptitle().startswith("m/1: ")
    assert "step 2" in figure.get_suptitle()
    assert "0.03" in figure.get_suptitle()  # of the first four sequences only


def test_a_contender_without_a_finite_gradient_is_missing_in_the_figure() -> None:
    """`log_gradients` omits gradients that are not finite, so the figure gets no data for them."""
    curves = {"a": {"h": {1: 0.1, 2: 1.0}, "c": {1: 0.2, 2: 1.0}}, "b": {}}
    figure = plots.gradients_through_time({"untrained": curves, "initial": curves})
    assert len(figure.axes[0].lines) == 2
