"""Specification of a network's output."""

from typing import Literal

from pydantic import Field

from lstm_models.config.base import Config


class OutputSpec(Config):
    """Output of a network per sequence: one number, the next steps of some columns, or a class."""

    kind: Literal["regression", "forecast", "classification"] = "regression"
    targets: list[str] = Field([], description="columns to predict")
    horizon: int = Field(1, ge=1, description="number of steps to forecast")
    target_indices: list[int] = Field([], description="indices of a forecast's targets among the input columns")
    residual: bool = Field(False, description="whether a forecast is modelled as the difference from the last value")
    classes: list[str] = Field([], description="names of the classes")
    mean: float = Field(0.0, description="value subtracted from a regression's target to scale it")
    scale: float = Field(1.0, gt=0, description="value that the difference is divided by")

    @property
    def size(self) -> int:
        """Number of values that the head outputs."""
        match self.kind:
            case "forecast":
                return self.horizon * len(self.target_indices)
            case "classification":
                return len(self.classes)
        return 1


REGRESSION = OutputSpec()
