"""Write and read checkpoints.

A checkpoint is Lightning's (weights, optimizer, epoch and step counts, position in the data), extended by what
bit-identical resuming needs. "lstm_flows" holds the random state, the network's configuration and the max_epochs of the
training that wrote it; "epoch_state" the module's state within the epoch; "best" the lowest validation loss. A
checkpoint contains tensors and primitives only, so it loads with weights_only=True.
"""

import logging
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from pydantic import TypeAdapter

from lstm_models.config import AnyModel, Contender
from lstm_models.data.dataset import Dataset
from lstm_models.data.output import OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.nn.network import Network, build_from_state_dict, build_network
from lstm_models.nn.replicas import Replicas
from lstm_models.utils import atomic_files
from lstm_models.utils.errors import UserError

FORMAT_VERSION = 2

logger = logging.getLogger("lstm_flows")


class CheckpointError(UserError):
    """Unusable checkpoint; the message names the file and the cause."""


class TrainingStateCallback(L.Callback):
    """Callback that saves the network's description and the random state, and restores the state on resuming.

    Args:
        description: the network's description, as `describe_network` returns it.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the description, max_epochs and the random state."""
        checkpoint["lstm_flows"] = {
            "format_version": FORMAT_VERSION,
            **self.description,
            "max_epochs": trainer.max_epochs,
            "random_state": get_random_state(),
        }
        # At an epoch's start Lightning has already counted it as ready; after resuming it would not count it again.
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["ready"] = counts["started"]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the random state until the training starts."""
        self._restored = checkpoint["lstm_flows"]["random_state"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random state."""
        # not in on_load_checkpoint: Lightning draws random numbers between the two hooks
        if self._restored is not None:
            set_random_state(self._restored)


def get_random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's global generators, as primitives and tensors."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the global generators to a state that `get_random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def write_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint atomically: until it is complete, also after a crash, readers find the previous one.

    It gets a checksum and is synced to disk; the previous checkpoint is retained beside it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        trainer.save_checkpoint(partial)
        atomic_files.append_checksum(partial)
        atomic_files.atomic_replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, loaded with weights_only=True.

    Raises:
        CheckpointError: if the file is not a checkpoint of this program, is corrupted, or has another format version.
    """
    try:
        if atomic_files.is_corrupted(path):
            raise CheckpointError(f"{path}: the checkpoint is damaged: its checksum does not match its content")
        atomic_files.validate_tensor_file(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = checkpoint["lstm_flows"]["format_version"]
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None
    except CheckpointError:
        raise
    except Exception as error:
        reason = error if isinstance(error, atomic_files.UnsafeFileError) else type(error).__name__
        raise CheckpointError(f"{path}: not a checkpoint of lstm-flows ({reason})") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, but this program reads {FORMAT_VERSION}; train again")
    return checkpoint


def latest_valid_checkpoint(path: Path) -> Path:
    """Return the path of the checkpoint or, if it can't be read, of the previous one, with a warning.

    Raises:
        CheckpointError: as `read_checkpoint`, naming both files, if neither can be read.
    """
    try:
        read_checkpoint(path)
        return path
    except CheckpointError as error:
        previous = atomic_files.previous_path(path)
        if not previous.exists():
            raise
        try:
            read_checkpoint(previous)
        except CheckpointError as other:
            raise CheckpointError(f"{error}; and the previous checkpoint: {other}; train again") from None
        logger.warning("%s; the previous checkpoint is used", error)
        return previous


def load_network(path: Path) -> Network | Replicas:
    """Return a checkpoint's network, or its replicas, with the trained weights, in evaluation mode.

    Raises:
        CheckpointError: as `read_checkpoint`, or if the description and the weights do not match.
    """
    checkpoint = read_checkpoint(path)
    description = checkpoint["lstm_flows"]
    try:
        config: AnyModel = TypeAdapter(AnyModel).validate_python(description["network"])
        output = OutputSpec.model_validate(description["output"])
        size, replicas = description["input_size"], description["replicas"]

        def build() -> Network | Replicas:
            scaling = Scaler(torch.zeros(size), torch.ones(size)) if description["scaled"] else None
            networks = [build_network(config, size, output, scaling) for _ in range(replicas)]
            return Replicas(networks) if len(networks) > 1 else networks[0]

        weights = {key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()}
        return build_from_state_dict(build, weights, replicas * config.num_layers, path.stat().st_size)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged ({type(error).__name__}: {error})") from error


def describe_network(contender: Contender, dataset: Dataset) -> dict[str, Any]:
    """Return a network's description, from which it can be rebuilt, in primitives; its scaling is among the weights."""
    return {
        "network": contender.model.model_dump(mode="json"),
        "input_size": dataset.input_size,
        "output": dataset.output.model_dump(mode="json"),
        "scaled": dataset.mean_D is not None,
        "replicas": contender.replicas,
    }
