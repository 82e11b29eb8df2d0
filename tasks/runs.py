"""The runs of one flow run: parent and children, how they end, and whether an equal one is there already."""

from collections.abc import Iterator
from contextlib import contextmanager

import prefect.runtime.flow_run
from mlflow.exceptions import MlflowException
from prefect import task
from prefect.cache_policies import NO_CACHE

from lstm_models.config import CompareConfig
from tasks import provenance, tracking
from tasks.references import Comparison, ParentRun

RESULT_FILE = "comparison.json"
TENSORBOARD_DIR = "tensorboard"


def start_parent(config: CompareConfig) -> ParentRun:
    """Start the MLflow run of this flow run: what was asked for, and where it comes from.

    Raises:
        ConfigError: if a cell can't be had; then nothing is left behind.
    """
    provenance.check_cells(config)
    experiment = tracking.experiment_id(config.experiment)
    close_abandoned_runs(experiment)
    run_id = tracking.start_run(
        experiment,
        f"compare {config.experiment}",
        tags={
            "prefect_flow_run_id": prefect.runtime.flow_run.id or "none",
            **{f"version.{package}": version for package, version in provenance.versions().items()},
        },
        note=f"Comparison of {', '.join(config.contenders)} on the data {config.data.kind}, seed {config.seed}. "
        "Each contender's trained phases are child runs; what the untrained ones predict stands here.",
    )
    return ParentRun(
        run_id=run_id,
        experiment_id=experiment,
        experiment=config.experiment,
        tensorboard_dir=f"{TENSORBOARD_DIR}/{config.experiment}/{run_id[:8]}",
    )


@contextmanager
def family(config: CompareConfig) -> Iterator[ParentRun]:
    """Hold a parent run open, and see to it that neither it nor a child of it ends with a status that is not true.

    FINISHED if the block ends, FAILED on an error, KILLED on Ctrl-C or a signal; a child that the block did not finish
    gets the same.
    """
    parent = start_parent(config)
    try:
        what = {"seed": config.seed, "data": config.data.kind, "contenders": ", ".join(config.contenders)}
        tracking.log_params(parent.run_id, what)
        tracking.client().log_text(parent.run_id, config.to_yaml(), "config.yaml")
        yield parent
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        tracking.client().set_tag(parent.run_id, tracking.TAG + "error", f"{type(error).__name__}: {error}"[:5000])
        _end_family(parent.experiment_id, parent.run_id, status)
        raise
    _end_family(parent.experiment_id, parent.run_id, "FINISHED")


def _end_family(experiment: str, parent: str, status: str) -> None:
    children = tracking.client().search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
    )
    for child in children:
        tracking.client().set_terminated(child.info.run_id, status)
    tracking.client().set_terminated(parent, status)


def close_abandoned_runs(experiment: str) -> None:
    """Mark as KILLED what is RUNNING although the process on this host that ran it is gone."""
    for run in tracking.client().search_runs([experiment], "attributes.status = 'RUNNING'"):
        process = {
            key.removeprefix(tracking.TAG): value
            for key, value in run.data.tags.items()
            if key.startswith(tracking.TAG)
        }
        if provenance.is_gone(process):
            tracking.client().set_terminated(run.info.run_id, "KILLED")


@task(cache_policy=NO_CACHE)
def find_earlier(config: CompareConfig, digest: str) -> Comparison | None:
    """The result of a finished run with the same configuration, dataset and code, whose models are still there."""
    client = tracking.client()
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        return None
    wanted = provenance.fingerprint(config, digest)
    query = f"tags.`{tracking.TAG}fingerprint` = '{wanted}' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment.experiment_id], query, max_results=1)
    if not runs:
        return None
    try:
        stored = tracking.download(f"runs:/{runs[0].info.run_id}/{RESULT_FILE}").read_text()
        comparison = Comparison.model_validate_json(stored)
        for result in comparison.results:
            if result.model_uri:
                client.get_model_version(config.experiment, result.model_uri.rsplit("/", 1)[-1])
    except (MlflowException, OSError, ValueError):
        return None  # deleted since, or of another version of the program: then it is made anew
    return comparison.model_copy(update={"reused": True})
