"""From a sequence to one number."""

import copy
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lstm_models.cells import CELLS, Cell, Elman, LayerNorm, Peephole
from lstm_models.config import RNN, AnyModel, BuiltIn, ConfigError, HandBuilt
from lstm_models.export import Exportable
from lstm_models.lstm import LSTM
from lstm_models.network import Network, build_cell, build_network, find_cell

X_BTD = torch.tensor([[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0], [-1.0, 2.0, 0.0, 0.5]]).unsqueeze(-1)


@pytest.mark.parametrize("head", ["none", "linear"])
@pytest.mark.parametrize("kind", [HandBuilt, BuiltIn])
def test_without_a_head_the_prediction_is_the_last_hidden_state_and_with_one_what_it_makes_of_it(
    kind: type[HandBuilt] | type[BuiltIn], head: str
) -> None:
    size = 1 if head == "none" else 3
    config = kind(kind="hand_built" if kind is HandBuilt else "built_in", hidden_size=size, num_layers=2, head=head)
    torch.manual_seed(3)
    network = build_network(config, input_size=1).double()

    reference = nn.LSTM(1, size, 2, batch_first=True).double()
    reference.load_state_dict(network.recurrent.state_dict())
    last_BH = reference(X_BTD.double())[0][:, -1]
    expected_B = last_BH[:, 0] if head == "none" else last_BH @ network.head.weight[0] + network.head.bias
    predictions_B = network(X_BTD.double())

    assert predictions_B.shape == (3,)
    # float64, sums in another order
    torch.testing.assert_close(predictions_B, expected_B, rtol=1e-12, atol=1e-12)


def test_both_kinds_draw_the_same_network_from_the_same_seed() -> None:
    torch.manual_seed(1)
    ours = build_network(HandBuilt(kind="hand_built", hidden_size=4, num_layers=2, head="linear"), input_size=3)
    torch.manual_seed(1)
    theirs = build_network(BuiltIn(kind="built_in", hidden_size=4, num_layers=2, head="linear"), input_size=3)

    assert isinstance(ours.recurrent, LSTM)
    assert isinstance(theirs.recurrent, nn.LSTM)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_every_setting_reaches_the_hand_built_lstm() -> None:
    config = HandBuilt(
        kind="hand_built", hidden_size=4, num_layers=2, dropout=0.25, head="linear", biases="one", init="normal"
    )
    recurrent = build_network(config, input_size=3).recurrent
    assert isinstance(recurrent, LSTM)
    assert repr(recurrent) == "LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.25, biases=one, init=normal)"


def test_every_setting_reaches_the_built_in_lstm() -> None:
    config = BuiltIn(kind="built_in", hidden_size=4, num_layers=2, dropout=0.25, head="linear")
    recurrent = build_network(config, input_size=3).recurrent
    assert repr(recurrent) == "LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.25)"


def test_every_setting_reaches_the_plain_network() -> None:
    config = RNN(kind="rnn", hidden_size=4, num_layers=2, dropout=0.25, head="linear")
    recurrent = build_network(config, input_size=3).recurrent
    assert repr(recurrent) == "RNN(3, 4, num_layers=2, batch_first=True, dropout=0.25)"
    assert recurrent.nonlinearity == "tanh"


@pytest.mark.parametrize("head", ["none", "linear"])
def test_a_plain_networks_prediction_is_its_last_hidden_state_or_what_the_head_makes_of_it(head: str) -> None:
    size = 1 if head == "none" else 3
    torch.manual_seed(3)
    network = build_network(RNN(kind="rnn", hidden_size=size, num_layers=2, head=head), input_size=1).double()
    below_BTH = X_BTD.double()
    for layer in range(2):
        weights = {
            key: getattr(network.recurrent, f"{key}_l{layer}")
            for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        h_BH = torch.zeros(3, size, dtype=torch.float64)
        hidden = []
        for x_BD in below_BTH.unbind(1):
            z_BH = x_BD @ weights["weight_ih"].T + h_BH @ weights["weight_hh"].T
            h_BH = (z_BH + weights["bias_ih"] + weights["bias_hh"]).tanh()
            hidden.append(h_BH)
        below_BTH = torch.stack(hidden, dim=1)
    expected_B = h_BH[:, 0] if head == "none" else h_BH @ network.head.weight[0] + network.head.bias
    # float64, sums in another order
    torch.testing.assert_close(network(X_BTD.double()), expected_B, rtol=1e-12, atol=1e-12)


# ---- where the forget gate's bias starts
def drawn(config: AnyModel) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(build_network(config, input_size=2).recurrent.state_dict())


FORGETFUL: dict[str, Callable[[float | None], AnyModel]] = {
    "built_in": lambda bias: BuiltIn(kind="built_in", hidden_size=3, num_layers=2, head="linear", forget_bias=bias),
    **{
        f"hand_built, {biases}, {init}": lambda bias, biases=biases, init=init: HandBuilt(
            kind="hand_built", hidden_size=3, num_layers=2, head="linear", forget_bias=bias, biases=biases, init=init
        )
        for biases in ("one", "two")
        for init in ("default", "normal")
    },
}


@pytest.mark.parametrize("value", [1.0, 0.0, -2.5])
@pytest.mark.parametrize("make", FORGETFUL.values(), ids=FORGETFUL)
def test_the_forget_bias_is_set_in_every_layer_and_all_else_is_drawn_as_without(
    make: Callable[[float | None], AnyModel], value: float
) -> None:
    """The two biases add up to it: the first has it, the second is 0."""
    found, expected = drawn(make(value)), drawn(make(None))
    assert found.keys() == expected.keys()
    for name, of_all_gates in found.items():
        if name.startswith("bias"):
            forget = of_all_gates.chunk(4)[1]
            assert forget.tolist() == [value if name.startswith("bias_ih") else 0.0] * 3
            forget.copy_(expected[name].chunk(4)[1])
        assert torch.equal(of_all_gates, expected[name]), name


def test_both_kinds_draw_the_same_network_with_a_forget_bias_too() -> None:
    built_in, by_hand = (drawn(FORGETFUL[name](1.0)) for name in ("built_in", "hand_built, two, default"))
    assert list(by_hand) == list(built_in)
    assert all(torch.equal(value, built_in[name]) for name, value in by_hand.items())


# ---- which cell
@pytest.mark.parametrize(("name", "cell"), CELLS.items())
def test_a_cell_of_ours_is_found_by_its_name(name: str, cell: type[Cell]) -> None:
    assert find_cell(name) is cell
    assert type(build_cell(HandBuilt(kind="hand_built", cell=name))) is cell


def test_the_cells_options_reach_it() -> None:
    config = HandBuilt(
        kind="hand_built", cell="peephole", forget_bias=1.5, recurrent_dropout=0.25, zoneout=0.125, biases="one"
    )
    cell = Peephole(forget_bias=1.5, recurrent_dropout=0.25, zoneout=0.125)
    assert build_cell(config) == cell
    recurrent = build_network(config, input_size=3).recurrent
    assert recurrent.cell == cell
    assert repr(recurrent) == (
        "LSTM(3, 1, batch_first=True, biases=one, "
        "cell=Peephole(forget_bias=1.5, recurrent_dropout=0.25, zoneout=0.125))"
    )


def test_without_options_the_cell_is_the_lstms_own() -> None:
    assert build_cell(HandBuilt(kind="hand_built")) == Cell()


@pytest.mark.parametrize(("name", "cell"), [("LayerNorm", LayerNorm), ("Elman", Elman)])
def test_a_dotted_name_leads_to_any_cell_that_can_be_imported(name: str, cell: type[Cell]) -> None:
    assert find_cell(f"lstm_models.cells.{name}") is cell


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module of the user's into the working directory, and tells its name, one that no other test has."""
    monkeypatch.chdir(tmp_path)

    def _write(source: str) -> str:
        name = f"own_{tmp_path.name}"
        tmp_path.joinpath(f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.setitem(sys.modules, name, None)  # so that the test's end takes it away again
        monkeypatch.delitem(sys.modules, name)
        return name

    return _write


LEAKY = """
    from dataclasses import dataclass
    from lstm_models import Cell

    class Leaky(Cell):
        def step(self, z_BG, before, weights):
            step = super().step(z_BG, before, weights)
            return step._replace(h=0.5 * step.h)

    class NoForgetting(Cell):
        gates = "igo"

    class Bare(Cell):
        def __init__(self):
            pass

    not_a_class = Leaky()
    class NotACell: pass
"""


def test_a_cell_of_ones_own_is_found_in_the_working_directory(own: Callable[[str], str]) -> None:
    name, path = own(LEAKY), list(sys.path)
    config = HandBuilt(kind="hand_built", cell=f"{name}.Leaky", forget_bias=1.0)
    network = build_network(config, input_size=1)
    assert sys.path == path
    cell = network.recurrent.cell
    assert (type(cell).__name__, type(cell).__module__, cell.forget_bias) == ("Leaky", name, 1.0)

    base = build_network(HandBuilt(kind="hand_built"), input_size=1)
    base.load_state_dict(network.state_dict())
    one_step_BTD = X_BTD[:, :1]
    # the base may run natively, which rounds otherwise
    torch.testing.assert_close(network(one_step_BTD), 0.5 * base(one_step_BTD), rtol=1e-6, atol=0)


def test_a_cell_may_lie_in_a_package(own: Callable[[str], str], tmp_path: Path) -> None:
    name = own("")
    (tmp_path / f"{name}.py").unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "cells.py").write_text(textwrap.dedent(LEAKY))
    try:
        assert find_cell(f"{name}.cells.Leaky").__module__ == f"{name}.cells"
    finally:
        sys.modules.pop(f"{name}.cells", None)


def test_a_module_is_imported_once(own: Callable[[str], str]) -> None:
    name = own(LEAKY)
    assert find_cell(f"{name}.Leaky") is find_cell(f"{name}.Leaky")


def test_what_a_module_does_to_the_path_stays(own: Callable[[str], str]) -> None:
    name, path = (
        own("import sys\nsys.path.insert(0, '/of/its/own')\nfrom lstm_models.cells import Peephole"),
        list(sys.path),
    )
    try:
        assert find_cell(f"{name}.Peephole") is Peephole
        assert sys.path == ["/of/its/own", *path]
    finally:
        sys.path[:] = path


@pytest.mark.parametrize(
    ("source", "wanted", "options", "text"),
    [
        (LEAKY, "{}.Nothing", {}, "can't be imported: module '{}' has no attribute 'Nothing'"),
        (LEAKY, "no_such_module_{}.Leaky", {}, "can't be imported: No module named 'no_such_module_{}'"),
        (LEAKY, "{}.Leaky.step", {}, "can't be imported: No module named '{0}.Leaky'; '{0}' is not a package"),
        (LEAKY, "{}.NotACell", {}, "not a class made from lstm_models.Cell"),
        (LEAKY, "{}.not_a_class", {}, "not a class made from lstm_models.Cell"),
        (LEAKY, "{}.dataclass", {}, "not a class made from lstm_models.Cell"),
        ("import no_such_module", "{}.Leaky", {}, "can't be imported: No module named 'no_such_module'"),
        ("there_is_no_such_name", "{}.Leaky", {}, "can't be imported: name 'there_is_no_such_name' is not defined"),
        ("assert False", "{}.Leaky", {}, "can't be imported: AssertionError"),
        (
            "from lstm_models import Nothing",
            "{}.Leaky",
            {},
            "can't be imported: cannot import name 'Nothing' from 'lstm_models' (LIBRARY)",
        ),
        ("x = (1", "{}.Leaky", {}, "can't be imported: '(' was never closed ({}.py, line 1)"),
        (
            LEAKY,
            "{}.NoForgetting",
            {"forget_bias": 1.0},
            "forget_bias=1.0: NoForgetting has no forget gate of its own",
        ),
        (
            LEAKY,
            "{}.Bare",
            {},
            "Bare.__init__() got an unexpected keyword argument 'forget_bias'",
        ),
        ("", "no_forget_gate", {"forget_bias": 1.0}, "forget_bias=1.0: NoForgetGate has no forget gate of its own"),
        ("", "coupled_gates", {"forget_bias": 0.0}, "forget_bias=0.0: CoupledGates has no forget gate of its own"),
    ],
)
def test_a_cell_that_can_not_be_had_is_refused_in_one_line(
    own: Callable[[str], str], source: str, wanted: str, options: dict[str, Any], text: str
) -> None:
    import lstm_models

    name, path = own(source), list(sys.path)
    config = HandBuilt(kind="hand_built", cell=wanted.format(name), **options)
    expected = f"cell {config.cell}: {text.format(name)}".replace("LIBRARY", str(lstm_models.__file__))
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        build_network(config, input_size=1)
    assert sys.path == path


# ---- nn.RNN exported, as the hand-built LSTM of equal weights
@pytest.mark.parametrize("num_layers", [1, 2])
def test_an_exported_nn_rnn_predicts_as_the_live_one_for_any_number_of_steps_and_sequences(num_layers: int) -> None:
    torch.manual_seed(0)
    config = RNN(kind="rnn", hidden_size=4, num_layers=num_layers, head="linear")
    network = build_network(config, input_size=2).eval()
    before = copy.deepcopy(network.state_dict())
    example = (torch.randn(2, 3, 2),)
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
    exported = torch.export.export(Exportable(network).eval(), example, dynamic_shapes=shapes)
    program = exported.module()
    for B, T in ((1, 1), (1, 2), (3, 1), (2, 3), (5, 50)):
        x_BTD = torch.randn(B, T, 2)
        with torch.no_grad():
            # float32, sums in another order
            torch.testing.assert_close(program(x_BTD), network(x_BTD), rtol=0, atol=1e-6)
    assert isinstance(network.recurrent, nn.RNN)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    again = build_network(config, input_size=2).eval()  # as a registered model's weights are taken back
    again.load_state_dict({key.removeprefix("network."): value for key, value in exported.state_dict.items()})
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_an_exportable_nn_rnn_knows_padding_which_the_live_one_does_not() -> None:
    torch.manual_seed(0)
    network = build_network(RNN(kind="rnn", hidden_size=4, head="linear"), input_size=1).eval()
    padded_BTD = X_BTD.clone()
    padded_BTD[1, 2:] = torch.nan
    padded_BTD[2] = torch.nan
    found_B = Exportable(network).eval()(padded_BTD)
    expected_B = torch.stack([network(X_BTD[:1])[0], network(X_BTD[1:2, :2])[0], torch.tensor(torch.nan)])
    # float32, sums in another order
    torch.testing.assert_close(found_B, expected_B, rtol=0, atol=1e-6, equal_nan=True)
    assert isinstance(Exportable(network).network, Network)
