"""Settings of the networks: architecture and head."""

import re
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config.base import Config

CELLS = (
    "lstm", "peephole", "no_input_gate", "no_forget_gate", "no_output_gate", "no_input_activation",
    "no_output_activation", "coupled_gates", "full_gate_recurrence", "layer_norm",
)  # fmt: skip


def _check_cell(name: str) -> str:
    if name not in CELLS and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        close = get_close_matches(name, CELLS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"available cells: {', '.join(CELLS)}."
        raise PydanticCustomError("cell", "no such cell; {hint} Write a custom cell as module.Class", {"hint": hint})
    return name


class _Recurrent(Config):
    hidden_size: int = Field(1, ge=1, description="number of features in the hidden state and in the cell state")
    num_layers: int = Field(1, ge=1, description="number of stacked recurrent layers")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout probability on the outputs of each layer except the last"
    )
    head: Literal["none", "linear"] = Field(
        "none", description="none: the last hidden state is the prediction; linear: a linear layer maps it to one"
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.head == "none" and self.hidden_size != 1:
            raise PydanticCustomError(
                "head",
                "hidden_size {size} with head none: without a head the last hidden state is the prediction, so "
                "set hidden_size to 1, or head to linear",
                {"size": self.hidden_size},
            )
        if self.dropout > 0 and self.num_layers == 1:
            raise PydanticCustomError(
                "dropout",
                "dropout {dropout} with num_layers 1: dropout acts between layers, so num_layers must be at least 2",
                {"dropout": self.dropout},
            )
        return self


class HandBuilt(_Recurrent):
    """The hand-built LSTM, implemented from its equations."""

    kind: Literal["hand_built"]
    double_bias: bool = Field(
        True, description="true: two bias vectors per gate, as in nn.LSTM; false: one, as in the equations"
    )
    init: Literal["default", "normal"] = Field(
        "default",
        description="initialization; default: uniform, as nn.LSTM; normal: weights from N(0, 1) and biases 0, as in "
        "the tutorial",
    )
    cell: Annotated[str, AfterValidator(_check_cell)] = Field(
        "lstm", description=f"the LSTM variant: {', '.join(CELLS)}; or module.Class, a custom cell"
    )
    forget_bias: float | None = Field(
        None, description="initial value of the forget gate's bias; null: initialized as the other biases"
    )
    recurrent_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout probability on the hidden state passed to the next time step"
    )
    zoneout: float = Field(0.0, ge=0, lt=1, description="probability that a state keeps its previous value")


class BuiltIn(_Recurrent):
    """PyTorch's nn.LSTM."""

    kind: Literal["built_in"]
    forget_bias: float | None = Field(
        None, description="initial value of the forget gate's bias; null: initialized as the other biases"
    )


class RNN(_Recurrent):
    """PyTorch's nn.RNN, a plain recurrent network with tanh: the reference for the LSTMs."""

    kind: Literal["rnn"]


AnyModel = HandBuilt | BuiltIn | RNN
