"""Enforce the rule for unit tests: no process, no network, no file outside pytest's temporary directory."""

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
    """Put temporary files of the program, and hypothesis's files, into pytest's temporary directory."""
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    previous, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = previous


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Guard the test function."""
    with GUARD.active(item.config._tmp_path_factory.getbasetemp()):  # type: ignore[attr-defined]
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Guard the fixtures."""
    with GUARD.active(item.config._tmp_path_factory.getbasetemp()):  # type: ignore[attr-defined]
        return (yield)


@pytest.fixture
def guard() -> Guard:
    """The guard that checks all unit tests."""
    return GUARD
