"""Settings of the scheduled flows: fine-tuning and monitoring of a registered model on new data."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config import yaml
from lstm_models.config.base import Config, ConfigError
from lstm_models.config.compare import CompareConfig, MinImprovement, Name, parse_config
from lstm_models.config.data import Split, TableData


class _NewDataConfig(Config):
    """An experiment's model and the new version of its table."""

    experiment: Name = Field(description="name of the MLflow experiment and of the registered model")
    path: str | None = Field(None, description="new path of the table; null: the path the model was trained from")
    split: Split | None = Field(None, description="new split of the table; null: the split the model was trained with")

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML."""
        return yaml.dump(self.model_dump(mode="json"))


class MonitorConfig(_NewDataConfig):
    """Configuration of monitoring: evaluate the champion on the test part of its current table."""


class FineTuneConfig(_NewDataConfig):
    """Configuration of fine-tuning: train the champion on its current table, and promote it if it is better."""

    version: int | None = Field(None, ge=1, description="model version to fine-tune; null: the champion")
    mode: Literal["continue", "warm_start"] = Field(
        "continue",
        description="continue: keep the optimizer state and epoch count; warm_start: start from the best weights with "
        "a fresh optimizer",
    )
    epochs: int = Field(5, ge=1, description="maximum number of epochs to add; early stopping may end training sooner")
    learning_rate: float | None = Field(
        None, gt=0, le=1e30, description="learning rate of a warm start; null: as in the previous training"
    )
    min_improvement: MinImprovement | None = Field(
        None,
        description="relative improvement on the champion's loss that promotion requires, from 0 to below 1; null: as "
        "in the comparison",
    )
    max_psi: float | None = Field(
        None,
        gt=0,
        description="maximum population stability index of any feature; above it, no model is promoted; null: no limit",
    )
    max_ks: float | None = Field(
        None,
        gt=0,
        le=1,
        description="maximum Kolmogorov-Smirnov statistic of any feature; above it, no model is promoted; null: no "
        "limit",
    )
    keep_versions: int | None = Field(
        None,
        ge=1,
        description="number of newest model versions to keep, beside those with an alias and their ancestors; null: "
        "all",
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.learning_rate is not None and self.mode == "continue":
            raise PydanticCustomError(
                "learning_rate",
                "learning_rate {rate} with mode continue: the optimizer keeps its learning rate; set mode=warm_start",
                {"rate": self.learning_rate},
            )
        return self


def fine_tuning_config(config: CompareConfig, contender: str, epochs: int, request: FineTuneConfig) -> CompareConfig:
    """Return the configuration that fine-tunes one contender on the current version of its table.

    Args:
        config: the configuration the model was trained with.
        contender: the name of the model's contender.
        epochs: how many epochs the model has been trained for.
        request: the settings of the fine-tuning.

    Raises:
        ConfigError: if the request does not fit the configuration.
    """
    previous = config.contenders[contender].training
    if request.mode == "warm_start":
        rate = request.learning_rate or previous.learning_rate
        training, total_epochs = {"learning_rate": rate, "max_epochs": request.epochs}, 2 * request.epochs
    else:
        training, total_epochs = {"max_epochs": epochs}, epochs + request.epochs
    values = with_new_data(config, request).model_dump(mode="json")
    settings = values["contenders"][contender]
    values["contenders"] = {
        contender: settings | {"training": settings["training"] | training, "fine_tuning": {"max_epochs": total_epochs}}
    }
    return parse_config(values, request.experiment)


def with_new_data(config: CompareConfig, request: FineTuneConfig | MonitorConfig) -> CompareConfig:
    """Return the configuration with the path and the split that are requested for its table.

    Raises:
        ConfigError: if either is requested and the data is not a table.
    """
    changes = {
        **({"path": request.path, "sql": None} if request.path is not None else {}),
        **({"split": request.split.model_dump()} if request.split is not None else {}),
    }
    if not changes:
        return config
    if not isinstance(config.data, TableData):
        raise ConfigError(
            f"{next(iter(changes))}: given, but experiment {request.experiment} uses data of kind {config.data.kind}; "
            "only a table has a path and a split"
        )
    values = config.model_dump(mode="json")
    return parse_config(values | {"data": values["data"] | changes}, request.experiment)
