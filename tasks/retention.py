"""Prune old versions of a registered model."""

from typing import Any, NamedTuple

from mlflow.entities.model_registry import ModelVersion
from prefect import task

from tasks import lineage, tracking
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.tracking import history


class Removal(NamedTuple):
    """What pruning removes of a version: its checkpoint and data, and optionally the version with its model.

    Runs keep their parameters, metrics and figures.

    Attributes:
        version: The version.
        with_model: Whether the version and its model are removed too.
        folders: The artifact folders to remove, as (run id, folder).
        bytes: The total size of these folders.
    """

    version: ModelVersion
    with_model: bool
    folders: list[tuple[str, str]]
    bytes: int

    def __str__(self) -> str:
        what = "model, " if self.with_model else ""
        return f"version {self.version.version}: {what}{', '.join(folder for _, folder in self.folders)}"


@task(**RETRY_OPTIONS)
def prune(experiment: str, keep: int) -> list[str]:
    """Remove what `plan` returns and describe each removal.

    Raises:
        NotFoundError: If there is no such registered model.
    """
    client, removals = tracking.mlflow_client(), plan(experiment, keep)
    for removal in removals:
        version = removal.version
        for run_id, folder in removal.folders:
            tracking.artifact_repository(run_id).delete_artifacts(folder)
        client.set_model_version_tag(experiment, str(version.version), lineage.PRUNED_TAG, "true")
        if removal.with_model:  # the version last, so that an interrupted prune can be repeated
            tracking.remove_model(str(version.source).removeprefix("models:/"))
            client.delete_model_version(experiment, str(version.version))
    return [str(removal) for removal in removals]


def plan(experiment: str, keep: int) -> list[Removal]:
    """Return what to remove to keep the newest `keep` versions and those with an alias.

    Versions that a kept version continues, directly or not, and former champions lose their checkpoint and data but
    keep their model and their entry in the history.

    Raises:
        NotFoundError: If there is no such registered model.
    """
    aliases = tracking.aliases(experiment)
    versions = {tracking.version_number(version): version for version in tracking.versions(experiment)}
    retained = {*sorted(versions)[-keep:], *aliases.values()}
    ancestors = {ancestor for number in retained for ancestor in _ancestors(number, versions)} - retained
    needed = {folder for number in retained for folder in _artifact_dirs(versions[number])}
    removals = []
    for number, version in versions.items():
        with_model = number not in ancestors and not history.was_champion(version)
        if number in retained or (not with_model and lineage.PRUNED_TAG in version.tags):
            continue
        folders = [folder for folder in _artifact_dirs(version) if folder not in needed]
        needed |= set(folders)  # each folder is removed with one version only
        sizes = [_size(tracking.artifact_repository(run_id), folder) for run_id, folder in folders]
        removals.append(Removal(version, with_model, folders, sum(sizes)))
    return removals


def _ancestors(number: int, versions: dict[int, ModelVersion]) -> list[int]:
    """Return the versions that a version continues, directly or not."""
    ancestors: list[int] = []
    while (continued := versions[number].tags.get("continues")) and int(continued) in versions:
        number = int(continued)
        ancestors.append(number)
    return ancestors


def _artifact_dirs(version: ModelVersion) -> list[tuple[str, str]]:
    """Return the artifact folders, as (run id, folder), of a version's checkpoints and training data."""
    checkpoint_dir = (str(version.run_id), "checkpoint")
    try:
        uri = lineage.load_training_record(str(version.run_id)).dataset.uri
    except lineage.LineageError:  # from an older version of the program
        return [checkpoint_dir]
    run_id, folder = uri.removeprefix("runs:/").split("/")[:2]
    return [checkpoint_dir, (run_id, folder)]


def _size(repository: Any, path: str) -> int:
    return sum(
        _size(repository, entry.path) if entry.is_dir else entry.file_size or 0
        for entry in repository.list_artifacts(path)
    )
