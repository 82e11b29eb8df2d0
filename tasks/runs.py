"""The runs of one flow run: parent and children, how they end, and whether an equal one is there already."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import prefect.runtime.flow_run
from mlflow.exceptions import MlflowException
from prefect import task
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from lstm_models import yaml_text
from lstm_models.config import CompareConfig, FineTuneConfig
from tasks import provenance, tracking
from tasks.references import Comparison, ParentRun, Version
from tasks.retries import MAY_PASS

RESULT_FILE = "comparison.json"
TENSORBOARD_DIR = "tensorboard"


@dataclass(frozen=True)
class Work:
    """What a flow run does, as its MLflow run tells it.

    flow: the flow's name. config: what is trained, and how. note: a sentence on it. asked: what was asked for beside
    the configuration, as YAML. params: what tells such runs apart in a list.
    """

    flow: str
    config: CompareConfig
    note: str
    asked: str = ""
    params: Mapping[str, object] = field(default_factory=dict)


def comparison(config: CompareConfig) -> Work:
    """All contenders, from their seeds."""
    return Work(
        "compare",
        config,
        f"Comparison of {', '.join(config.contenders)} on the data {config.data.kind}, seed {config.seed}. "
        "Each contender's trained phases are child runs; what the untrained ones predict stands here.",
    )


def continuation(config: CompareConfig, asked: FineTuneConfig, version: Version) -> Work:
    """One version, which goes on."""
    return Work(
        "fine_tune",
        config,
        f"Version {version.number}, {version.contender}, goes on with the table as it is now ({asked.mode}). The "
        "challenger is a child run; how the champion does on the same rows stands here, under champion.",
        # how many versions are kept afterwards makes no other challenger
        yaml_text.write(asked.model_dump(mode="json", exclude={"keep"}) | {"version": version.number}),
        {"mode": asked.mode, "continues": version.number, "epochs": asked.epochs},
    )


def start_parent(work: Work) -> ParentRun:
    """Start the MLflow run of this flow run: what was asked for, and where it comes from.

    Raises:
        ConfigError: if a cell can't be had; then nothing is left behind.
    """
    config = work.config
    provenance.check_cells(config)
    experiment = tracking.experiment_id(config.experiment)
    close_abandoned_runs(experiment)
    run_id = tracking.start_run(
        experiment,
        f"{work.flow} {config.experiment}",
        tags={
            "flow": work.flow,
            "prefect_flow_run_id": prefect.runtime.flow_run.id or "none",
            **{f"version.{package}": version for package, version in provenance.versions().items()},
        },
        note=work.note,
    )
    return ParentRun(
        run_id=run_id,
        experiment_id=experiment,
        experiment=config.experiment,
        tensorboard_dir=f"{TENSORBOARD_DIR}/{config.experiment}/{run_id[:8]}",
        asked=work.asked,
    )


@contextmanager
def family(work: Work) -> Iterator[ParentRun]:
    """Hold a parent run open, and see to it that neither it nor a child of it ends with a status that is not true.

    FINISHED if the block ends, FAILED on an error, KILLED on Ctrl-C or a signal; a child that the block did not finish
    gets the same.
    """
    parent, config = start_parent(work), work.config
    try:
        what = {"seed": config.seed, "data": config.data.kind, "contenders": ", ".join(config.contenders)}
        tracking.log_params(parent.run_id, {**what, **work.params})
        tracking.client().log_text(parent.run_id, config.to_yaml(), "config.yaml")
        if work.asked:
            tracking.client().log_text(parent.run_id, work.asked, f"{work.flow}.yaml")
        yield parent
    except BaseException as error:
        tracking.client().set_tag(parent.run_id, tracking.TAG + "error", f"{type(error).__name__}: {error}"[:5000])
        end_family(parent.experiment_id, parent.run_id, tracking.status_after(error))
        raise
    end_family(parent.experiment_id, parent.run_id, "FINISHED")


def end_family(experiment: str, parent: str, status: str) -> None:
    children = tracking.client().search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
    )
    for child in children:
        tracking.client().set_terminated(child.info.run_id, status)
    tracking.client().set_terminated(parent, status)


def close_abandoned_runs(experiment: str) -> None:
    """Mark as KILLED what is RUNNING although its process, on this host, is gone, or its flow run has ended."""
    for run in tracking.client().search_runs([experiment], "attributes.status = 'RUNNING'"):
        process = {
            key.removeprefix(tracking.TAG): value
            for key, value in run.data.tags.items()
            if key.startswith(tracking.TAG)
        }
        if provenance.is_gone(process) or _has_ended(process.get("prefect_flow_run_id", "none")):
            tracking.client().set_terminated(run.info.run_id, "KILLED")


def _has_ended(flow_run: str) -> bool:
    """Whether Prefect's server knows of a flow run that it is over, as when it crashed on another host."""
    if flow_run in ("none", prefect.runtime.flow_run.id):
        return False
    with get_client(sync_client=True) as api:
        try:
            state = api.read_flow_run(UUID(flow_run)).state
        except (ObjectNotFound, ValueError):  # another server's
            return False
    return state is not None and state.is_final()


@task(**MAY_PASS)
def find_earlier(config: CompareConfig, digest: str) -> Comparison | None:
    """The result of a finished run with the same configuration, dataset and code, whose models are still there."""
    run_id = _find_equal(comparison(config), digest)
    if run_id is None:
        return None
    try:
        stored = tracking.download(f"runs:/{run_id}/{RESULT_FILE}").read_text()
        found = Comparison.model_validate_json(stored)
        for result in found.results:
            if result.model_uri:
                tracking.client().get_model_version(config.experiment, str(result.version))
    except (MlflowException, OSError, ValueError):
        return None  # deleted since, or of another version of the program: then it is made anew
    return found.model_copy(update={"reused": True})


@task(**MAY_PASS)
def nothing_new(work: Work, version: Version, digest: str) -> str | None:
    """Why there is nothing for this version to learn: the rows are those that it has, or it has been tried; or None."""
    if digest == version.trained.dataset.digest:
        return f"no new rows since version {version.number} was trained"
    if run_id := _find_equal(work, digest):
        return f"version {version.number} has gone on with these rows before, in run {run_id}"
    return None


def _find_equal(work: Work, digest: str) -> str | None:
    """A finished run of the same work, on the same data, with the same code."""
    wanted = provenance.fingerprint(work.config, digest, work.asked)
    query = f"tags.`{tracking.TAG}fingerprint` = '{wanted}' and attributes.status = 'FINISHED'"
    run = tracking.find_run(work.config.experiment, query)
    return str(run.info.run_id) if run else None
