"""Hourly load as a table that grows: a longer one starts with the same rows as a shorter one."""

from pathlib import Path

import numpy as np
import pandas as pd


def hourly_load(rows: int) -> pd.DataFrame:
    """Return a day's sine and noise, with the columns time and load."""
    hours = np.arange(rows)
    load = 10 + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * np.random.default_rng(0).normal(size=rows)
    time = pd.date_range("2024-01-01", periods=rows, freq="h").astype(str)
    return pd.DataFrame({"time": time, "load": np.round(load, 4)})


def write_load(rows: int) -> None:
    """Write the table to demand.csv in the working directory."""
    hourly_load(rows).to_csv(Path("demand.csv"), index=False)


def hour(row: int) -> str:
    """Return the ISO time of a row, as lineage stores it."""
    return (pd.Timestamp("2024-01-01") + pd.Timedelta(row, "h")).isoformat()
