"""A table as what is trained on, validated on and judged by. N rows, D columns, K targets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lstm_models.config import AddingData, AnyData, ConfigError, TableData, TutorialData
from lstm_models.data.cleaning.series import RowCounts, Series, prepare_series
from lstm_models.data.output import REGRESSION, OutputSpec
from lstm_models.data.readers import files
from lstm_models.data.scaler import Scaler
from lstm_models.data.sequences import SequenceColumns, Sequences, to_sequences
from lstm_models.data.splits import SplitBounds, split_bounds
from lstm_models.data.synthetic import adding, tutorial
from lstm_models.data.windows import Examples, LabelledSequences, Windows


@dataclass(frozen=True)
class Dataset:
    """Examples for each purpose, and what it takes to build a network for them.

    validation is None where there is none; then the last epoch counts as the best. in_sample says that the test is on
    what was trained on. mean_D, scale_D: what the D inputs are scaled by, fitted on the training part alone; None
    where nothing is scaled. names: a column that tells the sequences of a table with one a row. Of a table with a time
    step a row: its settings; series; rows, how many were read, dropped and used; trained, of a forecast, the rows of
    the training part, views, piece by piece.
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
        """A network's own copy of what the inputs are scaled by."""
        return None if self.mean_D is None or self.scale_D is None else Scaler(self.mean_D, self.scale_D)

    @property
    def columns(self) -> tuple[str, ...]:
        """What the D inputs are called, of a table with a time step a row."""
        return self.series.columns if self.series else ()

    @property
    def input_size(self) -> int:
        return self.train.get_batch(torch.tensor([0])).x_BTD.size(-1)

    def training_targets(self) -> list[Tensor]:
        """Of a forecast's targets the training part, (N, K) of each piece."""
        return [rows_ND[:, self.output.target_indices] for rows_ND in self.training_values]

    def scales(self) -> Tensor:
        """Each target's unit in scaled figures, (K), float64: 1 where nothing is scaled."""
        if self.output.kind == "regression":
            return torch.tensor([self.output.scale], dtype=torch.float64)
        places = self.output.target_indices
        return (torch.ones(len(places)) if self.scale_D is None else self.scale_D[places]).double()

    def keys(self) -> pd.DataFrame:
        """What each test example is called: its sequence's name; its group; or its group, and the time of the first
        step that is told (the row's number, where there is no time)."""
        if self.names is not None:
            return self.names.to_frame()
        assert self.config
        assert self.series
        config, series, test = self.config, self.series, self.test
        assert isinstance(test, Windows | LabelledSequences)
        first = (test.forecast_starts() if isinstance(test, Windows) else test.starts_G).numpy()
        found: dict[str, Any] = {}
        if config.group is not None:
            names = np.array([group.name for group in series.segments], dtype=object)
            found[config.group] = names[series.segment_of(first)]
        if isinstance(test, Windows):
            time = first + 1 if series.time is None else localize_times(series.time[first], series.zone)
            found[config.time or "row"] = time
        return pd.DataFrame(found)


def localize_times(time: Any, zone: Any) -> Any:
    """Times as the source has them: in its zone, where it has one."""
    return time if zone is None else pd.DatetimeIndex(time, tz="UTC").tz_convert(zone)


def read_table(config: AnyData) -> pd.DataFrame:
    """The table that the configuration describes.

    Raises:
        TableError: as `source.read`.
    """
    match config:
        case TutorialData():
            return tutorial.table()
        case AddingData():
            return adding.table(config.length, config.count, config.seed)
        case TableData():
            return files.read_source(config)


def read_dataset(config: AnyData, seed: int) -> Dataset:
    """Read the table and make the dataset, and let go of the table. Errors as of `read` and `of_table`."""
    return build_dataset(read_table(config), config, seed)


def build_dataset(table: pd.DataFrame, config: AnyData, seed: int) -> Dataset:
    """A table as the configuration wants it; the seed draws which groups are for what, where they have no order.

    Raises:
        TableError: if the table does not fit.
        ConfigError: if the split asks for what is not there, or leaves a part without an example.
    """
    if not isinstance(config, TableData):
        sequences = to_sequences(table, sequence_columns(config))
        return replace(in_sample_dataset(sequences), names=table.iloc[:, 0])  # the first column tells them apart
    series = prepare_series(table, config, files.source_name(config))
    try:
        return (
            _forecast_dataset(series, config) if config.task == "forecast" else _labelled_dataset(series, config, seed)
        )
    except ConfigError as error:
        raise ConfigError(f"{files.source_name(config)}: {error}") from None


def sequence_columns(config: TutorialData | AddingData) -> SequenceColumns:
    """Of a table with a sequence a row, what its columns hold."""
    return tutorial.COLUMNS if isinstance(config, TutorialData) else adding.columns(config.length)


def in_sample_dataset(sequences: Sequences) -> Dataset:
    """Trained and judged on the same sequences."""
    return Dataset(sequences, None, sequences, REGRESSION, in_sample=True)


def _forecast_dataset(series: Series, config: TableData) -> Dataset:
    """Windows; each series is split by itself, in the order of time.

    A window belongs to the part in which all its targets lie; what it sees may reach back into the part before.
    """
    values_ND = torch.from_numpy(series.values)
    spans, rows = _target_ranges(series, config)
    strides = {"train": config.stride, "validation": config.evaluation_stride, "test": config.evaluation_stride}
    windows = {name: _windows(values_ND, series, config, of_part, strides[name]) for name, of_part in spans.items()}
    for name in ("train", "test"):
        if windows[name].count == 0:
            needed = config.context_length + config.horizon
            raise ConfigError(
                f"data: too few rows for one window of {needed} steps in the {name} part: {series.rows.used} rows in "
                f"{len(series.segments)} series; a smaller context_length or horizon, or another split, may do"
            )
    trained = tuple(values_ND[begin - config.context_length : end] for begin, end in spans["train"] if end > begin)
    longest = max(map(len, trained))
    if config.season_length is not None and config.season_length >= longest:
        raise ConfigError(
            f"data.season_length: {config.season_length} given, but no series has that many rows for training"
        )
    mean_D, scale_D = _fit_scale(torch.cat(trained), config.scaling)
    output = OutputSpec(
        kind="forecast",
        horizon=config.horizon,
        targets=[series.columns[target] for target in series.targets],
        target_indices=list(series.targets),
        residual=config.residual == "last_value",
    )
    return _dataset(windows, output, (mean_D, scale_D), series, config, rows, trained)


def _dataset(
    parts: Mapping[str, Windows | LabelledSequences],
    output: OutputSpec,
    scale: tuple[Tensor | None, Tensor | None],
    series: Series,
    config: TableData,
    rows: RowCounts,
    trained: tuple[Tensor, ...] = (),
) -> Dataset:
    validation = parts["validation"] if parts["validation"].count else None
    return Dataset(
        parts["train"], validation, parts["test"], output, False, *scale,
        config=config, series=series, rows=rows, training_values=trained,
    )  # fmt: skip


def _target_ranges(series: Series, config: TableData) -> tuple[dict[str, list[tuple[int, int]]], RowCounts]:
    """By part, from which row to which there may be targets: in each piece, after a context's length of it; and what
    became of the rows.

    A series that was cut at its gaps is split as a whole, so that none of its training lies behind its test.
    """
    spans: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    later, short = 0, 0
    for of_one in series.segments_by_series():
        start, stop = of_one[0].start, of_one[-1].stop
        found = split_bounds(stop - start, config.split, None if series.time is None else series.time[start:stop])
        later += stop - start - found.test
        for piece in of_one:
            room = 0
            for name, begin, end in zip(spans, (0, *found[:2]), found, strict=True):
                span = max(start + begin, piece.start + config.context_length), min(start + end, piece.stop)
                spans[name].append(span)
                room = max(room, span[1] - span[0])
            if room < config.horizon:
                short += max(0, min(start + found.test, piece.stop) - piece.start)
    reasons = {"after the test part": later, "in a stretch too short for a window": short}
    return spans, _count_rows(series.rows, reasons)


def _count_rows(rows: RowCounts, dropped: Mapping[str, int]) -> RowCounts:
    more = {reason: count for reason, count in dropped.items() if count}
    return RowCounts(rows.read, rows.dropped | more, rows.used - sum(more.values()))


def _windows(
    values_ND: Tensor, series: Series, config: TableData, spans: list[tuple[int, int]], stride: int
) -> Windows:
    """All windows whose targets lie within these spans of rows."""
    firsts, counts = [], []
    for begin, end in spans:
        if (count := (end - begin - config.horizon) // stride + 1) > 0:
            firsts.append(begin - config.context_length)
            counts.append(count)
    return Windows(
        values_ND,
        series.targets,
        config.context_length,
        config.horizon,
        stride,
        torch.tensor(firsts, dtype=torch.int64),
        torch.tensor(counts, dtype=torch.int64),
    )


def _labelled_dataset(series: Series, config: TableData, seed: int) -> Dataset:
    """Whole groups; by date in the order of time, otherwise in an order drawn from the seed."""
    assert series.labels is not None
    if config.gaps == "split":
        raise ConfigError("data.gaps: split is for forecasts; a group with a label is one sequence")
    values_ND = torch.from_numpy(series.values)
    starts = np.array([group.start for group in series.segments])
    stops = np.array([group.stop for group in series.segments])
    times = series.time[starts] if isinstance(config.split.train, str) and series.time is not None else None
    drawn = np.random.default_rng(seed).permutation(len(starts))
    order = drawn if times is None else np.argsort(times, kind="stable")
    found: SplitBounds = split_bounds(len(order), config.split, None if times is None else times[order])
    if found.train == 0 or found.test == found.validation:
        raise ConfigError(f"data.split: of {len(order)} groups none is left for training or for the test")
    labels = torch.from_numpy(series.labels)

    def part(begin: int, end: int) -> LabelledSequences:
        chosen = order[begin:end]
        return LabelledSequences(
            values_ND, torch.from_numpy(starts[chosen]), torch.from_numpy((stops - starts)[chosen]), labels[chosen]
        )

    train = part(0, found.train)
    rows = np.concatenate([np.arange(starts[group], stops[group]) for group in order[: found.train]])
    mean_D, scale_D = _fit_scale(values_ND[torch.from_numpy(rows)], config.scaling)
    told: dict[str, Any] = {"kind": "classification", "classes": list(series.classes)}
    if config.task == "regress":
        center_1, spread_1 = _fit_scale(train.y_G.unsqueeze(1), config.scaling)
        scale = {} if center_1 is None or spread_1 is None else {"mean": center_1.item(), "scale": spread_1.item()}
        told = {"kind": "regression", **scale}
    elif bool((train.y_G == train.y_G[0]).all()):
        raise ConfigError(
            f"data.split: all {train.count} groups for training are of one class, "
            f"{series.classes[int(train.y_G[0])]}; another split or seed may do"
        )
    parts = {
        "train": train,
        "validation": part(found.train, found.validation),
        "test": part(found.validation, found.test),
    }
    unused = int((stops - starts)[order[found.test :]].sum())
    left = _count_rows(series.rows, {"in groups of no part of the split": unused})
    return _dataset(parts, OutputSpec(targets=list(config.targets), **told), (mean_D, scale_D), series, config, left)


def _fit_scale(values_ND: Tensor, scaling: str) -> tuple[Tensor | None, Tensor | None]:
    """What is subtracted, and what it is divided by then; a column that does not vary is not divided."""
    match scaling:
        case "standard":
            scale_D, mean_D = torch.std_mean(values_ND.double(), dim=0, correction=0)
        case "minmax":
            lowest_D, highest_D = values_ND.double().aminmax(dim=0)
            mean_D, scale_D = lowest_D, highest_D - lowest_D
        case _:
            return None, None
    scale_D = scale_D.clamp(max=torch.finfo(torch.float32).max).float()
    return mean_D.float(), torch.where(scale_D > 0, scale_D, 1)
