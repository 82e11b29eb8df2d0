"""The scheduled path: new rows -> continue the champion -> challenger -> promote or keep."""

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
    """Let an experiment's champion go on with its table as it is now, and promote what comes of it if it is better.

    Where there are no new rows, nothing is trained and nothing registered.

    Args:
        config: which experiment, how it goes on, and when the challenger takes over.
        resume: the id of an interrupted MLflow run, or "newest": it goes on, as it was begun.

    Returns:
        What became of it: promoted, kept, or nothing to do; and why.

    Raises:
        LineageError: if there is no champion, or no such version, or nothing to go on from.
        TableError: if the data can't be used, or is not what the version was trained on.
        NotHeldOut: if the rows to judge by are among those that champion or version have learnt from.
        ResumeError: if the run can't go on.
    """
    interrupted = find_interrupted_run("fine_tune", resume, config.experiment)
    config = (interrupted and interrupted.parent.request) or config
    version = find_version(config.experiment, config.version)
    champion = find_champion(config.experiment, interrupted)
    settings = fine_tuning_config(version.trained.config, version.contender, version.trained.checkpoint.epochs, config)
    judged = [version, champion] if champion else [version]
    work = fine_tuning_spec(settings, config, version, champion)
    if not interrupted:
        digest = validate_new_data(settings, judged)
        if reason := find_skip_reason(work, version, digest):
            return skipped(version, reason)
    with tracked_flow_run(work, interrupted) as parent:
        dataset = store_data(settings, parent)
        validate_stored_data(dataset, judged)
        drift = measure_drift(version, dataset, parent)
        incumbent = evaluate_champion(settings, champion, dataset, parent) if champion else None
        go_on = training.warm_start if config.mode == "warm_start" else training.fine_tune
        trained = go_on(settings, version.trained.checkpoint, dataset, parent)
        challenger = register(settings, trained, evaluate(settings, trained, dataset), dataset)
        objection = drift_gate(config, drift)
        # a margin of this night's own: what goes on from the challenger has the comparison's again
        rule = (
            settings
            if config.min_improvement is None
            else settings.model_copy(update={"min_improvement": config.min_improvement})
        )
        holders = promote_best(rule, [challenger], parent, objection)
        baselines = evaluate_baselines(dataset, parent)
        done = report_fine_tuning(
            rule, dataset, version, incumbent, challenger, baselines, holders, drift, objection, parent
        )
    return (
        done
        if config.keep_versions is None
        else done.model_copy(update={"pruned": prune(config.experiment, config.keep_versions)})
    )


def skipped(version: TrainedVersion, reason: str) -> FineTuneResult:
    """The end of a run with nothing to learn: Completed, by a name that tells it from others in Prefect's UI."""
    message = f"Skipped: {reason}."
    done = FineTuneResult(experiment=version.name, outcome="skipped", message=message, base_version=version.number)
    # a flow may return its last state; whoever called it gets the data
    return cast(FineTuneResult, Completed(name="NothingToDo", message=message, data=done))
