"""Labels of groups: one class or number per group. R rows of the table, N rows that are used, G segments."""

import numpy as np

from lstm_models.config import TableData
from lstm_models.data.cleaning.ordering import reorder, value_changes
from lstm_models.data.cleaning.parsing import Array, Keys
from lstm_models.data.readers.schema import abbreviate
from lstm_models.utils.errors import TableError


def labels_by_group(order: Array, keys: Keys, config: TableData) -> Array | None:
    """Return the label of each group, by the group's code; None if the table has no labels.

    Args:
        order: the row indices, sorted by group.
        keys: the keys of the table, with a label for each row.
        config: the settings of the data.

    Raises:
        TableError: if the rows of a group have different labels.
    """
    if keys.labels is None:
        return None
    codes, labels = reorder(keys.codes, order), reorder(keys.labels, order)
    starts = np.flatnonzero(value_changes(codes))
    differs = labels != np.repeat(labels[starts], np.diff(starts, append=len(order)))
    if differs.any():
        at = int(np.argmax(differs))
        pair = [labels[starts[np.searchsorted(starts, at, side="right") - 1]], labels[at]]
        first, second = (abbreviate(keys.classes[label] if keys.classes else label) for label in pair)
        raise TableError(
            f"column {abbreviate(config.targets[0])}, row {order[at] + 1}: group "
            f"{abbreviate(keys.names[codes[at]])} has both {first} and {second}; a group must have one label"
        )
    by_code = np.zeros(len(keys.names), dtype=labels.dtype)
    by_code[codes[starts]] = labels[starts]
    return by_code


def segment_labels(
    by_code: Array | None, codes: Array, keys: Keys, config: TableData
) -> tuple[Array | None, tuple[str, ...]]:
    """Return the labels of segments with these group codes, (G), and the names of the classes that occur.

    Raises:
        TableError: if fewer than two classes occur.
    """
    if by_code is None:
        return None, ()
    if config.task == "regress":
        return by_code[codes].astype(np.float32), ()
    classes, labels = np.unique(by_code[codes], return_inverse=True)
    if len(classes) < 2:
        only = abbreviate(keys.classes[classes[0]])
        raise TableError(
            f"column {abbreviate(config.targets[0])}: each group's label is {only}; at least two classes are required"
        )
    return labels, tuple(keys.classes[code] for code in classes)
