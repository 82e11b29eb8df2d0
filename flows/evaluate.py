"""The watch: the champion on the newest rows, a point of a series each time."""

from prefect import flow

from lstm_models.config import EvaluateConfig, on_new_rows
from tasks.endings import HOOKS
from tasks.lineage import find_version
from tasks.references import Watched
from tasks.watching import judge_newest


@flow(name="evaluate", **HOOKS)
def evaluate(config: EvaluateConfig) -> Watched:
    """Judge an experiment's champion on the test part of its table as it is now.

    Args:
        config: which experiment, and which rows.

    Returns:
        The point that was added to the series, or none where nothing is new.

    Raises:
        LineageError: if there is no champion.
        TableError: if the data can't be used, or is not what the champion was trained on.
        NotHeldOut: if the rows to judge by are among those that the champion has learnt from.
    """
    champion = find_version(config.experiment)
    return judge_newest(on_new_rows(champion.trained.config, config), champion)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["evaluate", *sys.argv[1:]])
