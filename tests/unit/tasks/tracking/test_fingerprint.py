"""The fingerprint of a run depends on its configuration, data and code, and on nothing else."""

import importlib
import sys
from pathlib import Path

import pytest
from helpers.configurations import TINY

from flows import recipes
from lstm_models.config import CompareConfig, FineTuneConfig
from lstm_models.nn.network import resolve_cell
from tasks.tracking import fingerprint
from tasks.tracking.fingerprint import run_fingerprint

CONFIG = recipes.load("tutorial", TINY)
OWN_CELL = "from lstm_models import Cell\n\nclass Mine(Cell):\n    pass\n"


def with_cell(name: str) -> CompareConfig:
    return recipes.load("tutorial", [*TINY, f"contenders.hand_built.model.cell={name}"])


def test_the_fingerprint_depends_on_configuration_data_and_request() -> None:
    assert run_fingerprint(CONFIG, "d") == run_fingerprint(recipes.load("tutorial", TINY), "d")
    request = FineTuneConfig(experiment="tutorial")
    others = [
        run_fingerprint(CONFIG, "d"),
        run_fingerprint(recipes.load("tutorial", [*TINY, "seed=43"]), "d"),
        run_fingerprint(CONFIG, "other"),
        run_fingerprint(CONFIG, "d", request),
        run_fingerprint(CONFIG, "d", request.model_copy(update={"epochs": 77})),
    ]
    assert len({*others}) == len(others)
    # keep_versions does not influence the challenger
    assert run_fingerprint(CONFIG, "d", request.model_copy(update={"keep_versions": 5})) == others[3]


def test_the_fingerprint_depends_on_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in fingerprint.OWN_PACKAGES:
        (tmp_path / package).mkdir()
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    prints = [run_fingerprint(CONFIG, "d")]
    for name, content in (
        ("tasks/new.py", "A = 1\n"),
        ("tasks/new.py", "A = 2\n"),
        ("lstm_models/new.cpp", ""),
        ("flows/new.py", ""),
    ):
        (tmp_path / name).write_text(content)
        prints.append(run_fingerprint(CONFIG, "d"))
    (tmp_path / "tasks" / "new.txt").write_text("no code")
    assert run_fingerprint(CONFIG, "d") == prints[-1]
    assert len({*prints}) == len(prints)


@pytest.fixture
def own_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a cell, cell_of_mine.Mine, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cell_of_mine", None)  # so that monkeypatch removes what the test imports
    monkeypatch.delitem(sys.modules, "cell_of_mine")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = tmp_path / "cell_of_mine.py"
    source.write_text(OWN_CELL)
    return source


def forget(source: Path) -> None:
    """Make Python import a module again, as a new process does."""
    del sys.modules[source.stem]
    importlib.invalidate_caches()


def test_the_fingerprint_depends_on_the_file_of_a_user_defined_cell(own_cell: Path) -> None:
    config, builtin = with_cell("cell_of_mine.Mine"), (CONFIG, with_cell("peephole"))
    original, builtin_prints = run_fingerprint(config, "d"), [run_fingerprint(each, "d") for each in builtin]
    assert original not in builtin_prints
    own_cell.with_name("another.py").write_text("A = 1\n")
    own_cell.touch()
    assert run_fingerprint(config, "d") == original

    own_cell.write_text(f"{OWN_CELL}\n\n# changed\n")
    forget(own_cell)
    assert run_fingerprint(config, "d") != original
    assert [run_fingerprint(each, "d") for each in builtin] == builtin_prints
    own_cell.write_text(OWN_CELL)
    forget(own_cell)
    assert run_fingerprint(config, "d") == original


def test_a_cells_file_that_changes_after_its_import_keeps_the_digest_of_the_imported_code(own_cell: Path) -> None:
    """In a notebook, either the cell is imported again, or the fingerprint stays that of the imported cell."""
    config = with_cell("cell_of_mine.Mine")
    original, cell = run_fingerprint(config, "d"), resolve_cell("cell_of_mine.Mine")
    own_cell.write_text(f"{OWN_CELL}\n\n# changed\n")
    assert run_fingerprint(config, "d") == original or resolve_cell("cell_of_mine.Mine") is not cell
