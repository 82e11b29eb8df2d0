"""Table of the hourly load of two sites, with and without missing values, and its configuration of ten lines."""

import numpy as np
import pandas as pd

CONTEXT, HORIZON, SEASON = 24, 6, 24
POWER = f"""\
data:
  kind: table
  path: power.csv
  time: time
  group: site
  target: load
  missing: interpolate
  context_length: {CONTEXT}
  horizon: {HORIZON}
  season_length: {SEASON}
"""
SITES = ("north", "south")


def power(rows: int = 200) -> pd.DataFrame:
    """Return a day's sine and a trend for each site."""
    hours = np.arange(rows)
    load = 10 + 3 * np.sin(2 * np.pi * hours / SEASON) + 0.01 * hours
    time = pd.date_range("2024-01-01", periods=rows, freq="h").astype(str)
    parts = [
        pd.DataFrame({"site": site, "time": time, "load": np.round(load * scale, 4)})
        for site, scale in zip(SITES, (1, 2), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def with_holes() -> pd.DataFrame:
    """Return the table with the first three loads of one site missing, and two in the middle of the other."""
    table = power()
    table.loc[[0, 1, 2, 250, 251], "load"] = np.nan
    return table


def last_windows() -> np.ndarray:
    """Return the context of a forecast from the end of each site: (sites, hours, 1)."""
    return np.stack([rows["load"].to_numpy(np.float32)[-CONTEXT:, None] for _, rows in power().groupby("site")])
