"""The tutorial's data: two companies' share values on four days, and the label of the fifth."""

import pandas as pd

from lstm_models.data.sequences import SequenceColumns

COLUMNS = SequenceColumns(inputs=("day_1", "day_2", "day_3", "day_4"), target="label")


def table() -> pd.DataFrame:
    """Return the table, one row per company.

    The companies differ on the first day only, so the LSTM must remember that day over the other three.
    """
    return pd.DataFrame(
        [("A", 0.0, 0.5, 0.25, 1.0, 0.0), ("B", 1.0, 0.5, 0.25, 1.0, 1.0)],
        columns=["company", *COLUMNS.inputs, COLUMNS.target],
    )
