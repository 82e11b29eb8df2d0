"""Dataset: training, validation and test examples, with the scaling and output specification that a network needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lstm_models.config import TableData
from lstm_models.data.cleaning.series import RowCounts, Series
from lstm_models.data.output import OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.data.windows import Examples, LabelledSequences, Windows


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test examples, and what is needed to build a network for them.

    D number of inputs, K number of targets, N number of rows.

    validation: None if there is no validation part; then the last epoch counts as the best. in_sample: whether the test
    part is the training part. mean_D, scale_D: scaling of the inputs, fitted on the training part only; None if inputs
    are not scaled. names: for a table with one sequence per row, the column that identifies the sequences.

    For a table with one time step per row: config; series; rows, the numbers of rows read, dropped and used;
    training_values, for a forecast only, the rows of the training part, (N, D) per segment, as views.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    output: OutputSpec
    in_sample: bool
    mean_D: Tensor | None = None
    scale_D: Tensor | None = None
    names: "pd.Series[Any] | None" = None
    config: TableData | None = None
    series: Series | None = None
    rows: RowCounts | None = None
    training_values: tuple[Tensor, ...] = ()

    def scaler(self) -> Scaler | None:
        """Return a new module that scales the inputs; None if they are not scaled."""
        return None if self.mean_D is None or self.scale_D is None else Scaler(self.mean_D, self.scale_D)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D inputs, for a table with one time step per row; otherwise empty."""
        return self.series.columns if self.series else ()

    @property
    def input_size(self) -> int:
        """Number of inputs, D."""
        return self.train.get_batch(torch.tensor([0])).x_BTD.size(-1)

    def training_targets(self) -> list[Tensor]:
        """Return the targets of a forecast's training part, (N, K) per segment."""
        return [rows_ND[:, self.output.target_indices] for rows_ND in self.training_values]

    def scales(self) -> Tensor:
        """Return the scale of each target, (K), float64; 1 where targets are not scaled."""
        if self.output.kind == "regression":
            return torch.tensor([self.output.scale], dtype=torch.float64)
        indices = self.output.target_indices
        return (torch.ones(len(indices)) if self.scale_D is None else self.scale_D[indices]).double()

    def keys(self) -> pd.DataFrame:
        """Return the columns that identify each test example.

        These are the name of a sequence; or the group of a labelled sequence; or for a window its group, and the time
        of its first target, or the row number if there is no time column.
        """
        if self.names is not None:
            return self.names.to_frame()
        assert self.config
        assert self.series
        config, series, test = self.config, self.series, self.test
        assert isinstance(test, Windows | LabelledSequences)
        first = (test.forecast_starts() if isinstance(test, Windows) else test.starts_G).numpy()
        columns: dict[str, Any] = {}
        if config.group is not None:
            names = np.array([segment.name for segment in series.segments], dtype=object)
            columns[config.group] = names[series.segment_of(first)]
        if isinstance(test, Windows):
            time = first + 1 if series.time is None else localize_times(series.time[first], series.zone)
            columns[config.time or "row"] = time
        return pd.DataFrame(columns)


def localize_times(time: Any, zone: Any) -> Any:
    """Return UTC times in the time zone of the source; unchanged if it has none."""
    return time if zone is None else pd.DatetimeIndex(time, tz="UTC").tz_convert(zone)
