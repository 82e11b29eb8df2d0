"""Drift of the evaluated rows against the rows that a version was trained on."""

from prefect import task

from lstm_models.config import FineTuneConfig
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation.drift import dataset_drift
from tasks import tracking
from tasks.data import load_dataset
from tasks.orchestration.result_cache import cached_in_run
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import DatasetRef, FeatureDrift, ParentRun, TrainedVersion


@task(**RETRY_OPTIONS)
@cached_in_run
def measure_drift(version: TrainedVersion, dataset: DatasetRef, parent: ParentRun) -> list[FeatureDrift]:
    """Compute the drift of each feature from the version's training rows to the test rows, and log it to the parent."""
    drift = compute_drift(version, load_dataset(dataset))
    tracking.log_metrics(parent.run_id, as_metrics(drift), dataset_name=dataset.name, dataset_digest=dataset.digest)
    return drift


def compute_drift(version: TrainedVersion, data: Dataset) -> list[FeatureDrift]:
    """Return each feature's drift from the version's training rows to the dataset's test rows.

    The list is empty unless the dataset's table has one time step per row.
    """
    if not data.series:
        return []
    features = dataset_drift(load_dataset(version.trained.dataset), data)
    return [FeatureDrift(feature=name, psi=drift.psi, ks=drift.ks) for name, drift in features.items()]


def as_metrics(drift: list[FeatureDrift]) -> dict[str, float]:
    """Return the drift as metrics, with names that are valid in MLflow, whatever the names of the features."""
    metrics: dict[str, float] = {}
    for index, feature in enumerate(drift):
        name = tracking.metric_name(feature.feature)
        name = name if name == feature.feature else f"{name}:{index}"  # distinct even if two names are cleaned to one
        metrics |= {f"drift/{name}/psi": feature.psi, f"drift/{name}/ks": feature.ks}
    return metrics


def drift_gate(config: FineTuneConfig, drift: list[FeatureDrift]) -> str | None:
    """Return the reason why drift forbids a promotion, or None."""
    exceeded = [
        f"{statistic} of {feature.feature} is {value:.3g}, above {limit:g}"
        for feature in drift
        for statistic, value, limit in (("PSI", feature.psi, config.max_psi), ("KS", feature.ks, config.max_ks))
        if limit is not None and value > limit
    ]
    return "; ".join(exceeded) or None
