"""The configuration of a comparison, and the parsing of nested mappings into configurations."""

import re
import reprlib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config import yaml
from lstm_models.config.base import Config, ConfigError
from lstm_models.config.data import AnyData, TableData, TutorialData
from lstm_models.config.training import Contender

MAX_ERRORS = 10  # listed in one message
RESERVED_NAMES = ("champion", "challenger", "latest")  # aliases with another meaning in the model registry


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise PydanticCustomError(
            "name", "must be up to 100 letters, digits, '_', '.' or '-', starting with a letter or a digit"
        )
    return name


def _check_contender_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        raise PydanticCustomError("name", "must be up to 100 lower-case letters, digits or '_', starting with a letter")
    if name in RESERVED_NAMES or re.fullmatch(r"v\d+", name):
        raise PydanticCustomError("name", "is reserved in the model registry; choose another name")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
ContenderName = Annotated[str, AfterValidator(_check_contender_name)]
MinImprovement = Annotated[float, Field(ge=0, lt=1)]


class ConvergenceCriterion(Config):
    """Criterion for counting a replica as converged: its error is below a threshold."""

    metric: Literal["max_error", "mse", "mae"] = Field(
        "max_error", description="error metric; max_error: the largest absolute error"
    )
    threshold: float = Field(0.1, gt=0, description="upper bound of the error, in the unit of the metric")


class FigureOptions(Config):
    """Optional figures, beside the loss curves and the predictions."""

    gate_examples: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=1,
        description="test examples, counted from 1, whose gate activations are plotted over time; null: the first two",
    )
    gradients_through_time: bool = Field(
        False, description="plot the gradient of the loss with respect to the state at each time step"
    )


DEFAULT_MODEL = {"hidden_size": 64, "head": "linear"}
DEFAULT_TRAINING = {
    "max_epochs": 10,
    "batch_size": 64,
    "shuffle": True,
    "gradient_clip_norm": 1.0,
    "patience": 3,
    "num_threads": 1,
}


def _with_table_defaults(name: str, contender: Any) -> Any:
    """Return a contender's values with the defaults for tables where they are missing."""
    if not isinstance(contender, dict):
        return contender
    parts = {key: contender.get(key, {}) for key in ("model", "training", "fine_tuning")}
    if not all(isinstance(part, dict) for part in parts.values()):
        return contender
    kind = {"kind": name} if name in ("hand_built", "built_in", "rnn") else {}
    model, training = {**kind, **DEFAULT_MODEL, **parts["model"]}, {**DEFAULT_TRAINING, **parts["training"]}
    epochs = training["max_epochs"] if isinstance(training["max_epochs"], int) else 1  # rejected by validation later
    fine_tuning = {"max_epochs": max(epochs, 1) + (max(epochs, 1) + 1) // 2}
    return {**contender, "model": model, "training": training, "fine_tuning": {**fine_tuning, **parts["fine_tuning"]}}


def _complete_contenders(values: Any) -> Any:
    """Return a configuration's values with the default contenders and settings if the data is a table."""
    data = values.get("data") if isinstance(values, dict) else None
    if (data.get("kind") if isinstance(data, dict) else getattr(data, "kind", None)) != "table":
        return values
    contenders = values.get("contenders", {"hand_built": {}, "built_in": {}})
    if isinstance(contenders, dict):
        contenders = {name: _with_table_defaults(name, contender) for name, contender in contenders.items()}
    return {**values, "contenders": contenders}


class CompareConfig(Config):
    """Configuration of a comparison: contenders that are trained and evaluated on the same data.

    For a table, contenders and each of their settings are optional: by default a hand_built and a built_in contender
    with hidden size 64 and a linear head are trained for at most 10 epochs; fine-tuning adds at most half as many.
    """

    experiment: Name = Field(description="name of the MLflow experiment and of the registered model")
    seed: int = Field(42, ge=0, lt=2**32, description="random seed; every contender starts from it")
    data: AnyData = Field(TutorialData(), discriminator="kind", description="source of the sequences")
    contenders: dict[ContenderName, Contender] = Field(
        min_length=1, description="models to compare, with their training settings, by name"
    )
    converged: ConvergenceCriterion = Field(
        ConvergenceCriterion(), description="when a replica counts as converged, for contenders with replicas"
    )
    min_improvement: MinImprovement = Field(
        0.0, description="relative improvement on the champion's loss that promotion requires, from 0 to below 1"
    )
    figures: FigureOptions = Field(FigureOptions(), description="optional figures")

    @model_validator(mode="before")
    @classmethod
    def _add_table_defaults(cls, values: Any) -> Any:
        return _complete_contenders(values)

    @model_validator(mode="after")
    def _check_contenders_against_data(self) -> Self:
        is_table = isinstance(self.data, TableData)
        for name, contender in self.contenders.items():
            training, replicas = contender.training, contender.replicas
            for key, value, is_supported, reason in (
                ("patience", training.patience, is_table, "has no validation part"),
                ("log_predictions", training.log_predictions or None, not is_table, "has no small set of labels"),
                ("replicas", replicas if replicas > 1 else None, not is_table, "does not support replicas"),
            ):
                if value is not None and not is_supported:
                    raise PydanticCustomError(
                        key,
                        "contender {name} with {key} {value}: data of kind {kind} {reason}",
                        {"name": name, "key": key, "value": str(value), "kind": self.data.kind, "reason": reason},
                    )
        return self

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML, from which `lstm-flows compare` runs the same comparison."""
        return yaml.dump(self.model_dump(mode="json"))


AnyConfig = TypeVar("AnyConfig", bound=Config)


def parse_config(values: object, source: str) -> CompareConfig:
    """Validate a nested mapping, as YAML gives it, and return the configuration of a comparison.

    Raises:
        ConfigError: as `parse`.
    """
    return parse(CompareConfig, _complete_contenders(values), source)


def parse(kind: type[AnyConfig], values: object, source: str) -> AnyConfig:
    """Validate a nested mapping and return the configuration.

    Raises:
        ConfigError: if it is invalid; the message is one line with the source and, for each fault, the field, the
            value and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [_describe_error(fault, values) for fault in error.errors()[:MAX_ERRORS]]
        if more := error.error_count() - len(faults):
            faults.append(f"and {more:,} more")
        raise ConfigError(f"{source}: " + "; ".join(faults)) from None


def _describe_error(fault: Any, values: object) -> str:
    """Return one of pydantic's errors as `field: value given, what is allowed`."""
    kind, context = fault["type"], fault.get("ctx", {})
    path: list[str] = []
    section: Any = values
    for part in fault["loc"]:
        if isinstance(section, dict) and part in section:
            section = section[part]
            path.append(str(part))
    match kind:  # faults whose location does not include the key
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
    if isinstance(section, dict) or kind == "unknown_key":
        return f"{field}: {message}"
    return f"{field}: {_short_repr(fault['input'])} given, {message}"


def _short_repr(value: object) -> str:
    """Return a short repr of any value."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number with thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
