"""Evaluate the champion on the newest rows, one step of a single MLflow run per evaluation."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import Metric
from prefect import task

from lstm_models.config import CompareConfig
from lstm_models.data.builders import build_dataset, read_table
from lstm_models.evaluation.evaluate import evaluate
from lstm_models.training.checkpoint import load_network
from tasks import data, lineage, tracking
from tasks.drift import as_metrics, compute_drift
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import MonitoringPoint, TrainedVersion

LAST_TAG = f"{tracking.TAG}last"  # the version and data of the newest step


@task(**RETRY_OPTIONS)
def monitor_champion(config: CompareConfig, champion: TrainedVersion) -> MonitoringPoint:
    """Evaluate the champion on the test part of its current table and log its metrics and drift as a new step.

    Skipped if the newest step has the same champion and data.

    Raises:
        TableError: If the table is invalid, or its columns, types or classes differ from the champion's.
        DataLeakageError: If the test rows are among those that the champion was trained on.
    """
    table = read_table(config.data)
    dataset = build_dataset(table, config.data, config.seed)
    lineage.validate_compatibility(data.mlflow_schema(table), dataset, [champion])
    digest = data.dataset_digest(table, config.data, config.seed)
    source = f"version {champion.number}, data {digest}"
    series = tracking.find_run(champion.name, f"tags.`{tracking.TAG}flow` = 'monitor'")
    run_id = str(series.info.run_id) if series else None
    point = MonitoringPoint(experiment=champion.name, version=champion.number, run_id=run_id, step=None)
    if series and series.data.tags.get(LAST_TAG) == source:
        message = f"Skipped: version {champion.number} has already been evaluated on these rows."
        return point.model_copy(update={"message": message})
    network = load_network(tracking.download(champion.trained.checkpoint.best_uri))
    metrics = evaluate(network, dataset).evaluation.metrics
    drift = compute_drift(champion, dataset)
    with _series_run(run_id, champion.name) as run:
        step = len(tracking.mlflow_client().get_metric_history(run, "version"))
        values = {**metrics, **as_metrics(drift), "version": float(champion.number)}
        now = int(time.time() * 1000)
        finite = [Metric(key, value, now, step) for key, value in values.items() if math.isfinite(value)]
        tracking.mlflow_client().log_batch(run, metrics=finite)
        tracking.mlflow_client().set_tag(run, LAST_TAG, source)
    return point.model_copy(
        update={
            "run_id": run,
            "step": step,
            "metrics": metrics,
            "drift": drift,
            "message": f"Version {champion.number} evaluated on {dataset.test.count:,} examples: step {step}.",
        }
    )


@contextmanager
def _series_run(run_id: str | None, name: str) -> Iterator[str]:
    """Reopen, or start, the monitoring run for the block; it ends FINISHED, or FAILED or KILLED on an error."""
    if run_id is None:
        note = (
            "Metrics of the champion on the newest rows, one step per evaluation. `version` is the champion's version."
        )
        experiment = tracking.get_or_create_experiment(name)
        run_id = tracking.start_run(experiment, f"monitor {name}", tags={"flow": "monitor"}, note=note)
    with tracking.terminate_on_error(run_id):
        tracking.reopen_run(run_id)
        yield run_id
    tracking.mlflow_client().set_terminated(run_id, "FINISHED")
