"""What a checkpoint holds, and how it is written and read back.

A checkpoint is Lightning's (weights, optimizer, epoch and step counts, position in the data) with what it takes to go
on as if nothing had happened: under lstm_flows the random state, the network's configuration, and the max_epochs of the
training that wrote it; under epoch_state what the module knows of the epoch; under best the lowest validation loss. It
holds tensors and primitives only, so that it loads with weights_only=True.

The same max_epochs again is the same training, which goes on with everything. Another one is a training of its own,
fine-tuning, which looks for a best epoch of its own, with patience of its own.
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
from lstm_models.data.loader import BatchLoader
from lstm_models.data.output import OutputSpec
from lstm_models.data.scaler import Scaler
from lstm_models.nn.network import Network, build_from_state_dict, build_network
from lstm_models.nn.replicas import Replicas
from lstm_models.utils import atomic_files
from lstm_models.utils.errors import UserError

FORMAT_VERSION = 2

logger = logging.getLogger("lstm_flows")


class CheckpointError(UserError):
    """A checkpoint can't be used; the message names the file and the cause."""


class TrainingStateCallback(L.Callback):
    """Puts the network's description and the random state into each checkpoint, and takes the state up on resuming."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["lstm_flows"] = {
            "format_version": FORMAT_VERSION,
            **self.description,
            "max_epochs": trainer.max_epochs,
            "random_state": random_state(),
        }
        # When an epoch starts, Lightning has counted it as ready, and after going on from there it would not again.
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["ready"] = counts["started"]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint["lstm_flows"]["random_state"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not in on_load_checkpoint: what Lightning does between the two draws random numbers.
        if self._restored is not None:
            set_random_state(self._restored)


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's global generators, as primitives and tensors."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the global generators to what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def write_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint, whole or not at all: whoever reads meanwhile, or after a crash, finds the one before.

    It is sealed with a digest and synced to the disk; the one before is kept beside it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        trainer.save_checkpoint(partial)
        atomic_files.append_checksum(partial)
        atomic_files.atomic_replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, unpickled with weights_only.

    Raises:
        CheckpointError: if the file is no checkpoint of this program, or not what was written, or of another format
            version.
    """
    try:
        if atomic_files.is_corrupted(path):
            raise CheckpointError(f"{path}: the checkpoint is damaged: its bytes are not those that were written")
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
        raise CheckpointError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}; train anew")
    return checkpoint


def latest_valid_checkpoint(path: Path) -> Path:
    """The checkpoint at a path; or, with a warning, the one before, if that one can't be read.

    Raises:
        CheckpointError: as `read`, naming both, if neither can.
    """
    try:
        read_checkpoint(path)
        return path
    except CheckpointError as error:
        before = atomic_files.previous_path(path)
        if not before.exists():
            raise
        try:
            read_checkpoint(before)
        except CheckpointError as other:
            raise CheckpointError(f"{error}; and the one before: {other}; train anew") from None
        logger.warning("%s; the one before is used", error)
        return before


def load_network(path: Path) -> Network | Replicas:
    """The network of a checkpoint, or its copies, built from its own description, with its weights, in evaluation mode.

    Raises:
        CheckpointError: as `read`, or if description and weights do not fit together.
    """
    checkpoint = read_checkpoint(path)
    ours = checkpoint["lstm_flows"]
    try:
        config: AnyModel = TypeAdapter(AnyModel).validate_python(ours["network"])
        size, output, copies = ours["input_size"], OutputSpec.model_validate(ours["output"]), ours["replicas"]

        def build() -> Network | Replicas:
            scaling = Scaler(torch.zeros(size), torch.ones(size)) if ours["scaled"] else None
            networks = [build_network(config, size, output, scaling) for _ in range(copies)]
            return Replicas(networks) if len(networks) > 1 else networks[0]

        weights = {key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()}
        return build_from_state_dict(build, weights, copies * config.num_layers, path.stat().st_size)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged ({type(error).__name__}: {error})") from error


def validate_network(path: Path, contender: Contender, dataset: Dataset) -> dict[str, Any]:
    """See to it that a checkpoint is of the network that a contender has on a dataset.

    Scale and unit are the checkpoint's own, and stay what they are when the data has grown.

    Returns:
        The network's description.

    Raises:
        CheckpointError: as `read`; or if it is of another network.
    """
    ours = read_checkpoint(path)["lstm_flows"]
    expected = describe_network(contender, dataset)
    theirs = {key: ours.get(key) for key in expected}
    unit = {key: expected["output"][key] for key in ("mean", "scale")}
    alike = theirs | {"output": theirs["output"] | unit if isinstance(theirs["output"], dict) else None}
    if different := {key: theirs[key] for key, value in alike.items() if value != expected[key]}:
        raise CheckpointError(f"{path}: a checkpoint of another network: {different}")
    return theirs


def validate_resumable(
    path: Path, contender: Contender, batches: BatchLoader, max_epochs: int, is_fine_tuning: bool = False
) -> None:
    """See to it that training can go on from a checkpoint of this contender's network; further: as another training.

    Raises:
        CheckpointError: as `read`; or if it has trained for max_epochs already, or its patience has ended it, or it was
            in the middle of an epoch of other batches.
    """
    checkpoint = read_checkpoint(path)
    epochs, patience = checkpoint["epoch"], contender.training.patience
    if epochs >= max_epochs:
        raise CheckpointError(f"{path}: trained for {epochs} epochs; max_epochs {max_epochs} adds none")
    if not is_fine_tuning and is_complete(checkpoint, contender, max_epochs):
        raise CheckpointError(
            f"{path}: ended after {epochs} epochs, by patience {patience}; with max_epochs {max_epochs} it stays so"
        )
    if is_mid_epoch(checkpoint):
        _validate_position(path, checkpoint, batches)


def continues_training(checkpoint: dict[str, Any], max_epochs: int | None) -> bool:
    """Whether to train on to max_epochs is to go on with the training that wrote the checkpoint."""
    return bool(checkpoint["lstm_flows"].get("max_epochs") == max_epochs)


def is_complete(checkpoint: dict[str, Any], contender: Contender, max_epochs: int) -> bool:
    """Whether the training to max_epochs has written the checkpoint at its end: by their number, or by patience."""
    if not continues_training(checkpoint, max_epochs):
        return False
    patience, waited = contender.training.patience, checkpoint.get("best", {}).get("waited", 0)
    # Lightning counts complete epochs, in the middle of one too: there it is one less than at that epoch's end
    return bool(checkpoint["epoch"] >= max_epochs or (patience is not None and waited >= patience))


def is_mid_epoch(checkpoint: dict[str, Any]) -> bool:
    """Whether something of an epoch has not been done yet: steps, or what comes after the last one."""
    counts = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    return bool(counts["started"] > counts["processed"])


def _validate_position(path: Path, checkpoint: dict[str, Any], batches: BatchLoader) -> None:
    if "epoch_state" not in checkpoint:
        raise CheckpointError(f"{path}: an older program wrote it in the middle of an epoch; use the last checkpoint")
    (there,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    if different := {key: there[key] for key, value in batches.order.items() if there[key] != value}:
        here = {key: batches.order[key] for key in different}
        raise CheckpointError(f"{path}: in the middle of an epoch of other batches: {different}, and here {here}")


def describe_network(contender: Contender, dataset: Dataset) -> dict[str, Any]:
    """A network in primitives: what it takes to build it anew; its scaling lies among the weights."""
    return {
        "network": contender.model.model_dump(mode="json"),
        "input_size": dataset.input_size,
        "output": dataset.output.model_dump(mode="json"),
        "scaled": dataset.mean_D is not None,
        "replicas": contender.replicas,
    }
