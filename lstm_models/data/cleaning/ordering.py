"""Order of a table's rows, and duplicates. R rows of the table, N rows that are used."""

import numpy as np
from numpy.typing import NDArray

from lstm_models.config import TableData
from lstm_models.data.cleaning.parsing import Array, Keys, Mask
from lstm_models.data.readers.schema import abbreviate
from lstm_models.utils.errors import TableError


def reorder(array: Array, order: Array) -> Array:
    """Return array[order]; without a copy if that is the array itself."""
    return array if len(order) == len(array) and (order[1:] > order[:-1]).all() else array[order]


def value_changes(array: Array) -> Mask:
    """Return a mask (N) of the values that differ from the previous one; the first counts as different."""
    return np.concatenate([[True], array[1:] != array[:-1]])


def row_location(position: int, order: Array, keys: Keys, config: TableData) -> str:
    """Return, for messages, the location in the source of the row at a position of the order."""
    row = int(order[position])
    group = f" (group {abbreviate(keys.names[keys.codes[row]])})" if config.group else ""
    return f"column {abbreviate(config.time)}, row {row + 1}{group}"


def sort_rows(order: Array, keys: Keys, config: TableData) -> Array:
    """Return the row indices sorted by group, then by time; rows of equal time keep the source's order.

    Raises:
        TableError: if the rows of a group are not in chronological order and `unsorted` is error.
    """
    codes = reorder(keys.codes, order)
    if (codes[1:] < codes[:-1]).any():
        order = order[np.argsort(codes, kind="stable")]
        codes = reorder(keys.codes, order)
    if keys.time is None:
        return order
    time = reorder(keys.time, order)
    is_earlier = (time[1:] < time[:-1]) & (codes[1:] == codes[:-1])
    if not is_earlier.any():
        return order
    if config.unsorted == "error":
        at = int(np.argmax(is_earlier)) + 1
        location = row_location(at, order, keys, config)
        raise TableError(f"{location}: {time[at]} comes after {time[at - 1]}; set unsorted to sort")
    return order[np.lexsort((time, codes))]


def drop_duplicates(order: Array, keys: Keys, config: TableData, dropped: dict[str, int]) -> tuple[Array, Array | None]:
    """Drop rows with the same group and time, and count them in `dropped`.

    Returns:
        The order with one row per time, and None; or for `mean` the order of all rows, and the positions at which the
        runs of equal times start.

    Raises:
        TableError: if there are duplicates and `duplicates` is error.
    """
    if keys.time is None:
        return order, None
    time = reorder(keys.time, order)
    is_new = value_changes(time) | value_changes(reorder(keys.codes, order))
    if is_new.all():
        return order, None
    if config.duplicates == "error":
        at = int(np.argmin(is_new))
        location = row_location(at, order, keys, config)
        raise TableError(
            f"{location}: {time[at]} is in row {order[at - 1] + 1} already; set duplicates to first, last or mean"
        )
    dropped["duplicate time"] = int(len(is_new) - is_new.sum())
    if config.duplicates == "mean":
        return order, np.flatnonzero(is_new)
    return order[is_new if config.duplicates == "first" else np.append(is_new[1:], True)], None


def gather_rows(values: NDArray[np.float32], order: Array, runs: Array | None) -> NDArray[np.float32]:
    """Return the values in this order, each run of equal times replaced with its mean.

    It works in place, one column at a time, because a copy would double the memory.
    """
    count = len(order if runs is None else runs)
    if runs is None and (order[1:] > order[:-1]).all() and count == len(values):
        return values
    for column in values.T:
        ordered = column[order]
        if runs is not None:
            present = ~np.isnan(ordered)
            number = np.add.reduceat(present, runs, dtype=np.int64)
            total = np.add.reduceat(np.where(present, ordered, 0), runs, dtype=np.float64)
            ordered = np.divide(total, number, out=np.full(count, np.nan), where=number > 0)
        column[:count] = ordered
    return values[:count]
