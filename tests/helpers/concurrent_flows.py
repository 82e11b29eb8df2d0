"""Flows in ten processes at once: forked from one that has imported all, so that they begin together.

python at_once.py CONFIG.yaml 5 5    so many times compare, each with a seed of its own, and fine_tune of its champion
"""

import os
import sys
import traceback

from flows import recipes
from flows.compare import compare
from flows.fine_tune import fine_tune
from lstm_models.config import FineTuneConfig


def work(number: int, compares: int) -> None:
    config = recipes.load(sys.argv[1], [f"seed={number}"])
    if number < compares:
        compare(config)
    else:
        fine_tune(FineTuneConfig(experiment=config.experiment, epochs=1 + number - compares))


def main() -> None:
    compares, fine_tunes = int(sys.argv[2]), int(sys.argv[3])
    children = []
    for number in range(compares + fine_tunes):
        if child := os.fork():
            children.append(child)
            continue
        code = 1
        try:
            work(number, compares)
            code = 0
        except BaseException:  # noqa: BLE001  # what it is stands on standard error, and the exit code says so
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
