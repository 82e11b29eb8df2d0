"""Check that `lstm-flows compare --resume` loses nothing after kill -9, and measure the cost of crash safety.

    python benchmarks/faults.py [--kills 20] [--seed 0] [--minutes 10] [--short] [--only tutorial|windows|cost]

Run it with the Python of the environment in which lstm-flows is installed. On each of two datasets, the tutorial's and
windows of a series, one reference run is not interrupted. Each of the other runs is killed at a random time within the
duration of the reference run and continued with `compare --resume`, or started again where it was killed before there
was anything to resume. Its results must equal those of the reference run: every bit of weights, optimizer and random
state; every point of every curve, exactly once; the parameters and status of every run; the model versions, their tags
and aliases; and no model without a version.

Standard output is Markdown: one line per kill, the counts killed / resumed / identical, and the cost: the share of a
training of so many minutes that checkpoints, curves and cached results take; target at most 2 %. The exit code is 1 if
anything differs. --short trains for few epochs and skips the cost. Two parts may run at the same time, but nothing else
while the cost is measured.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # they compare runs in the same way

from helpers.outcomes import collect_outcome, compare, difference, tracking_uri

NOTHING_TO_RESUME = 2  # the exit code
MAX_SHARE = 0.02  # of the time of a training

TUTORIAL = """
data: {kind: tutorial}
contenders:
  hand_built:
    model: {kind: hand_built, double_bias: false, init: normal}
    training: {max_epochs: 2000, fused: true, num_threads: 1, log_predictions: true, checkpoint_every_n_steps: 300}
    fine_tuning: {max_epochs: 5000}
  built_in:
    model: {kind: built_in}
    training: {max_epochs: 300, learning_rate: 0.1, num_threads: 1, log_every_n_steps: 2, checkpoint_every_n_steps: 100}
    fine_tuning: {max_epochs: 600}
"""
WINDOWS = """
data: {kind: table, path: "sample:co2.csv", time: week, target: co2, missing: interpolate, context_length: 52,
       horizon: 13, season_length: 52}
contenders:
  hand_built: &contender
    model: {hidden_size: 16, num_layers: 2, dropout: 0.2}
    training: {max_epochs: 6, learning_rate: 0.005, batch_size: 64, shuffle: true, patience: 3, num_threads: 1,
               log_every_n_steps: 5, checkpoint_every_n_steps: 20}
    fine_tuning: {max_epochs: 9}
  built_in: *contender
"""
SHORT = {
    "tutorial": {"hand_built": (400, 800), "built_in": (100, 200)},
    "windows": {"hand_built": (2, 3), "built_in": (2, 3)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills on each dataset")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of the training that measures the cost")
    parser.add_argument("--short", action="store_true", help="few epochs, no cost")
    parser.add_argument("--only", choices=("tutorial", "windows", "cost"), help="run one part instead of all three")
    options = parser.parse_args()
    draw, passed = random.Random(options.seed), True  # noqa: S311
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for name, recipe in (("tutorial", TUTORIAL), ("windows", WINDOWS)):
            if options.only not in (None, name):
                continue
            workspace = Path(scratch, name)
            workspace.mkdir()
            config = workspace / f"{name}.yaml"
            config.write_text(recipe if not options.short else shortened(recipe, SHORT[name]))
            passed &= kill_and_resume(workspace, config, options.kills, draw)
    if options.only == "cost" or not (options.short or options.only):
        passed &= measure_cost(options.minutes)
    sys.exit(not passed)


def shortened(recipe: str, epochs: Mapping[str, tuple[int, int]]) -> str:
    values = yaml.safe_load(yaml.safe_dump(yaml.safe_load(recipe)))
    for contender, (initial, total) in epochs.items():
        settings = json.loads(json.dumps(values["contenders"][contender]))  # a copy: a YAML anchor shares one object
        settings["training"]["max_epochs"], settings["fine_tuning"]["max_epochs"] = initial, total
        values["contenders"][contender] = settings
    return yaml.safe_dump(values)


# ---- kill and resume
def kill_and_resume(workspace: Path, config: Path, kills: int, draw: random.Random) -> bool:
    """Kill runs at random times and resume them; return whether all of them equal the reference run."""
    reference = workspace / "reference"
    reference.mkdir()
    with compare(reference, config) as process:
        began = time.monotonic()
        assert process.wait() == 0, (reference / "log").read_text()
        seconds = time.monotonic() - began
    expected = collect_outcome(tracking_uri(reference), config.stem, reference)
    print(f"\n## {config.stem}: {kills} kills in {seconds:.0f} s\n", flush=True)
    print("| killed after, s | cached results | then | identical |\n| ---: | ---: | --- | --- |", flush=True)
    resumed_count = identical = 0
    for number in range(kills):
        directory = workspace / str(number)
        directory.mkdir()
        moment = draw.uniform(0.0, seconds)
        with compare(directory, config) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.kill()
            process.wait()
            cached_results = len(list(directory.glob("mlruns/*/*/artifacts/result_cache/*.json")))
            with compare(directory, "--resume") as second_run:
                code = second_run.wait()
            resumed_count += (resumed := code != NOTHING_TO_RESUME)
            if not resumed:
                with compare(directory, config) as second_run:
                    code = second_run.wait()
        differs = "exit code " + str(code) + ": " + (directory / "log").read_text()[-300:] if code else ""
        differs = differs or difference(collect_outcome(tracking_uri(directory), config.stem, directory), expected)
        identical += not differs
        then = "resumed" if resumed else "started again" if cached_results == 0 else "had ended"
        print(f"| {moment:.1f} | {cached_results} | {then} | {f'no: {differs}' if differs else 'yes'} |", flush=True)
    print(f"\nkilled {kills} / resumed {resumed_count} / identical {identical}", flush=True)
    return identical == kills


# ---- the cost of crash safety
def measure_cost(minutes: float) -> bool:
    """Train as the task does for so many minutes, and add up the time for checkpoints, curves and cached results."""
    import lightning as L

    from lstm_models.config import parse_config
    from lstm_models.data.builders import read_dataset
    from lstm_models.training.callbacks import PeriodicCheckpoint
    from lstm_models.training.trainer import fit
    from tasks import tracking
    from tasks.orchestration.result_cache import cached_in_run
    from tasks.schemas import ParentRun
    from tasks.tracking.mlflow_logger import BufferedMLflowLogger

    class StopAfterMinutes(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = time.monotonic() - began >= 60 * minutes

    spent = {"training thread": 0.0, "logger's thread, CPU time": 0.0, "result cache": 0.0}
    written = 0

    def timed(owner: Any, name: str, account: str, clock: Any = time.perf_counter) -> None:
        method = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return method(*args, **kwargs)
            finally:
                spent[account] += clock() - start

        setattr(owner, name, measured)

    def count() -> None:
        nonlocal written
        written += 1
        logger.send_snapshot()

    timed(PeriodicCheckpoint, "_write", "training thread")
    timed(BufferedMLflowLogger, "log_metrics", "training thread")
    timed(BufferedMLflowLogger, "_run_worker", "logger's thread, CPU time", time.thread_time)
    values = yaml.safe_load(WINDOWS)
    settings = json.loads(json.dumps(values["contenders"]["hand_built"]))
    settings["training"] |= {"checkpoint_every_n_steps": None, "max_epochs": 10**6, "patience": None}
    values["contenders"] = {"hand_built": settings | {"fine_tuning": {"max_epochs": 2 * 10**6}}}
    config = parse_config({"experiment": "cost", **values}, "cost")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(Path(scratch))
        experiment = tracking.get_or_create_experiment("cost")
        run_id = tracking.start_run(experiment, "cost", tags={}, note="")
        parent = ParentRun(run_id=run_id, experiment_id=experiment, experiment="cost", tensorboard_dir="boards")
        data, folder = read_dataset(config.data, config.seed), Path(scratch)
        began = time.monotonic()
        with BufferedMLflowLogger(run_id, folder) as logger:
            fit(
                config.contenders["hand_built"], data, seed=config.seed, last_path=folder / "last.ckpt",
                best_path=folder / "best.ckpt", loggers=[logger], callbacks=[StopAfterMinutes()], on_checkpoint=count,
            )  # fmt: skip
        duration = time.monotonic() - began
        size = (folder / "last.ckpt").stat().st_size

        @cached_in_run
        def cached_result(number: int, parent: ParentRun) -> ParentRun:
            return parent

        start = time.perf_counter()
        for number in range(14):  # as many as a comparison of two contenders has
            cached_result(number, parent)
        spent["result cache"] = time.perf_counter() - start
    print(f"\n## Cost in a training of {duration:.0f} s: {written} checkpoints of {size / 1e3:.0f} kB\n")
    print("| | seconds | share |\n| --- | ---: | ---: |")
    for account, seconds in spent.items():
        print(f"| {account} | {seconds:.2f} | {seconds / duration:.2%} |")
    share = sum(spent.values()) / duration
    print(f"| together | {sum(spent.values()):.2f} | {share:.2%} (target at most {MAX_SHARE:.0%}: ", end="")
    print(f"{'met' if share <= MAX_SHARE else 'missed'}) |", flush=True)
    return share <= MAX_SHARE


if __name__ == "__main__":
    main()
