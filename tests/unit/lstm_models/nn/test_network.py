"""Networks built from a configuration, and the lookup of cells by name."""

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
from lstm_models.nn.cell_variants import CELLS, Elman, LayerNorm, Peephole
from lstm_models.nn.cells import Cell
from lstm_models.nn.lstm import LSTM
from lstm_models.nn.network import build_cell, build_network, resolve_cell

X_BTD = torch.tensor([[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0], [-1.0, 2.0, 0.0, 0.5]]).unsqueeze(-1)


@pytest.mark.parametrize("head", ["none", "linear"])
@pytest.mark.parametrize("kind", [HandBuilt, BuiltIn])
def test_prediction_is_the_last_hidden_state_or_its_head(kind: type[HandBuilt] | type[BuiltIn], head: str) -> None:
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
    # float64, summed in another order
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
def test_rnn_prediction_is_the_last_hidden_state_or_its_head(head: str) -> None:
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
    # float64, summed in another order
    torch.testing.assert_close(network(X_BTD.double()), expected_B, rtol=1e-12, atol=1e-12)


# ---- initial forget bias
def drawn(config: AnyModel) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(build_network(config, input_size=2).recurrent.state_dict())


WITH_FORGET_BIAS: dict[str, Callable[[float | None], AnyModel]] = {
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
@pytest.mark.parametrize("make", WITH_FORGET_BIAS.values(), ids=WITH_FORGET_BIAS)
def test_forget_bias_is_set_in_every_layer_without_changing_other_draws(
    make: Callable[[float | None], AnyModel], value: float
) -> None:
    """The first bias has the value, the second is 0."""
    found, expected = drawn(make(value)), drawn(make(None))
    assert found.keys() == expected.keys()
    for name, of_all_gates in found.items():
        if name.startswith("bias"):
            forget = of_all_gates.chunk(4)[1]
            assert forget.tolist() == [value if name.startswith("bias_ih") else 0.0] * 3
            forget.copy_(expected[name].chunk(4)[1])
        assert torch.equal(of_all_gates, expected[name]), name


@pytest.mark.parametrize("forget_bias", [None, 1.0])
def test_hand_built_and_built_in_draw_the_same_network_from_the_same_seed(forget_bias: float | None) -> None:
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


# ---- lookup of cells
def test_resolve_cell_by_name_or_dotted_name() -> None:
    for name, cell in CELLS.items():
        assert resolve_cell(name) is cell
        assert type(build_cell(HandBuilt(kind="hand_built", cell=name))) is cell
    assert build_cell(HandBuilt(kind="hand_built")) == Cell()
    assert resolve_cell("lstm_models.nn.cell_variants.LayerNorm") is LayerNorm
    assert resolve_cell("lstm_models.nn.cell_variants.Elman") is Elman


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that writes a user module to the working directory, and returns its unique name."""
    monkeypatch.chdir(tmp_path)

    def _write(source: str) -> str:
        name = f"user_{tmp_path.name}"
        tmp_path.joinpath(f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.setitem(sys.modules, name, None)  # so that it is removed at the end of the test
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


def test_custom_cell_is_imported_from_the_working_directory(write_module: Callable[[str], str]) -> None:
    name, path = write_module(LEAKY), list(sys.path)
    config = HandBuilt(kind="hand_built", cell=f"{name}.Leaky", forget_bias=1.0)
    network = build_network(config, input_size=1)
    assert sys.path == path
    cell = network.recurrent.cell
    assert resolve_cell(f"{name}.Leaky") is type(cell)  # a module is imported once
    assert (type(cell).__name__, type(cell).__module__, cell.forget_bias) == ("Leaky", name, 1.0)

    base = build_network(HandBuilt(kind="hand_built"), input_size=1)
    base.load_state_dict(network.state_dict())
    one_step_BTD = X_BTD[:, :1]
    # the base may run in native code, which rounds differently
    torch.testing.assert_close(network(one_step_BTD), 0.5 * base(one_step_BTD), rtol=1e-6, atol=0)


def test_custom_cell_in_a_package(write_module: Callable[[str], str], tmp_path: Path) -> None:
    name = write_module("")
    (tmp_path / f"{name}.py").unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "cells.py").write_text(textwrap.dedent(LEAKY))
    try:
        assert resolve_cell(f"{name}.cells.Leaky").__module__ == f"{name}.cells"
    finally:
        sys.modules.pop(f"{name}.cells", None)


def test_path_changes_of_an_imported_module_persist(write_module: Callable[[str], str]) -> None:
    name, path = (
        write_module(
            "import sys\nsys.path.insert(0, '/from/the/module')\nfrom lstm_models.nn.cell_variants import Peephole"
        ),
        list(sys.path),
    )
    try:
        assert resolve_cell(f"{name}.Peephole") is Peephole
        assert sys.path == ["/from/the/module", *path]
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
        ("undefined_name", "{}.Leaky", None, ("can't be imported", "'undefined_name' is not defined")),
        ("assert False", "{}.Leaky", None, ("can't be imported", "AssertionError")),
        ("x = (1", "{}.Leaky", None, ("can't be imported", "{}.py, line 1")),
        (LEAKY, "{}.NoForgetting", 1.0, ("forget_bias=1.0", "NoForgetting has no forget gate")),
        (LEAKY, "{}.Bare", None, ("Bare.__init__()", "'forget_bias'")),
        ("", "no_forget_gate", 1.0, ("forget_bias=1.0", "NoForgetGate has no forget gate")),
        ("", "coupled_gates", 0.0, ("forget_bias=0.0", "CoupledGates has no forget gate")),
    ],
)
def test_invalid_cell_is_a_one_line_error(
    write_module: Callable[[str], str], source: str, wanted: str, bias: float | None, named: tuple[str, ...]
) -> None:
    name, path = write_module(source), list(sys.path)
    config = HandBuilt(kind="hand_built", cell=wanted.format(name), forget_bias=bias)
    with pytest.raises(ConfigError) as caught:
        build_network(config, input_size=1)
    assert names_all(caught.value, f"cell {config.cell}: ", *(part.format(name) for part in named))
    assert sys.path == path
