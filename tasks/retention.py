"""What is kept of old versions, and what goes."""

from typing import Any, NamedTuple

from mlflow.entities.model_registry import ModelVersion
from prefect import task

from tasks import lineage, tracking
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.tracking import history


class Removal(NamedTuple):
    """What goes of a version: the whole of it, or what it takes to go on from it.

    The runs stay, with their parameters, metrics and figures. folders: of artifacts, (run, folder); bytes: their size.
    """

    version: ModelVersion
    whole: bool
    folders: list[tuple[str, str]]
    bytes: int

    def __str__(self) -> str:
        what = "model, " if self.whole else ""
        return f"version {self.version.version}: {what}{', '.join(folder for _, folder in self.folders)}"


@task(**RETRY_OPTIONS)
def prune(experiment: str, keep: int) -> list[str]:
    """Remove what `plan` names, and say what went.

    Raises:
        NothingTracked: as `plan`.
    """
    client, removals = tracking.mlflow_client(), plan(experiment, keep)
    for removal in removals:
        version = removal.version
        for run_id, folder in removal.folders:
            tracking.artifact_repository(run_id).delete_artifacts(folder)
        client.set_model_version_tag(experiment, str(version.version), lineage.PRUNED_TAG, "true")
        if removal.whole:  # the version last: as long as it is there, a prune that broke off can be repeated
            tracking.remove_model(str(version.source).removeprefix("models:/"))
            client.delete_model_version(experiment, str(version.version))
    return [str(removal) for removal in removals]


def plan(experiment: str, keep: int) -> list[Removal]:
    """What goes if the newest `keep` versions stay; those with an alias stay as well.

    Of what these continue, directly or not, and of what was champion once, the model and the place in the history stay;
    the checkpoints go, and the data.

    Raises:
        NothingTracked: if there is no such registered model.
    """
    aliases = tracking.aliases(experiment)
    versions = {tracking.version_number(version): version for version in tracking.versions(experiment)}
    kept = {*sorted(versions)[-keep:], *aliases.values()}
    ancestors = {one for number in kept for one in _ancestors(number, versions)} - kept
    needed = {folder for number in kept for folder in _artifact_dirs(versions[number])}
    removals = []
    for number, version in versions.items():
        whole = number not in ancestors and not history.was_champion(version)
        if number in kept or (not whole and lineage.PRUNED_TAG in version.tags):
            continue
        folders = [folder for folder in _artifact_dirs(version) if folder not in needed]
        needed |= set(folders)  # by now they go with this one
        sizes = [_size(tracking.artifact_repository(run_id), folder) for run_id, folder in folders]
        removals.append(Removal(version, whole, folders, sum(sizes)))
    return removals


def _ancestors(number: int, versions: dict[int, ModelVersion]) -> list[int]:
    """The versions that one continues, directly or not."""
    found: list[int] = []
    while (before := versions[number].tags.get("continues")) and int(before) in versions:
        number = int(before)
        found.append(number)
    return found


def _artifact_dirs(version: ModelVersion) -> list[tuple[str, str]]:
    """Where its checkpoints lie, and the table that it was trained on."""
    found = [(str(version.run_id), "checkpoint")]
    try:
        uri = lineage.load_training_record(str(version.run_id)).dataset.uri
    except lineage.LineageError:  # an older program's
        return found
    run_id, folder = uri.removeprefix("runs:/").split("/")[:2]
    return [*found, (run_id, folder)]


def _size(repository: Any, path: str) -> int:
    return sum(
        _size(repository, entry.path) if entry.is_dir else entry.file_size or 0
        for entry in repository.list_artifacts(path)
    )
