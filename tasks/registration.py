"""Models and versions: from a checkpoint to a registered model that a bare MLflow serves; aliases; loading."""

from functools import lru_cache

import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
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
    """Export a checkpoint's network as pt2 and make it a version of the experiment's registered model.

    The version carries its contender, phase, metrics, data and lineage as tags; a fine-tuned one becomes its
    contender's newest, under the alias of the contender's name. With that the checkpoint's run is FINISHED.
    """
    client = tracking.mlflow_client()
    name = config.experiment
    if made := tracking.versions(name, checkpoint.run_id):  # by this task's earlier try
        return _finish_registration(made[0], checkpoint, result)
    experiment_id = tracking.get_or_create_experiment(name)
    for left in client.search_logged_models([experiment_id], f"source_run_id = '{checkpoint.run_id}'"):
        tracking.remove_model(left.model_id)  # a try that broke off made it
    tags = {
        "contender": checkpoint.contender,
        "phase": checkpoint.phase,
        **promotion.score_tags(result),
        **lineage.lineage_tags(checkpoint, name),
    }
    # Model.log with a model made beforehand: the one way to log a model that needs no active run. It copies the run's
    # metrics to the model, so that they show in the registry.
    logged = client.create_logged_model(
        experiment_id, name=f"{checkpoint.contender}-{checkpoint.phase}", source_run_id=checkpoint.run_id, tags=tags
    )
    model = config.contenders[checkpoint.contender].model
    loaded = load_network(tracking.download(checkpoint.best_uri))
    network = select_replica(loaded, result.replicas.median if result.replicas else 0)
    data = load_dataset(dataset)
    x_BTD = data.test.get_batch(torch.arange(min(2, data.test.count))).x_BTD
    # two sequences, and two steps: torch.export would take an example's size of one for a constant
    example = np.resize(x_BTD.numpy(), (2, max(2, x_BTD.size(1)), x_BTD.size(2)))
    info = Model.log(
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
        pip_requirements=[f"{package}=={version}" for package, version in _requirements().items()],
    )
    made_now = client.create_model_version(
        _get_or_create_model(client, name, data),
        source=info.model_uri,
        run_id=checkpoint.run_id,
        model_id=logged.model_id,
        tags=tags,
        description=f"{checkpoint.contender} after {checkpoint.epochs} epochs",
    )
    return _finish_registration(made_now, checkpoint, result)


def _finish_registration(version: ModelVersion, checkpoint: CheckpointRef, result: PhaseResult) -> PhaseResult:
    """What is to be done once a checkpoint is a version."""
    if checkpoint.phase == "fine_tuned":
        tracking.mlflow_client().set_registered_model_alias(version.name, checkpoint.contender, version.version)
    tracking.mlflow_client().set_terminated(checkpoint.run_id, "FINISHED")
    return result.model_copy(update={"model_uri": f"models:/{version.name}/{version.version}"})


def _output_shape(output: OutputSpec) -> tuple[int, ...]:
    """Of what is told of a number of sequences."""
    match output.kind:
        case "forecast":
            return (-1, output.horizon, len(output.target_indices))
        case "classification":
            return (-1, len(output.classes))
    return (-1,)


def _get_or_create_model(client: MlflowClient, name: str, data: Dataset) -> str:
    """The name of the experiment's registered model, which is created if it is not there."""
    output = data.output
    told = ", ".join(output.targets) or "a number each"
    shape = {"forecast": f"the next {output.horizon} steps of {told}", "classification": f"the probabilities of {told}"}
    description = (
        f"Recurrent networks of the experiment {name}: they take float32 (sequences, steps, {data.input_size}), NaN "
        f"after the end of a shorter sequence, and return {shape.get(output.kind, told)}. The alias champion is the "
        "one to use."
    )
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return name


@lru_cache
def _requirements() -> dict[str, str]:
    """What a bare MLflow needs to load a model, without the local part of a version (2.13.0+cpu)."""
    found = fingerprint.package_versions(("mlflow", "torch", "numpy", "pandas"))
    return {package: version.split("+")[0] for package, version in found.items()}
