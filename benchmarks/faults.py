"""What is lost when `lstm-flows compare` is killed (kill -9) and goes on with --resume; and what that costs.

    python benchmarks/faults.py [--kills 20] [--seed 0] [--minutes 10] [--short] [--only tutorial|windows|cost]

Run it with the Python of the environment that lstm-flows is installed in. On each of two datasets, the tutorial's and
windows of a series, one run is left alone; each of the others is killed at a moment drawn from the time that this one
took, and taken up by `compare --resume` (or begun anew, where it was killed before there was anything to take up). What
is left of it, then, is held against what is left of the run that was left alone: every bit of weights, optimizer and
random state, every point of every curve, once; every run's parameters and status; the versions, their tags and aliases;
no model without a version.

Standard output is Markdown: a line a kill, what is killed / resumed / identical, and the cost: what checkpoints, curves
and answers take of a training of so many minutes; target at most 2 %. Exit code 1 if anything differs. --short: few
epochs and no cost; so the tests run it. Two of the parts can run side by side, but nothing beside the cost.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # which compare the same

from helpers.outcomes import compare, difference, left_behind, tracked

NOTHING_TO_GO_ON_WITH = 2  # the exit code
MOST = 0.02  # of the time of a training

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
    parser.add_argument("--kills", type=int, default=20, help="on each dataset")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the training whose checkpoints are timed")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", choices=("tutorial", "windows", "cost"), help="a part, rather than all three")
    options = parser.parse_args()
    draw, all_well = random.Random(options.seed), True  # noqa: S311
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for name, recipe in (("tutorial", TUTORIAL), ("windows", WINDOWS)):
            if options.only not in (None, name):
                continue
            place = Path(scratch, name)
            place.mkdir()
            config = place / f"{name}.yaml"
            config.write_text(recipe if not options.short else shortened(recipe, SHORT[name]))
            all_well &= killed_again_and_again(place, config, options.kills, draw)
    if options.only == "cost" or not (options.short or options.only):
        all_well &= cost(options.minutes)
    sys.exit(not all_well)


def shortened(recipe: str, epochs: Mapping[str, tuple[int, int]]) -> str:
    values = yaml.safe_load(yaml.safe_dump(yaml.safe_load(recipe)))
    for contender, (initial, more) in epochs.items():
        own = json.loads(json.dumps(values["contenders"][contender]))  # YAML's anchor has two share one
        own["training"]["max_epochs"], own["fine_tuning"]["max_epochs"] = initial, more
        values["contenders"][contender] = own
    return yaml.safe_dump(values)


# ---- killed, and taken up
def killed_again_and_again(place: Path, config: Path, kills: int, draw: random.Random) -> bool:
    whole = place / "whole"
    whole.mkdir()
    with compare(whole, config) as process:
        began = time.monotonic()
        assert process.wait() == 0, (whole / "log").read_text()
        seconds = time.monotonic() - began
    expected = left_behind(tracked(whole), config.stem, whole)
    print(f"\n## {config.stem}: {kills} kills in {seconds:.0f} s\n", flush=True)
    print("| killed after, s | answers there | then | identical |\n| ---: | ---: | --- | --- |", flush=True)
    taken_up = identical = 0
    for number in range(kills):
        directory = place / str(number)
        directory.mkdir()
        moment = draw.uniform(0.0, seconds)
        with compare(directory, config) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.kill()
            process.wait()
            answers = len(list(directory.glob("mlruns/*/*/artifacts/answers/*.json")))
            with compare(directory, "--resume") as again:
                code = again.wait()
            taken_up += (resumed := code != NOTHING_TO_GO_ON_WITH)
            if not resumed:
                with compare(directory, config) as anew:
                    code = anew.wait()
        differs = "exit code " + str(code) + ": " + (directory / "log").read_text()[-300:] if code else ""
        differs = differs or difference(left_behind(tracked(directory), config.stem, directory), expected)
        identical += not differs
        then = "resumed" if resumed else "begun anew" if answers == 0 else "had ended"
        print(f"| {moment:.1f} | {answers} | {then} | {f'no: {differs}' if differs else 'yes'} |", flush=True)
    print(f"\nkilled {kills} / resumed {taken_up} / identical {identical}", flush=True)
    return identical == kills


# ---- what it costs
def cost(minutes: float) -> bool:
    """Train for so long as the task does, and add up the time that goes into what is kept."""
    import lightning as L

    from lstm_models.config import parse_config
    from lstm_models.data.dataset import read_dataset
    from lstm_models.training.callbacks import PeriodicCheckpoint
    from lstm_models.training.trainer import fit
    from tasks import tracking
    from tasks.orchestration.result_cache import cached_in_run
    from tasks.schemas import ParentRun
    from tasks.tracking.mlflow_logger import BufferedMLflowLogger

    class Ends(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = time.monotonic() - began >= 60 * minutes

    spent = {"training thread": 0.0, "sender's CPU": 0.0, "result_cache": 0.0}
    written = 0

    def timed(owner: Any, name: str, place: str, clock: Any = time.perf_counter) -> None:
        work = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return work(*args, **kwargs)
            finally:
                spent[place] += clock() - start

        setattr(owner, name, measured)

    def count() -> None:
        nonlocal written
        written += 1
        sender.send_snapshot()

    timed(PeriodicCheckpoint, "_write", "training thread")
    timed(BufferedMLflowLogger, "log_metrics", "training thread")
    timed(BufferedMLflowLogger, "_work", "sender's CPU", time.thread_time)
    values = yaml.safe_load(WINDOWS)
    own = json.loads(json.dumps(values["contenders"]["hand_built"]))
    own["training"] |= {"checkpoint_every_n_steps": None, "max_epochs": 10**6, "patience": None}
    values["contenders"] = {"hand_built": own | {"fine_tuning": {"max_epochs": 2 * 10**6}}}
    config = parse_config({"experiment": "cost", **values}, "cost")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ["MLFLOW_TRACKING_URI"] = tracked(Path(scratch))
        experiment = tracking.get_or_create_experiment("cost")
        run_id = tracking.start_run(experiment, "cost", tags={}, note="")
        parent = ParentRun(run_id=run_id, experiment_id=experiment, experiment="cost", tensorboard_dir="boards")
        data, folder = read_dataset(config.data, config.seed), Path(scratch)
        began = time.monotonic()
        with BufferedMLflowLogger(run_id, folder) as sender:
            fit(
                config.contenders["hand_built"], data, seed=config.seed, last_path=folder / "last.ckpt",
                best_path=folder / "best.ckpt", loggers=[sender], callbacks=[Ends()], on_snapshot=count,
            )  # fmt: skip
        whole = time.monotonic() - began
        size = (folder / "last.ckpt").stat().st_size

        @cached_in_run
        def answer(number: int, parent: ParentRun) -> ParentRun:
            return parent

        start = time.perf_counter()
        for number in range(14):  # of a compare of two contenders
            answer(number, parent)
        spent["result_cache"] = time.perf_counter() - start
    print(f"\n## What it costs, of a training of {whole:.0f} s: {written} checkpoints of {size / 1e3:.0f} kB\n")
    print("| | seconds | share |\n| --- | ---: | ---: |")
    for place, seconds in spent.items():
        print(f"| {place} | {seconds:.2f} | {seconds / whole:.2%} |")
    share = sum(spent.values()) / whole
    print(f"| together | {sum(spent.values()):.2f} | {share:.2%} (target at most {MOST:.0%}: ", end="")
    print(f"{'met' if share <= MOST else 'missed'}) |", flush=True)
    return share <= MOST


if __name__ == "__main__":
    main()
