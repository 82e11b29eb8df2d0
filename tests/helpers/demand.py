"""Hourly table that grows: a longer one starts with the same rows as a shorter one."""

from pathlib import Path

import numpy as np
import pandas as pd


def write_demand(path: Path, hours: int) -> None:
    """Write the first hours of the series as CSV, with the columns hour and demand."""
    t = np.arange(hours)
    noise = np.random.default_rng(0).normal(0, 0.2, 2000)[:hours]
    hour = pd.date_range("2026-01-01", periods=hours, freq="h")
    pd.DataFrame({"hour": hour, "demand": np.sin(t / 12 * np.pi) + noise}).to_csv(path, index=False)
