"""Evaluate the recipe etth1 (ETTh1, univariate) at five horizons against baselines and the published LSTMa.

python benchmarks/etth1.py PATH/TO/ETTh1.csv [--horizons 24 48] > etth1.md

MSE and MAE are computed on standardised values of the test part; seconds cover both trainings. `lstm-flows compare
etth1 --set data.path=... --set data.horizon=...` gives the same numbers, with intervals, and registers the models.
"""

import argparse
import tempfile
from pathlib import Path

from flows import recipes
from lstm_models.config import CompareConfig
from lstm_models.data.builders import build_dataset, read_table
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation.evaluate import evaluate, evaluate_predictor, fit_baselines
from lstm_models.training.checkpoint import load_network
from lstm_models.training.trainer import fit

# Zhou et al. 2021, table 1: LSTMa on ETTh1, univariate; MSE and MAE of standardised values by horizon
PUBLISHED = {24: (0.114, 0.272), 48: (0.193, 0.358), 168: (0.236, 0.392), 336: (0.590, 0.698), 720: (0.683, 0.768)}
TARGET_AT_24 = 0.030


def train_and_evaluate(config: CompareConfig, name: str, dataset: Dataset) -> tuple[dict[str, float], float]:
    """Return the metrics of a contender after both trainings, and the seconds of both."""
    with tempfile.TemporaryDirectory() as directory:
        last, best = Path(directory) / "last.ckpt", Path(directory) / "best.ckpt"
        contender = config.contenders[name]
        results = [fit(contender, dataset, seed=config.seed, last_path=last, best_path=best)]
        results.append(fit(contender, dataset, seed=config.seed, last_path=last, best_path=best, resume_from=last))
        metrics = evaluate(load_network(best), dataset).evaluation.metrics
    return metrics, sum(result.seconds for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--horizons", type=int, nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    arguments = parser.parse_args()
    print("| horizon | model | MSE | MAE | seconds | below LSTMa |\n| ---: | --- | ---: | ---: | ---: | --- |")
    for horizon in arguments.horizons:
        config = recipes.load("etth1", [f"data.path={arguments.path}", f"data.horizon={horizon}"])
        dataset = build_dataset(read_table(config.data), config.data, config.seed)
        mse, mae = PUBLISHED[horizon]
        print(f"| {horizon} | LSTMa, published | {mse:.3f} | {mae:.3f} | - | - |", flush=True)
        rows = [(name, *train_and_evaluate(config, name, dataset)) for name in config.contenders]
        rows += [
            (name, evaluate_predictor(predictor, dataset).metrics, None)
            for name, predictor in fit_baselines(dataset).items()
        ]
        for name, metrics, seconds in rows:
            scaled_mse, scaled_mae = metrics["scaled_mse"], metrics["scaled_mae"]
            below = "yes" if scaled_mse < mse and scaled_mae < mae else "no"
            if horizon == 24 and seconds is not None:
                below += f"; at most {TARGET_AT_24:.3f}: {'yes' if scaled_mse <= TARGET_AT_24 else 'no'}"
            duration = "-" if seconds is None else f"{seconds:.0f}"
            print(f"| {horizon} | {name} | {scaled_mse:.3f} | {scaled_mae:.3f} | {duration} | {below} |", flush=True)


if __name__ == "__main__":
    main()
