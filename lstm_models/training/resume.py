"""Check whether a checkpoint fits a contender, and whether training can resume from it.

A training is identified by its max_epochs: with the same max_epochs it is resumed, together with its best epoch and
patience. With another max_epochs it is fine-tuned: the search for the best epoch and the patience start again.
"""

from pathlib import Path
from typing import Any

from lstm_models.config import Contender
from lstm_models.data.dataset import Dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.training.checkpoint import CheckpointError, describe_network, read_checkpoint


def validate_network(path: Path, contender: Contender, dataset: Dataset) -> dict[str, Any]:
    """Validate that a checkpoint's network is the one a contender has on a dataset.

    The scaling and the unit of the output are the checkpoint's, and stay so if the data has grown.

    Returns:
        The checkpoint's description of the network.

    Raises:
        CheckpointError: as `read_checkpoint`, or if the checkpoint is of another network.
    """
    content = read_checkpoint(path)["lstm_flows"]
    expected = describe_network(contender, dataset)
    description = {key: content.get(key) for key in expected}
    unit = {key: expected["output"][key] for key in ("mean", "scale")}
    output = description["output"]
    comparable = description | {"output": output | unit if isinstance(output, dict) else None}
    if different := {key: description[key] for key, value in comparable.items() if value != expected[key]}:
        raise CheckpointError(f"{path}: the checkpoint is of another network, with {different}")
    return description


def validate_resumable(
    path: Path, contender: Contender, batches: BatchLoader, max_epochs: int, is_fine_tuning: bool = False
) -> None:
    """Validate that training can resume from a checkpoint of this contender's network.

    Args:
        path: the checkpoint file.
        contender: the contender to train.
        batches: the training batches.
        max_epochs: the number of epochs to train to, counted from the start.
        is_fine_tuning: whether this is a new training, even if its max_epochs equals the checkpoint's.

    Raises:
        CheckpointError: as `read_checkpoint`, or if the checkpoint has reached max_epochs, or was stopped early by
            patience, or was written in the middle of an epoch with other batches.
    """
    checkpoint = read_checkpoint(path)
    epochs, patience = checkpoint["epoch"], contender.training.patience
    if epochs >= max_epochs:
        raise CheckpointError(
            f"{path}: already trained for {epochs} epochs, so max_epochs {max_epochs} adds none; set a higher one"
        )
    if not is_fine_tuning and is_complete(checkpoint, contender, max_epochs):
        raise CheckpointError(
            f"{path}: stopped early after {epochs} epochs by patience {patience}; with max_epochs {max_epochs} the "
            "training is complete; set another max_epochs to fine-tune"
        )
    if is_mid_epoch(checkpoint):
        _validate_position(path, checkpoint, batches)


def continues_training(checkpoint: dict[str, Any], max_epochs: int | None) -> bool:
    """Return whether training to max_epochs resumes the training that wrote the checkpoint."""
    return bool(checkpoint["lstm_flows"].get("max_epochs") == max_epochs)


def is_complete(checkpoint: dict[str, Any], contender: Contender, max_epochs: int) -> bool:
    """Return whether the training to max_epochs was complete, by epochs or by patience, at this checkpoint."""
    if not continues_training(checkpoint, max_epochs):
        return False
    patience, waited = contender.training.patience, checkpoint.get("best", {}).get("waited", 0)
    # Lightning counts complete epochs: in the middle of an epoch it is one less than at that epoch's end
    return bool(checkpoint["epoch"] >= max_epochs or (patience is not None and waited >= patience))


def is_mid_epoch(checkpoint: dict[str, Any]) -> bool:
    """Return whether an epoch was unfinished: steps, or the processing after the last one, remain."""
    counts = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    return bool(counts["started"] > counts["processed"])


def _validate_position(path: Path, checkpoint: dict[str, Any], batches: BatchLoader) -> None:
    if "epoch_state" not in checkpoint:
        raise CheckpointError(
            f"{path}: written by an older program in the middle of an epoch, without the position; "
            "use the last checkpoint"
        )
    (position,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    if different := {key: position[key] for key, value in batches.order.items() if position[key] != value}:
        current = {key: batches.order[key] for key in different}
        raise CheckpointError(
            f"{path}: written in the middle of an epoch with other batches: {different}, now {current}"
        )
