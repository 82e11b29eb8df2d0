"""The fingerprint of a run: the same for the same configuration, data and code, and for nothing else."""

import importlib
import sys
from pathlib import Path

import pytest
from helpers.configurations import TINY

from flows import recipes
from lstm_models.config import CompareConfig, FineTuneConfig
from lstm_models.network import find_cell
from tasks import provenance
from tasks.provenance import fingerprint

CONFIG = recipes.load("tutorial", TINY)
OWN_CELL = "from lstm_models import Cell\n\nclass Mine(Cell):\n    pass\n"


def with_cell(name: str) -> CompareConfig:
    return recipes.load("tutorial", [*TINY, f"contenders.hand_built.model.cell={name}"])


def test_the_fingerprint_follows_configuration_data_and_request() -> None:
    assert fingerprint(CONFIG, "d") == fingerprint(recipes.load("tutorial", TINY), "d")
    request = FineTuneConfig(experiment="tutorial")
    others = [
        fingerprint(CONFIG, "d"),
        fingerprint(recipes.load("tutorial", [*TINY, "seed=43"]), "d"),
        fingerprint(CONFIG, "other"),
        fingerprint(CONFIG, "d", request),
        fingerprint(CONFIG, "d", request.model_copy(update={"epochs": 77})),
    ]
    assert len({*others}) == len(others)
    # how many versions are kept makes no other challenger
    assert fingerprint(CONFIG, "d", request.model_copy(update={"keep": 5})) == others[3]


def test_the_fingerprint_follows_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in provenance.OUR_PACKAGES:
        (tmp_path / package).mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    prints = [fingerprint(CONFIG, "d")]
    for name, content in (
        ("tasks/new.py", "A = 1\n"),
        ("tasks/new.py", "A = 2\n"),
        ("lstm_models/new.cpp", ""),
        ("flows/new.py", ""),
    ):
        (tmp_path / name).write_text(content)
        prints.append(fingerprint(CONFIG, "d"))
    (tmp_path / "tasks" / "new.txt").write_text("no code")
    assert fingerprint(CONFIG, "d") == prints[-1]
    assert len({*prints}) == len(prints)


@pytest.fixture
def own_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a cell, cell_of_mine.Mine, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cell_of_mine", None)  # so that what is there after the test is undone
    monkeypatch.delitem(sys.modules, "cell_of_mine")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = tmp_path / "cell_of_mine.py"
    source.write_text(OWN_CELL)
    return source


def forget(source: Path) -> None:
    """Make Python import a module anew, as a new process does."""
    del sys.modules[source.stem]
    importlib.invalidate_caches()


def test_the_fingerprint_follows_the_file_of_a_users_own_cell_and_no_other(own_cell: Path) -> None:
    config, ours = with_cell("cell_of_mine.Mine"), (CONFIG, with_cell("peephole"))
    before, of_ours = fingerprint(config, "d"), [fingerprint(one, "d") for one in ours]
    assert before not in of_ours
    own_cell.with_name("another.py").write_text("A = 1\n")
    own_cell.touch()
    assert fingerprint(config, "d") == before

    own_cell.write_text(f"{OWN_CELL}\n\n# changed\n")
    forget(own_cell)
    assert fingerprint(config, "d") != before
    assert [fingerprint(one, "d") for one in ours] == of_ours
    own_cell.write_text(OWN_CELL)
    forget(own_cell)
    assert fingerprint(config, "d") == before


def test_a_cells_file_that_changes_after_its_import_keeps_the_digest_of_the_imported_code(own_cell: Path) -> None:
    """In a notebook: either the cell is imported anew, or the fingerprint is still that of the one that runs."""
    config = with_cell("cell_of_mine.Mine")
    before, cell = fingerprint(config, "d"), find_cell("cell_of_mine.Mine")
    own_cell.write_text(f"{OWN_CELL}\n\n# changed\n")
    assert fingerprint(config, "d") == before or find_cell("cell_of_mine.Mine") is not cell
