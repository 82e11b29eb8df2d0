"""Load registered models without running anything that is stored in them."""

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

# a name that an experiment can have, and what MLflow gives its versions and aliases
MODEL_URI = r"models:/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(@[A-Za-z0-9_.-]{1,100}|/([0-9]{1,9}|latest))"


class ModelError(UserError):
    """A model can't be used; the message names it and the cause."""


class RegisteredModel(NamedTuple):
    """A registered model: its network, from its configuration, with the weights in its archive; what it was trained on
    and which columns it reads; what it tells."""

    network: Network
    config: AnyModel
    data: AnyData
    columns: tuple[str, ...]
    output: OutputSpec

    @property
    def program(self) -> nn.Module:
        """What was exported, and what a bare MLflow serves: of (B, T, D), NaN after the end of a shorter sequence."""
        return ExportableNetwork(self.network).eval()

    def read(self, path: Path) -> NewSequences:
        """New rows for it; errors as of `prediction.read_new`."""
        return read_new_rows(path, self.data, self.columns, self.output)


def load_model(uri: str) -> RegisteredModel:
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
            f"{uri}: the file of cell {getattr(config, 'cell', None)} has changed since it was registered; as it was "
            "then a bare MLflow runs it"
        )

    def build() -> Network:
        scaling = Scaler(torch.zeros(size), torch.ones(size)) if scaled else None
        return build_network(config, size, output, scaling)

    archive = directory / "data" / "model.pt2"
    try:
        weights = {key.removeprefix("network."): value for key, value in read_weights(archive).items()}
        network = build_from_state_dict(build, weights, config.num_layers, archive.stat().st_size)
    except ArchiveError as error:
        raise ModelError(f"{uri}: {error}; it may be another's: train anew, or ask who registered it") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{uri}: not a model that lstm-flows registered ({type(error).__name__}: {error})") from error
    return RegisteredModel(network, config, data, columns, output)
