"""Two concurrent first runs in an empty directory: one prints tables, one prints JSON."""

import json
from pathlib import Path

from helpers.configurations import TINY
from helpers.newcomer import Newcomer

CHANGES = [part for change in TINY for part in ("--set", change)]


def test_two_concurrent_first_runs(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path)
    processes = {
        "tutorial": newcomer.start("compare", *CHANGES),
        "parity": newcomer.start("compare", "parity", *CHANGES, "--json"),
    }
    ended = {name: process.communicate() for name, process in processes.items()}
    assert {name: process.returncode for name, process in processes.items()} == {"tutorial": 0, "parity": 0}, ended
    for name in processes:
        assert newcomer.statuses(name) == [
            (f"compare {name}", "FINISHED"),
            ("hand_built/initial", "FINISHED"),
            ("hand_built/fine_tuned", "FINISHED"),
            ("built_in/initial", "FINISHED"),
            ("built_in/fine_tuned", "FINISHED"),
        ]
    # without --json: one line per training, a table and two hints
    out, errors = ended["tutorial"]
    names = [line.split()[0] for line in errors.splitlines()]
    assert names == ["hand_built/initial", "hand_built/fine_tuned", "built_in/initial", "built_in/fine_tuned"]
    *table, look, next_hint = out.splitlines()
    assert max(map(len, table[:-1])) <= 100
    assert look.startswith("Look: lstm-flows ui   then http://127.0.0.1:5000/#/experiments/")
    assert next_hint == "Next: lstm-flows compare parity"
    assert "\x1b" not in out + errors  # no colour without a terminal
    # with --json: one object and nothing else
    out, _ = ended["parity"]
    assert out.count("\n") == 1
    result = json.loads(out)
    assert (result["experiment"], len(result["results"]), result["reused"]) == ("parity", 6, False)
