"""ETTh1, univariate: the LSTMs at five horizons beside baselines and the published figures of Informer's LSTMa.

python benchmarks/etth1.py PATH/TO/ETTh1.csv [--horizons 24 48] [--epochs N] > etth1.md
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from lstm_models.checkpoint import load_network
from lstm_models.config import Contender, Split, TableData
from lstm_models.data import source
from lstm_models.data.dataset import of_rows
from lstm_models.evaluation import forecasting_baselines, judge_forecasts
from lstm_models.training import fit

# Zhou et al. 2021, table 1: LSTMa on ETTh1, univariate; by horizon MSE and MAE of standardised values
PUBLISHED = {24: (0.114, 0.272), 48: (0.193, 0.358), 168: (0.236, 0.392), 336: (0.590, 0.698), 720: (0.683, 0.768)}


def contender(kind: str, epochs: int) -> Contender:
    return Contender.model_validate(
        {
            "model": {"kind": kind, "hidden_size": 64, "head": "linear"},
            "training": {
                "max_epochs": epochs, "learning_rate": 0.001, "batch_size": 64, "shuffle": True,
                "patience": 3, "clip_norm": 1.0, "threads": 1, "log_every_n_steps": 1000000,
            },
            "fine_tuning": {"max_epochs": epochs + 1},
        }
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--horizons", type=int, nargs="+", default=list(PUBLISHED))
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    print("| horizon | model | MSE | MAE | seconds |\n| ---: | --- | ---: | ---: | ---: |")
    for horizon in given.horizons:
        data = TableData(
            kind="table", path=given.path, target="OT", time="date", horizon=horizon,
            split=Split(train=8640, validation=2880, test=2880), season=24,
        )  # fmt: skip
        dataset = of_rows(source.read(data), data, given.path, seed=0)
        rows = [("LSTMa, published", *PUBLISHED[horizon], float("nan"))]
        for name, forecast in forecasting_baselines(dataset, data.season).items():
            scores = judge_forecasts(forecast, dataset, 24).scores
            rows.append((name, scores.scaled_mse, scores.scaled_mae, float("nan")))
        for kind in ("hand_built", "built_in"):
            with tempfile.TemporaryDirectory() as directory:
                best = Path(directory) / "best.ckpt"
                began = time.perf_counter()
                done = fit(
                    contender(kind, given.epochs), dataset, seed=0, save_to=Path(directory) / "last.ckpt", best_to=best
                )
                seconds = time.perf_counter() - began
                scores = judge_forecasts(load_network(best).eval(), dataset, 24).scores
            print(done, file=sys.stderr)
            rows.append((kind, scores.scaled_mse, scores.scaled_mae, seconds))
        for name, mse, mae, seconds in rows:
            print(f"| {horizon} | {name} | {mse:.3f} | {mae:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
