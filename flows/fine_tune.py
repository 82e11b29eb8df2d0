"""The scheduled path: new rows -> continue the champion -> challenger -> promote or keep."""

from typing import cast

from prefect import flow
from prefect.states import Completed

from lstm_models.config import FineTuneConfig, continued
from tasks import training
from tasks.champions import choose_champion
from tasks.data import store_data
from tasks.drifting import measure_drift, veto
from tasks.earlier import find_interrupted, nothing_new
from tasks.endings import HOOKS
from tasks.evaluation import evaluate, evaluate_baselines, evaluate_champion
from tasks.lineage import check_stored, find_champion, find_version, look_at_new_rows
from tasks.references import FineTuned, Version
from tasks.registry import register
from tasks.reporting import report_fine_tuning
from tasks.retention import prune
from tasks.runs import continuation, family


@flow(name="fine_tune", **HOOKS)
def fine_tune(config: FineTuneConfig, resume: str | None = None) -> FineTuned:
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
    interrupted = find_interrupted("fine_tune", resume, config.experiment)
    config = (interrupted and interrupted.parent.asked) or config
    version = find_version(config.experiment, config.version)
    champion = find_champion(config.experiment, interrupted)
    settings = continued(version.trained.config, version.contender, version.trained.checkpoint.epochs, config)
    judged = [version, champion] if champion else [version]
    work = continuation(settings, config, version, champion)
    if not interrupted:
        digest = look_at_new_rows(settings, judged)
        if reason := nothing_new(work, version, digest):
            return nothing_to_do(version, reason)
    with family(work, interrupted) as parent:
        dataset = store_data(settings, parent)
        check_stored(dataset, judged)
        drift = measure_drift(version, dataset, parent)
        incumbent = evaluate_champion(settings, champion, dataset, parent) if champion else None
        go_on = training.warm_start if config.mode == "warm_start" else training.resume
        trained = go_on(settings, version.trained.checkpoint, dataset, parent)
        challenger = register(settings, trained, evaluate(settings, trained, dataset), dataset)
        objection = veto(config, drift)
        # a margin of this night's own: what goes on from the challenger has the comparison's again
        rule = settings if config.margin is None else settings.model_copy(update={"margin": config.margin})
        holders = choose_champion(rule, [challenger], parent, objection)
        baselines = evaluate_baselines(dataset, parent)
        done = report_fine_tuning(
            rule, dataset, version, incumbent, challenger, baselines, holders, drift, objection, parent
        )
    return done if config.keep is None else done.model_copy(update={"removed": prune(config.experiment, config.keep)})


def nothing_to_do(version: Version, reason: str) -> FineTuned:
    """The end of a run with nothing to learn: Completed, by a name that tells it from others in Prefect's UI."""
    message = f"Nothing to do: {reason}."
    done = FineTuned(experiment=version.name, outcome="nothing to do", message=message, continued=version.number)
    # a flow may return its last state; whoever called it gets the data
    return cast(FineTuned, Completed(name="NothingToDo", message=message, data=done))


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["fine-tune", *sys.argv[1:]])
