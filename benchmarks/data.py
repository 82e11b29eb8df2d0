"""Tables at size: the memory that reading, windowing and 200 training steps add, and rows per second.

python benchmarks/data.py [--rows 100000 1000000 10000000]

A Parquet series (a time stamp and a value, 16 bytes a row) is generated for each size; a fresh process reads it, makes
the dataset and trains 200 steps of 64 windows in random order. Added memory is the process's peak less what it had in
use after the imports, as a ratio to the memory of the two columns as pandas holds them.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

AT_MOST = 3.0  # times the columns' memory, at 10 million rows
STEPS = 200


def generate(path: Path, rows: int) -> None:
    """A daily wave with noise, one row a second."""
    step = np.arange(rows)
    values = np.sin(step * (2 * np.pi / 86_400)) + np.random.default_rng(0).normal(0, 0.1, rows)
    time = np.datetime64("2020-01-01", "ns") + step.astype("timedelta64[s]")
    pd.DataFrame({"time": time, "value": values}).to_parquet(path, index=False)


def measure(path: Path) -> dict[str, float]:
    """In this process: seconds and bytes of each stage."""
    import lightning as L

    from lstm_models.config import CompareConfig, TableData
    from lstm_models.data.dataset import build_dataset, read_table
    from lstm_models.data.loader import BatchLoader
    from lstm_models.training.trainer import fit

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            trainer.should_stop = trainer.global_step >= STEPS

    before = psutil.Process().memory_info().rss
    data = {
        "kind": "table", "path": str(path), "time": "time", "target": "value", "horizon": 24,
        "split": {"train": 0.8, "validation": 0.0},
    }  # fmt: skip
    contenders = {"hand_built": {"training": {"num_threads": 1, "patience": None}}}
    config = CompareConfig.model_validate({"experiment": "data", "data": data, "contenders": contenders})
    assert isinstance(config.data, TableData)
    clock = [time.perf_counter()]
    table = read_table(config.data)
    columns = int(table.memory_usage(index=False, deep=True).sum())
    clock.append(time.perf_counter())
    dataset = build_dataset(table, config.data, config.seed)
    del table
    clock.append(time.perf_counter())
    batches = iter(BatchLoader(dataset.train, batch_size=64, shuffle=True))
    for _ in range(STEPS):
        next(batches)
    del batches
    clock.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as directory:
        fit(
            config.contenders["hand_built"],
            dataset,
            seed=0,
            last_path=Path(directory) / "last.ckpt",
            callbacks=[Stop()],
        )
    clock.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    reading, windowing, taking, training = np.diff(clock)
    return {
        "columns": columns,
        "added": peak - before,
        "reading": reading,
        "windowing": windowing,
        "taking": taking / STEPS,
        "training": training,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    print(
        "| rows | columns, MB | added, MB | ratio | reading, rows/s | windowing, rows/s | a batch, ms | 200 steps, s |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    ratio = 0.0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "series.parquet"
        for rows in given.rows:
            generate(path, rows)
            command = [sys.executable, __file__, "--measure", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            ratio = found["added"] / found["columns"]
            print(
                f"| {rows:,} | {found['columns'] / 1e6:.0f} | {found['added'] / 1e6:.0f} | {ratio:.2f} "
                f"| {rows / found['reading']:.2g} | {rows / found['windowing']:.2g} | {1000 * found['taking']:.2f} "
                f"| {found['training']:.1f} |",
                flush=True,
            )
    if max(given.rows) >= 10**7:
        print(f"\nTarget at {max(given.rows):,} rows: at most {AT_MOST:g}: {'met' if ratio <= AT_MOST else 'MISSED'}")


if __name__ == "__main__":
    main()
