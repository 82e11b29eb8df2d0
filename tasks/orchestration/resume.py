"""Earlier runs: an equal one that has finished, and one that was interrupted and can be taken up."""

import logging
import re
from typing import Any

import prefect.runtime.flow_run
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from prefect import task

from lstm_models.config import CompareConfig, ConfigError, FineTuneConfig, parse, parse_config, yaml
from lstm_models.utils.errors import UserError
from tasks import tracking
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import ComparisonReport, InterruptedRun, TrainedVersion
from tasks.tracking import fingerprint
from tasks.tracking.runs import (
    CHAMPION_PARAM,
    CONFIG_FILE,
    RESULT_FILE,
    RunSpec,
    close_abandoned_runs,
    comparison_spec,
    parent_run,
)

NEWEST = "newest"

logger = logging.getLogger("lstm_flows")


class ResumeError(UserError):
    """A run can't be taken up; the message names it and the cause."""


@task(**RETRY_OPTIONS)
def find_finished_run(config: CompareConfig, digest: str) -> ComparisonReport | None:
    """The result of a finished run with the same configuration, dataset and code, whose models are still there."""
    run_id = _find_equal_run(comparison_spec(config), digest)
    if run_id is None:
        return None
    try:
        stored = tracking.download(f"runs:/{run_id}/{RESULT_FILE}").read_text()
        found = ComparisonReport.model_validate_json(stored)
        for result in found.results:
            if result.model_uri:
                tracking.mlflow_client().get_model_version(config.experiment, str(result.version))
    except (MlflowException, OSError, ValueError):
        return None  # deleted since, or of another version of the program: then it is made anew
    return found.model_copy(update={"reused": True})


@task(**RETRY_OPTIONS)
def find_skip_reason(work: RunSpec, version: TrainedVersion, digest: str) -> str | None:
    """Why there is nothing for this version to learn: the rows are those that it has, or it has been tried; or None."""
    if digest == version.trained.dataset.digest:
        return f"no new rows since version {version.number} was trained"
    if run_id := _find_equal_run(work, digest):
        return f"version {version.number} has gone on with these rows before, in run {run_id}"
    return None


def _find_equal_run(work: RunSpec, digest: str) -> str | None:
    """A finished run of the same work, on the same data, with the same code."""
    wanted = fingerprint.run_fingerprint(work.config, digest, work.request)
    query = f"tags.`{tracking.TAG}fingerprint` = '{wanted}' and attributes.status = 'FINISHED'"
    run = tracking.find_run(work.config.experiment, query)
    return str(run.info.run_id) if run else None


@task(**RETRY_OPTIONS)
def find_interrupted_run(flow: str, resume: str | None, experiment: str | None = None) -> InterruptedRun | None:
    """The run that is to be taken up; None: a new one is to begin.

    Args:
        flow: whose runs.
        resume: the id of a run, or "newest"; None: what an earlier try of this flow run has left, if there was one.
        experiment: of which; None: of any.

    Raises:
        ResumeError: if there is none, or it has finished, or is still running, or another program made it.
    """
    if resume is None:
        return _previous_attempt(flow) if (prefect.runtime.flow_run.run_count or 0) > 1 else None
    tracking.require_database("interrupted runs")
    if resume == NEWEST:
        return _newest_interrupted(flow, experiment)
    # of what can be no id MLflow says that it is no valid parameter
    can_be = re.fullmatch("[0-9A-Za-z]{1,256}", resume)
    run = tracking.get_or_none(lambda: tracking.mlflow_client().get_run(resume)) if can_be else None
    if run is None or run.info.lifecycle_stage != "active":
        raise ResumeError(f"run {resume}: there is no such run in {tracking.redacted_uri()}")
    close_abandoned_runs(run.info.experiment_id)
    run = tracking.mlflow_client().get_run(resume)
    if (of := run.data.tags.get(f"{tracking.TAG}flow")) != flow:
        raise ResumeError(f"run {resume}: not a run of the flow {flow}, but of {of or 'none: name the parent run'}")
    if run.info.status == "FINISHED":
        raise ResumeError(f"run {resume} has finished: nothing is left to do")
    if run.info.status == "RUNNING":
        process = {key: run.data.tags.get(tracking.TAG + key, "?") for key in ("pid", "host")}
        raise ResumeError(f"run {resume} is still running: process {process['pid']} on {process['host']}")
    found = _load_interrupted(run)
    if found is None:
        raise ResumeError(f"run {resume} ended before it had begun: start anew")
    if experiment not in (None, found.parent.experiment):
        raise ResumeError(f"run {resume}: of the experiment {found.parent.experiment}, not {experiment}")
    return found


def _previous_attempt(flow: str) -> InterruptedRun | None:
    """Whatever became of it: Prefect has a flow run tried again only when it has not completed."""
    query = f"tags.`{tracking.TAG}prefect_flow_run_id` = '{prefect.runtime.flow_run.id}'"
    return next((found for run in _search_runs(flow, query) if (found := _load_interrupted(run))), None)


def _newest_interrupted(flow: str, experiment: str | None) -> InterruptedRun:
    for each in tracking.mlflow_client().search_experiments():
        close_abandoned_runs(each.experiment_id)
    for run in _search_runs(flow, "attributes.status != 'FINISHED' and attributes.status != 'RUNNING'", experiment):
        if found := _load_interrupted(run):
            return found
    where = f"experiment {experiment}: " if experiment else ""
    raise ResumeError(f"{where}no interrupted run of {flow}: nothing to go on with")


def _search_runs(flow: str, query: str, experiment: str | None = None) -> list[Run]:
    """The newest first."""
    client = tracking.mlflow_client()
    experiments = [each for each in client.search_experiments() if experiment in (None, each.name)]
    query = f"tags.`{tracking.TAG}flow` = '{flow}' and {query}"
    ids = [each.experiment_id for each in experiments]
    return list(client.search_runs(ids, query, order_by=["attributes.start_time DESC"])) if ids else []


def _load_interrupted(run: Run) -> InterruptedRun | None:
    """What it takes to go on with a run; None if it ended before it had said what it was about."""
    run_id, experiment_id = str(run.info.run_id), str(run.info.experiment_id)
    if (config := _read_yaml_artifact(run_id, CONFIG_FILE)) is None:
        return None
    asked = _read_yaml_artifact(run_id, f"{run.data.tags[f'{tracking.TAG}flow']}.yaml")
    experiment = str(tracking.mlflow_client().get_experiment(experiment_id).name)
    try:
        settings = parse_config(config, CONFIG_FILE)
        further = parse(FineTuneConfig, asked, "fine_tune.yaml") if asked else None
    except ConfigError as error:
        raise ResumeError(f"run {run_id}: {error}; another version of the program made it: start anew") from None
    if run.data.tags.get(f"{tracking.TAG}code") != fingerprint.code_digest():
        logger.warning("run %s began with another version or backend of the program: it may end elsewhere", run_id)
    champion = run.data.params.get(CHAMPION_PARAM, "none")
    return InterruptedRun(
        parent=parent_run(run_id, experiment_id, experiment, further),
        config=settings,
        champion=None if champion == "none" else int(champion),
    )


def _read_yaml_artifact(run_id: str, name: str) -> Any:
    """A YAML file among a run's artifacts, or None."""
    if name not in {entry.path for entry in tracking.mlflow_client().list_artifacts(run_id)}:
        return None
    return yaml.load(tracking.download(f"runs:/{run_id}/{name}").read_text())
