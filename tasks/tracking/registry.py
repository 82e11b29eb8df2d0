"""Read model versions and aliases from MLflow's model registry."""

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.tracking.client import NotFoundError, artifacts_at, get_or_none, mlflow_client


def find_alias(name: str, alias: str) -> ModelVersion | None:
    """Return the version of a registered model that an alias points to, or None."""
    try:
        return mlflow_client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def versions(name: str, run_id: str | None = None) -> list[ModelVersion]:
    """Return the versions of a registered model with their tags and aliases, the oldest first.

    Args:
        name: The registered model.
        run_id: Only the versions of this run; None: all.
    """
    query = f"name='{name}'" + (f" and run_id='{run_id}'" if run_id else "")
    model_versions: list[ModelVersion] = []
    token = None
    while True:
        page = mlflow_client().search_model_versions(query, max_results=1000, page_token=token)
        model_versions += page
        token = page.token
        if not token:
            return sorted(model_versions, key=version_number)


def version_number(version: ModelVersion) -> int:
    """Return a version's number as an int; MLflow stores it as a string or as an int."""
    return int(version.version)


def aliases(name: str) -> dict[str, int]:
    """Return the aliases of a registered model, and the version that each points to.

    Raises:
        NotFoundError: If there is no such model.
    """
    model = get_or_none(lambda: mlflow_client().get_registered_model(name))
    if model is None:
        raise NotFoundError(f"experiment {name}: no registered model of this name")
    return {alias: int(version) for alias, version in model.aliases.items()}


def remove_model(model_id: str) -> None:
    """Delete a logged model that is not registered, with its artifacts; do nothing if it does not exist."""
    model = get_or_none(lambda: mlflow_client().get_logged_model(model_id))
    if model is not None:
        artifacts_at(model.artifact_location).delete_artifacts()
        mlflow_client().delete_logged_model(model_id)
