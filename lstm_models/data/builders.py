"""Build a dataset from a table: split it, cut windows and fit the scaling. N rows, D columns."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lstm_models.config import AddingProblemData, AnyData, ConfigError, TableData, TutorialData
from lstm_models.data.cleaning.series import RowCounts, Series, prepare_series
from lstm_models.data.dataset import Dataset
from lstm_models.data.output import REGRESSION, OutputSpec
from lstm_models.data.readers import files
from lstm_models.data.sequences import SequenceColumns, Sequences, to_sequences
from lstm_models.data.splits import split_bounds
from lstm_models.data.synthetic import adding, tutorial
from lstm_models.data.windows import LabelledSequences, Windows

Scale = tuple[Tensor | None, Tensor | None]  # mean_D and scale_D


def read_table(config: AnyData) -> pd.DataFrame:
    """Return the table that the configuration describes.

    Raises:
        TableError: as `files.read_source`.
    """
    match config:
        case TutorialData():
            return tutorial.table()
        case AddingProblemData():
            return adding.table(config.length, config.count, config.seed)
        case TableData():
            return files.read_source(config)


def read_dataset(config: AnyData, seed: int) -> Dataset:
    """Read the table and build the dataset, without keeping the table; raise the errors of both steps."""
    return build_dataset(read_table(config), config, seed)


def build_dataset(table: pd.DataFrame, config: AnyData, seed: int) -> Dataset:
    """Build the configured dataset from a table.

    Args:
        table: the table, as `read_table` returns it.
        config: the settings of the data.
        seed: the random seed that assigns labelled groups to the parts, unless the split is by date.

    Raises:
        TableError: if the table does not match the settings.
        ConfigError: if the split exceeds the data, or leaves a part without an example.
    """
    if not isinstance(config, TableData):
        sequences = to_sequences(table, sequence_columns(config))
        return replace(in_sample_dataset(sequences), names=table.iloc[:, 0])  # the first column identifies sequences
    series = prepare_series(table, config, files.source_name(config))
    try:
        return (
            _forecast_dataset(series, config) if config.task == "forecast" else _labelled_dataset(series, config, seed)
        )
    except ConfigError as error:
        raise ConfigError(f"{files.source_name(config)}: {error}") from None


def sequence_columns(config: TutorialData | AddingProblemData) -> SequenceColumns:
    """Return the roles of the columns of a table with one sequence per row."""
    return tutorial.COLUMNS if isinstance(config, TutorialData) else adding.columns(config.length)


def in_sample_dataset(sequences: Sequences) -> Dataset:
    """Return a dataset whose training and test parts are the same sequences."""
    return Dataset(sequences, None, sequences, REGRESSION, in_sample=True)


def _forecast_dataset(series: Series, config: TableData) -> Dataset:
    """Build a dataset of windows; each series is split separately, in chronological order.

    A window belongs to the part that contains all its targets; its inputs may be rows of the previous part.
    """
    values_ND = torch.from_numpy(series.values)
    ranges, rows = _target_ranges(series, config)
    strides = {"train": config.stride, "validation": config.evaluation_stride, "test": config.evaluation_stride}
    windows = {part: _windows(values_ND, series, config, ranges[part], strides[part]) for part in ranges}
    for part in ("train", "test"):
        if windows[part].count == 0:
            needed = config.context_length + config.horizon
            raise ConfigError(
                f"data: too few rows for one window of {needed} steps in the {part} part: {series.rows.used} rows in "
                f"{len(series.segments)} series; reduce context_length or horizon, or change the split"
            )
    training_values = tuple(
        values_ND[begin - config.context_length : end] for begin, end in ranges["train"] if end > begin
    )
    longest = max(map(len, training_values))
    if config.season_length is not None and config.season_length >= longest:
        raise ConfigError(
            f"data.season_length: {config.season_length} given; must be less than {longest}, the number of training "
            "rows of the longest series"
        )
    scale = _fit_scale(torch.cat(training_values), config.scaling)
    output = OutputSpec(
        kind="forecast",
        horizon=config.horizon,
        targets=[series.columns[target] for target in series.targets],
        target_indices=list(series.targets),
        residual=config.residual == "last_value",
    )
    return _dataset(windows, output, scale, series, config, rows, training_values)


def _dataset(
    parts: Mapping[str, Windows | LabelledSequences],
    output: OutputSpec,
    scale: Scale,
    series: Series,
    config: TableData,
    rows: RowCounts,
    training_values: tuple[Tensor, ...] = (),
) -> Dataset:
    validation = parts["validation"] if parts["validation"].count else None
    return Dataset(
        parts["train"], validation, parts["test"], output, False, *scale,
        config=config, series=series, rows=rows, training_values=training_values,
    )  # fmt: skip


def _target_ranges(series: Series, config: TableData) -> tuple[dict[str, list[tuple[int, int]]], RowCounts]:
    """Return for each part the ranges of rows that may be targets, one per segment, and the updated row counts.

    The first context_length rows of a segment can't be targets. A series is split as a whole, even if it is cut at
    gaps, so that none of its training rows is later than its test rows.
    """
    ranges: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    later, short = 0, 0
    for segments in series.segments_by_series():
        start, stop = segments[0].start, segments[-1].stop
        bounds = split_bounds(stop - start, config.split, None if series.time is None else series.time[start:stop])
        later += stop - start - bounds.test
        for segment in segments:
            longest = 0
            for part, begin, end in zip(ranges, (0, *bounds[:2]), bounds, strict=True):
                first, last = max(start + begin, segment.start + config.context_length), min(start + end, segment.stop)
                ranges[part].append((first, last))
                longest = max(longest, last - first)
            if longest < config.horizon:
                short += max(0, min(start + bounds.test, segment.stop) - segment.start)
    return ranges, _add_dropped(
        series.rows, {"after the test part": later, "in a segment too short for a window": short}
    )


def _add_dropped(rows: RowCounts, dropped: Mapping[str, int]) -> RowCounts:
    """Return row counts that include these further dropped rows, by reason."""
    more = {reason: count for reason, count in dropped.items() if count}
    return RowCounts(rows.read, rows.dropped | more, rows.used - sum(more.values()))


def _windows(
    values_ND: Tensor, series: Series, config: TableData, ranges: list[tuple[int, int]], stride: int
) -> Windows:
    """Return all windows whose targets lie within these ranges of rows."""
    starts, counts = [], []
    for begin, end in ranges:
        if (count := (end - begin - config.horizon) // stride + 1) > 0:
            starts.append(begin - config.context_length)
            counts.append(count)
    return Windows(
        values_ND,
        series.targets,
        config.context_length,
        config.horizon,
        stride,
        torch.tensor(starts, dtype=torch.int64),
        torch.tensor(counts, dtype=torch.int64),
    )


def _labelled_dataset(series: Series, config: TableData, seed: int) -> Dataset:
    """Build a dataset of whole groups; split by date in chronological order, otherwise in a random order."""
    assert series.labels is not None
    if config.gaps == "split":
        raise ConfigError("data.gaps: split given, which is for forecasts only; a labelled group is one sequence")
    values_ND = torch.from_numpy(series.values)
    starts = np.array([segment.start for segment in series.segments])
    stops = np.array([segment.stop for segment in series.segments])
    times = series.time[starts] if isinstance(config.split.train, str) and series.time is not None else None
    shuffled = np.random.default_rng(seed).permutation(len(starts))
    order = shuffled if times is None else np.argsort(times, kind="stable")
    bounds = split_bounds(len(order), config.split, None if times is None else times[order])
    if bounds.train == 0 or bounds.test == bounds.validation:
        raise ConfigError(
            f"data.split: of {len(order)} groups, none is in the training part, or none in the test part; change the "
            "dates"
        )
    labels = torch.from_numpy(series.labels)

    def part(begin: int, end: int) -> LabelledSequences:
        groups = order[begin:end]
        return LabelledSequences(
            values_ND, torch.from_numpy(starts[groups]), torch.from_numpy((stops - starts)[groups]), labels[groups]
        )

    parts = {
        "train": part(0, bounds.train),
        "validation": part(bounds.train, bounds.validation),
        "test": part(bounds.validation, bounds.test),
    }
    rows = np.concatenate([np.arange(starts[group], stops[group]) for group in order[: bounds.train]])
    scale = _fit_scale(values_ND[torch.from_numpy(rows)], config.scaling)
    output = _label_output(parts["train"], series, config)
    unused = int((stops - starts)[order[bounds.test :]].sum())
    counts = _add_dropped(series.rows, {"in groups outside the split": unused})
    return _dataset(parts, output, scale, series, config, counts)


def _label_output(train: LabelledSequences, series: Series, config: TableData) -> OutputSpec:
    """Return the output specification for labels; numbers are scaled by the training groups."""
    targets = list(config.targets)
    if config.task == "regress":
        mean_1, scale_1 = _fit_scale(train.y_G.unsqueeze(1), config.scaling)
        scale: dict[str, Any] = {}
        if mean_1 is not None and scale_1 is not None:
            scale = {"mean": mean_1.item(), "scale": scale_1.item()}
        return OutputSpec(kind="regression", targets=targets, **scale)
    if bool((train.y_G == train.y_G[0]).all()):
        raise ConfigError(
            f"data.split: all {train.count} groups in the training part have one class, "
            f"{series.classes[int(train.y_G[0])]}; change the split or the seed"
        )
    return OutputSpec(kind="classification", targets=targets, classes=list(series.classes))


def _fit_scale(values_ND: Tensor, scaling: str) -> Scale:
    """Return the offset to subtract and the scale to divide by; the scale of a constant column is 1."""
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
