"""The list of deliberate faults in benchmarks/mutations.toml, against the source."""

import tomllib

import pytest
from helpers.processes import ROOT

MUTATIONS = tomllib.loads((ROOT / "benchmarks/mutations.toml").read_text())["mutation"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation['file']}: {mutation['fault']}")
def test_each_fault_replaces_text_that_occurs_once(mutation: dict[str, str]) -> None:
    assert (ROOT / mutation["file"]).read_text().count(mutation["before"]) == 1
    assert mutation["before"] != mutation["after"]
