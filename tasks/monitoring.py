"""How the champion does on the newest rows, as a series in one MLflow run that lives on."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import Metric
from prefect import task

from lstm_models.config import CompareConfig
from lstm_models.data.dataset import build_dataset, read_table
from lstm_models.evaluation.evaluate import evaluate
from lstm_models.training.checkpoint import load_network
from tasks import data, lineage, tracking
from tasks.drift import as_metrics, compute_drift
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import MonitoringPoint, TrainedVersion

LAST_TAG = f"{tracking.TAG}last"  # what the newest point was made of


@task(**RETRY_OPTIONS)
def monitor_champion(config: CompareConfig, champion: TrainedVersion) -> MonitoringPoint:
    """Judge a champion on the test part of its table as it is now, and add its metrics and its drift to the series.

    Where champion and rows are those of the newest point, nothing is added.

    Raises:
        TableError: if the table does not fit, or is not of the champion's columns, types and classes.
        NotHeldOut: if the rows to judge by are among those that the champion has learnt from.
    """
    table = read_table(config.data)
    dataset = build_dataset(table, config.data, config.seed)
    lineage.validate_compatibility(data.mlflow_schema(table), dataset, [champion])
    digest = data.dataset_digest(table, config.data, config.seed)
    of = f"version {champion.number}, data {digest}"
    series = tracking.find_run(champion.name, f"tags.`{tracking.TAG}flow` = 'monitor'")
    run_id = str(series.info.run_id) if series else None
    found = MonitoringPoint(experiment=champion.name, version=champion.number, run_id=run_id, step=None)
    if series and series.data.tags.get(LAST_TAG) == of:
        message = f"Skipped: version {champion.number} has been judged on these rows."
        return found.model_copy(update={"message": message})
    network = load_network(tracking.download(champion.trained.checkpoint.best_uri))
    metrics = evaluate(network, dataset).evaluation.metrics
    drift = compute_drift(champion, dataset)
    with _series_run(run_id, champion.name) as run:
        step = len(tracking.mlflow_client().get_metric_history(run, "version"))
        points = {**metrics, **as_metrics(drift), "version": float(champion.number)}
        now = int(time.time() * 1000)
        finite = [Metric(key, value, now, step) for key, value in points.items() if math.isfinite(value)]
        tracking.mlflow_client().log_batch(run, metrics=finite)
        tracking.mlflow_client().set_tag(run, LAST_TAG, of)
    return found.model_copy(
        update={
            "run_id": run,
            "step": step,
            "metrics": metrics,
            "drift": drift,
            "message": f"Version {champion.number} judged on {dataset.test.count:,} examples: point {step}.",
        }
    )


@contextmanager
def _series_run(run_id: str | None, name: str) -> Iterator[str]:
    """The run of the series, RUNNING as long as the block lasts, FINISHED after it; FAILED, or KILLED, if it breaks."""
    if run_id is None:
        note = "The champion on the newest rows, time after time: a point each step; `version` tells who was champion."
        experiment = tracking.get_or_create_experiment(name)
        run_id = tracking.start_run(experiment, f"monitor {name}", tags={"flow": "monitor"}, note=note)
    with tracking.terminate_on_error(run_id):
        tracking.reopen_run(run_id)
        yield run_id
    tracking.mlflow_client().set_terminated(run_id, "FINISHED")
