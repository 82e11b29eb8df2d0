"""How the champion does on the newest rows, as a series in one MLflow run that lives on."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import Metric
from prefect import task

from lstm_models.checkpoint import load_network
from lstm_models.config import CompareConfig
from lstm_models.data.dataset import of_table, read
from lstm_models.evaluation import evaluate
from tasks import data, drifting, lineage, tracking
from tasks.references import Version, Watched
from tasks.retries import MAY_PASS

LAST = f"{tracking.TAG}last"  # what the newest point was made of


@task(**MAY_PASS)
def judge_newest(config: CompareConfig, champion: Version) -> Watched:
    """Judge a champion on the test part of its table as it is now, and add its metrics and its drift to the series.

    Where champion and rows are those of the newest point, nothing is added.

    Raises:
        TableError: if the table does not fit, or is not of the champion's columns, types and classes.
        NotHeldOut: if the rows to judge by are among those that the champion has learnt from.
    """
    table = read(config.data)
    dataset = of_table(table, config.data, config.seed)
    lineage.check_fits(data.schema(table), dataset, [champion])
    digest = data.digest(table, config.data, config.seed)
    of = f"version {champion.number}, data {digest}"
    series = tracking.find_run(champion.name, f"tags.`{tracking.TAG}flow` = 'evaluate'")
    run_id = str(series.info.run_id) if series else None
    found = Watched(experiment=champion.name, version=champion.number, run_id=run_id, step=None)
    if series and series.data.tags.get(LAST) == of:
        message = f"Nothing to do: version {champion.number} has been judged on these rows."
        return found.model_copy(update={"message": message})
    network = load_network(tracking.download(champion.trained.checkpoint.best_uri))
    metrics = evaluate(network, dataset).judgement.metrics
    drift = drifting.drift_of(champion, dataset)
    with _appending(run_id, champion.name) as run:
        step = len(tracking.client().get_metric_history(run, "version"))
        points = {**metrics, **drifting.as_metrics(drift), "version": float(champion.number)}
        now = int(time.time() * 1000)
        finite = [Metric(key, value, now, step) for key, value in points.items() if math.isfinite(value)]
        tracking.client().log_batch(run, metrics=finite)
        tracking.client().set_tag(run, LAST, of)
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
def _appending(run_id: str | None, name: str) -> Iterator[str]:
    """The run of the series, RUNNING as long as the block lasts, FINISHED after it; FAILED, or KILLED, if it breaks."""
    if run_id is None:
        note = "The champion on the newest rows, time after time: a point each step; `version` tells who was champion."
        experiment = tracking.experiment_id(name)
        run_id = tracking.start_run(experiment, f"evaluate {name}", tags={"flow": "evaluate"}, note=note)
    with tracking.ended(run_id):
        tracking.reopen_run(run_id)
        yield run_id
    tracking.client().set_terminated(run_id, "FINISHED")
