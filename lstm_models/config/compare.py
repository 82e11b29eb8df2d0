"""One comparison, whole; and how a nested mapping becomes one."""

import re
import reprlib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config import yaml
from lstm_models.config.base import Config, ConfigError
from lstm_models.config.data import AnyData, TableData, TutorialData
from lstm_models.config.training import Contender

MAX_ERRORS = 10  # that a message tells
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
MinImprovement = Annotated[float, Field(ge=0, lt=1)]


class ConvergenceCriterion(Config):
    """When a copy counts as converged: its error is below a threshold."""

    metric: Literal["max_error", "mse", "mae"] = Field("max_error", description="which error; max_error: the largest")
    threshold: float = Field(0.1, gt=0, description="the threshold, in the error's unit")


class FigureOptions(Config):
    """What is drawn beside the loss curves and the predictions."""

    gate_examples: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, min_length=1, description="rows of the data whose gates are drawn over time, from 1; none: the first two"
    )
    gradients_through_time: bool = Field(
        False, description="the gradient of the loss with respect to the state at every time step"
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


def _with_table_defaults(name: str, given: Any) -> Any:
    """A contender as it is given, and where that says nothing, as is good for a table of one's own."""
    if not isinstance(given, dict):
        return given
    parts = {key: given.get(key, {}) for key in ("model", "training", "fine_tuning")}
    if not all(isinstance(part, dict) for part in parts.values()):
        return given
    kind = {"kind": name} if name in ("hand_built", "built_in", "rnn") else {}
    model, training = {**kind, **DEFAULT_MODEL, **parts["model"]}, {**DEFAULT_TRAINING, **parts["training"]}
    epochs = training["max_epochs"] if isinstance(training["max_epochs"], int) else 1  # which is refused elsewhere
    further = {"max_epochs": max(epochs, 1) + (max(epochs, 1) + 1) // 2}
    return {**given, "model": model, "training": training, "fine_tuning": {**further, **parts["fine_tuning"]}}


def _complete_contenders(values: Any) -> Any:
    """A configuration's values with what may be left out of a table's contenders."""
    data = values.get("data") if isinstance(values, dict) else None
    if (data.get("kind") if isinstance(data, dict) else getattr(data, "kind", None)) != "table":
        return values
    contenders = values.get("contenders", {"hand_built": {}, "built_in": {}})
    if isinstance(contenders, dict):
        contenders = {name: _with_table_defaults(name, given) for name, given in contenders.items()}
    return {**values, "contenders": contenders}


class CompareConfig(Config):
    """One comparison: contenders, trained and judged on the same data.

    For a table of one's own the contenders may be left out, or anything in them: they are then a hand_built and a
    built_in one of hidden size 64 with a linear head, trained for up to 10 epochs, and for up to half as many more.
    """

    experiment: Name = Field(description="name of the MLflow experiment and of the registered model")
    seed: int = Field(42, ge=0, lt=2**32, description="each contender is seeded with it by itself")
    data: AnyData = Field(TutorialData(), discriminator="kind", description="where the sequences come from")
    contenders: dict[ContenderName, Contender] = Field(min_length=1, description="by name")
    converged: ConvergenceCriterion = Field(
        ConvergenceCriterion(), description="when a copy of a contender with replicas has converged"
    )
    min_improvement: MinImprovement = Field(
        0.0, description="the share of the champion's loss by which a newcomer must be better to take over"
    )
    figures: FigureOptions = Field(FigureOptions(), description="what is drawn")

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: Any) -> Any:
        return _complete_contenders(values)

    @model_validator(mode="after")
    def _contenders_fit_the_data(self) -> Self:
        of_table = isinstance(self.data, TableData)
        for name, contender in self.contenders.items():
            for key, given, fits, why in (
                ("patience", contender.training.patience, of_table, "has no validation part to watch"),
                (
                    "log_predictions",
                    contender.training.log_predictions or None,
                    not of_table,
                    "has no few labels to draw",
                ),
                ("replicas", contender.replicas if contender.replicas > 1 else None, not of_table, "takes no copies"),
            ):
                if given is not None and not fits:
                    raise PydanticCustomError(
                        key,
                        "contender {name} with {key} {given}: the data {kind} {why}",
                        {"name": name, "key": key, "given": str(given), "kind": self.data.kind, "why": why},
                    )
        return self

    def to_yaml(self) -> str:
        """The whole configuration as YAML that `lstm-flows compare` runs again as it is."""
        return yaml.dump(self.model_dump(mode="json"))


AnyConfig = TypeVar("AnyConfig", bound=Config)


def parse_config(values: object, source: str) -> CompareConfig:
    """Check a nested mapping, as YAML gives it, and return the configuration of a comparison; errors as of `parse`."""
    return parse(CompareConfig, _complete_contenders(values), source)


def parse(kind: type[AnyConfig], values: object, source: str) -> AnyConfig:
    """Check a nested mapping and return the configuration.

    Raises:
        ConfigError: in one line, naming `source`, and for each fault the field, the value and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [_describe_error(fault, values) for fault in error.errors()[:MAX_ERRORS]]
        if more := error.error_count() - len(faults):
            faults.append(f"and {more:,} more")
        raise ConfigError(f"{source}: " + "; ".join(faults)) from None


def _describe_error(fault: Any, values: object) -> str:
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
    return f"{field}: {_abbreviate(fault['input'])} given, {message}"


def _abbreviate(value: object) -> str:
    """A value in a message: short, whatever was given."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number with thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
