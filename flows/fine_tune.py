"""Flow `fine_tune`, for schedules: new rows -> fine-tune the champion -> challenger -> promote or not."""

from typing import cast

from prefect import flow
from prefect.states import Completed

from lstm_models.config import FineTuneConfig, fine_tuning_config
from tasks import training
from tasks.data import store_data
from tasks.drift import drift_gate, measure_drift
from tasks.evaluation import evaluate, evaluate_baselines, evaluate_champion
from tasks.lineage import find_champion, find_version, validate_new_data, validate_stored_data
from tasks.orchestration.resume import find_interrupted_run, find_skip_reason
from tasks.orchestration.state_hooks import HOOKS
from tasks.promotion import promote_best
from tasks.registration import register
from tasks.reporting import report_fine_tuning
from tasks.retention import prune
from tasks.schemas import FineTuneResult, TrainedVersion
from tasks.tracking.runs import fine_tuning_spec, tracked_flow_run


@flow(name="fine_tune", **HOOKS)
def fine_tune(config: FineTuneConfig, resume: str | None = None) -> FineTuneResult:
    """Fine-tune the champion on new data and promote the result if it is significantly better.

    Without new rows the run is skipped: nothing is trained or registered.

    Args:
        config: The experiment, how its model is fine-tuned, and the rule of promotion.
        resume: The id of an interrupted MLflow run to resume with its original settings, or "newest".

    Returns:
        The outcome: promoted, not promoted, or skipped, with the reason.

    Raises:
        LineageError: If there is no champion, no such version, or no training record to continue from.
        TableError: If the data is invalid, or does not match what the version was trained on.
        DataLeakageError: If the test rows are among those that the champion or the version was trained on.
        ResumeError: If the run can't be resumed.
    """
    interrupted = find_interrupted_run("fine_tune", resume, config.experiment)
    config = (interrupted and interrupted.parent.request) or config
    version = find_version(config.experiment, config.version)
    champion = find_champion(config.experiment, interrupted)
    settings = fine_tuning_config(version.trained.config, version.contender, version.trained.checkpoint.epochs, config)
    versions = [version, champion] if champion else [version]
    spec = fine_tuning_spec(settings, config, version, champion)
    if not interrupted:
        digest = validate_new_data(settings, versions)
        if reason := find_skip_reason(spec, version, digest):
            return skipped(version, reason)
    with tracked_flow_run(spec, interrupted) as parent:
        dataset = store_data(settings, parent)
        validate_stored_data(dataset, versions)
        drift = measure_drift(version, dataset, parent)
        incumbent = evaluate_champion(settings, champion, dataset, parent) if champion else None
        train = training.warm_start if config.mode == "warm_start" else training.fine_tune
        trained = train(settings, version.trained.checkpoint, dataset, parent)
        challenger = register(settings, trained, evaluate(settings, trained, dataset), dataset)
        rejection_reason = drift_gate(config, drift)
        # this run's min_improvement is not recorded with the challenger, which keeps the comparison's
        rule = (
            settings
            if config.min_improvement is None
            else settings.model_copy(update={"min_improvement": config.min_improvement})
        )
        holders = promote_best(rule, [challenger], parent, rejection_reason)
        baselines = evaluate_baselines(dataset, parent)
        result = report_fine_tuning(
            rule, dataset, version, incumbent, challenger, baselines, holders, drift, rejection_reason, parent
        )
    return (
        result
        if config.keep_versions is None
        else result.model_copy(update={"pruned": prune(config.experiment, config.keep_versions)})
    )


def skipped(version: TrainedVersion, reason: str) -> FineTuneResult:
    """Return the result of a skipped run, as a Completed state with a distinct name in Prefect's UI."""
    message = f"Skipped: {reason}."
    result = FineTuneResult(experiment=version.name, outcome="skipped", message=message, base_version=version.number)
    # Prefect gives the caller the data of a state that a flow returns
    return cast(FineTuneResult, Completed(name="Skipped", message=message, data=result))
