"""A table as what is trained on, validated on and judged by. N rows, D columns, K targets."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lstm_models.config import NUMBER, ConfigError, Output, TableData
from lstm_models.data.examples import Examples, Labelled, Windows
from lstm_models.data.series import Rows, Series, prepare
from lstm_models.data.splits import Ends, ends
from lstm_models.data.tables import Columns, Sequences, to_sequences
from lstm_models.network import Scaling


@dataclass(frozen=True)
class Dataset:
    """Examples for each purpose, and what it takes to build a network for them.

    validation is None where there is none; then the last epoch counts as the best. in_sample says that the test is on
    what was trained on. columns: the D inputs' names. center_D, spread_D: what the inputs are scaled by, fitted on the
    training part alone; None where nothing is scaled. rows: how many were read, dropped and used, of a table of rows.
    trained: of forecasts, the rows of the training part, views, series by series.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    output: Output
    columns: tuple[str, ...]
    in_sample: bool
    center_D: Tensor | None = None
    spread_D: Tensor | None = None
    rows: Rows | None = None
    trained: tuple[Tensor, ...] = ()

    def trained_rows(self) -> Tensor:
        """The rows of a table's training part, (N, D), in the order of series and time."""
        return torch.cat(self.trained)

    def scaling(self) -> Scaling | None:
        """A network's own copy of what the inputs are scaled by."""
        return None if self.center_D is None or self.spread_D is None else Scaling(self.center_D, self.spread_D)

    @property
    def input_size(self) -> int:
        return self.train.take(torch.tensor([0])).x_BTD.size(-1)


def of_sequences(table: pd.DataFrame, columns: Columns) -> Dataset:
    """Of a table with a sequence a row: trained and judged on all of them.

    Raises:
        TableError: as `tables.numbers`.
    """
    return in_sample(to_sequences(table, columns), columns.inputs)


def in_sample(sequences: Sequences, columns: tuple[str, ...] = ()) -> Dataset:
    """Trained and judged on the same sequences."""
    return Dataset(sequences, None, sequences, NUMBER, columns, in_sample=True)


def of_rows(table: pd.DataFrame, config: TableData, source: str, seed: int) -> Dataset:
    """Of a table with a time step a row.

    Raises:
        TableError: as `series.prepare`.
        ConfigError: if the split asks for what is not there, or leaves a part without a window.
    """
    series = prepare(table, config, source)
    return _forecasts(series, config) if config.task == "forecast" else _labelled(series, config, seed)


def _forecasts(series: Series, config: TableData) -> Dataset:
    """Windows; each series is split by itself, in the order of time.

    A window belongs to the part in which all its targets lie; what it sees may reach back into the part before.
    """
    values_ND = torch.from_numpy(series.values)
    spans = _spans(series, config)
    windows = {
        name: _windows(values_ND, series, config, of_part, config.stride if name == "train" else 1)
        for name, of_part in spans.items()
    }
    for name in ("train", "test"):
        if windows[name].count == 0:
            needed = config.context_length + config.horizon
            raise ConfigError(f"data: too few rows for one window of {needed} steps in the {name} part")
    trained = tuple(values_ND[begin - config.context_length : end] for begin, end in spans["train"] if end > begin)
    center_D, spread_D = _scale(torch.cat(trained), config.scaling)
    output = Output(
        kind="forecast",
        steps=config.horizon,
        targets=[series.columns[target] for target in series.targets],
        places=list(series.targets),
        residual=config.residual == "last_value",
    )
    validation = windows["validation"] if windows["validation"].count else None
    return Dataset(
        windows["train"],
        validation,
        windows["test"],
        output,
        series.columns,
        False,
        center_D,
        spread_D,
        series.rows,
        trained,
    )


def _spans(series: Series, config: TableData) -> dict[str, list[tuple[int, int]]]:
    """By part, from which row to which there may be targets: in each piece, after a context's length of it.

    A series that was cut at its gaps is split as a whole, so that none of its training lies behind its test.
    """
    spans: dict[str, list[tuple[int, int]]] = {"train": [], "validation": [], "test": []}
    for _, pieces in itertools.groupby(series.groups, key=lambda piece: piece.name):
        of_one = list(pieces)
        start, stop = of_one[0].start, of_one[-1].stop
        found = ends(stop - start, config.split, None if series.time is None else series.time[start:stop])
        for name, begin, end in zip(spans, (0, *found[:2]), found, strict=True):
            for piece in of_one:
                first = max(start + begin, piece.start + config.context_length)
                spans[name].append((first, min(start + end, piece.stop)))
    return spans


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


def _labelled(series: Series, config: TableData, seed: int) -> Dataset:
    """Whole groups; by date in the order of time, otherwise in an order drawn from the seed."""
    assert series.labels is not None
    if config.gaps == "split":
        raise ConfigError("data.gaps: split is for forecasts; a group with a label is one sequence")
    values_ND = torch.from_numpy(series.values)
    starts = np.array([group.start for group in series.groups])
    stops = np.array([group.stop for group in series.groups])
    times = series.time[starts] if isinstance(config.split.train, str) and series.time is not None else None
    drawn = np.random.default_rng(seed).permutation(len(starts))
    order = drawn if times is None else np.argsort(times, kind="stable")
    found: Ends = ends(len(order), config.split, None if times is None else times[order])
    if found.train == 0 or found.test == found.validation:
        raise ConfigError(f"data.split: of {len(order)} groups none is left for training or for the test")
    labels = torch.from_numpy(series.labels)

    def part(begin: int, end: int) -> Labelled:
        chosen = order[begin:end]
        return Labelled(
            values_ND, torch.from_numpy(starts[chosen]), torch.from_numpy((stops - starts)[chosen]), labels[chosen]
        )

    train = part(0, found.train)
    rows = np.concatenate([np.arange(starts[group], stops[group]) for group in order[: found.train]])
    center_D, spread_D = _scale(values_ND[torch.from_numpy(rows)], config.scaling)
    output = Output(
        kind="classes" if config.task == "classify" else "number",
        targets=[str(config.target)],
        classes=list(series.classes),
    )
    validation = part(found.train, found.validation)
    return Dataset(
        train,
        validation if validation.count else None,
        part(found.validation, found.test),
        output,
        series.columns,
        False,
        center_D,
        spread_D,
        series.rows,
    )


def _scale(values_ND: Tensor, scaling: str) -> tuple[Tensor | None, Tensor | None]:
    """What is subtracted, and what it is divided by then; a column that does not vary is not divided."""
    match scaling:
        case "standard":
            spread_D, center_D = torch.std_mean(values_ND.double(), dim=0, correction=0)
        case "minmax":
            lowest_D, highest_D = values_ND.double().aminmax(dim=0)
            center_D, spread_D = lowest_D, highest_D - lowest_D
        case _:
            return None, None
    spread_D = spread_D.clamp(max=torch.finfo(torch.float32).max).float()
    return center_D.float(), torch.where(spread_D > 0, spread_D, 1)
