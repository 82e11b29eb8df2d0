"""Every setting, once: frozen, typed, described. The same objects serve Python, YAML, --set and Prefect's form."""

import re
import reprlib
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lstm_models import yaml_text

PHASES = ("untrained", "initial", "fine_tuned")
Phase = Literal["untrained", "initial", "fine_tuned"]

RESERVED_NAMES = ("champion", "challenger", "latest")  # aliases that mean something else in the registry


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise PydanticCustomError("name", "must be up to 100 letters, digits, '_', '.' or '-', no sign first")
    return name


def _check_contender_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        raise PydanticCustomError("name", "must be lower-case letters, digits and '_', a letter first")
    if name in RESERVED_NAMES or re.fullmatch(r"v\d+", name):
        raise PydanticCustomError("name", "means something else in the model registry; choose another name")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
ContenderName = Annotated[str, AfterValidator(_check_contender_name)]


class UserError(ValueError):
    """What a user gave can't be used. The message is one line: the thing, what was given, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


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
            raise PydanticCustomError(
                "dropout",
                "dropout {dropout} with num_layers 1: dropout acts between layers, so it needs at least 2",
                {"dropout": self.dropout},
            )
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
    learning_rate: float = Field(0.001, gt=0, le=1e30, description="Adam's step size")
    fused: bool = Field(
        False, description="PyTorch's fused Adam: faster, and differs from the default in the last bits"
    )
    batch_size: int = Field(1, ge=1, description="sequences in a step")
    shuffle: bool = Field(False, description="another order each epoch, drawn from the seed and the epoch's number")
    threads: int | None = Field(None, ge=1, description="torch's threads while training; none: as many as torch takes")
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

    def to_yaml(self) -> str:
        """The whole configuration as YAML that `lstm-flows compare` runs again as it is."""
        return yaml_text.write(self.model_dump(mode="json"))


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
    if kind == "too_short":
        return f"{field}: must not be empty"
    if isinstance(here, dict) or kind == "unknown_key":
        return f"{field}: {message}"
    return f"{field}: {_shown(fault['input'])} given, {message}"


def _shown(value: object) -> str:
    """A value in a message: short, whatever was given."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number with thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
