"""Describe what a network predicts."""

from typing import Literal

from pydantic import Field

from lstm_models.config.base import Config


class OutputSpec(Config):
    """What a network tells of a sequence: a number; the next steps of some of its columns; or its class."""

    kind: Literal["regression", "forecast", "classification"] = "regression"
    targets: list[str] = Field([], description="the columns that are told")
    horizon: int = Field(1, ge=1, description="how many steps a forecast tells")
    target_indices: list[int] = Field([], description="where a forecast's targets stand among the inputs")
    residual: bool = Field(False, description="whether a forecast is told as the change from the last value")
    classes: list[str] = Field([], description="what the classes are called")
    mean: float = Field(0.0, description="what a number is told as the difference from")
    scale: float = Field(1.0, gt=0, description="what that difference is told in units of")

    @property
    def size(self) -> int:
        """How many numbers the head gives."""
        match self.kind:
            case "forecast":
                return self.horizon * len(self.target_indices)
            case "classification":
                return len(self.classes)
        return 1


REGRESSION = OutputSpec()
