"""Networks as their configuration says, and the cells that it names."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import names_all
from torch import Tensor, nn

from lstm_models.config import RNN, AnyModel, BuiltIn, ConfigError, HandBuilt
from lstm_models.nn.cells import CELLS, Cell, Elman, LayerNorm, Peephole
from lstm_models.nn.lstm import LSTM
from lstm_models.nn.network import build_cell, build_network, resolve_cell

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


SIZES: dict[str, Any] = {"hidden_size": 4, "num_layers": 2, "head": "linear"}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            HandBuilt(kind="hand_built", **SIZES, dropout=0.25, double_bias=False, init="normal"),
            "LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.25, double_bias=False, init=normal)",
        ),
        (BuiltIn(kind="built_in", **SIZES, dropout=0.25), "LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.25)"),
        (RNN(kind="rnn", **SIZES, dropout=0.25), "RNN(3, 4, num_layers=2, batch_first=True, dropout=0.25)"),
        (
            HandBuilt(
                kind="hand_built",
                cell="peephole",
                forget_bias=1.5,
                recurrent_dropout=0.25,
                zoneout=0.125,
                double_bias=False,
            ),
            "LSTM(3, 1, batch_first=True, double_bias=False, "
            "cell=Peephole(forget_bias=1.5, recurrent_dropout=0.25, zoneout=0.125))",
        ),
    ],
)
def test_every_setting_reaches_the_recurrent_core(config: AnyModel, text: str) -> None:
    recurrent: Any = build_network(config, input_size=3).recurrent
    assert repr(recurrent) == text
    assert isinstance(recurrent, {"hand_built": LSTM, "built_in": nn.LSTM, "rnn": nn.RNN}[config.kind])
    if isinstance(config, RNN):
        assert recurrent.nonlinearity == "tanh"
    if isinstance(config, HandBuilt):
        assert build_cell(config) == recurrent.cell


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
        f"hand_built, {biases}, {init}": lambda bias, double_bias=biases, init=init: HandBuilt(
            kind="hand_built",
            hidden_size=3,
            num_layers=2,
            head="linear",
            forget_bias=bias,
            double_bias=double_bias,
            init=init,
        )
        for biases in (False, True)
        for init in ("default", "normal")
    },
}


@pytest.mark.parametrize("value", [0.0, -2.5])
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


@pytest.mark.parametrize("forget_bias", [None, 1.0])
def test_both_kinds_draw_the_same_network_from_the_same_seed(forget_bias: float | None) -> None:
    drawn = []
    for config in (
        HandBuilt(kind="hand_built", **SIZES, forget_bias=forget_bias),
        BuiltIn(kind="built_in", **SIZES, forget_bias=forget_bias),
    ):
        torch.manual_seed(1)
        drawn.append(build_network(config, input_size=3).state_dict())
    ours, theirs = drawn
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


# ---- which cell
def test_a_cell_is_found_by_its_name_or_its_dotted_name() -> None:
    for name, cell in CELLS.items():
        assert resolve_cell(name) is cell
        assert type(build_cell(HandBuilt(kind="hand_built", cell=name))) is cell
    assert build_cell(HandBuilt(kind="hand_built")) == Cell()
    assert resolve_cell("lstm_models.nn.cells.LayerNorm") is LayerNorm
    assert resolve_cell("lstm_models.nn.cells.Elman") is Elman


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
    assert resolve_cell(f"{name}.Leaky") is type(cell)  # a module is imported once
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
        assert resolve_cell(f"{name}.cells.Leaky").__module__ == f"{name}.cells"
    finally:
        sys.modules.pop(f"{name}.cells", None)


def test_what_a_module_does_to_the_path_stays(own: Callable[[str], str]) -> None:
    name, path = (
        own("import sys\nsys.path.insert(0, '/of/its/own')\nfrom lstm_models.nn.cells import Peephole"),
        list(sys.path),
    )
    try:
        assert resolve_cell(f"{name}.Peephole") is Peephole
        assert sys.path == ["/of/its/own", *path]
    finally:
        sys.path[:] = path


@pytest.mark.parametrize(
    ("source", "wanted", "bias", "named"),
    [
        (LEAKY, "{}.Nothing", None, ("can't be imported", "'{}' has no attribute 'Nothing'")),
        (LEAKY, "no_such_module_{}.Leaky", None, ("can't be imported", "'no_such_module_{}'")),
        (LEAKY, "{}.Leaky.step", None, ("can't be imported", "'{}' is not a package")),
        (LEAKY, "{}.NotACell", None, ("lstm_models.Cell",)),
        (LEAKY, "{}.not_a_class", None, ("lstm_models.Cell",)),
        ("there_is_no_such_name", "{}.Leaky", None, ("can't be imported", "'there_is_no_such_name' is not defined")),
        ("assert False", "{}.Leaky", None, ("can't be imported", "AssertionError")),
        ("x = (1", "{}.Leaky", None, ("can't be imported", "{}.py, line 1")),
        (LEAKY, "{}.NoForgetting", 1.0, ("forget_bias=1.0", "NoForgetting has no forget gate")),
        (LEAKY, "{}.Bare", None, ("Bare.__init__()", "'forget_bias'")),
        ("", "no_forget_gate", 1.0, ("forget_bias=1.0", "NoForgetGate has no forget gate")),
        ("", "coupled_gates", 0.0, ("forget_bias=0.0", "CoupledGates has no forget gate")),
    ],
)
def test_an_impossible_cell_is_refused_in_one_line(
    own: Callable[[str], str], source: str, wanted: str, bias: float | None, named: tuple[str, ...]
) -> None:
    name, path = own(source), list(sys.path)
    config = HandBuilt(kind="hand_built", cell=wanted.format(name), forget_bias=bias)
    with pytest.raises(ConfigError) as caught:
        build_network(config, input_size=1)
    assert names_all(caught.value, f"cell {config.cell}: ", *(part.format(name) for part in named))
    assert sys.path == path
