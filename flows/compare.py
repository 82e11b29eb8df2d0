"""The main path: data -> train -> fine-tune -> evaluate -> register -> comparison."""

from prefect import flow

from flows import recipes
from lstm_models.config import CompareConfig
from tasks.data import store_data, validate_data
from tasks.evaluation import evaluate, evaluate_baselines, evaluate_untrained
from tasks.orchestration.resume import find_finished_run, find_interrupted_run
from tasks.orchestration.state_hooks import HOOKS
from tasks.promotion import promote_best
from tasks.registration import register
from tasks.reporting import report
from tasks.schemas import ComparisonReport, DatasetRef, ParentRun, PhaseResult
from tasks.tracking.runs import comparison_spec, tracked_flow_run
from tasks.training import fine_tune, train


@flow(name="compare", **HOOKS)
def compare(
    config: CompareConfig | str = recipes.DEFAULT, force: bool = False, resume: str | None = None
) -> ComparisonReport:
    """Train, fine-tune, evaluate, register and compare the contenders of a configuration on one dataset.

    Args:
        config: a configuration, the name of a recipe, or the path of a YAML file.
        force: train even if a finished run has the same configuration, data and code.
        resume: the id of an interrupted MLflow run, or "newest": it goes on, with its own configuration.

    Returns:
        The comparison: every contender's result after each phase, and who is champion.

    Raises:
        ConfigError: if the configuration can't be used.
        TableError: if the data can't be used.
        ResumeError: if the run can't go on.
    """
    if interrupted := find_interrupted_run("compare", resume):
        config = interrupted.config
    else:
        config = recipes.load(config)
        digest = validate_data(config)
        if not force and (earlier := find_finished_run(config, digest)):
            return earlier
    with tracked_flow_run(comparison_spec(config), interrupted) as parent:
        dataset = store_data(config, parent)
        results = [
            result
            for contender in config.contenders
            for result in train_and_evaluate(config, contender, dataset, parent)
        ]
        baselines = evaluate_baselines(dataset, parent)
        holders = promote_best(config, results, parent)
        return report(config, dataset, results, baselines, holders, parent)


def train_and_evaluate(
    config: CompareConfig, contender: str, dataset: DatasetRef, parent: ParentRun
) -> list[PhaseResult]:
    """One contender's way: untrained, initial, fine-tuned; the two trained phases become model versions."""
    untrained = evaluate_untrained(config, contender, dataset, parent)
    initial = train(config, contender, dataset, parent)
    initial_result = evaluate(config, initial, dataset)
    fine_tuned = fine_tune(config, initial, dataset, parent)
    fine_tuned_result = evaluate(config, fine_tuned, dataset)
    return [
        untrained,
        register(config, initial, initial_result, dataset),
        register(config, fine_tuned, fine_tuned_result, dataset),
    ]
