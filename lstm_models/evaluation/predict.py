"""What was told, as a table: of a dataset's test part, and of new rows. S horizon steps, K targets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lstm_models.config import AnyData, TableData
from lstm_models.data import sequences
from lstm_models.data.cleaning.frequency import future_timestamps
from lstm_models.data.cleaning.series import Segment, Series, prepare_series
from lstm_models.data.dataset import Dataset, localize_times, sequence_columns
from lstm_models.data.output import OutputSpec
from lstm_models.data.readers import files
from lstm_models.data.readers.schema import abbreviate
from lstm_models.data.windows import Batch, LabelledSequences
from lstm_models.evaluation.evaluate import Evaluation
from lstm_models.evaluation.evaluate import predict as tell
from lstm_models.nn.padding import is_real
from lstm_models.utils.errors import TableError

MAX_ROWS = 5_000_000  # numbers of forecasts that are stored


def predictions_table(judgement: Evaluation, data: Dataset) -> pd.DataFrame:
    """The test examples' keys, what was to be told and what was told; of forecasts a row for each step.

    Of more than 5 million numbers, every so-many-th window is there, evenly spaced; the losses of all stand elsewhere.
    """
    keys, told, y = data.keys(), judgement.predictions, judgement.targets
    match data.output.kind:
        case "regression":
            return keys.assign(target=y.numpy(), prediction=told.numpy())
        case "classification":
            right = np.array(data.output.classes, dtype=object)[y.numpy()]
            return pd.concat([keys.assign(target=right), _most_likely(told.softmax(1), data.output)], axis=1)
    every = -(-told.numel() // MAX_ROWS)
    told, y, keys = told[::every], y[::every], keys.iloc[::every]
    windows, steps, _ = told.shape
    table = keys.loc[keys.index.repeat(steps)].reset_index(drop=True)
    table["steps_ahead"] = np.tile(np.arange(1, steps + 1, dtype=np.int32), windows)
    for place, name in enumerate(data.output.targets):
        table[name] = y[..., place].flatten().numpy()
        table[f"{name}_predicted"] = told[..., place].flatten().numpy()
    return table


@dataclass(frozen=True)
class NewSequences:
    """Sequences that a model has not been told the end of: what is known of them, a row each, and what is read.

    names: what each is called. times: of a forecast from a table with times, the time stamps of each one's next steps.
    """

    keys: pd.DataFrame
    names: list[str]
    batch: Batch
    times: tuple[Any, ...] = ()


def read_new_rows(path: Path, config: AnyData, columns: tuple[str, ...], output: OutputSpec) -> NewSequences:
    """New rows of a table such as a model was trained on.

    Of a table with a sequence a row, the first column names them, or the row's number where it is an input. Of one with
    a time step a row: a forecast is made from the end of each series; of labelled sequences each group is an example,
    and the rows need no label.

    Args:
        path: the new rows, a CSV file; with a time step a row, Parquet too.
        config: how the rows were read in training.
        columns: which of their columns the model reads, in its order.
        output: what it tells.

    Raises:
        TableError: if the rows do not fit, or are too few.
    """
    if not isinstance(config, TableData):
        held = sequence_columns(config)
        table, x_BTD = sequences.read_inputs(path, held)
        first = str(table.columns[0])
        called = table.index + 1 if first in held.inputs else table[first]
        return NewSequences(table, called.astype(str).tolist(), Batch(x_BTD, torch.empty(0)))
    # as what is read is read, whatever it is for: rows in the order of time, with nothing to be told of them
    config = config.model_copy(
        update={"path": str(path), "sql": None, "task": "forecast", "target": list(columns), "features": None}
    )
    series = prepare_series(files.read_source(config), config, str(path))
    values_ND = torch.from_numpy(series.values)
    of_each = series.segments_by_series()
    pieces = [of_one[-1] for of_one in of_each]
    if output.kind == "forecast":
        pieces = [_context(piece, config, str(path)) for piece in pieces]
    names = [piece.name or "the end" for piece in pieces]
    keys = pd.DataFrame({config.group: [piece.name for piece in pieces]} if config.group else None, range(len(pieces)))
    starts, stops = (torch.tensor([piece[index] for piece in pieces]) for index in (1, 2))
    batch = LabelledSequences(values_ND, starts, stops - starts, torch.zeros(len(pieces))).get_batch(
        torch.arange(len(pieces))
    )
    if output.kind != "forecast" or series.time is None:
        return NewSequences(keys, names, batch)
    return NewSequences(
        keys, names, batch, tuple(_future_times(of_one, series, output.horizon, str(path)) for of_one in of_each)
    )


def _future_times(of_one: list[Segment], series: Series, steps: int, path: str) -> Any:
    """The times that follow a series: all of it tells its grid, and not only what a forecast sees."""
    assert series.time is not None
    try:
        times = future_timestamps(series.time[of_one[0].start : of_one[-1].stop], steps, series.zone)
    except ValueError as error:
        where = f"{path}: group {abbreviate(of_one[0].name)}" if of_one[0].name else path
        raise TableError(f"{where}: {error}") from None
    return localize_times(times, series.zone)


def _context(piece: Segment, config: TableData, path: str) -> Segment:
    """The end of a series, as much of it as a forecast sees."""
    if (rows := piece.stop - piece.start) < config.context_length:
        where = f"{path}: group {abbreviate(piece.name)}" if config.group else path
        raise TableError(f"{where}: {rows} rows without a gap at the end; a forecast sees {config.context_length}")
    return piece._replace(start=piece.stop - config.context_length)


def predict(program: nn.Module, new: NewSequences, config: AnyData, output: OutputSpec) -> pd.DataFrame:
    """What a model tells of new sequences: beside their names a number; or the likeliest class and how likely each is;
    or in rows of their own the next steps, with the time stamps that follow."""
    x_BTD, _, lengths_B = new.batch
    if lengths_B is not None:
        x_BTD = x_BTD.masked_fill(~is_real(lengths_B, x_BTD.size(1)).T.unsqueeze(-1), torch.nan)
    told = tell(program, x_BTD)
    if output.kind == "regression":
        return new.keys.assign(prediction=told.numpy())
    if output.kind == "classification":
        return pd.concat([new.keys, _most_likely(told, output)], axis=1)
    table = new.keys.loc[new.keys.index.repeat(output.horizon)].reset_index(drop=True)
    if new.times and isinstance(config, TableData) and config.time:
        table[config.time] = pd.concat([pd.Series(times) for times in new.times], ignore_index=True)
    else:
        table["steps_ahead"] = np.tile(np.arange(1, output.horizon + 1), len(told))
    for place, name in enumerate(output.targets):
        table[name] = told[..., place].flatten().numpy()
    return table


def _most_likely(probabilities_WC: Tensor, output: OutputSpec) -> pd.DataFrame:
    """The likeliest class of each, and how likely all are."""
    likeliest = [output.classes[number] for number in probabilities_WC.argmax(1).tolist()]
    columns = zip(output.classes, probabilities_WC.T.numpy(), strict=True)
    return pd.DataFrame({"prediction": likeliest} | {f"probability_{name}": column for name, column in columns})
