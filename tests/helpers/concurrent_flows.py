"""Run flows in concurrent processes, forked from one with all imports done, so that they start at the same time.

python concurrent_flows.py CONFIG.yaml 5 5    run compare 5 times, with different seeds, and fine_tune 5 times
"""

import os
import sys
import traceback

from flows import recipes
from flows.compare import compare
from flows.fine_tune import fine_tune
from lstm_models.config import FineTuneConfig


def run_flow(number: int, compares: int) -> None:
    """Run compare with its own seed, or from number `compares` on fine_tune with its own number of epochs."""
    config = recipes.load(sys.argv[1], [f"seed={number}"])
    if number < compares:
        compare(config)
    else:
        fine_tune(FineTuneConfig(experiment=config.experiment, epochs=1 + number - compares))


def main() -> None:
    """Run the flows, print the exit codes, and exit with 1 if one of them is not 0."""
    compares, fine_tunes = int(sys.argv[2]), int(sys.argv[3])
    children = []
    for number in range(compares + fine_tunes):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:
            run_flow(number, compares)
            code = 0
        except BaseException:  # noqa: BLE001  # reported on standard error and by the exit code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(codes)
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
