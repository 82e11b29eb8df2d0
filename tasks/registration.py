"""Export a checkpoint and register it as a model version that plain MLflow can serve."""

from functools import lru_cache

import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import Schema, TensorSpec
from prefect import task

from lstm_models.config import CompareConfig
from lstm_models.data.dataset import Dataset
from lstm_models.data.output import OutputSpec
from lstm_models.evaluation.evaluate import select_replica
from lstm_models.nn.export import ExportableNetwork
from lstm_models.training.checkpoint import load_network
from tasks import lineage, promotion, tracking
from tasks.data import load_dataset
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import CheckpointRef, DatasetRef, PhaseResult
from tasks.tracking import fingerprint


@task(task_run_name="register {checkpoint.contender}, {checkpoint.phase}", **RETRY_OPTIONS)
def register(config: CompareConfig, checkpoint: CheckpointRef, result: PhaseResult, dataset: DatasetRef) -> PhaseResult:
    """Export a checkpoint's network as pt2 and register it as a version of the experiment's model.

    The version's tags hold its contender, phase, metrics, data and lineage. The alias with the contender's name is set
    to a fine-tuned version. Then the checkpoint's run is FINISHED.
    """
    client = tracking.mlflow_client()
    name = config.experiment
    if versions := tracking.versions(name, checkpoint.run_id):  # registered by an earlier attempt of this task
        return _finish_registration(versions[0], checkpoint, result)
    experiment_id = tracking.get_or_create_experiment(name)
    for incomplete in client.search_logged_models([experiment_id], f"source_run_id = '{checkpoint.run_id}'"):
        tracking.remove_model(incomplete.model_id)  # from an interrupted attempt
    tags = {
        "contender": checkpoint.contender,
        "phase": checkpoint.phase,
        **promotion.score_tags(result),
        **lineage.lineage_tags(checkpoint, name),
    }
    data = load_dataset(dataset)
    info = _log_model(experiment_id, config, checkpoint, result, dataset, data, tags)
    version = client.create_model_version(
        _get_or_create_model(client, name, data),
        source=info.model_uri,
        run_id=checkpoint.run_id,
        model_id=info.model_id,
        tags=tags,
        description=f"{checkpoint.contender} after {checkpoint.epochs} epochs",
    )
    return _finish_registration(version, checkpoint, result)


def _log_model(
    experiment_id: str,
    config: CompareConfig,
    checkpoint: CheckpointRef,
    result: PhaseResult,
    dataset: DatasetRef,
    data: Dataset,
    tags: dict[str, str],
) -> ModelInfo:
    """Log the network of a checkpoint, or its median replica, to MLflow as a pt2 model."""
    # Model.log with an existing logged model is the only way to log a model without an active run. It copies the run's
    # metrics to the model, so the registry shows them.
    logged = tracking.mlflow_client().create_logged_model(
        experiment_id, name=f"{checkpoint.contender}-{checkpoint.phase}", source_run_id=checkpoint.run_id, tags=tags
    )
    model = config.contenders[checkpoint.contender].model
    network_or_replicas = load_network(tracking.download(checkpoint.best_uri))
    network = select_replica(network_or_replicas, result.replicas.median if result.replicas else 0)
    x_BTD = data.test.get_batch(torch.arange(min(2, data.test.count))).x_BTD
    # at least two sequences and two steps: torch.export would treat a size of one as a constant
    example = np.resize(x_BTD.numpy(), (2, max(2, x_BTD.size(1)), x_BTD.size(2)))
    info: ModelInfo = Model.log(
        artifact_path=None,
        flavor=mlflow.pytorch,
        model_id=logged.model_id,
        run_id=checkpoint.run_id,
        metadata={
            "data": dataset.config.model_dump(mode="json"),
            "columns": list(data.columns),
            "output": network.output.model_dump(mode="json"),
            "input_size": data.input_size,
            "scaled": data.scaler() is not None,
            "model": model.model_dump(mode="json"),
            "cell": fingerprint.cell_digest(model),
        },
        pytorch_model=ExportableNetwork(network).eval(),
        serialization_format="pt2",
        input_example=example,
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), (-1, -1, x_BTD.size(2)))]),
            Schema([TensorSpec(np.dtype("float32"), _output_shape(network.output))]),
        ),
        pip_requirements=[f"{package}=={release}" for package, release in _requirements().items()],
    )
    return info


def _finish_registration(version: ModelVersion, checkpoint: CheckpointRef, result: PhaseResult) -> PhaseResult:
    """Set the contender's alias, finish the checkpoint's run, and return the result with the version's URI."""
    if checkpoint.phase == "fine_tuned":
        tracking.mlflow_client().set_registered_model_alias(version.name, checkpoint.contender, version.version)
    tracking.mlflow_client().set_terminated(checkpoint.run_id, "FINISHED")
    return result.model_copy(update={"model_uri": f"models:/{version.name}/{version.version}"})


def _output_shape(output: OutputSpec) -> tuple[int, ...]:
    """Return the shape of a batch of predictions; -1: the number of sequences."""
    match output.kind:
        case "forecast":
            return (-1, output.horizon, len(output.target_indices))
        case "classification":
            return (-1, len(output.classes))
    return (-1,)


def _get_or_create_model(client: MlflowClient, name: str, data: Dataset) -> str:
    """Create the experiment's registered model unless it exists, and return its name."""
    output = data.output
    targets = ", ".join(output.targets) or "one number per sequence"
    predictions = {
        "forecast": f"the next {output.horizon} steps of {targets}",
        "classification": f"the class probabilities of {targets}",
    }
    description = (
        f"Recurrent networks of the experiment {name}. Input: float32 (sequences, steps, {data.input_size}), with NaN "
        f"after the end of a shorter sequence. Output: {predictions.get(output.kind, targets)}. Use the version with "
        "the alias champion."
    )
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return name


@lru_cache
def _requirements() -> dict[str, str]:
    """Return the packages that plain MLflow needs to load a model; versions without their local part (+cpu)."""
    versions = fingerprint.package_versions(("mlflow", "torch", "numpy", "pandas"))
    return {package: version.split("+")[0] for package, version in versions.items()}
