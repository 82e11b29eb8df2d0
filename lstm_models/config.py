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

CELLS = (
    "lstm", "peephole", "no_input_gate", "no_forget_gate", "no_output_gate", "no_input_activation",
    "no_output_activation", "coupled_gates", "full_gate_recurrence", "layer_norm",
)  # fmt: skip
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


def _check_cell(name: str) -> str:
    if name not in CELLS and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        close = get_close_matches(name, CELLS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(CELLS)}."
        raise PydanticCustomError("cell", "no such cell; {hint} One of your own is module.Class", {"hint": hint})
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


class AddingData(Config):
    """The adding problem: two of a sequence's numbers are marked, and their sum is to be told at its end."""

    kind: Literal["adding"]
    length: int = Field(100, ge=2, le=10_000, description="time steps of a sequence")
    count: int = Field(ge=1, le=10_000_000, description="sequences")
    seed: int = Field(0, ge=0, lt=2**32, description="what is drawn depends on it and on nothing else")


class Sql(Config):
    """A query on a database."""

    url: str = Field(description="SQLAlchemy's, without a password: postgresql://user@host/database")
    query: str = Field(description="the SELECT whose result is the table")
    password_env: str | None = Field(None, description="the environment variable that holds the password")


class Split(Config):
    """Which part of the data is for what: training, then validation, then the test, in the order of time.

    Either fractions of the rows (of the groups, for labels), or counts of them, or dates: the moment before which a
    part ends. test may be left out: the rest.
    """

    train: float | int | str = 0.7
    validation: float | int | str = 0.1
    test: float | int | str | None = None


class TableData(Config):
    """A table of one's own: rows in the order of time, of one series or of several."""

    kind: Literal["table"]
    path: str | None = Field(None, description="a CSV or Parquet file, a folder of Parquet files, or a URL of one")
    sql: Sql | None = Field(None, description="a query, instead of a path")
    task: Literal["forecast", "classify", "regress"] = Field(
        "forecast", description="forecast the target's next steps; or tell one label, or one number, of each group"
    )
    target: str | list[str] = Field(description="the column to be told; in a forecast it may be several")
    features: list[str] | None = Field(
        None, description="the columns that are read; none: in a forecast the targets, else every other number column"
    )
    time: str | None = Field(None, description="the column that the rows are ordered by; none: their order as it is")
    group: str | None = Field(None, description="the column that tells the series of a table apart")
    context_length: int = Field(96, ge=1, le=100_000, description="steps that a forecast sees")
    horizon: int = Field(1, ge=1, le=10_000, description="steps that a forecast tells")
    stride: int = Field(1, ge=1, description="steps from one training window to the next")
    residual: Literal["none", "last_value"] = Field(
        "last_value", description="whether the targets are seen, and told, as the change from their last value"
    )
    season: int | None = Field(None, ge=1, description="steps of a season, for the seasonal baseline; none: no season")
    split: Split = Split()
    scaling: Literal["standard", "minmax", "none"] = Field(
        "standard", description="fitted on the training part: to mean 0 and deviation 1, or to 0 and 1, or not at all"
    )
    missing: Literal["refuse", "drop", "forward_fill", "interpolate"] = Field(
        "refuse", description="what becomes of missing values: the row goes, or the one before, or a line between two"
    )
    gaps: Literal["refuse", "allow", "split"] = Field(
        "refuse", description="what becomes of a hole in the grid of time: nothing, or no window reaches across"
    )
    duplicates: Literal["refuse", "first", "last", "mean"] = Field(
        "refuse", description="which of several rows of one series and time counts"
    )
    unsorted: Literal["refuse", "sort"] = Field("sort", description="what becomes of rows that are not in order")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.sql is None):
            raise PydanticCustomError("source", "give either path or sql")
        if self.task != "forecast" and self.group is None:
            raise PydanticCustomError(
                "group", "task {task} needs a group column: a label for each", {"task": self.task}
            )
        return self


AnyData = TutorialData | AddingData


class Output(Config):
    """What a network tells of a sequence: a number; the next steps of some of its columns; or its class."""

    kind: Literal["number", "forecast", "classes"] = "number"
    targets: list[str] = Field([], description="the columns that are told")
    steps: int = Field(1, ge=1, description="how many steps a forecast tells")
    places: list[int] = Field([], description="where a forecast's targets stand among the inputs")
    residual: bool = Field(False, description="whether a forecast is told as the change from the last value")
    classes: list[str] = Field([], description="what the classes are called")

    @property
    def size(self) -> int:
        """How many numbers the head gives."""
        match self.kind:
            case "forecast":
                return self.steps * len(self.places)
            case "classes":
                return len(self.classes)
        return 1


NUMBER = Output()


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


class Training(Config):
    """The initial training, by Adam on the squared error."""

    max_epochs: int = Field(ge=1, description="epochs of the initial training")
    learning_rate: float = Field(0.001, gt=0, le=1e30, description="Adam's step size")
    fused: bool = Field(
        False, description="PyTorch's fused Adam: faster, and differs from the default in the last bits"
    )
    batch_size: int = Field(1, ge=1, description="sequences in a step")
    shuffle: bool = Field(False, description="another order each epoch, drawn from the seed and the epoch's number")
    weight_decay: float = Field(0.0, ge=0, description="how much of each weight a step takes away, decoupled (AdamW)")
    schedule: Literal["none", "exponential", "cosine"] = Field(
        "none",
        description="of the step size, epoch by epoch: exponential: times decay; cosine: to 0 at max_epochs",
    )
    decay: float = Field(0.95, gt=0, le=1, description="the factor of the exponential schedule")
    patience: int | None = Field(
        None, ge=1, description="epochs without a lower validation loss after which training ends; none: it goes on"
    )
    precision: Literal["32", "bf16-mixed"] = Field("32", description="bf16-mixed: products in bfloat16")
    device: Literal["cpu", "auto"] = Field("cpu", description="auto: a GPU where there is one")
    clip_norm: float | None = Field(
        None, gt=0, description="the most that the gradient's norm may be; a longer one is scaled down to it"
    )
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

    model: AnyModel = Field(discriminator="kind")
    training: Training
    fine_tuning: FineTuning
    replicas: int = Field(
        1, ge=1, le=1000, description="copies that are trained together, seeded with the seed, the seed + 1, and so on"
    )

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


class Converged(Config):
    """When a copy counts as converged: its error is below a threshold."""

    metric: Literal["max_error", "mse", "mae"] = Field("max_error", description="which error; max_error: the largest")
    below: float = Field(0.1, gt=0, description="the threshold, in the error's unit")


class Figures(Config):
    """What is drawn beside the loss curves and the predictions."""

    gates_of: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, min_length=1, description="rows of the data whose gates are drawn over time, from 1; none: the first two"
    )
    gradients_through_time: bool = Field(
        False, description="the gradient of the loss with respect to the state at every time step"
    )


class CompareConfig(Config):
    """One comparison: contenders, trained and judged on the same data."""

    experiment: Name = Field(description="name of the MLflow experiment and of the registered model")
    seed: int = Field(42, ge=0, lt=2**32, description="each contender is seeded with it by itself")
    data: AnyData = Field(TutorialData(), discriminator="kind", description="where the sequences come from")
    contenders: dict[ContenderName, Contender] = Field(min_length=1, description="by name")
    converged: Converged = Field(Converged(), description="when a copy of a contender with replicas has converged")
    figures: Figures = Field(Figures(), description="what is drawn")

    @model_validator(mode="after")
    def _patience_has_something_to_watch(self) -> Self:
        for name, contender in self.contenders.items():
            if contender.training.patience is not None:
                raise PydanticCustomError(
                    "patience",
                    "contender {name} with patience {patience}: the data {kind} has no validation part to watch",
                    {"name": name, "patience": contender.training.patience, "kind": self.data.kind},
                )
        return self

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
