"""The unit lane's rule, enforced: no process, no network, no file outside of pytest's temporary directory."""

import sys
import tempfile
from collections.abc import Iterator

import pytest
from helpers.guard import Guard
from hypothesis.configuration import set_hypothesis_home_dir

GUARD = Guard()
sys.addaudithook(GUARD)


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the program makes by tempfile, and what hypothesis keeps, lies with the tests' own files."""
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with GUARD.watching(item.config._tmp_path_factory.getbasetemp()):  # type: ignore[attr-defined]
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with GUARD.watching(item.config._tmp_path_factory.getbasetemp()):  # type: ignore[attr-defined]
        return (yield)


@pytest.fixture
def guard() -> Guard:
    """The one that watches."""
    return GUARD
