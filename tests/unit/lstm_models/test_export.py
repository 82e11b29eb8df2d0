"""What is registered: one program for any number of sequences of any length, which tells what the network tells."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lstm_models.config import RNN, AnyModel, BuiltIn, HandBuilt, Output
from lstm_models.export import Exportable
from lstm_models.network import Network, Scaling, build_network

D = 3
SIZES: dict[str, Any] = {"hidden_size": 4, "num_layers": 2, "head": "linear"}
MODELS: dict[str, AnyModel] = {
    "hand_built": HandBuilt(kind="hand_built", **SIZES),
    "built_in": BuiltIn(kind="built_in", **SIZES),
    "rnn": RNN(kind="rnn", **SIZES),
}
FORECAST: dict[str, Any] = {"kind": "forecast", "targets": ["c", "a"], "steps": 2, "places": [2, 0]}
OUTPUTS = {
    "number": Output(),
    "number with center and spread": Output(center=-3.0, spread=2.5),
    "forecast": Output(**FORECAST),
    "residual forecast": Output(**FORECAST, residual=True),
    "classes": Output(kind="classes", targets=["y"], classes=["low", "mid", "top"]),
}
TAILS = {"forecast": (2, 2), "classes": (3,), "number": ()}
# float32, sums in another order; what is told is of order 1 to 10
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-6, "equal_nan": True}

each_model = pytest.mark.parametrize("name", MODELS)
each_output = pytest.mark.parametrize("kind", OUTPUTS)


def built(name: str, kind: str) -> Network:
    torch.manual_seed(1)
    scaling = Scaling(torch.tensor([1.0, -3.0, 0.5]), torch.tensor([2.0, 5.0, 0.25]))
    return build_network(MODELS[name], D, OUTPUTS[kind], scaling).eval()


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """As a model is served."""
    with torch.no_grad():
        yield


@cache  # it takes seconds
def program_of(name: str, kind: str) -> torch.export.ExportedProgram:
    """As a registered model is made: of an example of two sequences, for any number of them and of steps."""
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
    exportable = Exportable(built(name, kind)).eval()
    return torch.export.export(exportable, (torch.randn(2, 3, D),), dynamic_shapes=shapes)


def exported(name: str, kind: str) -> nn.Module:
    return program_of(name, kind).module()


def as_served(network: Network, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
    told = network(x_BTD, lengths_B)
    return told.softmax(-1) if network.output.kind == "classes" else told


@each_output
@each_model
def test_it_tells_what_the_network_tells_of_any_number_of_sequences_and_steps(name: str, kind: str) -> None:
    network, program = built(name, kind), exported(name, kind)
    for B, T in ((1, 1), (1, 2), (3, 1), (2, 3), (5, 50)):
        x_BTD = 3 * torch.randn(B, T, D)
        told = program(x_BTD)
        assert told.shape == (B, *TAILS[network.output.kind])
        torch.testing.assert_close(told, as_served(network, x_BTD), **CLOSE)


@each_output
@each_model
def test_nan_at_the_end_is_padding_and_what_is_nothing_else_is_told_as_nan(name: str, kind: str) -> None:
    network, program = built(name, kind), exported(name, kind)
    x_BTD, lengths = 3 * torch.randn(5, 6, D), [4, 6, 1, 0, 5]
    padded_BTD = x_BTD.clone()
    for b, length in enumerate(lengths):
        padded_BTD[b, length:] = torch.nan
    told = program(padded_BTD)
    for b, length in enumerate(lengths):
        if length == 0:
            assert told[b].isnan().all()
        else:
            torch.testing.assert_close(told[b : b + 1], as_served(network, x_BTD[b : b + 1, :length]), **CLOSE)
    real = [b for b, length in enumerate(lengths) if length]
    with_lengths = as_served(network, x_BTD[real], torch.tensor(lengths)[real])
    torch.testing.assert_close(told[real], with_lengths, **CLOSE)


@each_output
def test_a_missing_value_makes_nan_of_its_own_sequence_and_of_no_other(kind: str) -> None:
    network = built("hand_built", kind)
    x_BTD = torch.randn(3, 4, D)
    x_BTD[1, 2, 0] = torch.nan  # one feature of a step: no padding
    told = exported("hand_built", kind)(x_BTD)
    assert told[1].isnan().all()
    torch.testing.assert_close(told[[0, 2]], as_served(network, x_BTD[[0, 2]]), **CLOSE)


@each_model
def test_classes_are_told_by_probabilities(name: str) -> None:
    network = built(name, "classes")
    x_BTD = 3 * torch.randn(7, 5, D)
    probabilities_BC = exported(name, "classes")(x_BTD)
    assert (probabilities_BC >= 0).all()
    torch.testing.assert_close(probabilities_BC.sum(1), torch.ones(7), rtol=0, atol=1e-6)  # float32
    log_odds_BC = network(x_BTD)
    assert torch.equal(probabilities_BC.argmax(1), log_odds_BC.argmax(1))
    differences_BC = probabilities_BC.log() - log_odds_BC  # the same for all classes of a sequence
    torch.testing.assert_close(differences_BC, differences_BC[:, :1].expand(-1, 3), rtol=0, atol=1e-5)


@each_output
@each_model
def test_the_program_holds_the_weights_and_the_scaling_by_the_networks_own_names(name: str, kind: str) -> None:
    network = built(name, kind)
    state = {key.removeprefix("network."): value for key, value in program_of(name, kind).state_dict.items()}
    again = build_network(MODELS[name], D, OUTPUTS[kind], Scaling(torch.zeros(D), torch.ones(D))).eval()
    again.load_state_dict(state)
    x_BTD = torch.randn(2, 4, D)
    assert torch.equal(again(x_BTD), network(x_BTD))
