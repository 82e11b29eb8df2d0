"""What all settings have in common."""

from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.utils.errors import UserError

PHASES = ("untrained", "initial", "fine_tuned")
Phase = Literal["untrained", "initial", "fine_tuned"]


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

    @field_validator("*")
    @classmethod
    def _of_64_bits(cls, value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**63:
                raise PydanticCustomError("too_large", "must be a whole number of at most 64 bits")
        return value
