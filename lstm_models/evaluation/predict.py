"""Tables of predictions for a dataset's test part and for new rows.

Shapes: W sequences, B sequences of a batch, T steps, D inputs, C classes, N rows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lstm_models.config import AnyData, TableData
from lstm_models.data import sequences
from lstm_models.data.builders import sequence_columns
from lstm_models.data.cleaning.frequency import future_timestamps
from lstm_models.data.cleaning.series import Segment, Series, prepare_series
from lstm_models.data.dataset import Dataset, localize_times
from lstm_models.data.output import OutputSpec
from lstm_models.data.readers import files
from lstm_models.data.readers.schema import abbreviate
from lstm_models.data.windows import Batch, LabelledSequences
from lstm_models.evaluation.evaluate import Evaluation
from lstm_models.evaluation.evaluate import predict as predict_tensor
from lstm_models.nn.padding import valid_mask
from lstm_models.utils.errors import TableError

MAX_VALUES = 5_000_000  # predicted values of forecasts that are stored


def predictions_table(evaluation: Evaluation, data: Dataset) -> pd.DataFrame:
    """Return the keys, targets and predictions of the test examples; for forecasts with one row per step.

    Of forecasts with more than 5 million values, only evenly spaced windows are included; the losses of all windows are
    stored separately.
    """
    keys, predictions, y = data.keys(), evaluation.predictions, evaluation.targets
    match data.output.kind:
        case "regression":
            return keys.assign(target=y.numpy(), prediction=predictions.numpy())
        case "classification":
            actual = np.array(data.output.classes, dtype=object)[y.numpy()]
            return pd.concat([keys.assign(target=actual), _class_columns(predictions.softmax(1), data.output)], axis=1)
    every = -(-predictions.numel() // MAX_VALUES)
    predictions, y, keys = predictions[::every], y[::every], keys.iloc[::every]
    windows, steps, _ = predictions.shape
    table = keys.loc[keys.index.repeat(steps)].reset_index(drop=True)
    table["steps_ahead"] = np.tile(np.arange(1, steps + 1, dtype=np.int32), windows)
    for index, name in enumerate(data.output.targets):
        table[name] = y[..., index].flatten().numpy()
        table[f"{name}_predicted"] = predictions[..., index].flatten().numpy()
    return table


@dataclass(frozen=True)
class NewSequences:
    """Sequences to predict from.

    Attributes:
        keys: What identifies the sequences, one row each.
        names: A name for each sequence.
        batch: The inputs.
        times: For forecasts from a table with times, the timestamps of the next steps of each sequence.
    """

    keys: pd.DataFrame
    names: list[str]
    batch: Batch
    times: tuple[Any, ...] = ()


def read_new_rows(path: Path, config: AnyData, columns: tuple[str, ...], output: OutputSpec) -> NewSequences:
    """Read new rows of a table like the one that a model was trained on.

    In a table with one sequence per row, the first column names the sequences, or the row number if that column is an
    input. In a table with one time step per row, a forecast is made from the end of each series, while for a
    classification or regression each group is an example, and the rows need no label.

    Args:
        path: The new rows, a CSV file; with one time step per row also a Parquet file.
        config: The settings with which the rows were read in training.
        columns: The columns that the model reads, in its order.
        output: The model's output.

    Raises:
        TableError: If the rows don't match the settings, or are too few.
    """
    if not isinstance(config, TableData):
        schema = sequence_columns(config)
        table, x_BTD = sequences.read_inputs(path, schema)
        first = str(table.columns[0])
        labels = table.index + 1 if first in schema.inputs else table[first]
        return NewSequences(table, labels.astype(str).tolist(), Batch(x_BTD, torch.empty(0)))
    # read as for a forecast, whatever the task: sorted by time, and no labels needed
    config = config.model_copy(
        update={"path": str(path), "sql": None, "task": "forecast", "target": list(columns), "features": None}
    )
    series = prepare_series(files.read_source(config), config, str(path))
    values_ND = torch.from_numpy(series.values)
    by_series = series.segments_by_series()
    segments = [segments_of_one[-1] for segments_of_one in by_series]
    if output.kind == "forecast":
        segments = [_context(segment, config, str(path)) for segment in segments]
    names = [segment.name or "last window" for segment in segments]
    groups = {config.group: [segment.name for segment in segments]} if config.group else None
    keys = pd.DataFrame(groups, range(len(segments)))
    starts, stops = (torch.tensor([segment[index] for segment in segments]) for index in (1, 2))
    batch = LabelledSequences(values_ND, starts, stops - starts, torch.zeros(len(segments))).get_batch(
        torch.arange(len(segments))
    )
    if output.kind != "forecast" or series.time is None:
        return NewSequences(keys, names, batch)
    times = tuple(_future_times(segments_of_one, series, output.horizon, str(path)) for segments_of_one in by_series)
    return NewSequences(keys, names, batch, times)


def _future_times(segments: list[Segment], series: Series, steps: int, path: str) -> Any:
    """Return the timestamps that follow a series, whose frequency is inferred from all rows, not only the context."""
    assert series.time is not None
    try:
        times = future_timestamps(series.time[segments[0].start : segments[-1].stop], steps, series.zone)
    except ValueError as error:
        location = f"{path}: group {abbreviate(segments[0].name)}" if segments[0].name else path
        raise TableError(f"{location}: {error}") from None
    return localize_times(times, series.zone)


def _context(segment: Segment, config: TableData, path: str) -> Segment:
    """Return the end of a segment, of the length that a forecast needs."""
    if (rows := segment.stop - segment.start) < config.context_length:
        location = f"{path}: group {abbreviate(segment.name)}" if config.group else path
        raise TableError(
            f"{location}: {rows} rows without a gap at the end; a forecast needs {config.context_length}, the "
            "context_length"
        )
    return segment._replace(start=segment.stop - config.context_length)


def predict(program: nn.Module, new: NewSequences, config: AnyData, output: OutputSpec) -> pd.DataFrame:
    """Return a model's predictions for new sequences as a table, with the columns that identify the sequences.

    For regression it has a number per sequence; for classification the most likely class and the probability of each
    class; for forecasts one row per step, with the timestamps that follow.
    """
    x_BTD, _, lengths_B = new.batch
    if lengths_B is not None:
        x_BTD = x_BTD.masked_fill(~valid_mask(lengths_B, x_BTD.size(1)).T.unsqueeze(-1), torch.nan)
    predictions = predict_tensor(program, x_BTD)
    if output.kind == "regression":
        return new.keys.assign(prediction=predictions.numpy())
    if output.kind == "classification":
        return pd.concat([new.keys, _class_columns(predictions, output)], axis=1)
    table = new.keys.loc[new.keys.index.repeat(output.horizon)].reset_index(drop=True)
    if new.times and isinstance(config, TableData) and config.time:
        table[config.time] = pd.concat([pd.Series(times) for times in new.times], ignore_index=True)
    else:
        table["steps_ahead"] = np.tile(np.arange(1, output.horizon + 1), len(predictions))
    for index, name in enumerate(output.targets):
        table[name] = predictions[..., index].flatten().numpy()
    return table


def _class_columns(probabilities_WC: Tensor, output: OutputSpec) -> pd.DataFrame:
    """Return the most likely class of each sequence, and the probability of every class."""
    most_likely = [output.classes[index] for index in probabilities_WC.argmax(1).tolist()]
    columns = zip(output.classes, probabilities_WC.T.numpy(), strict=True)
    return pd.DataFrame({"prediction": most_likely} | {f"probability_{name}": column for name, column in columns})
