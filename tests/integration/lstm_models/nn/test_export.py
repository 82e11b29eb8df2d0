"""Export of a network as one program for any number of sequences of any length.

This is no unit test, because torch.export writes to a cache.
"""

import pytest
import torch
from helpers.exports import CLOSE, MODELS, OUTPUTS, D, build, check_padding, predict_as_served

from lstm_models.data.scaler import Scaler
from lstm_models.nn.export import ExportableNetwork
from lstm_models.nn.network import build_network


# an export takes seconds: each kind of model and each kind of output is tested once
@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [("hand_built", "residual forecast", (2, 2)), ("built_in", "classes", (3,)), ("rnn", "number", ())],
)
def test_exported_program_predicts_like_the_network(name: str, kind: str, shape: tuple[int, ...]) -> None:
    network = build(name, kind)
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
    exported = torch.export.export(ExportableNetwork(network).eval(), (torch.randn(2, 3, D),), dynamic_shapes=shapes)
    program = exported.module()
    with torch.no_grad():  # as a model is served
        for B, T in ((1, 1), (1, 2), (3, 1), (2, 3), (5, 50)):
            x_BTD = 3 * torch.randn(B, T, D)
            predictions = program(x_BTD)
            assert predictions.shape == (B, *shape)
            torch.testing.assert_close(predictions, predict_as_served(network, x_BTD), **CLOSE)
        check_padding(program, network)
        x_BTD = torch.randn(3, 4, D)
        x_BTD[1, 2, 0] = torch.nan  # a missing value is no padding
        assert program(x_BTD).reshape(3, -1).isnan().all(1).tolist() == [False, True, False]

    # the program stores weights and scaling under the network's names
    restored = build_network(MODELS[name], D, OUTPUTS[kind], Scaler(torch.zeros(D), torch.ones(D))).eval()
    restored.load_state_dict({key.removeprefix("network."): value for key, value in exported.state_dict.items()})
    torch.testing.assert_close(dict(restored.state_dict()), dict(network.state_dict()), rtol=0, atol=0)
