"""Whether the rows that are judged by are still what a version was trained on."""

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
    """Hold a dataset's test rows against the version's training rows, feature by feature, and log it to the parent."""
    found = compute_drift(version, load_dataset(dataset))
    tracking.log_metrics(parent.run_id, as_metrics(found), dataset_name=dataset.name, dataset_digest=dataset.digest)
    return found


def compute_drift(version: TrainedVersion, data: Dataset) -> list[FeatureDrift]:
    """The same, of a dataset at hand; of one without a time step a row, nothing."""
    if not data.series:
        return []
    moved = dataset_drift(load_dataset(version.trained.dataset), data)
    return [FeatureDrift(feature=feature, psi=own.psi, ks=own.ks) for feature, own in moved.items()]


def as_metrics(drift: list[FeatureDrift]) -> dict[str, float]:
    """By a name that MLflow takes, whatever the features are called."""
    found: dict[str, float] = {}
    for place, one in enumerate(drift):
        name = tracking.metric_name(one.feature)
        name = name if name == one.feature else f"{name}:{place}"  # two may come out alike
        found |= {f"drift/{name}/psi": one.psi, f"drift/{name}/ks": one.ks}
    return found


def drift_gate(config: FineTuneConfig, drift: list[FeatureDrift]) -> str | None:
    """Why drift lets nobody be promoted, or None."""
    over = [
        f"{what} of {one.feature} is {value:.3g}, above {most:g}"
        for one in drift
        for what, value, most in (("PSI", one.psi, config.max_psi), ("KS", one.ks, config.max_ks))
        if most is not None and value > most
    ]
    return "; ".join(over) or None
