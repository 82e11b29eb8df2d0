"""Every setting, once: frozen, typed, described. The same objects serve Python, YAML, --set and Prefect's form."""

from lstm_models.config.base import PHASES, Config, ConfigError, Phase, UserError, one_line
from lstm_models.config.compare import (
    AnyConfig,
    CompareConfig,
    ContenderName,
    Converged,
    Figures,
    Name,
    parse,
    parse_config,
)
from lstm_models.config.continuing import EvaluateConfig, FineTuneConfig, continued, on_new_rows
from lstm_models.config.data import AddingData, AnyData, Split, Sql, TableData, TutorialData
from lstm_models.config.models import CELLS, NUMBER, RNN, AnyModel, BuiltIn, HandBuilt, Output
from lstm_models.config.training import Contender, FineTuning, Training

__all__ = [
    "CELLS",
    "NUMBER",
    "PHASES",
    "RNN",
    "AddingData",
    "AnyConfig",
    "AnyData",
    "AnyModel",
    "BuiltIn",
    "CompareConfig",
    "Config",
    "ConfigError",
    "Contender",
    "ContenderName",
    "Converged",
    "EvaluateConfig",
    "Figures",
    "FineTuneConfig",
    "FineTuning",
    "HandBuilt",
    "Name",
    "Output",
    "Phase",
    "Split",
    "Sql",
    "TableData",
    "Training",
    "TutorialData",
    "UserError",
    "continued",
    "on_new_rows",
    "one_line",
    "parse",
    "parse_config",
]
