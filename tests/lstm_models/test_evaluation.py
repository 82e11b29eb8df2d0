"""From a network and sequences to an Evaluation."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lstm_models.config import BuiltIn, HandBuilt
from lstm_models.data.tables import Sequences
from lstm_models.evaluation import Evaluation, evaluate, predict
from lstm_models.network import build_network


class ScaledLast(nn.Module):
    """The last value, times a weight, through dropout."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.dropout(self.weight * x_BTD[:, -1, 0])


SEQUENCES = Sequences(torch.tensor([[0.0, 0.5], [0.0, 1.0], [0.0, -2.0]]).unsqueeze(-1), torch.tensor([1.0, 2.0, -3.0]))


def test_an_evaluation_holds_targets_predictions_errors_and_the_number_of_parameters() -> None:
    assert evaluate(ScaledLast(2.0), SEQUENCES) == Evaluation(
        targets=[1.0, 2.0, -3.0],
        predictions=[1.0, 2.0, -4.0],
        metrics={"mse": 1 / 3, "mae": 1 / 3, "max_error": 1.0},
        parameters=1,
        copy_index=0,
        copies=[{"mse": 1 / 3, "mae": 1 / 3, "max_error": 1.0}],
    )


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (HandBuilt(kind="hand_built", biases="one"), 12),
        (HandBuilt(kind="hand_built", biases="two"), 16),
        (BuiltIn(kind="built_in"), 16),
        (BuiltIn(kind="built_in", hidden_size=3, num_layers=2, head="linear"), 12 * 6 + 12 * 8 + 4),
    ],
)
def test_parameters_are_counted(config: HandBuilt | BuiltIn, parameters: int) -> None:
    assert evaluate(build_network(config, input_size=1), SEQUENCES).parameters == parameters


def test_predictions_carry_no_gradient() -> None:
    assert not predict(ScaledLast(2.0).eval(), SEQUENCES.x_BTD).requires_grad


def test_an_evaluation_survives_json_and_does_not_change() -> None:
    evaluation = evaluate(ScaledLast(0.1), SEQUENCES)
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation
    with pytest.raises(ValidationError, match="Instance is frozen"):
        evaluation.parameters = 2
