"""Load registered models without running any code that is stored in them."""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter
from torch import nn

from lstm_models.config import AnyData, AnyModel, yaml
from lstm_models.data.output import OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.evaluation.predict import NewSequences, read_new_rows
from lstm_models.nn.export import ArchiveError, ExportableNetwork, read_weights
from lstm_models.nn.network import Network, build_from_state_dict, build_network
from lstm_models.utils.errors import UserError
from tasks import tracking
from tasks.tracking import fingerprint
from tasks.tracking.transient import is_transient

# an experiment name, with a version number or an alias as MLflow allows them
MODEL_URI = r"models:/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(@[A-Za-z0-9_.-]{1,100}|/([0-9]{1,9}|latest))"


class ModelError(UserError):
    """A model can't be loaded. The message names the model and the reason."""


class RegisteredModel(NamedTuple):
    """Registered model.

    Attributes:
        network: The network, built from `config`, with the weights of the model's archive.
        config: The model's configuration.
        data: The configuration of the data that it was trained on.
        columns: The columns that it reads.
        output: What it predicts.
    """

    network: Network
    config: AnyModel
    data: AnyData
    columns: tuple[str, ...]
    output: OutputSpec

    @property
    def program(self) -> nn.Module:
        """The exported module, which MLflow serves too: inputs are (B, T, D), padded with NaN at the end."""
        return ExportableNetwork(self.network).eval()

    def read(self, path: Path) -> NewSequences:
        """Read new rows as inputs of the model; see `lstm_models.evaluation.predict.read_new_rows` for errors."""
        return read_new_rows(path, self.data, self.columns, self.output)


def load_model(uri: str) -> RegisteredModel:
    """Load a registered model: its metadata, and only the weights of its archive, so that no stored code runs.

    Args:
        uri: models:/NAME@ALIAS or models:/NAME/VERSION.

    Raises:
        NotFoundError: If there is no local database.
        ModelError: If there is no such model, or another program registered it, or its archive is unsafe, or the file
            of its user-defined cell has changed.
        ConfigError: If its user-defined cell can't be imported.
    """
    if not re.fullmatch(MODEL_URI, uri):
        raise ModelError(f"{uri}: not a model URI; write models:/NAME@ALIAS or models:/NAME/VERSION")
    tracking.require_database(uri)
    try:
        directory = tracking.download(uri)
        with open(directory / "MLmodel", encoding="utf-8") as file:
            metadata = yaml.load(file.read(yaml.MAX_BYTES + 1))["metadata"]
        config: AnyModel = TypeAdapter(AnyModel).validate_python(metadata["model"])
        data: AnyData = TypeAdapter(AnyData).validate_python(metadata["data"])
        output, columns = OutputSpec.model_validate(metadata["output"]), tuple(metadata["columns"])
        size, scaled, cell = int(metadata["input_size"]), bool(metadata["scaled"]), metadata["cell"]
    except MlflowException as error:
        if is_transient(error):
            raise
        raise ModelError(f"{uri}: {error.message.splitlines()[0]}") from error
    except (FileNotFoundError, IsADirectoryError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{uri}: not a model that lstm-flows registered ({type(error).__name__}: {error})") from error
    if cell != fingerprint.cell_digest(config):
        raise ModelError(
            f"{uri}: the file of cell {getattr(config, 'cell', None)} has changed since the model was registered; "
            "restore the file, or serve the model with MLflow, which runs the registered code"
        )

    def build() -> Network:
        scaler = Scaler(torch.zeros(size), torch.ones(size)) if scaled else None
        return build_network(config, size, output, scaler)

    archive = directory / "data" / "model.pt2"
    try:
        weights = {key.removeprefix("network."): value for key, value in read_weights(archive).items()}
        network = build_from_state_dict(build, weights, config.num_layers, archive.stat().st_size)
    except ArchiveError as error:
        raise ModelError(
            f"{uri}: {error}; it may come from someone else: train a new model, or ask who registered it"
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{uri}: not a model that lstm-flows registered ({type(error).__name__}: {error})") from error
    return RegisteredModel(network, config, data, columns, output)
