"""Flow `compare`: data -> train -> fine-tune -> evaluate -> register -> report."""

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
    """Train, fine-tune, evaluate, register and compare a configuration's contenders on one dataset.

    Args:
        config: A configuration, the name of a recipe, or the path of a YAML file.
        force: Train even if a finished run has the same configuration, data and code.
        resume: The id of an interrupted MLflow run to resume with its original configuration, or "newest".

    Returns:
        The comparison: every contender's result after each phase, and the champion.

    Raises:
        ConfigError: If the configuration is invalid.
        TableError: If the data is invalid.
        ResumeError: If the run can't be resumed.
    """
    if interrupted := find_interrupted_run("compare", resume):
        config = interrupted.config
    else:
        config = recipes.load(config)
        digest = validate_data(config)
        if not force and (finished := find_finished_run(config, digest)):
            return finished
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
    """Return a contender's results untrained, after training and after fine-tuning; register the trained phases."""
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
