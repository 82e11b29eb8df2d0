"""Networks: their cores, and what they tell."""

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
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(CELLS)}."
        raise PydanticCustomError("cell", "no such cell; {hint} One of your own is module.Class", {"hint": hint})
    return name


class _Recurrent(Config):
    hidden_size: int = Field(1, ge=1, description="size of the hidden and of the cell state, in numbers")
    num_layers: int = Field(1, ge=1, description="layers on top of each other")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability of dropping a hidden state between two layers")
    head: Literal["none", "linear"] = Field(
        "none", description="none: the last hidden state is the prediction; linear: a linear layer on it"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.head == "none" and self.hidden_size != 1:
            raise PydanticCustomError(
                "head",
                "hidden_size {size} with head none: without a head the last hidden state is the one prediction, so "
                "hidden_size must be 1, or head linear",
                {"size": self.hidden_size},
            )
        if self.dropout > 0 and self.num_layers == 1:
            raise PydanticCustomError(
                "dropout",
                "dropout {dropout} with num_layers 1: dropout acts between layers, so it needs at least 2",
                {"dropout": self.dropout},
            )
        return self


class HandBuilt(_Recurrent):
    """The LSTM written from its equations."""

    kind: Literal["hand_built"]
    double_bias: bool = Field(
        True, description="two bias vectors per gate as in nn.LSTM; false: one, as in the equations"
    )
    init: Literal["default", "normal"] = Field(
        "default", description="default: uniform, as nn.LSTM; normal: weights from N(0, 1), biases 0, as the tutorial"
    )
    cell: Annotated[str, AfterValidator(_check_cell)] = Field(
        "lstm", description=f"the equations of a time step: {', '.join(CELLS)}; or module.Class, one of your own"
    )
    forget_bias: float | None = Field(None, description="where the forget gate's bias starts; none: drawn as the rest")
    recurrent_dropout: float = Field(
        0.0, ge=0, lt=1, description="probability of dropping a hidden state on its way into the next step"
    )
    zoneout: float = Field(0.0, ge=0, lt=1, description="probability of a state staying what it was a step before")


class BuiltIn(_Recurrent):
    """PyTorch's nn.LSTM."""

    kind: Literal["built_in"]
    forget_bias: float | None = Field(None, description="where the forget gate's bias starts; none: drawn as the rest")


class RNN(_Recurrent):
    """PyTorch's nn.RNN, a plain recurrent network with tanh: what the LSTM is held against."""

    kind: Literal["rnn"]


AnyModel = HandBuilt | BuiltIn | RNN
