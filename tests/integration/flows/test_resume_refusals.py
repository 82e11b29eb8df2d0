"""Which runs --resume accepts, and the one-line errors for those that it refuses."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.cli_runner import lstm_flows
from helpers.configurations import TINY
from helpers.crash_simulation import runs_of
from helpers.errors import names_all

from flows import recipes
from lstm_models.config import FineTuneConfig
from tasks import tracking
from tasks.orchestration.resume import find_interrupted_run
from tasks.schemas import ParentRun, TrainedVersion
from tasks.tracking import fingerprint, runs

pytestmark = pytest.mark.usefixtures("harness")

ALONE = recipes.load("tutorial", [*TINY, "contenders.hand_built=null"])


def refused(*arguments: str) -> str:
    """Run a command that is refused; return its line on standard error."""
    code, out, errors = lstm_flows(*arguments, "-q")
    assert (code, out, errors.partition(": ")[0]) == (2, "", "lstm-flows")
    return errors


def terminated(error: BaseException | None = None, spec: runs.RunSpec | None = None) -> ParentRun:
    """Return a parent run that has finished, or was terminated by an error."""
    with (
        suppress(*([type(error)] if error else [])),
        runs.tracked_flow_run(spec or runs.comparison_spec(ALONE)) as parent,
    ):
        if error:
            raise error
    return parent


def fine_tuning() -> runs.RunSpec:
    request = FineTuneConfig(experiment="tutorial", version=1)
    version = TrainedVersion.model_construct(name="tutorial", number=1)
    return runs.RunSpec(
        "fine_tune", ALONE, "Fine-tuning.", request, {"continues": version.number, runs.CHAMPION_PARAM: "none"}
    )


def child_of(parent: ParentRun) -> str:
    run_id = tracking.start_run(parent.experiment_id, "child", parent=parent.run_id, tags={}, note="")
    tracking.mlflow_client().set_terminated(run_id, "KILLED")
    return run_id


def without_config() -> str:
    """Return a run that ended before its configuration was stored."""
    parent = runs.start_parent_run(runs.comparison_spec(ALONE))
    tracking.mlflow_client().set_terminated(parent.run_id, "KILLED")
    return parent.run_id


def of_another_version() -> str:
    run_id = terminated(KeyboardInterrupt()).run_id
    tracking.mlflow_client().log_text(
        run_id, ALONE.to_yaml().replace("min_improvement:", "least_improvement:"), runs.CONFIG_FILE
    )
    return run_id


def deleted() -> str:
    run_id = terminated(KeyboardInterrupt()).run_id
    tracking.mlflow_client().delete_run(run_id)
    return run_id


def running() -> str:
    return runs.start_parent_run(runs.comparison_spec(ALONE)).run_id


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: 32 * "0", ["no such run", "DATABASE"]),
        (str, ["no such run", "DATABASE"]),
        (lambda: "no/such run", ["no such run", "DATABASE"]),
        (deleted, ["no such run", "DATABASE"]),
        (lambda: child_of(terminated(KeyboardInterrupt())), ["compare", "of no flow", "parent"]),
        (lambda: terminated(KeyboardInterrupt(), fine_tuning()).run_id, ["compare", "fine_tune"]),
        (lambda: terminated().run_id, ["finished"]),
        (
            running,
            ["running", f"process {fingerprint.process_identity()['pid']} on {fingerprint.process_identity()['host']}"],
        ),
        (without_config, ["configuration", "start a new run"]),
        (
            of_another_version,
            ["config.yaml", "least_improvement", "did you mean min_improvement", "another version", "start a new run"],
        ),
    ],
    ids=[
        *("unknown", "nothing", "no id", "deleted", "a child", "of a fine-tuning", "finished", "running"),
        *("without configuration", "older"),
    ],
)
def test_a_run_that_can_not_be_resumed_is_refused(workplace: Path, make: Callable[[], str], parts: list[str]) -> None:
    run_id = make()
    statuses = {run.info.run_id: run.info.status for run in runs_of("tutorial")} if Path("mlruns").exists() else {}
    parts = [part.replace("DATABASE", f"sqlite:///{workplace}/mlflow.db") for part in parts]
    assert names_all(refused("compare", "--resume", run_id), f"run {run_id}", *parts)
    assert {run_id: tracking.mlflow_client().get_run(run_id).info.status for run_id in statuses} == statuses


def test_newest_means_the_newest_run_that_can_be_resumed(workplace: Path) -> None:
    terminated()
    running()
    without_config()
    assert names_all(refused("compare", "--resume"), "no interrupted run of compare")
    first = terminated(KeyboardInterrupt()).run_id
    second = terminated(RuntimeError("no")).run_id
    without_config()
    terminated()
    running()
    of_fine_tune = terminated(KeyboardInterrupt(), fine_tuning()).run_id
    newest = find_interrupted_run.fn("compare", "newest")
    assert newest
    assert (newest.parent.run_id, newest.config) == (second, ALONE)
    assert find_interrupted_run.fn("compare", first) == newest.model_copy(
        update={"parent": runs.parent_run(first, newest.parent.experiment_id, "tutorial", None)}
    )
    # of another experiment
    assert names_all(refused("fine-tune", "demand", "--resume"), "experiment demand", "no interrupted run of fine_tune")
    assert names_all(refused("fine-tune", "demand", "--resume", of_fine_tune), of_fine_tune, "tutorial, not demand")


@pytest.mark.parametrize("command", [["compare"], ["fine-tune", "demand"]], ids=" ".join)
def test_resume_creates_no_database(empty_directory: Path, command: list[str]) -> None:
    assert names_all(refused(*command, "--resume"), "no mlflow.db in", empty_directory)
    assert list(empty_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compare", "tutorial", "--resume"], "[RECIPE or FILE.yaml]"),
        (["compare", "--resume", "--set=seed=1"], "--set"),
        (["compare", "--resume", "--force"], "--force"),
        (["compare", "--resume", "abc", "--dry-run"], "--dry-run"),
        (["fine-tune", "demand", "--resume", "--set=epochs=1"], "--set"),
        (["fine-tune", "demand", "--dry-run", "--resume"], "--dry-run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_options_with_resume_are_refused(empty_directory: Path, arguments: list[str], named: str) -> None:
    assert names_all(refused(*arguments), f"{named} with --resume", "leave it out")
    assert list(empty_directory.iterdir()) == []
