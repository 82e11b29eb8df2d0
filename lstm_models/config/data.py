"""Settings of the data: where sequences come from, and what to predict."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config.base import Config

RESERVED_COLUMNS = ("prediction", "target", "steps_ahead", "loss")  # columns of the tables that `predict` writes


class TutorialData(Config):
    """The tutorial's two companies: the values of four days, and the label of the fifth."""

    kind: Literal["tutorial"] = "tutorial"


class AddingProblemData(Config):
    """The adding problem: two numbers of each sequence are marked, and the label is their sum."""

    kind: Literal["adding"]
    length: int = Field(100, ge=2, le=10_000, description="number of time steps per sequence")
    count: int = Field(ge=1, le=10_000_000, description="number of sequences")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed of the generated sequences")


class Sql(Config):
    """A query on a database."""

    url: str = Field(description="SQLAlchemy URL without a password: postgresql://user@host/database")
    query: str = Field(description="the SELECT statement whose result is the table")
    password_env: str | None = Field(None, description="name of the environment variable that holds the password")


class Split(Config):
    """Training, validation and test parts of the data, in chronological order.

    Each is a fraction of the rows (of the groups, for labels), a number of them, or a date: the exclusive end of the
    part. Without test, the test part is the remainder.
    """

    train: float | int | str = Field(
        0.7, description="training part: a fraction, a number of rows, or the date before which it ends"
    )
    validation: float | int | str = Field(0.1, description="validation part, in the same unit; 0: no validation")
    test: float | int | str | None = Field(None, description="test part, in the same unit; null: the remainder")


class TableData(Config):
    """A user's table: rows in chronological order, of one series or of several."""

    kind: Literal["table"]
    path: str | None = Field(
        None,
        description="CSV or Parquet file, directory of Parquet files, or URL of one of these; sample:NAME: a table "
        "that ships with the package",
    )
    sql: Sql | None = Field(None, description="database query, instead of path")
    task: Literal["forecast", "classify", "regress"] = Field(
        "forecast",
        description="forecast: predict the target's next steps; classify: predict one class per group; regress: "
        "predict one number per group",
    )
    target: str | list[str] = Field(description="column to predict; a forecast may have a list of several")
    features: list[str] | None = Field(
        None,
        description="input columns; null: the targets for a forecast, otherwise all other numeric columns",
    )
    time: str | None = Field(None, description="column to sort the rows by; null: keep the order of the rows")
    group: str | None = Field(None, description="column that identifies the series in a table of several")
    context_length: int = Field(96, ge=1, le=100_000, description="number of past steps the model sees")
    horizon: int = Field(1, ge=1, le=10_000, description="number of steps to forecast")
    stride: int = Field(1, ge=1, description="number of steps between the starts of two training windows")
    evaluation_stride: int = Field(
        1, ge=1, description="number of steps between the starts of two validation or test windows"
    )
    residual: Literal["none", "last_value"] = Field(
        "last_value", description="last_value: model the targets as differences from their last value; none: as values"
    )
    season_length: int | None = Field(
        None, ge=1, description="number of steps in a season, for the seasonal naive baseline; null: no season"
    )
    split: Split = Split()
    scaling: Literal["standard", "minmax", "none"] = Field(
        "standard",
        description="scaling fitted on the training part; standard: mean 0 and standard deviation 1; minmax: to the "
        "range 0 to 1; none: no scaling",
    )
    missing: Literal["error", "drop", "forward_fill", "interpolate"] = Field(
        "error",
        description="missing values; error: reject the table; drop: drop the row; forward_fill: repeat the previous "
        "value; interpolate: linearly",
    )
    gaps: Literal["error", "allow", "split"] = Field(
        "error",
        description="gaps in the time column; error: reject the table; allow: windows may span gaps; split: no window "
        "spans a gap",
    )
    duplicates: Literal["error", "first", "last", "mean"] = Field(
        "error",
        description="rows with the same series and time; error: reject the table; first, last: keep that row; mean: "
        "average them",
    )
    unsorted: Literal["error", "sort"] = Field(
        "sort", description="rows out of order; error: reject the table; sort: sort by time"
    )

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns; only a forecast may have several."""
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        faults = {
            "set either path or sql": (self.path is None) == (self.sql is None),
            f"task {self.task} needs a group column, with one label per group": self.task != "forecast"
            and self.group is None,
            f"task {self.task} predicts one column, but target names several": self.task != "forecast"
            and len(self.targets) > 1,
            "target must name at least one column, and none twice": _is_empty_or_repeats(self.targets),
            "features must name at least one column, and none twice": self.features is not None
            and _is_empty_or_repeats(self.features),
            f"no time or group column may be named {', '.join(RESERVED_COLUMNS)}: `predict` writes these": not {
                self.time,
                self.group,
            }.isdisjoint(RESERVED_COLUMNS),
            "one column can't be both time and group": self.time is not None and self.time == self.group,
            "the target can't also be time or group": not {self.time, self.group}.isdisjoint(self.targets),
            "the label can't also be a feature": self.task != "forecast"
            and not set(self.features or ()).isdisjoint(self.targets),
        }
        for fault, is_present in faults.items():
            if is_present:
                raise PydanticCustomError("table", "{fault}", {"fault": fault})
        return self


def _is_empty_or_repeats(names: Sequence[str]) -> bool:
    return not names or len(set(names)) < len(names)


AnyData = TutorialData | AddingProblemData | TableData
