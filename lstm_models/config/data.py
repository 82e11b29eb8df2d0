"""Where sequences come from, and what is to be told of them."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config.base import Config

RESERVED_COLUMNS = ("prediction", "target", "steps_ahead", "loss")  # what tables of results hold beside time and group


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

    train: float | int | str = Field(0.7, description="a fraction, a count, or the date before which training ends")
    validation: float | int | str = Field(0.1, description="the same of the validation part; 0: none")
    test: float | int | str | None = Field(None, description="the same of the test part; none: the rest")


class TableData(Config):
    """A table of one's own: rows in the order of time, of one series or of several."""

    kind: Literal["table"]
    path: str | None = Field(
        None,
        description="a CSV or Parquet file, a folder of Parquet files, or a URL of one; sample:NAME comes along",
    )
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
    evaluation_stride: int = Field(1, ge=1, description="steps from one validation or test window to the next")
    residual: Literal["none", "last_value"] = Field(
        "last_value", description="whether the targets are seen, and told, as the change from their last value"
    )
    season_length: int | None = Field(
        None, ge=1, description="steps of a season, for the seasonal baseline; none: no season"
    )
    split: Split = Split()
    scaling: Literal["standard", "minmax", "none"] = Field(
        "standard", description="fitted on the training part: to mean 0 and deviation 1, or to 0 and 1, or not at all"
    )
    missing: Literal["error", "drop", "forward_fill", "interpolate"] = Field(
        "error", description="what becomes of missing values: the row goes, or the one before, or a line between two"
    )
    gaps: Literal["error", "allow", "split"] = Field(
        "error", description="what becomes of a hole in the grid of time: nothing, or no window reaches across"
    )
    duplicates: Literal["error", "first", "last", "mean"] = Field(
        "error", description="which of several rows of one series and time counts"
    )
    unsorted: Literal["error", "sort"] = Field("sort", description="what becomes of rows that are not in order")

    @property
    def targets(self) -> tuple[str, ...]:
        """The target column; in a forecast there may be several."""
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = {
            "give either path or sql": (self.path is None) == (self.sql is None),
            f"task {self.task} needs a group column: a label for each": self.task != "forecast" and self.group is None,
            f"task {self.task} tells one column; target names several": self.task != "forecast"
            and len(self.targets) > 1,
            "target must name at least one column, and none twice": _has_duplicates(self.targets),
            "features must name at least one column, and none twice": self.features is not None
            and _has_duplicates(self.features),
            f"no time or group column may be named {', '.join(RESERVED_COLUMNS)}: `predict` writes these": not {
                self.time,
                self.group,
            }.isdisjoint(RESERVED_COLUMNS),
            "one column can't be both time and group": self.time is not None and self.time == self.group,
            "the target can't be time or group as well": not {self.time, self.group}.isdisjoint(self.targets),
            "the label can't be a feature as well": self.task != "forecast"
            and not set(self.features or ()).isdisjoint(self.targets),
        }
        for fault, there in faults.items():
            if there:
                raise PydanticCustomError("table", "{fault}", {"fault": fault})
        return self


def _has_duplicates(names: Sequence[str]) -> bool:
    return not names or len(set(names)) < len(names)


AnyData = TutorialData | AddingData | TableData
