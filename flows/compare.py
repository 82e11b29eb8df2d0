"""The main path: data -> train -> fine-tune -> evaluate -> register -> comparison."""

from prefect import flow

from flows import recipes
from lstm_models.config import CompareConfig
from tasks.champions import choose_champion
from tasks.data import look_at_data, store_data
from tasks.earlier import find_earlier, find_interrupted
from tasks.endings import HOOKS
from tasks.evaluation import evaluate, evaluate_baselines, evaluate_untrained
from tasks.references import Comparison, DatasetRef, ParentRun, Result
from tasks.registry import register
from tasks.reporting import report
from tasks.runs import comparison, family
from tasks.training import resume, train


@flow(name="compare", **HOOKS)
def compare(
    config: CompareConfig | str = recipes.DEFAULT, again: bool = False, resume: str | None = None
) -> Comparison:
    """Train, fine-tune, evaluate, register and compare the contenders of a configuration on one dataset.

    Args:
        config: a configuration, the name of a recipe, or the path of a YAML file.
        again: train even if a finished run has the same configuration, data and code.
        resume: the id of an interrupted MLflow run, or "newest": it goes on, with its own configuration.

    Returns:
        The comparison: every contender's result after each phase, and who is champion.

    Raises:
        ConfigError: if the configuration can't be used.
        TableError: if the data can't be used.
        ResumeError: if the run can't go on.
    """
    if interrupted := find_interrupted("compare", resume):
        config = interrupted.config
    else:
        config = recipes.load(config)
        digest = look_at_data(config)
        if not again and (earlier := find_earlier(config, digest)):
            return earlier
    with family(comparison(config), interrupted) as parent:
        dataset = store_data(config, parent)
        results = [result for contender in config.contenders for result in compete(config, contender, dataset, parent)]
        baselines = evaluate_baselines(dataset, parent)
        holders = choose_champion(config, results, parent)
        return report(config, dataset, results, baselines, holders, parent)


def compete(config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun) -> list[Result]:
    """One contender's way: untrained, initial, fine-tuned; the two trained phases become model versions."""
    untrained = evaluate_untrained(config, contender, dataset, parent)
    initial = train(config, contender, dataset, parent)
    initial_result = evaluate(config, initial, dataset)
    fine_tuned = resume(config, initial, dataset, parent)
    fine_tuned_result = evaluate(config, fine_tuned, dataset)
    return [
        untrained,
        register(config, initial, initial_result, dataset),
        register(config, fine_tuned, fine_tuned_result, dataset),
    ]


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["compare", *sys.argv[1:]])
