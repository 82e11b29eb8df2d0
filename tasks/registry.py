"""Models and versions: from a checkpoint to a registered model that a bare MLflow serves; aliases; loading."""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from prefect import task
from pydantic import TypeAdapter
from torch import nn

from lstm_models import yaml_text
from lstm_models.checkpoint import load_network
from lstm_models.config import AnyData, AnyModel, CompareConfig, Output, UserError
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation import one_of
from lstm_models.export import ArchiveError, Exportable, read_weights
from lstm_models.network import Network, Scaling, build_network, restored
from lstm_models.prediction import NewExamples, read_new
from tasks import champions, lineage, provenance, tracking
from tasks.data import load_dataset
from tasks.references import CheckpointRef, DatasetRef, Result
from tasks.retries import MAY_PASS, is_passing

# a name that an experiment can have, and what MLflow gives its versions and aliases
MODEL_URI = r"models:/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(@[A-Za-z0-9_.-]{1,100}|/([0-9]{1,9}|latest))"


class ModelError(UserError):
    """A model can't be used; the message names it and the cause."""


@task(task_run_name="register {checkpoint.contender}, {checkpoint.phase}", **MAY_PASS)
def register(config: CompareConfig, checkpoint: CheckpointRef, result: Result, dataset: DatasetRef) -> Result:
    """Export a checkpoint's network as pt2 and make it a version of the experiment's registered model.

    The version carries its contender, phase, metrics, data and lineage as tags; a fine-tuned one becomes its
    contender's newest, under the alias of the contender's name. With that the checkpoint's run is FINISHED.
    """
    client = tracking.client()
    name = config.experiment
    if made := tracking.versions(name, checkpoint.run_id):  # by this task's earlier try
        return _registered(made[0], checkpoint, result)
    experiment_id = tracking.experiment_id(name)
    for left in client.search_logged_models([experiment_id], f"source_run_id = '{checkpoint.run_id}'"):
        tracking.remove_model(left.model_id)  # a try that broke off made it
    tags = {
        "contender": checkpoint.contender,
        "phase": checkpoint.phase,
        **champions.judgement_tags(result),
        **lineage.tags(checkpoint, name),
    }
    # Model.log with a model made beforehand: the one way to log a model that needs no active run. It copies the run's
    # metrics to the model, so that they show in the registry.
    logged = client.create_logged_model(
        experiment_id, name=f"{checkpoint.contender}-{checkpoint.phase}", source_run_id=checkpoint.run_id, tags=tags
    )
    model = config.contenders[checkpoint.contender].model
    loaded = load_network(tracking.download(checkpoint.best_uri))
    network = one_of(loaded, result.copies.median if result.copies else 0)
    data = load_dataset(dataset)
    x_BTD = data.test.take(torch.arange(min(2, data.test.count))).x_BTD
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
            "scaled": data.scaling() is not None,
            "model": model.model_dump(mode="json"),
            "cell": provenance.cell_digest(model),
        },
        pytorch_model=Exportable(network).eval(),
        serialization_format="pt2",
        input_example=example,
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), (-1, -1, x_BTD.size(2)))]),
            Schema([TensorSpec(np.dtype("float32"), _told_shape(network.output))]),
        ),
        pip_requirements=[f"{package}=={version}" for package, version in _requirements().items()],
    )
    made_now = client.create_model_version(
        _registered_model(client, name, data),
        source=info.model_uri,
        run_id=checkpoint.run_id,
        model_id=logged.model_id,
        tags=tags,
        description=f"{checkpoint.contender} after {checkpoint.epochs} epochs",
    )
    return _registered(made_now, checkpoint, result)


def _registered(version: ModelVersion, checkpoint: CheckpointRef, result: Result) -> Result:
    """What is to be done once a checkpoint is a version."""
    if checkpoint.phase == "fine_tuned":
        tracking.client().set_registered_model_alias(version.name, checkpoint.contender, version.version)
    tracking.client().set_terminated(checkpoint.run_id, "FINISHED")
    return result.model_copy(update={"model_uri": f"models:/{version.name}/{version.version}"})


def _told_shape(output: Output) -> tuple[int, ...]:
    """Of what is told of a number of sequences."""
    match output.kind:
        case "forecast":
            return (-1, output.steps, len(output.places))
        case "classes":
            return (-1, len(output.classes))
    return (-1,)


def _registered_model(client: MlflowClient, name: str, data: Dataset) -> str:
    """The name of the experiment's registered model, which is created if it is not there."""
    output = data.output
    told = ", ".join(output.targets) or "a number each"
    shape = {"forecast": f"the next {output.steps} steps of {told}", "classes": f"the probabilities of {told}"}
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
    found = provenance.versions(("mlflow", "torch", "numpy", "pandas"))
    return {package: version.split("+")[0] for package, version in found.items()}


class Registered(NamedTuple):
    """A registered model: its network, from its configuration, with the weights in its archive; what it was trained on
    and which columns it reads; what it tells."""

    network: Network
    config: AnyModel
    data: AnyData
    columns: tuple[str, ...]
    output: Output

    @property
    def program(self) -> nn.Module:
        """What was exported, and what a bare MLflow serves: of (B, T, D), NaN after the end of a shorter sequence."""
        return Exportable(self.network).eval()

    def read(self, path: Path) -> NewExamples:
        """New rows for it; errors as of `prediction.read_new`."""
        return read_new(path, self.data, self.columns, self.output)


def load_model(uri: str) -> Registered:
    """Load a registered model: its description, and of its archive the weights alone, so that nothing in it runs.

    Raises:
        NothingTracked: if there is no local database.
        ModelError: if there is no such model, or it is not one of this program's, or it can't be trusted; or the file
            of the user's own cell is another.
        ConfigError: if the user's own cell can't be had.
    """
    if not re.fullmatch(MODEL_URI, uri):
        raise ModelError(f"{uri}: not a model URI; write models:/NAME@ALIAS or models:/NAME/VERSION")
    tracking.require_database(uri)
    try:
        directory = tracking.download(uri)
        with open(directory / "MLmodel", encoding="utf-8") as file:
            metadata = yaml_text.read(file.read(yaml_text.LONGEST + 1))["metadata"]
        config: AnyModel = TypeAdapter(AnyModel).validate_python(metadata["model"])
        data: AnyData = TypeAdapter(AnyData).validate_python(metadata["data"])
        output, columns = Output.model_validate(metadata["output"]), tuple(metadata["columns"])
        size, scaled, cell = int(metadata["input_size"]), bool(metadata["scaled"]), metadata["cell"]
    except MlflowException as error:
        if is_passing(error):
            raise
        raise ModelError(f"{uri}: {error.message.splitlines()[0]}") from error
    except (FileNotFoundError, IsADirectoryError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{uri}: not a model that lstm-flows registered ({type(error).__name__}: {error})") from error
    if cell != provenance.cell_digest(config):
        raise ModelError(
            f"{uri}: the file of cell {getattr(config, 'cell', None)} has changed since it was registered; as it was "
            "then a bare MLflow runs it"
        )

    def build() -> Network:
        scaling = Scaling(torch.zeros(size), torch.ones(size)) if scaled else None
        return build_network(config, size, output, scaling)

    archive = directory / "data" / "model.pt2"
    try:
        weights = {key.removeprefix("network."): value for key, value in read_weights(archive).items()}
        network = restored(build, weights, config.num_layers, archive.stat().st_size)
    except ArchiveError as error:
        raise ModelError(f"{uri}: {error}; it may be another's: train anew, or ask who registered it") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{uri}: not a model that lstm-flows registered ({type(error).__name__}: {error})") from error
    return Registered(network, config, data, columns, output)
