"""Read model versions and aliases from MLflow's model registry."""

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.tracking.client import NotFoundError, artifacts_at, get_or_none, mlflow_client


def find_alias(name: str, alias: str) -> ModelVersion | None:
    """The version of a registered model that an alias points at, or None."""
    try:
        return mlflow_client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def versions(name: str, run_id: str | None = None) -> list[ModelVersion]:
    """The versions of a registered model, those of one run or all, with their tags and aliases; the oldest first."""
    query = f"name='{name}'" + (f" and run_id='{run_id}'" if run_id else "")
    found: list[ModelVersion] = []
    token = None
    while True:
        page = mlflow_client().search_model_versions(query, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=version_number)


def version_number(version: ModelVersion) -> int:
    """A version's number: MLflow has it as text or as an int, as it comes."""
    return int(version.version)


def aliases(name: str) -> dict[str, int]:
    """The aliases of a registered model, and the version that each points at.

    Raises:
        NothingTracked: if there is no such model.
    """
    found = get_or_none(lambda: mlflow_client().get_registered_model(name))
    if found is None:
        raise NotFoundError(f"experiment {name}: no registered model of this name")
    return {alias: int(version) for alias, version in found.aliases.items()}


def remove_model(model_id: str) -> None:
    """Remove a model that is no version; it may be gone already."""
    model = get_or_none(lambda: mlflow_client().get_logged_model(model_id))
    if model is not None:
        artifacts_at(model.artifact_location).delete_artifacts()
        mlflow_client().delete_logged_model(model_id)
