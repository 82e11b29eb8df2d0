"""The runs of one flow run: parent and children, how they begin, are taken up, and end."""

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
ERROR_TAG = f"{tracking.TAG}error"  # the tag that says what broke
CAN_RESUME = "the flow run can be taken up"  # a note that an error carries
CHAMPION_PARAM = "champion"  # the parameter that names the version which was champion when a run began
TENSORBOARD_DIR = "tensorboard"


@dataclass(frozen=True)
class RunSpec:
    """What a flow run does, as its MLflow run tells it.

    flow: the flow's name. config: what is trained, and how. note: a sentence on it. asked: what was asked for beside
    the configuration. params: what tells such runs apart in a list.
    """

    flow: str
    config: CompareConfig
    note: str
    request: FineTuneConfig | None = None
    params: Mapping[str, object] = field(default_factory=dict)


def comparison_spec(config: CompareConfig) -> RunSpec:
    """All contenders, from their seeds."""
    return RunSpec(
        "compare",
        config,
        f"Comparison of {', '.join(config.contenders)} on the data {config.data.kind}, seed {config.seed}. "
        "Each contender's trained phases are child runs; what the untrained ones predict stands here.",
    )


def fine_tuning_spec(
    config: CompareConfig, request: FineTuneConfig, version: TrainedVersion, champion: TrainedVersion | None = None
) -> RunSpec:
    """One version, which goes on, to be held against the champion."""
    return RunSpec(
        "fine_tune",
        config,
        f"Version {version.number}, {version.contender}, goes on with the table as it is now ({request.mode}). The "
        "challenger is a child run; how the champion does on the same rows stands here, under champion.",
        request.model_copy(update={"version": version.number}),
        {
            "mode": request.mode,
            "continues": version.number,
            "epochs": request.epochs,
            CHAMPION_PARAM: champion.number if champion else "none",
        },
    )


def start_parent_run(work: RunSpec) -> ParentRun:
    """Start the MLflow run of this flow run: what was asked for, and where it comes from.

    Raises:
        ConfigError: if a cell can't be had; then nothing is left behind.
    """
    config = work.config
    fingerprint.validate_cells(config)
    experiment = tracking.get_or_create_experiment(config.experiment)
    close_abandoned_runs(experiment)
    run_id = tracking.start_run(
        experiment,
        f"{work.flow} {config.experiment}",
        tags={
            "flow": work.flow,
            "code": fingerprint.code_digest(),
            "prefect_flow_run_id": prefect.runtime.flow_run.id or "none",
            **{f"version.{package}": version for package, version in fingerprint.package_versions().items()},
        },
        note=work.note,
    )
    return parent_run(run_id, experiment, config.experiment, work.request)


def parent_run(run_id: str, experiment_id: str, experiment: str, request: FineTuneConfig | None) -> ParentRun:
    """What tasks are told of a flow run's MLflow run; the same again when it is taken up after a crash."""
    boards = f"{TENSORBOARD_DIR}/{experiment}/{run_id[:8]}"
    return ParentRun(
        run_id=run_id, experiment_id=experiment_id, experiment=experiment, tensorboard_dir=boards, request=request
    )


@contextmanager
def tracked_flow_run(work: RunSpec, interrupted: InterruptedRun | None = None) -> Iterator[ParentRun]:
    """Hold a parent run open, and see to it that neither it nor a child of it ends with a status that is not true.

    FINISHED if the block ends, FAILED on an error, KILLED on Ctrl-C or a signal; a child that the block did not finish
    gets the same. An interrupted one is taken up, with the children that were not finished.
    """
    parent = interrupted.parent if interrupted else start_parent_run(work)
    begun = interrupted is not None
    try:
        if interrupted:
            for run_id in [parent.run_id, *_children(parent.experiment_id, parent.run_id, "!= 'FINISHED'")]:
                tracking.reopen_run(run_id)
            tracking.get_or_none(lambda: tracking.mlflow_client().delete_tag(parent.run_id, ERROR_TAG))
        else:
            _record_spec(work, parent)
            begun = True
        yield parent
    except BaseException as error:
        if begun:
            error.add_note(CAN_RESUME)
        with tracking.best_effort():
            tracking.mlflow_client().set_tag(parent.run_id, ERROR_TAG, f"{type(error).__name__}: {error}"[:5000])
            terminate_runs(parent.experiment_id, parent.run_id, tracking.status_after(error))
        raise
    terminate_runs(parent.experiment_id, parent.run_id, "FINISHED")


def _record_spec(work: RunSpec, parent: ParentRun) -> None:
    """Leave with a run what it is about. The configuration comes last: where it lies, the run can be taken up."""
    config, client = work.config, tracking.mlflow_client()
    what = {"seed": config.seed, "data": config.data.kind, "contenders": ", ".join(config.contenders)}
    tracking.log_params(parent.run_id, {**what, **work.params})
    if work.request:
        client.log_text(parent.run_id, work.request.to_yaml(), f"{work.flow}.yaml")
    client.log_text(parent.run_id, config.to_yaml(), CONFIG_FILE)


def terminate_runs(experiment: str, parent: str, status: str) -> None:
    for run_id in [*_children(experiment, parent, "= 'RUNNING'"), parent]:
        tracking.mlflow_client().set_terminated(run_id, status)


def _children(experiment: str, parent: str, status: str) -> list[str]:
    query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status {status}"
    return [str(run.info.run_id) for run in tracking.mlflow_client().search_runs([experiment], query)]


def close_abandoned_runs(experiment: str) -> None:
    """Mark as KILLED what is RUNNING although its process, on this host, is gone, or its flow run has ended."""
    for run in tracking.mlflow_client().search_runs([experiment], "attributes.status = 'RUNNING'"):
        process = {
            key.removeprefix(tracking.TAG): value
            for key, value in run.data.tags.items()
            if key.startswith(tracking.TAG)
        }
        if fingerprint.has_exited(process) or _flow_run_has_ended(process.get("prefect_flow_run_id", "none")):
            tracking.mlflow_client().set_terminated(run.info.run_id, "KILLED")


def _flow_run_has_ended(flow_run: str) -> bool:
    """Whether Prefect's server knows of a flow run that it is over, as when it crashed on another host."""
    if flow_run in ("none", prefect.runtime.flow_run.id):
        return False
    with get_client(sync_client=True) as api:
        try:
            state = api.read_flow_run(UUID(flow_run)).state
        except (ObjectNotFound, ValueError):  # another server's
            return False
    return state is not None and state.is_final()
