"""Life cycle of the MLflow runs of one flow run: start, resume and terminate the parent run and its children."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import prefect.runtime.flow_run
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from lstm_models.config import CompareConfig, FineTuneConfig
from tasks import tracking
from tasks.schemas import InterruptedRun, ParentRun, TrainedVersion
from tasks.tracking import fingerprint

CONFIG_FILE = "config.yaml"
RESULT_FILE = "comparison.json"
ERROR_TAG = f"{tracking.TAG}error"  # the tag with the exception that terminated the run
CAN_RESUME = "the flow run can be resumed"  # a note on the exception that terminated the run
CHAMPION_PARAM = "champion"  # the parameter with the version that was champion when the run started
TENSORBOARD_DIR = "tensorboard"


@dataclass(frozen=True)
class RunSpec:
    """Description of a flow run, recorded in its MLflow run.

    Attributes:
        flow: The flow's name.
        config: The configuration of the models and their training.
        note: The run's description, a sentence.
        request: The fine-tuning settings, if any.
        params: Parameters that distinguish such runs in MLflow's list of runs.
    """

    flow: str
    config: CompareConfig
    note: str
    request: FineTuneConfig | None = None
    params: Mapping[str, object] = field(default_factory=dict)


def comparison_spec(config: CompareConfig) -> RunSpec:
    """Return the specification of a comparison of all contenders."""
    return RunSpec(
        "compare",
        config,
        f"Comparison of {', '.join(config.contenders)} on the data {config.data.kind}, seed {config.seed}. "
        "The trained phases of each contender are child runs; predictions of the untrained phase are in this run.",
    )


def fine_tuning_spec(
    config: CompareConfig, request: FineTuneConfig, version: TrainedVersion, champion: TrainedVersion | None = None
) -> RunSpec:
    """Return the specification of a run that fine-tunes a version and compares the result with the champion."""
    return RunSpec(
        "fine_tune",
        config,
        f"Fine-tuning of version {version.number}, {version.contender}, on the current table ({request.mode}). The "
        "challenger is a child run; the champion's evaluation on the same rows is in this run, under champion.",
        request.model_copy(update={"version": version.number}),
        {
            "mode": request.mode,
            "continues": version.number,
            "epochs": request.epochs,
            CHAMPION_PARAM: champion.number if champion else "none",
        },
    )


def start_parent_run(spec: RunSpec) -> ParentRun:
    """Start the MLflow run of this flow run, tagged with the versions of the code and the packages.

    Raises:
        ConfigError: If a user-defined cell can't be imported; no run is created.
    """
    config = spec.config
    fingerprint.validate_cells(config)
    experiment = tracking.get_or_create_experiment(config.experiment)
    close_abandoned_runs(experiment)
    run_id = tracking.start_run(
        experiment,
        f"{spec.flow} {config.experiment}",
        tags={
            "flow": spec.flow,
            "code": fingerprint.code_digest(),
            "prefect_flow_run_id": prefect.runtime.flow_run.id or "none",
            **{f"version.{package}": version for package, version in fingerprint.package_versions().items()},
        },
        note=spec.note,
    )
    return parent_run(run_id, experiment, config.experiment, spec.request)


def parent_run(run_id: str, experiment_id: str, experiment: str, request: FineTuneConfig | None) -> ParentRun:
    """Return a reference to a parent run for tasks; it is the same when the run is resumed."""
    tensorboard_dir = f"{TENSORBOARD_DIR}/{experiment}/{run_id[:8]}"
    return ParentRun(
        run_id=run_id,
        experiment_id=experiment_id,
        experiment=experiment,
        tensorboard_dir=tensorboard_dir,
        request=request,
    )


@contextmanager
def tracked_flow_run(spec: RunSpec, interrupted: InterruptedRun | None = None) -> Iterator[ParentRun]:
    """Track the block as a parent run, and terminate that run and its children with the right status.

    The status is FINISHED if the block ends, FAILED on an error, and KILLED on Ctrl-C or a signal. Children that are
    still RUNNING get the same status.

    Args:
        spec: The run to start.
        interrupted: The run to resume, with its unfinished children, instead of starting one.

    Raises:
        BaseException: What the block raises, with the note `CAN_RESUME` if the run can be resumed.
    """
    parent = interrupted.parent if interrupted else start_parent_run(spec)
    can_resume = interrupted is not None
    try:
        if interrupted:
            for run_id in [parent.run_id, *_children(parent.experiment_id, parent.run_id, "!= 'FINISHED'")]:
                tracking.reopen_run(run_id)
            tracking.get_or_none(lambda: tracking.mlflow_client().delete_tag(parent.run_id, ERROR_TAG))
        else:
            _record_spec(spec, parent)
            can_resume = True
        yield parent
    except BaseException as error:
        if can_resume:
            error.add_note(CAN_RESUME)
        with tracking.best_effort():
            tracking.mlflow_client().set_tag(parent.run_id, ERROR_TAG, f"{type(error).__name__}: {error}"[:5000])
            terminate_runs(parent.experiment_id, parent.run_id, tracking.status_after(error))
        raise
    terminate_runs(parent.experiment_id, parent.run_id, "FINISHED")


def _record_spec(spec: RunSpec, parent: ParentRun) -> None:
    """Log a run's parameters and settings. The configuration is last: a run that has it can be resumed."""
    config, client = spec.config, tracking.mlflow_client()
    params = {"seed": config.seed, "data": config.data.kind, "contenders": ", ".join(config.contenders)}
    tracking.log_params(parent.run_id, {**params, **spec.params})
    if spec.request:
        client.log_text(parent.run_id, spec.request.to_yaml(), f"{spec.flow}.yaml")
    client.log_text(parent.run_id, config.to_yaml(), CONFIG_FILE)


def terminate_runs(experiment: str, parent: str, status: str) -> None:
    """Set the status of a parent run, and of its children that are RUNNING."""
    for run_id in [*_children(experiment, parent, "= 'RUNNING'"), parent]:
        tracking.mlflow_client().set_terminated(run_id, status)


def _children(experiment: str, parent: str, status: str) -> list[str]:
    query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status {status}"
    return [str(run.info.run_id) for run in tracking.mlflow_client().search_runs([experiment], query)]


def close_abandoned_runs(experiment: str) -> None:
    """Set runs to KILLED that are RUNNING although their process has exited, on this host, or their flow run is final.

    Args:
        experiment: The experiment's id.
    """
    for run in tracking.mlflow_client().search_runs([experiment], "attributes.status = 'RUNNING'"):
        process = {
            key.removeprefix(tracking.TAG): value
            for key, value in run.data.tags.items()
            if key.startswith(tracking.TAG)
        }
        if fingerprint.has_exited(process) or _flow_run_has_ended(process.get("prefect_flow_run_id", "none")):
            tracking.mlflow_client().set_terminated(run.info.run_id, "KILLED")


def _flow_run_has_ended(flow_run: str) -> bool:
    """Return whether a flow run is in a final state on the Prefect server, as after a crash on another host."""
    if flow_run in ("none", prefect.runtime.flow_run.id):
        return False
    with get_client(sync_client=True) as api:
        try:
            state = api.read_flow_run(UUID(flow_run)).state
        except (ObjectNotFound, ValueError):  # of another server
            return False
    return state is not None and state.is_final()
