"""What is taken up by --resume, and what is refused; and a flow run that Prefect tries again."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.cli_runner import lstm_flows, plain, working_in
from helpers.configurations import TINY
from helpers.crash_simulation import Watch, assert_same, crashing, ended_process, left_behind, runs_of, watched

from flows import recipes
from flows.compare import compare
from lstm_models.config import FineTuneConfig
from tasks import evaluation, runs, tracking
from tasks.references import ParentRun, Version

pytestmark = pytest.mark.usefixtures("harness")

ALONE = recipes.load("tutorial", [*TINY, "contenders.hand_built=null"])


def refused(*arguments: str) -> str:
    """A command's one line on standard error."""
    code, out, errors = lstm_flows(*arguments, "-q")
    assert (code, out) == (2, "")
    assert errors.startswith("lstm-flows: ")
    assert errors.count("\n") == 1
    return errors.removeprefix("lstm-flows: ").removesuffix("\n")


# ---- what is refused
def begun(error: BaseException | None = None, work: runs.Work | None = None) -> ParentRun:
    """A parent run that has ended, so or so."""
    with suppress(*([type(error)] if error else [])), runs.family(work or runs.comparison(ALONE)) as parent:
        if error:
            raise error
    return parent


def fine_tuning() -> runs.Work:
    asked = FineTuneConfig(experiment="tutorial", version=1)
    version = Version.model_construct(name="tutorial", number=1)
    return runs.Work("fine_tune", ALONE, "A night.", asked, {"continues": version.number, runs.CHAMPION: "none"})


def child_of(parent: ParentRun) -> str:
    run_id = tracking.start_run(parent.experiment_id, "child", parent=parent.run_id, tags={}, note="")
    tracking.client().set_terminated(run_id, "KILLED")
    return run_id


def half_begun() -> str:
    """One that ended before it had said what it was about."""
    parent = runs.start_parent(runs.comparison(ALONE))
    tracking.client().set_terminated(parent.run_id, "KILLED")
    return parent.run_id


def of_another_version() -> str:
    run_id = begun(KeyboardInterrupt()).run_id
    tracking.client().log_text(run_id, ALONE.to_yaml().replace("margin:", "least_margin:"), runs.CONFIG_FILE)
    return run_id


def deleted() -> str:
    run_id = begun(KeyboardInterrupt()).run_id
    tracking.client().delete_run(run_id)
    return run_id


def running() -> str:
    return runs.start_parent(runs.comparison(ALONE)).run_id


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: 32 * "0", "run {0}: there is no such run in sqlite:///{here}/mlflow.db"),
        (str, "run {0}: there is no such run in sqlite:///{here}/mlflow.db"),
        (lambda: "no/such run", "run {0}: there is no such run in sqlite:///{here}/mlflow.db"),
        (deleted, "run {0}: there is no such run in sqlite:///{here}/mlflow.db"),
        (
            lambda: child_of(begun(KeyboardInterrupt())),
            "run {0}: not a run of the flow compare, but of none: name the parent run",
        ),
        (
            lambda: begun(KeyboardInterrupt(), fine_tuning()).run_id,
            "run {0}: not a run of the flow compare, but of fine_tune",
        ),
        (lambda: begun().run_id, "run {0} has finished: nothing is left to do"),
        (running, "run {0} is still running: process {pid} on {host}"),
        (half_begun, "run {0} ended before it had begun: start anew"),
        (
            of_another_version,
            "run {0}: config.yaml: least_margin: unknown key; did you mean margin?; another version of the "
            "program made it: start anew",
        ),
    ],
    ids=[
        "unknown",
        "nothing",
        "no id",
        "deleted",
        "a child",
        "of a night",
        "finished",
        "running",
        "half begun",
        "older",
    ],
)
def test_a_run_that_can_not_go_on_is_refused(workplace: Path, make: Callable[[], str], message: str) -> None:
    from tasks import provenance

    run_id = make()
    before = {run.info.run_id: run.info.status for run in runs_of("tutorial")} if Path("mlruns").exists() else {}
    assert refused("compare", "--resume", run_id) == message.format(
        run_id, here=workplace, **{key: value for key, value in provenance.this_process().items() if key != "started"}
    )
    assert {run_id: run.info.status for run_id in before for run in [tracking.client().get_run(run_id)]} == before


def test_the_newest_is_the_newest_that_can_go_on(workplace: Path) -> None:
    first = begun(KeyboardInterrupt()).run_id
    second = begun(RuntimeError("no")).run_id
    half_begun()
    begun()
    running()
    begun(KeyboardInterrupt(), fine_tuning())
    from tasks.earlier import find_interrupted

    found = find_interrupted.fn("compare", "newest")
    assert found
    assert (found.parent.run_id, found.config) == (second, ALONE)
    assert find_interrupted.fn("compare", first) == found.model_copy(
        update={"parent": runs.parent_run(first, found.parent.experiment_id, "tutorial", None)}
    )


def test_where_none_was_interrupted_there_is_nothing_to_go_on_with(workplace: Path) -> None:
    assert refused("compare", "--resume") == "no interrupted run of compare: nothing to go on with"
    begun()
    running()
    half_begun()
    assert refused("compare", "--resume") == "no interrupted run of compare: nothing to go on with"
    begun(KeyboardInterrupt(), fine_tuning())
    assert refused("fine-tune", "demand", "--resume") == (
        "experiment demand: no interrupted run of fine_tune: nothing to go on with"
    )


def test_a_night_of_another_experiment_is_refused(workplace: Path) -> None:
    run_id = begun(KeyboardInterrupt(), fine_tuning()).run_id
    assert refused("fine-tune", "demand", "--resume", run_id) == (
        f"run {run_id}: of the experiment tutorial, not demand"
    )


@pytest.mark.parametrize("command", [["compare"], ["fine-tune", "demand"]], ids=" ".join)
def test_without_a_database_none_is_made(empty_directory: Path, command: list[str]) -> None:
    assert refused(*command, "--resume") == (
        f"interrupted runs: no models here, since there is no mlflow.db in {empty_directory}"
    )
    assert list(empty_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compare", "tutorial", "--resume"], "[RECIPE or FILE.yaml]"),
        (["compare", "--resume", "--set=seed=1"], "--set"),
        (["compare", "--resume", "--again"], "--again"),
        (["compare", "--resume", "abc", "--dry-run"], "--dry-run"),
        (["fine-tune", "demand", "--resume", "--set=epochs=1"], "--set"),
        (["fine-tune", "demand", "--dry-run", "--resume"], "--dry-run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_beside_resume_is_refused(empty_directory: Path, arguments: list[str], named: str) -> None:
    assert refused(*arguments) == f"{named} with --resume: an interrupted run goes on as it was begun; leave it out"
    assert list(empty_directory.iterdir()) == []


# ---- what is taken up
@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[Watch, dict[str, Any]]:
    """What a comparison that was not interrupted did, and left."""
    directory = tmp_path_factory.mktemp("whole")
    (directory / "mlflow.db").write_bytes(database.read_bytes())
    with working_in(directory), plain(), watched() as did:
        compare.fn(ALONE)
        return did, left_behind("tutorial")


def test_by_the_command_under_prefect_even_if_other_code_began_it(
    whole: tuple[Watch, dict[str, Any]], workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with plain():
        with watched("after 3", engine=True) as first, crashing(ended_process()):
            compare(ALONE)
        (parent, _) = runs_of("tutorial")
        tracking.client().set_tag(parent.info.run_id, f"{tracking.TAG}code", "other")
        with watched(engine=True) as then, caplog.at_level(logging.WARNING, "lstm_flows"):
            code, out, _ = lstm_flows("compare", "--resume", parent.info.run_id, "-q")
    assert (code, out.splitlines()[0].split()[:2]) == (0, ["contender", "phase"])
    assert [record.message for record in caplog.records if record.name == "lstm_flows"] == [
        f"run {parent.info.run_id} began with another version or backend of the program: it may end elsewhere"
    ]
    left = left_behind("tutorial")
    assert left["<compare tutorial>"]["tags"].pop("code") == "other"
    expected = whole[1] | {"<compare tutorial>": {**whole[1]["<compare tutorial>"]}}
    tags = expected["<compare tutorial>"]["tags"]
    expected["<compare tutorial>"]["tags"] = {key: value for key, value in tags.items() if key != "code"}
    assert_same(left, expected)
    assert first.fits + then.fits == whole[0].fits


def test_a_flow_run_that_prefect_tries_again_takes_its_own_run_up(
    whole: tuple[Watch, dict[str, Any]], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, failed = evaluation._record, []

    def recorded(judgement: Any, data: Any, dataset: Any, run_id: str, place: str) -> Any:
        if "fine_tuned" in str(tracking.client().get_run(run_id).info.run_name) and not failed:
            failed.append({run.info.run_name: run.info.status for run in runs_of("tutorial")})
            raise RuntimeError("once")
        return record(judgement, data, dataset, run_id, place)

    with plain(), watched(engine=True) as did:
        monkeypatch.setattr(evaluation, "_record", recorded)
        compare.with_options(retries=1)(ALONE)
    assert failed == [{"compare tutorial": "RUNNING", "built_in/initial": "RUNNING", "built_in/fine_tuned": "RUNNING"}]
    assert_same(left_behind("tutorial"), whole[1])
    assert did.fits == whole[0].fits
    assert sorted(did.answers) == sorted(whole[0].answers)
    assert did.calls.count("find_interrupted") == 2
    assert did.calls.count("look_at_data") == 1
    parent = runs_of("tutorial")[0]
    assert {run.data.tags[f"{tracking.TAG}prefect_flow_run_id"] for run in [parent]} != {"none"}


def test_another_flow_run_begins_anew(workplace: Path) -> None:
    """Though one was interrupted: only a retry takes it up unasked."""
    begun(KeyboardInterrupt())
    with plain(), watched(engine=True):
        compare(ALONE)
    assert [run.info.run_name for run in runs_of("tutorial")].count("compare tutorial") == 2
