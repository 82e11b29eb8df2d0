"""Measure the memory that reading, windowing and 200 training steps of a large table add, and rows per second.

python benchmarks/data.py [--rows 100000 1000000 10000000]

For each size a Parquet series (a timestamp and a value, 16 bytes per row) is generated; a new process reads it, builds
the dataset and trains for 200 steps of 64 windows in random order. The added memory is the peak of the process minus
its memory after the imports, as a ratio to the memory of the two columns in pandas.
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

MAX_RATIO = 3.0  # added memory / memory of the columns, at 10 million rows
STEPS = 200


def generate(path: Path, rows: int) -> None:
    """Write a daily sine wave with noise, one row per second."""
    step = np.arange(rows)
    values = np.sin(step * (2 * np.pi / 86_400)) + np.random.default_rng(0).normal(0, 0.1, rows)
    time = np.datetime64("2020-01-01", "ns") + step.astype("timedelta64[s]")
    pd.DataFrame({"time": time, "value": values}).to_parquet(path, index=False)


def measure(path: Path) -> dict[str, float]:
    """Run all stages in this process; return the seconds and bytes of each."""
    import lightning as L

    from lstm_models.config import CompareConfig, TableData
    from lstm_models.data.builders import build_dataset, read_table
    from lstm_models.data.loader import BatchLoader
    from lstm_models.training.trainer import fit

    class StopAfterSteps(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            trainer.should_stop = trainer.global_step >= STEPS

    baseline = psutil.Process().memory_info().rss
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
            callbacks=[StopAfterSteps()],
        )
    clock.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    reading, windowing, batching, training = np.diff(clock)
    return {
        "columns": columns,
        "added": peak - baseline,
        "reading": reading,
        "windowing": windowing,
        "batch": batching / STEPS,
        "training": training,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(
        "| rows | columns, MB | added, MB | ratio | reading, rows/s | windowing, rows/s | a batch, ms | 200 steps, s |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    ratio = 0.0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "series.parquet"
        for rows in arguments.rows:
            generate(path, rows)
            command = [sys.executable, __file__, "--measure", str(path)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            ratio = result["added"] / result["columns"]
            print(
                f"| {rows:,} | {result['columns'] / 1e6:.0f} | {result['added'] / 1e6:.0f} | {ratio:.2f} "
                f"| {rows / result['reading']:.2g} | {rows / result['windowing']:.2g} | {1000 * result['batch']:.2f} "
                f"| {result['training']:.1f} |",
                flush=True,
            )
    if max(arguments.rows) >= 10**7:
        verdict = "met" if ratio <= MAX_RATIO else "MISSED"
        print(f"\nTarget at {max(arguments.rows):,} rows: at most {MAX_RATIO:g}: {verdict}")


if __name__ == "__main__":
    main()
