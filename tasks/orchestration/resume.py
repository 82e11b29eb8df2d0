"""Find previous runs: a finished one to reuse, or an interrupted one to resume."""

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
    """A run can't be resumed. The message names the run and the reason."""


@task(**RETRY_OPTIONS)
def find_finished_run(config: CompareConfig, digest: str) -> ComparisonReport | None:
    """Return the report of a finished run with the same configuration, dataset and code.

    Args:
        config: The configuration.
        digest: The dataset's digest.

    Returns:
        The report; None if there is no such run, or one of its model versions was deleted.
    """
    run_id = _find_equal_run(comparison_spec(config), digest)
    if run_id is None:
        return None
    try:
        stored = tracking.download(f"runs:/{run_id}/{RESULT_FILE}").read_text()
        report = ComparisonReport.model_validate_json(stored)
        for result in report.results:
            if result.model_uri:
                tracking.mlflow_client().get_model_version(config.experiment, str(result.version))
    except (MlflowException, OSError, ValueError):
        return None  # deleted, or written by another version of the program: compute it again
    return report.model_copy(update={"reused": True})


@task(**RETRY_OPTIONS)
def find_skip_reason(spec: RunSpec, version: TrainedVersion, digest: str) -> str | None:
    """Return why fine-tuning of a version can be skipped, or None if it can't.

    Args:
        spec: The fine-tuning run that would start.
        version: The version to fine-tune.
        digest: The digest of the current dataset.

    Returns:
        A sentence, if the version was trained on this dataset, or the same fine-tuning run has finished before.
    """
    if digest == version.trained.dataset.digest:
        return f"no new rows since version {version.number} was trained"
    if run_id := _find_equal_run(spec, digest):
        return f"version {version.number} has been fine-tuned on these rows before, in run {run_id}"
    return None


def _find_equal_run(spec: RunSpec, digest: str) -> str | None:
    """Return the id of a finished run with the same settings, data and code, or None."""
    run_fingerprint = fingerprint.run_fingerprint(spec.config, digest, spec.request)
    query = f"tags.`{tracking.TAG}fingerprint` = '{run_fingerprint}' and attributes.status = 'FINISHED'"
    run = tracking.find_run(spec.config.experiment, query)
    return str(run.info.run_id) if run else None


@task(**RETRY_OPTIONS)
def find_interrupted_run(flow: str, resume: str | None, experiment: str | None = None) -> InterruptedRun | None:
    """Return the interrupted run to resume.

    Args:
        flow: The name of the flow whose runs are searched.
        resume: A run id, or "newest"; None: the run of this flow run's previous attempt, if Prefect retries it.
        experiment: The experiment that the run must belong to; None: any.

    Returns:
        The run, or None to start a new one.

    Raises:
        ResumeError: If there is no such run, or it has finished, is still running, or was started by an incompatible
            version of the program.
    """
    if resume is None:
        return _previous_attempt(flow) if (prefect.runtime.flow_run.run_count or 0) > 1 else None
    tracking.require_database("interrupted runs")
    if resume == NEWEST:
        return _newest_interrupted(flow, experiment)
    # for a string that can't be an id, MLflow reports an invalid parameter instead of a missing run
    is_valid_id = re.fullmatch("[0-9A-Za-z]{1,256}", resume)
    run = tracking.get_or_none(lambda: tracking.mlflow_client().get_run(resume)) if is_valid_id else None
    if run is None or run.info.lifecycle_stage != "active":
        raise ResumeError(f"run {resume}: no such run in {tracking.redacted_uri()}")
    close_abandoned_runs(run.info.experiment_id)
    run = tracking.mlflow_client().get_run(resume)
    if (run_flow := run.data.tags.get(f"{tracking.TAG}flow")) != flow:
        owner = run_flow or "no flow: pass the id of its parent run"
        raise ResumeError(f"run {resume} is not a run of the flow {flow}, but of {owner}")
    if run.info.status == "FINISHED":
        raise ResumeError(f"run {resume} has finished: only an interrupted run can be resumed")
    if run.info.status == "RUNNING":
        process = {key: run.data.tags.get(tracking.TAG + key, "?") for key in ("pid", "host")}
        raise ResumeError(f"run {resume} is still running: process {process['pid']} on {process['host']}")
    interrupted = _load_interrupted(run)
    if interrupted is None:
        raise ResumeError(f"run {resume} ended before its configuration was stored: start a new run")
    if experiment not in (None, interrupted.parent.experiment):
        raise ResumeError(f"run {resume} belongs to the experiment {interrupted.parent.experiment}, not {experiment}")
    return interrupted


def _previous_attempt(flow: str) -> InterruptedRun | None:
    """Return the MLflow run of the previous attempt, whatever its status: Prefect only retries incomplete flow runs."""
    query = f"tags.`{tracking.TAG}prefect_flow_run_id` = '{prefect.runtime.flow_run.id}'"
    return next((interrupted for run in _search_runs(flow, query) if (interrupted := _load_interrupted(run))), None)


def _newest_interrupted(flow: str, experiment: str | None) -> InterruptedRun:
    for each in tracking.mlflow_client().search_experiments():
        close_abandoned_runs(each.experiment_id)
    for run in _search_runs(flow, "attributes.status != 'FINISHED' and attributes.status != 'RUNNING'", experiment):
        if interrupted := _load_interrupted(run):
            return interrupted
    prefix = f"experiment {experiment}: " if experiment else ""
    raise ResumeError(f"{prefix}no interrupted run of {flow} to resume")


def _search_runs(flow: str, query: str, experiment: str | None = None) -> list[Run]:
    """Return a flow's runs that match the query, the newest first."""
    client = tracking.mlflow_client()
    experiments = [each for each in client.search_experiments() if experiment in (None, each.name)]
    query = f"tags.`{tracking.TAG}flow` = '{flow}' and {query}"
    ids = [each.experiment_id for each in experiments]
    return list(client.search_runs(ids, query, order_by=["attributes.start_time DESC"])) if ids else []


def _load_interrupted(run: Run) -> InterruptedRun | None:
    """Return what is needed to resume a run; None if the run ended before its configuration was stored."""
    run_id, experiment_id = str(run.info.run_id), str(run.info.experiment_id)
    if (config := _read_yaml_artifact(run_id, CONFIG_FILE)) is None:
        return None
    stored_request = _read_yaml_artifact(run_id, f"{run.data.tags[f'{tracking.TAG}flow']}.yaml")
    experiment = str(tracking.mlflow_client().get_experiment(experiment_id).name)
    try:
        settings = parse_config(config, CONFIG_FILE)
        request = parse(FineTuneConfig, stored_request, "fine_tune.yaml") if stored_request else None
    except ConfigError as error:
        raise ResumeError(
            f"run {run_id}: {error}; another version of the program started it: start a new run"
        ) from None
    if run.data.tags.get(f"{tracking.TAG}code") != fingerprint.code_digest():
        logger.warning("run %s was started by another version or backend of the program: results may differ", run_id)
    champion = run.data.params.get(CHAMPION_PARAM, "none")
    return InterruptedRun(
        parent=parent_run(run_id, experiment_id, experiment, request),
        config=settings,
        champion=None if champion == "none" else int(champion),
    )


def _read_yaml_artifact(run_id: str, name: str) -> Any:
    """Return the content of a YAML artifact of a run, or None if there is no such artifact."""
    if name not in {entry.path for entry in tracking.mlflow_client().list_artifacts(run_id)}:
        return None
    return yaml.load(tracking.download(f"runs:/{run_id}/{name}").read_text())
