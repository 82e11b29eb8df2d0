"""How the runs of a flow run end, whatever happens."""

import importlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers.configurations import TINY

from flows import recipes
from lstm_models.config import CompareConfig, ConfigError
from lstm_models.network import find_cell
from tasks import provenance, runs, tracking
from tasks.references import ParentRun

CONFIG = recipes.load("tutorial", TINY)


def fingerprint(config: CompareConfig, digest: str = "d") -> str:
    return provenance.fingerprint(config, digest)


def start_child(parent: ParentRun) -> str:
    return tracking.start_run(parent.experiment_id, "child", parent=parent.run_id, tags={}, note="")


def status(run_id: str) -> str:
    return str(tracking.client().get_run(run_id).info.status)


def test_a_family_that_ends_well_is_finished(workplace: Path) -> None:
    with runs.family(runs.comparison(CONFIG)) as parent:
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
        with runs.family(runs.comparison(CONFIG)) as parent:
            started.extend([parent.run_id, start_child(parent), start_child(parent)])
            tracking.client().set_terminated(started[1], "FINISHED")
            raise error

    with pytest.raises(type(error)):
        break_off()
    assert [status(run_id) for run_id in started] == [expected, "FINISHED", expected]
    tags = tracking.client().get_run(started[0]).data.tags
    assert tags["lstm_flows.error"] == f"{type(error).__name__}: {error}"


def test_the_parent_tells_what_was_asked_for(workplace: Path) -> None:
    with runs.family(runs.comparison(CONFIG)) as parent:
        pass
    data = tracking.client().get_run(parent.run_id).data
    assert data.params == {"seed": "42", "data": "tutorial", "contenders": "hand_built, built_in"}
    assert data.tags["lstm_flows.version.torch"] == provenance.versions()["torch"]
    stored = tracking.download(f"runs:/{parent.run_id}/config.yaml")
    assert recipes.load(str(stored)) == CONFIG


def test_a_run_whose_process_is_gone_is_marked_killed(workplace: Path) -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    abandoned = runs.start_parent(runs.comparison(CONFIG)).run_id
    tracking.client().set_tag(abandoned, "lstm_flows.pid", str(process.pid))
    tracking.client().set_tag(abandoned, "lstm_flows.started", f"{started:.2f}")
    runs.close_abandoned_runs(tracking.experiment_id("tutorial"))
    assert status(abandoned) == "RUNNING"  # as long as the process is there
    process.communicate()
    alive = runs.start_parent(runs.comparison(CONFIG))
    assert (status(abandoned), status(alive.run_id)) == ("KILLED", "RUNNING")


def test_the_fingerprint_follows_the_configuration() -> None:
    assert fingerprint(CONFIG) == fingerprint(recipes.load("tutorial", TINY))
    assert fingerprint(CONFIG) != fingerprint(recipes.load("tutorial", [*TINY, "seed=43"]))


def test_the_fingerprint_follows_the_data() -> None:
    assert fingerprint(CONFIG, "other") != fingerprint(CONFIG)


def test_the_fingerprint_follows_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in provenance.OUR_PACKAGES:
        (tmp_path / package).mkdir()
    source = tmp_path / "tasks" / "new.py"
    source.write_text("A = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    before = fingerprint(CONFIG)
    assert fingerprint(CONFIG) == before
    source.write_text("A = 2\n")
    assert fingerprint(CONFIG) != before


OWN_CELL = """from lstm_models import Cell


class Mine(Cell):
    pass
"""


def with_cell(name: str) -> CompareConfig:
    return recipes.load("tutorial", [*TINY, f"contenders.hand_built.model.cell={name}"])


@pytest.fixture
def own_cell(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a cell, cell_of_mine.Mine, in the working directory."""
    monkeypatch.setitem(sys.modules, "cell_of_mine", None)  # so that what is there after the test is undone
    monkeypatch.delitem(sys.modules, "cell_of_mine")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = empty_directory / "cell_of_mine.py"
    source.write_text(OWN_CELL)
    return source


def test_the_fingerprint_follows_the_file_of_a_users_own_cell_and_no_other(own_cell: Path) -> None:
    config = with_cell("cell_of_mine.Mine")
    before = fingerprint(config)
    assert before != fingerprint(CONFIG)
    own_cell.with_name("another.py").write_text("A = 1\n")
    own_cell.touch()
    assert fingerprint(config) == before

    of_ours = fingerprint(CONFIG), fingerprint(with_cell("peephole"))
    own_cell.write_text(f"{OWN_CELL}\n\n# changed\n")
    forget(own_cell)
    assert fingerprint(config) != before
    assert (fingerprint(CONFIG), fingerprint(with_cell("peephole"))) == of_ours
    own_cell.write_text(OWN_CELL)
    forget(own_cell)
    assert fingerprint(config) == before


def forget(source: Path) -> None:
    """Make Python import a module anew, as a new process does."""
    del sys.modules[source.stem]
    importlib.invalidate_caches()


def test_a_file_that_changes_after_its_import_does_not_pass_for_the_code_that_runs(own_cell: Path) -> None:
    """In a notebook: either the cell is imported anew, or the fingerprint is still that of the one that runs."""
    config = with_cell("cell_of_mine.Mine")
    before, cell = fingerprint(config), find_cell("cell_of_mine.Mine")
    own_cell.write_text(f"{OWN_CELL}\n\n# changed\n")
    assert fingerprint(config) == before or find_cell("cell_of_mine.Mine") is not cell


@pytest.mark.parametrize(
    ("source", "cell", "message"),
    [
        (None, "nowhere.Mine", "can't be imported: No module named 'nowhere'"),
        (OWN_CELL, "cell_of_mine.Yours", "can't be imported: module 'cell_of_mine' has no attribute 'Yours'"),
        ("class Mine:\n", "cell_of_mine.Mine", "can't be imported: expected an indented block after class definition"),
        ("class Mine: pass\n", "cell_of_mine.Mine", "not a class made from lstm_models.Cell"),
        ("Mine = 1\n", "cell_of_mine.Mine", "not a class made from lstm_models.Cell"),
    ],
    ids=["no module", "no class", "no Python", "no cell", "a number"],
)
def test_a_cell_that_can_not_be_had_leaves_no_run(
    workplace: Path, own_cell: Path, source: str | None, cell: str, message: str
) -> None:
    if source:
        own_cell.write_text(source)
    with pytest.raises(ConfigError) as caught, runs.family(runs.comparison(with_cell(cell))):
        pass
    assert str(caught.value).startswith(f"cell {cell}: {message}")
    assert str(caught.value).isprintable()
    assert tracking.client().get_experiment_by_name("tutorial") is None
