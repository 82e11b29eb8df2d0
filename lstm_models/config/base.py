"""The base class of all settings."""

from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.utils.errors import UserError

PHASES = ("untrained", "initial", "fine_tuned")
Phase = Literal["untrained", "initial", "fine_tuned"]


class ConfigError(UserError):
    """Invalid configuration; the message names the field, the value and what is allowed."""


class Config(BaseModel):
    """Base class of all settings: immutable, strictly typed, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                close = get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {close[0]}?" if close else f"allowed here: {', '.join(cls.model_fields)}"
                raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": str(key), "hint": hint})
        return values

    @field_validator("*")
    @classmethod
    def _reject_large_integers(cls, value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**63:
                raise PydanticCustomError("too_large", "must be an integer of at most 64 bits")
        return value
