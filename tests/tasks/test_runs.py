"""How the runs of a flow run end, whatever happens."""

import subprocess
from pathlib import Path

import psutil
import pytest
from conftest import TINY

from flows import recipes
from tasks import provenance, runs, tracking
from tasks.references import ParentRun

CONFIG = recipes.load("tutorial", TINY)


def start_child(parent: ParentRun) -> str:
    return tracking.start_run(parent.experiment_id, "child", parent=parent.run_id, tags={}, note="")


def status(run_id: str) -> str:
    return str(tracking.client().get_run(run_id).info.status)


def test_a_family_that_ends_well_is_finished(workplace: Path) -> None:
    with runs.family(CONFIG) as parent:
        assert status(parent.run_id) == "RUNNING"
    assert status(parent.run_id) == "FINISHED"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
    ids=["exception", "ctrl-c", "signal"],
)
def test_a_family_that_breaks_says_so(workplace: Path, error: BaseException, expected: str) -> None:
    started: list[str] = []

    def break_off() -> None:
        with runs.family(CONFIG) as parent:
            started.extend([parent.run_id, start_child(parent), start_child(parent)])
            tracking.client().set_terminated(started[1], "FINISHED")
            raise error

    with pytest.raises(type(error)):
        break_off()
    assert [status(run_id) for run_id in started] == [expected, "FINISHED", expected]
    tags = tracking.client().get_run(started[0]).data.tags
    assert tags["lstm_flows.error"] == f"{type(error).__name__}: {error}"


def test_the_parent_tells_what_was_asked_for(workplace: Path) -> None:
    with runs.family(CONFIG) as parent:
        pass
    data = tracking.client().get_run(parent.run_id).data
    assert data.params == {"seed": "42", "data": "tutorial", "contenders": "hand_built, built_in"}
    assert data.tags["lstm_flows.version.torch"] == provenance.versions()["torch"]
    stored = tracking.download(f"runs:/{parent.run_id}/config.yaml")
    assert recipes.load(str(stored)) == CONFIG


def test_a_run_whose_process_is_gone_is_marked_killed(workplace: Path) -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    abandoned = runs.start_parent(CONFIG).run_id
    tracking.client().set_tag(abandoned, "lstm_flows.pid", str(process.pid))
    tracking.client().set_tag(abandoned, "lstm_flows.started", f"{started:.2f}")
    runs.close_abandoned_runs(tracking.experiment_id("tutorial"))
    assert status(abandoned) == "RUNNING"  # as long as the process is there
    process.communicate()
    alive = runs.start_parent(CONFIG)
    assert (status(abandoned), status(alive.run_id)) == ("KILLED", "RUNNING")


def test_the_fingerprint_follows_the_configuration() -> None:
    assert runs.fingerprint(CONFIG) == runs.fingerprint(recipes.load("tutorial", TINY))
    assert runs.fingerprint(CONFIG) != runs.fingerprint(recipes.load("tutorial", [*TINY, "seed=43"]))


def test_the_fingerprint_follows_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in provenance.OUR_PACKAGES:
        (tmp_path / package).mkdir()
    source = tmp_path / "tasks" / "new.py"
    source.write_text("A = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    before = runs.fingerprint(CONFIG)
    assert runs.fingerprint(CONFIG) == before
    source.write_text("A = 2\n")
    assert runs.fingerprint(CONFIG) != before
