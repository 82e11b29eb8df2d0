"""Check which of twenty deliberate faults the test suite detects: each mutation is killed or survives.

Each mutation of mutations.toml is applied alone, and the tests that cover its lines run until the first failure. If all
of them pass, all tests of their files run, because coverage attributes a fixture to the first test that uses it. The
covering tests are read from the coverage data of `make coverage`, so run that first. The source files are changed in
place and restored afterwards: run this in a clone.

python benchmarks/mutations.py [FILE ...]    all mutations, or those of these files
"""

import argparse
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

from coverage import CoverageData

ROOT = Path(__file__).parent.parent
LANES = ("tests/unit/", "tests/integration/", "tests/e2e/")


class Mutation(NamedTuple):
    """Fault: in the file, `before`, which must occur exactly once, is replaced with `after`."""

    file: str
    fault: str
    before: str
    after: str

    @property
    def lines(self) -> range:
        """Numbers of the changed lines."""
        head, separator, _ = (ROOT / self.file).read_text().partition(self.before)
        assert separator, f"{self.file}: {self.before!r} does not occur"
        first = head.count("\n") + 1
        return range(first, first + self.before.strip("\n").count("\n") + 1)


def load() -> list[Mutation]:
    entries = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["mutation"]
    return [Mutation(**entry) for entry in entries]


def covering_tests(data: CoverageData, mutation: Mutation) -> list[str]:
    """Return the ids of the tests that run a mutated line, the fastest lane first."""
    contexts = data.contexts_by_lineno(str(ROOT / mutation.file))
    # contexts are "id|run" (pytest-cov), or "id (call)" (PYTEST_CURRENT_TEST) in a process that a test started
    phase = re.compile(r"(\||\s\()(setup|run|call|teardown)\)?$")
    tests = {phase.sub("", context) for line in mutation.lines for context in contexts.get(line, [])} - {""}
    lane = {test: next((i for i, lane in enumerate(LANES) if test.startswith(lane)), 0) for test in tests}
    return sorted(tests, key=lambda test: (lane[test], test))


def run(mutation: Mutation, tests: list[str]) -> tuple[str, float]:
    """Apply a mutation, run the tests, restore the file.

    Returns:
        The first test that failed, or "" if all passed; and the duration in seconds.
    """
    path = ROOT / mutation.file
    original = path.read_text()
    assert original.count(mutation.before) == 1, f"{mutation.file}: {mutation.before!r} occurs more than once"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    if len(tests) > 20:
        command += ["--numprocesses", "2", "--dist", "loadfile"]
    path.write_text(original.replace(mutation.before, mutation.after))
    began = time.monotonic()
    try:
        done = subprocess.run([*command, *tests], cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        path.write_text(original)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.MULTILINE)
    assert done.returncode == 0 or failed, done.stdout + done.stderr
    return failed.group(1) if failed else "", time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="apply only the mutations of these files")
    parser.add_argument("--data", type=Path, default=ROOT / ".coverage", help="coverage data with contexts")
    arguments = parser.parse_args()
    data = CoverageData(str(arguments.data))
    data.read()
    survived = 0
    print("| file | fault | covering tests | killed by | s |\n| --- | --- | ---: | --- | ---: |")
    for mutation in load():
        if arguments.files and mutation.file not in arguments.files:
            continue
        tests = covering_tests(data, mutation)
        killer, seconds = run(mutation, tests) if tests else ("", 0.0)
        if tests and not killer:
            killer, more = run(mutation, list(dict.fromkeys(test.partition("::")[0] for test in tests)))
            seconds += more
        survived += not killer
        outcome = killer.removeprefix("tests/") or "**survived**"
        print(f"| {mutation.file} | {mutation.fault} | {len(tests)} | {outcome} | {seconds:.0f} |", flush=True)
    sys.exit(f"{survived} survived" if survived else 0)


if __name__ == "__main__":
    main()
