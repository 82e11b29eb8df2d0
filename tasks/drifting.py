"""Whether the rows that are judged by are still what a version was trained on."""

from prefect import task

from lstm_models.config import FineTuneConfig
from lstm_models.data.dataset import Dataset
from lstm_models.drift import drifts
from tasks import tracking
from tasks.answers import once
from tasks.data import load_dataset
from tasks.references import DatasetRef, Drifted, ParentRun, Version
from tasks.retries import MAY_PASS


@task(**MAY_PASS)
@once
def measure_drift(version: Version, dataset: DatasetRef, parent: ParentRun) -> list[Drifted]:
    """Hold a dataset's test rows against the version's training rows, feature by feature, and log it to the parent."""
    found = drift_of(version, load_dataset(dataset))
    tracking.log_metrics(parent.run_id, as_metrics(found), dataset_name=dataset.name, dataset_digest=dataset.digest)
    return found


def drift_of(version: Version, data: Dataset) -> list[Drifted]:
    """The same, of a dataset at hand; of one without a time step a row, nothing."""
    if not data.series:
        return []
    moved = drifts(load_dataset(version.trained.dataset), data)
    return [Drifted(feature=feature, psi=own.psi, ks=own.ks) for feature, own in moved.items()]


def as_metrics(drift: list[Drifted]) -> dict[str, float]:
    """By a name that MLflow takes, whatever the features are called."""
    found: dict[str, float] = {}
    for place, one in enumerate(drift):
        name = tracking.metric_name(one.feature)
        name = name if name == one.feature else f"{name}:{place}"  # two may come out alike
        found |= {f"drift/{name}/psi": one.psi, f"drift/{name}/ks": one.ks}
    return found


def veto(config: FineTuneConfig, drift: list[Drifted]) -> str | None:
    """Why drift lets nobody be promoted, or None."""
    over = [
        f"{what} of {one.feature} is {value:.3g}, above {most:g}"
        for one in drift
        for what, value, most in (("PSI", one.psi, config.max_psi), ("KS", one.ks, config.max_ks))
        if most is not None and value > most
    ]
    return "; ".join(over) or None
