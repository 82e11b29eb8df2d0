"""Every setting, once: frozen, typed, described. The same objects serve Python, YAML, --set and Prefect's form."""

import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

PHASES = ("untrained", "initial", "fine_tuned")
Phase = Literal["untrained", "initial", "fine_tuned"]

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
ContenderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
RESERVED_NAMES = ("champion", "challenger", "latest")  # aliases that mean something else in the registry


class UserError(ValueError):
    """What a user gave can't be used. The message is one line: the thing, what was given, and what to do."""


class ConfigError(UserError):
    """A configuration can't be used; the message names the field, the value and what is allowed."""


class Config(BaseModel):
    """The base of all settings: immutable, no unknown keys, no silent conversion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                close = get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {close[0]}?" if close else f"allowed here: {', '.join(cls.model_fields)}"
                raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": str(key), "hint": hint})
        return values


class TutorialData(Config):
    """The tutorial's two companies: four days each, and what the fifth will be."""

    kind: Literal["tutorial"] = "tutorial"


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
            raise PydanticCustomError("dropout", "dropout acts between layers, so it needs num_layers of at least 2")
        return self


class HandBuilt(_Recurrent):
    """The LSTM written from its equations."""

    kind: Literal["hand_built"]
    biases: Literal["one", "two"] = Field("two", description="two as nn.LSTM has, or one as the equations have")
    init: Literal["default", "normal"] = Field(
        "default", description="default: uniform, as nn.LSTM; normal: weights from N(0, 1), biases 0, as the tutorial"
    )


class BuiltIn(_Recurrent):
    """PyTorch's nn.LSTM."""

    kind: Literal["built_in"]


class Training(Config):
    """The initial training, by Adam on the squared error."""

    max_epochs: int = Field(ge=1, description="epochs of the initial training")
    learning_rate: float = Field(0.001, gt=0, description="Adam's step size")
    fused: bool = Field(
        False, description="PyTorch's fused Adam: faster, and differs from the default in the last bits"
    )
    batch_size: int = Field(1, ge=1, description="sequences in a step")
    shuffle: bool = Field(False, description="another order each epoch, drawn from the seed and the epoch's number")
    log_every_n_steps: int = Field(50, ge=1, description="steps between two points of a curve")
    log_outputs: bool = Field(
        False, description="draw a curve out_<label> of the latest prediction for each label, as the tutorial does"
    )


class FineTuning(Config):
    """Training that resumes from the checkpoint of the initial one: weights, optimizer, epoch and random state."""

    max_epochs: int = Field(ge=1, description="absolute: 5000 after 2000 means 3000 more")


class Contender(Config):
    """A model with its training settings."""

    model: HandBuilt | BuiltIn = Field(discriminator="kind")
    training: Training
    fine_tuning: FineTuning

    @model_validator(mode="after")
    def _fine_tuning_goes_on(self) -> Self:
        if self.fine_tuning.max_epochs <= self.training.max_epochs:
            raise PydanticCustomError(
                "epochs",
                "fine_tuning.max_epochs {total} with training.max_epochs {initial}: epoch counts are absolute, so "
                "fine_tuning.max_epochs must be above training.max_epochs",
                {"total": self.fine_tuning.max_epochs, "initial": self.training.max_epochs},
            )
        return self


class CompareConfig(Config):
    """One comparison: contenders, trained and judged on the same data."""

    experiment: Name = Field(description="name of the MLflow experiment and of the registered model")
    seed: int = Field(42, ge=0, lt=2**32, description="each contender is seeded with it by itself")
    data: TutorialData = Field(TutorialData(), description="where the sequences come from")
    contenders: dict[ContenderName, Contender] = Field(min_length=1, description="by name")

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        for name in RESERVED_NAMES:
            if name in self.contenders:
                raise PydanticCustomError(
                    "name", "contenders.{name}: the name is an alias in the registry; choose another", {"name": name}
                )
        return self

    def to_yaml(self) -> str:
        """The whole configuration as YAML that `lstm-flows compare` runs again as it is."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def parse_config(values: object, source: str) -> CompareConfig:
    """Check a nested mapping, as YAML gives it, and return the configuration.

    Raises:
        ConfigError: in one line, naming `source`, and for each fault the field, the value and what is allowed.
    """
    try:
        return CompareConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_explain(fault, values) for fault in error.errors())) from None


def _explain(fault: Any, values: object) -> str:
    """One fault of pydantic's as `field: value given, what is allowed`."""
    kind, context = fault["type"], fault.get("ctx", {})
    path: list[str] = []
    here: Any = values
    for part in fault["loc"]:
        if isinstance(here, dict) and part in here:
            here = here[part]
            path.append(str(part))
    match kind:  # the faults whose place pydantic gives in its own terms
        case "missing":
            path.append(str(fault["loc"][-1]))
        case "unknown_key":
            path.append(context["key"])
        case "union_tag_invalid" | "union_tag_not_found":
            path.append("kind")
    field = ".".join(path) or "the configuration"
    if kind in ("missing", "union_tag_not_found"):
        return f"{field}: missing"
    if kind == "union_tag_invalid":
        return f"{field}: {context['tag']!r} given, must be {context['expected_tags'].replace(',', ' or')}"
    message = fault["msg"].replace("Input should be", "must be").replace("String should", "must")
    message = re.sub(r"a valid dictionary( or .*)?$", "a mapping", message)
    if isinstance(here, dict) or kind == "unknown_key":
        return f"{field}: {message}"
    return f"{field}: {fault['input']!r} given, {message}"
