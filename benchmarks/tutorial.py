"""Compare the run time of `lstm-flows compare` with a plain script of the same experiment, and break it down.

    python benchmarks/tutorial.py [--runs 3] > tutorial.md

Run it with the Python of the environment in which lstm-flows is installed, on an otherwise idle machine; it takes a few
minutes per run. Script and compare run as separate processes, each in a new directory, one after the other: script,
compare, script, compare. Variables PREFECT_* and MLFLOW_* are removed from their environment. All compare processes
share a temporary PREFECT_HOME; the first one, which starts with an empty PREFECT_HOME, is reported separately.

Standard output is Markdown, with all times in seconds unless stated otherwise:
    1. the wall time of each pair of processes, and the ratio compare / script; target at most 0.6
    2. the time in Trainer.fit per optimizer step of the hand-built model, and its ratio; target at most 0.35
    3. a breakdown of the compare process with the median wall time; the parts add up to its wall time
    4. imports and the start of Prefect, each measured in a separate process

Part 3 uses the run's own records: its result, Prefect's task runs, MLflow's models and versions.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 42
MAX_WALL_TIME_RATIO = 0.6  # compare / script
MAX_STEP_TIME_RATIO = 0.35
SCRIPT = [sys.executable, str(Path(__file__).with_name("plain_tutorial.py")), "--seed", str(SEED)]
COMPARE = [str(Path(sysconfig.get_path("scripts"), "lstm-flows")), "compare", "--json", "--set", f"seed={SEED}"]

IMPORTS = ("torch", "lightning", "mlflow", "prefect", "pandas", "flows.compare")
TIMED_IMPORT = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
TIMED_PREFECT_START = """
import time
from prefect.client.orchestration import get_client
began = time.perf_counter()
with get_client(sync_client=True) as client:
    client.hello()
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Run:
    """One process: start and end (seconds since 1970), working directory, and the JSON that it printed."""

    began: float
    ended: float
    directory: Path
    output: Any

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Training:
    """Seconds in Trainer.fit, and the number of optimizer steps."""

    seconds: float
    steps: int

    @property
    def milliseconds_per_step(self) -> float:
        return 1000 * self.seconds / self.steps


def environment(prefect_home: Path) -> dict[str, str]:
    """Return this process's environment without settings of Prefect and MLflow, and with a separate Prefect home."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    return {
        **inherited,
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }


def run(command: Sequence[str], directory: Path, env: dict[str, str]) -> Run:
    """Run a command in a new directory; write its standard error to a file there, and print it if the command fails."""
    directory.mkdir()
    print(f"{directory.name} ...", end=" ", file=sys.stderr, flush=True)
    log = directory / "stderr.txt"
    with log.open("w") as stderr:
        began = time.time()
        done = subprocess.run(command, cwd=directory, env=env, stdout=subprocess.PIPE, stderr=stderr, check=False)
        ended = time.time()
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{log.read_text()[-3000:]}")
    print(f"{ended - began:.1f} s", file=sys.stderr)
    return Run(began, ended, directory, json.loads(done.stdout))


def run_snippet(code: str, directory: Path, env: dict[str, str]) -> float:
    """Run a Python snippet and return the seconds that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def script_training(output: Any, *fits: str) -> Training:
    """Return the totals of some fits of the plain script."""
    selected = [output["fits"][fit] for fit in fits]
    return Training(sum(fit["seconds"] for fit in selected), sum(fit["steps"] for fit in selected))


def compare_training(output: Any, contender: str) -> Training:
    """Return the totals over a contender's phases in compare; the batch size is 1, so a step is one sequence."""
    phases = [result for result in output["results"] if result["contender"] == contender]
    return Training(
        sum(result["seconds"] for result in phases),
        max(result["epochs"] for result in phases) * output["dataset"]["train"],
    )


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Format a Markdown table: the first column left-aligned, the others right-aligned."""
    columns = list(columns)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def side_by_side(script: list[float], compare: list[float], target: float) -> str:
    """Format the pairs with their ratios, minimum, median and maximum, and the verdict on the median ratio."""
    ratios = [numerator / denominator for denominator, numerator in zip(script, compare, strict=True)]
    columns = (script, compare, ratios)
    rows = [
        [f"pair {n}", f"{a:.2f}", f"{b:.2f}", f"{c:.3f}"] for n, (a, b, c) in enumerate(zip(*columns, strict=True), 1)
    ]
    for name, summary in (("minimum", min), ("median", statistics.median), ("maximum", max)):
        a, b, c = map(summary, columns)
        rows.append([name, f"{a:.2f}", f"{b:.2f}", f"{c:.3f}"])
    ratio = statistics.median(ratios)
    verdict = "met" if ratio <= target else "MISSED"
    return (
        f"{table(('', 'script', 'compare', 'compare / script'), rows)}\n\n"
        f"Median of the pairs' ratios {ratio:.3f}, target at most {target:g}: **{verdict}**."
    )


def model_export_seconds(client: Any, experiment_id: str, name: str) -> float:
    """Sum the seconds from each logged model's creation to its version's: torch.export and the artifacts."""
    models = client.search_logged_models([experiment_id], max_results=50)
    began = {model.source_run_id: model.creation_timestamp for model in models}
    versions = client.search_model_versions(f"name = '{name}'")
    return sum(version.creation_timestamp - began[version.run_id] for version in versions) / 1000


def parts(compare: Run) -> dict[str, float]:
    """Divide the wall time of a compare process; PREFECT_HOME must be in os.environ before Prefect is imported."""
    from mlflow import MlflowClient
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    output = compare.output
    client = MlflowClient(f"sqlite:///{compare.directory / 'mlflow.db'}")
    parent = client.get_run(output["parent_run_id"])
    flow_run_id = parent.data.tags["lstm_flows.prefect_flow_run_id"]
    with get_client(sync_client=True) as prefect:
        flow_run = prefect.read_flow_run(flow_run_id)
        task_runs = prefect.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])))

    def tasks(*prefixes: str) -> float:
        """Sum the seconds of the task runs whose names start with one of these prefixes."""
        return sum(task.total_run_time.total_seconds() for task in task_runs if task.name.startswith(prefixes))

    flow_began, flow_ended = flow_run.start_time.timestamp(), flow_run.end_time.timestamp()
    training = sum(result["seconds"] for result in output["results"])
    export = model_export_seconds(client, parent.info.experiment_id, output["experiment"])
    return {
        "start of the process: imports, and Prefect's server in parallel": flow_began - compare.began,
        "training: `Trainer.fit`, four times, including logging to MLflow and TensorBoard": training,
        "tracking of trainings: runs, parameters, data, checkpoints": tasks("train ", "fine-tune ") - training,
        "tracking of evaluations and predictions": tasks("evaluate"),
        "model export: `torch.export`, four times, and the models' artifacts": export,
        "registration: models, versions, aliases": tasks("register ", "promote_best") - export,
        "report: figures, tables, Prefect's artifact": tasks("report"),
        "search for an earlier run, including the creation of MLflow's database": tasks("find_"),
        "data": tasks("validate_data", "read "),
        "between the tasks: orchestration, the parent run": flow_ended - flow_began - tasks(""),
        "end of the process, after the flow": compare.ended - flow_ended,
    }


def breakdown(compare: Run) -> str:
    """Format part 3 of the output."""
    rows = [[part, f"{seconds:.2f}", f"{seconds / compare.seconds:.0%}"] for part, seconds in parts(compare).items()]
    return table(("part", "seconds", "share"), [*rows, ["whole process", f"{compare.seconds:.2f}", "100%"]])


def startup_times(directory: Path, env: dict[str, str]) -> str:
    """Format part 4 of the output."""
    rows = [
        [f"`import {module}`", f"{run_snippet(TIMED_IMPORT.format(module), directory, env):.2f}"] for module in IMPORTS
    ]
    start = run_snippet(TIMED_PREFECT_START, directory, env)
    return table(("", "seconds"), [*rows, ["start of Prefect, until its API responds", f"{start:.2f}"]])


def report(first: Run, scripts: list[Run], compares: list[Run], directory: Path, env: dict[str, str]) -> Iterable[str]:
    """Yield the sections of the output as they are computed."""
    yield (
        f"# `lstm-flows compare` and a plain script\n\nPairs: {len(scripts)}; seed {SEED}; Python "
        f"{platform.python_version()}, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f} at the end."
    )
    script_steps = script_training(scripts[0].output, "built_in").steps
    compare_steps = compare_training(compares[0].output, "built_in").steps
    hand_built_steps = compare_training(compares[0].output, "hand_built").steps
    yield (
        "## Whole process, seconds\n\n"
        + side_by_side([run.seconds for run in scripts], [run.seconds for run in compares], MAX_WALL_TIME_RATIO)
        + f"\n\nBoth train the hand-built model for {hand_built_steps:,} steps. The built-in one compare trains for "
        f"{compare_steps:,} steps, the one of the script for {script_steps:,}. "
        f"The first compare, on an empty PREFECT_HOME, took {first.seconds:.2f} s and is not included."
    )
    yield "## Training the hand-built model, milliseconds per optimizer step\n\n" + side_by_side(
        [script_training(run.output, "initial", "resumed").milliseconds_per_step for run in scripts],
        [compare_training(run.output, "hand_built").milliseconds_per_step for run in compares],
        MAX_STEP_TIME_RATIO,
    )
    median = sorted(compares, key=lambda run: run.seconds)[len(compares) // 2]
    yield f"## Breakdown of compare's wall time\n\n{breakdown(median)}"
    yield f"Measured separately, each in its own process:\n\n{startup_times(directory, env)}"


def main() -> None:
    """Parse the arguments, run the pairs and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="pairs to run (default 3)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        env = environment(directory / "prefect")
        first = run(COMPARE, directory / "compare-on-an-empty-PREFECT_HOME", env)
        scripts, compares = [], []
        for pair in range(1, runs + 1):
            scripts.append(run(SCRIPT, directory / f"script-{pair}-of-{runs}", env))
            compares.append(run(COMPARE, directory / f"compare-{pair}-of-{runs}", env))
        os.environ.update(env)  # to read Prefect's database in this process
        for section in report(first, scripts, compares, directory, env):
            print(section, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
