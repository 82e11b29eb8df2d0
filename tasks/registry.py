"""Models and versions: from a checkpoint to a registered model that a bare MLflow serves; aliases; loading."""

import os
from functools import lru_cache
from typing import NamedTuple

import mlflow.pytorch
import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import TypeAdapter
from torch import nn

from lstm_models import comparison
from lstm_models.checkpoint import load_network
from lstm_models.config import CELLS, AnyModel, CompareConfig, HandBuilt, UserError
from lstm_models.data.tables import Columns
from lstm_models.evaluation import one_of
from lstm_models.export import Exportable
from lstm_models.network import Network, build_network, find_cell
from tasks import provenance, tracking
from tasks.data import load_sequences
from tasks.references import CheckpointRef, DatasetRef, Holder, Result


class ModelError(UserError):
    """A model can't be used; the message names it and the cause."""


@task(task_run_name="register {checkpoint.contender}, {checkpoint.phase}", cache_policy=NO_CACHE)
def register(config: CompareConfig, checkpoint: CheckpointRef, result: Result, dataset: DatasetRef) -> Result:
    """Export a checkpoint's network as pt2 and make it a version of the experiment's registered model.

    The version carries its contender, phase, metrics and data as tags; a fine-tuned one becomes its contender's newest,
    under the alias of the contender's name. With that the checkpoint's run is FINISHED.
    """
    client = tracking.client()
    name = config.experiment
    experiment_id = tracking.experiment_id(name)
    tags = {
        "contender": checkpoint.contender,
        "phase": checkpoint.phase,
        "dataset": dataset.digest,
        **{key: repr(value) for key, value in result.metrics.items()},
    }
    # Model.log with a model made beforehand: the one way to log a model that needs no active run. It copies the run's
    # metrics to the model, so that they show in the registry.
    logged = client.create_logged_model(
        experiment_id, name=f"{checkpoint.contender}-{checkpoint.phase}", source_run_id=checkpoint.run_id, tags=tags
    )
    model = config.contenders[checkpoint.contender].model
    network = load_network(tracking.download(checkpoint.uri))
    x_BTD = load_sequences(dataset).x_BTD
    # two sequences, and two steps: torch.export would take an example's size of one for a constant
    example = np.resize(x_BTD.numpy(), (2, max(2, x_BTD.size(1)), x_BTD.size(2)))
    info = Model.log(
        artifact_path=None,
        flavor=mlflow.pytorch,
        model_id=logged.model_id,
        run_id=checkpoint.run_id,
        metadata={
            "inputs": list(dataset.inputs),
            "target": dataset.target,
            "features": dataset.features,
            "model": model.model_dump(mode="json"),
            "cell": _cell_digest(model),
        },
        pytorch_model=Exportable(one_of(network, result.copies.median if result.copies else 0)).eval(),
        serialization_format="pt2",
        input_example=example,
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), (-1, -1, x_BTD.size(2)))]),
            Schema([TensorSpec(np.dtype("float32"), (-1,))]),
        ),
        pip_requirements=[f"{package}=={version}" for package, version in _requirements().items()],
    )
    version = client.create_model_version(
        _registered_model(client, name, dataset),
        source=info.model_uri,
        run_id=checkpoint.run_id,
        model_id=logged.model_id,
        tags=tags,
        description=f"{checkpoint.contender} after {checkpoint.epochs} epochs",
    ).version
    if checkpoint.phase == "fine_tuned":
        client.set_registered_model_alias(name, checkpoint.contender, version)
    client.set_terminated(checkpoint.run_id, "FINISHED")
    return result.model_copy(update={"model_uri": f"models:/{name}/{version}"})


def _cell_digest(model: AnyModel) -> str | None:
    """What names the file of a cell of the user's own."""
    if not isinstance(model, HandBuilt) or model.cell in CELLS:
        return None
    return provenance.source_digest(find_cell(model.cell))


def _registered_model(client: MlflowClient, name: str, dataset: DatasetRef) -> str:
    """The name of the experiment's registered model, which is created if it is not there."""
    description = (
        f"Recurrent networks of the experiment {name}: they take float32 (sequences, steps, {dataset.features}), NaN "
        f"after the end of a shorter sequence, and return {dataset.target}. The alias champion is the one to use."
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


@task(cache_policy=NO_CACHE)
def choose_champion(config: CompareConfig, results: list[Result], dataset: DatasetRef) -> tuple[Holder, Holder | None]:
    """Hold this comparison's best against the registry's champion, and set the alias that follows.

    Returns:
        The champion, and the challenger where this comparison's best did not become champion.
    """
    client, name = tracking.client(), config.experiment
    best = comparison.best([result for result in results if result.model_uri])
    assert best.model_uri is not None
    version = best.model_uri.rsplit("/", 1)[-1]
    incumbent = find_alias(client, name, "champion")
    takes_over = comparison.takes_over(
        best.metrics["mse"],
        float(incumbent.tags["mse"]) if incumbent else None,
        same_data=incumbent is not None and incumbent.tags["dataset"] == dataset.digest,
    )
    alias = "champion" if takes_over else "challenger"
    client.set_registered_model_alias(name, alias, version)
    candidate = Holder(contender=best.contender, phase=best.phase, model_uri=f"models:/{name}@{alias}")
    if takes_over:
        return candidate, None
    assert incumbent is not None
    champion = Holder.model_validate(
        {
            "contender": incumbent.tags["contender"],
            "phase": incumbent.tags["phase"],
            "model_uri": f"models:/{name}@champion",
        }
    )
    return champion, candidate


def find_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias points at, or None."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


class Registered(NamedTuple):
    """A registered model: what it computes, (B, T, D) to (B); the columns it reads and predicts; how it was made."""

    program: nn.Module
    columns: Columns
    config: AnyModel
    cell: str | None = None  # the digest of the file of the user's own cell

    def network(self) -> Network:
        """The network that was exported, built from its configuration, with the program's weights."""
        weights = {key.removeprefix("network."): value for key, value in self.program.state_dict().items()}
        network = build_network(self.config, self.columns.features)
        if self.cell != _cell_digest(self.config):
            raise ModelError(
                f"the file of cell {getattr(self.config, 'cell', None)} has changed since it was registered"
            )
        network.load_state_dict(weights)
        return network.eval()


def load_model(uri: str) -> Registered:
    """Load a registered model, its archive looked into first: one that carries a pickle is refused, nothing runs.

    Raises:
        ModelError: if there is no such model, or it is not one of this program's, or it can't be trusted.
    """
    if not uri.startswith("models:/"):
        raise ModelError(f"{uri}: not a model URI; write models:/NAME@ALIAS or models:/NAME/VERSION")
    # MLflow then checks every record of a pt2 archive before it loads it. Never unset: no model that this process
    # loads is worth unpickling.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    database = tracking.local_database()
    if database and not database.exists():
        raise ModelError(f"{uri}: no models here, since there is no {database.name} in {database.parent}")
    tracking.client()
    try:
        directory = tracking.download(uri)
        metadata = yaml.safe_load((directory / "MLmodel").read_text())["metadata"]
        columns = Columns(tuple(metadata["inputs"]), metadata["target"], metadata["features"])
        config: AnyModel = TypeAdapter(AnyModel).validate_python(metadata["model"])
        program: nn.Module = mlflow.pytorch.load_model(str(directory))
    except MlflowException as error:
        raise ModelError(f"{uri}: {error.message.splitlines()[0]}") from error
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{uri}: not a model that lstm-flows registered ({type(error).__name__}: {error})") from error
    return Registered(program, columns, config, metadata.get("cell"))
