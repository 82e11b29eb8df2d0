"""How a registered model goes on, and how it is watched: one run of a schedule."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config import yaml
from lstm_models.config.base import Config, ConfigError
from lstm_models.config.compare import CompareConfig, MinImprovement, Name, parse_config
from lstm_models.config.data import Split, TableData


class _NewDataConfig(Config):
    """A model of an experiment, and its table as it is now."""

    experiment: Name = Field(description="name of the MLflow experiment and of the registered model")
    path: str | None = Field(None, description="where the table lies now; none: where it lay when the model was made")
    split: Split | None = Field(None, description="which rows are for what; none: as when the model was made")

    def to_yaml(self) -> str:
        """The whole configuration as YAML."""
        return yaml.dump(self.model_dump(mode="json"))


class MonitorConfig(_NewDataConfig):
    """The champion, judged on the test part of its table as it is now."""


class FineTuneConfig(_NewDataConfig):
    """A champion that goes on with its table as it is now, and the rule by which the challenger takes over."""

    version: int | None = Field(None, ge=1, description="the version that goes on; none: the champion")
    mode: Literal["continue", "warm_start"] = Field(
        "continue",
        description="continue: keep weights, optimizer and epoch count; warm_start: best weights, fresh optimizer",
    )
    epochs: int = Field(5, ge=1, description="how many more, at most: the training's patience may end it earlier")
    learning_rate: float | None = Field(
        None, gt=0, le=1e30, description="the step size of a warm start; none: as it was trained with"
    )
    min_improvement: MinImprovement | None = Field(
        None, description="the share of the champion's loss by which the challenger must be better; none: compare's"
    )
    max_psi: float | None = Field(
        None, gt=0, description="a feature's population stability index above which nobody is promoted; none: any may"
    )
    max_ks: float | None = Field(None, gt=0, le=1, description="the same of the Kolmogorov-Smirnov statistic")
    keep_versions: int | None = Field(
        None, ge=1, description="versions that stay, beside those with an alias and what they continue; none: all"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.learning_rate is not None and self.mode == "continue":
            raise PydanticCustomError(
                "learning_rate",
                "learning_rate {rate} with mode continue: the optimizer goes on as it is; set mode=warm_start",
                {"rate": self.learning_rate},
            )
        return self


def fine_tuning_config(config: CompareConfig, contender: str, epochs: int, request: FineTuneConfig) -> CompareConfig:
    """The configuration of a model that goes on: of one contender, with its table as it is now.

    Args:
        config: as the model was made.
        contender: which of the configuration's it is.
        epochs: for how many it has been trained.
        request: what is to become of it.

    Raises:
        ConfigError: if what is asked does not fit.
    """
    trained = config.contenders[contender]
    if request.mode == "warm_start":
        rate = request.learning_rate or trained.training.learning_rate
        training, further = {"learning_rate": rate, "max_epochs": request.epochs}, 2 * request.epochs
    else:
        training, further = {"max_epochs": epochs}, epochs + request.epochs
    values = with_new_data(config, request).model_dump(mode="json")
    own = values["contenders"][contender]
    values["contenders"] = {
        contender: own | {"training": own["training"] | training, "fine_tuning": {"max_epochs": further}}
    }
    return parse_config(values, request.experiment)


def with_new_data(config: CompareConfig, request: FineTuneConfig | MonitorConfig) -> CompareConfig:
    """The configuration with the table as it is now.

    Raises:
        ConfigError: if it has no table.
    """
    changes = {
        **({"path": request.path, "sql": None} if request.path is not None else {}),
        **({"split": request.split.model_dump()} if request.split is not None else {}),
    }
    if not changes:
        return config
    if not isinstance(config.data, TableData):
        raise ConfigError(f"{next(iter(changes))}: given, but {request.experiment} is of the data {config.data.kind}")
    values = config.model_dump(mode="json")
    return parse_config(values | {"data": values["data"] | changes}, request.experiment)
