"""All settings as frozen, typed and described objects, shared by Python, YAML, --set and Prefect's form."""

from lstm_models.config.base import PHASES, Config, ConfigError, Phase
from lstm_models.config.compare import (
    AnyConfig,
    CompareConfig,
    ContenderName,
    ConvergenceCriterion,
    FigureOptions,
    Name,
    parse,
    parse_config,
)
from lstm_models.config.data import AddingProblemData, AnyData, Split, Sql, TableData, TutorialData
from lstm_models.config.fine_tune import FineTuneConfig, MonitorConfig, fine_tuning_config, with_new_data
from lstm_models.config.models import CELLS, RNN, AnyModel, BuiltIn, HandBuilt
from lstm_models.config.training import Contender, FineTuning, Training

__all__ = [
    "CELLS",
    "PHASES",
    "RNN",
    "AddingProblemData",
    "AnyConfig",
    "AnyData",
    "AnyModel",
    "BuiltIn",
    "CompareConfig",
    "Config",
    "ConfigError",
    "Contender",
    "ContenderName",
    "ConvergenceCriterion",
    "FigureOptions",
    "FineTuneConfig",
    "FineTuning",
    "HandBuilt",
    "MonitorConfig",
    "Name",
    "Phase",
    "Split",
    "Sql",
    "TableData",
    "Training",
    "TutorialData",
    "fine_tuning_config",
    "parse",
    "parse_config",
    "with_new_data",
]
