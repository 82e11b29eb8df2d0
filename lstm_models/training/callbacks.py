"""Callbacks that write checkpoints during training, and stop it early."""

import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lstm_models.training.checkpoint import CheckpointError, write_checkpoint
from lstm_models.training.module import SequenceModule
from lstm_models.training.resume import continues_training

logger = logging.getLogger("lstm_flows")


class BestCheckpoint(L.Callback):
    """Callback that writes a checkpoint at each new lowest validation loss, and stops training early by patience.

    A resumed training restores the lowest loss and the patience, fine-tuning starts both again; see `resume` for the
    difference.

    Args:
        path: the checkpoint file to write; None: none is written.
        patience: number of epochs without a lower loss after which training stops; None: no early stopping.
        is_fine_tuning: whether this is a new training, even if its max_epochs equals that of the loaded checkpoint.
    """

    def __init__(self, path: Path | None, patience: int | None, is_fine_tuning: bool = False) -> None:
        self.path = path
        self.patience = patience
        self.is_fine_tuning = is_fine_tuning
        self.loss = math.inf
        self.epoch = 0
        self.wait_count = 0  # epochs since then

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the validation loss with the lowest one."""
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.loss:
            self.loss, self.epoch, self.wait_count = loss, trainer.current_epoch + 1, 0
            if self.path:
                write_checkpoint(trainer, self.path)
        else:
            self.wait_count += 1
            if self.patience and self.wait_count >= self.patience:
                trainer.should_stop = True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the lowest loss, its epoch and the number of epochs since then."""
        checkpoint["best"] = {"loss": self.loss, "epoch": self.epoch, "waited": self.wait_count}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the state if the training is resumed.

        Raises:
            CheckpointError: if the best checkpoint of the resumed training is missing.
        """
        if self.is_fine_tuning or not continues_training(checkpoint, trainer.max_epochs):
            return
        if not (best := checkpoint.get("best")):
            return
        self.loss, self.epoch, self.wait_count = best["loss"], best["epoch"], best["waited"]
        if self.path and self.epoch and not self.path.exists():
            raise CheckpointError(
                f"{self.path}: missing; the interrupted training wrote its best checkpoint, epoch {self.epoch}, there"
            )


@runtime_checkable
class BufferingLogger(Protocol):
    """Logger that buffers points before it writes them."""

    def persist_buffer(self) -> None:
        """Write the buffered points."""


class PeriodicCheckpoint(L.Callback):
    """Callback that periodically writes a checkpoint, from which training resumes bit-identically.

    A checkpoint that is due at an epoch's last step is written when the epoch is complete, including its validation.
    No checkpoint is written once the loss has become NaN or infinite. If writing or uploading fails, as on a full disk,
    a warning is logged: the previous checkpoint stays and training continues.

    With handles_sigterm, SIGTERM stops training after the current step and a checkpoint.

    Args:
        path: the checkpoint file to write.
        steps: number of steps between two checkpoints; None: not by steps.
        minutes: minutes between two checkpoints; None: not by time.
        on_write: called after each checkpoint.
    """

    def __init__(
        self, path: Path, steps: int | None, minutes: float | None, on_write: Callable[[], object] = lambda: None
    ) -> None:
        self.path = path
        self.steps = steps
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.on_write = on_write
        self.handles_sigterm = False
        self.terminated = False
        self._due = False

    def terminate(self, *_: object) -> None:
        """Stop training after the current step; a signal handler."""
        self.terminated = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and install the signal handler."""
        self._last = time.monotonic()  # unlike time.time, it never jumps
        if self.handles_sigterm:  # replaces Lightning's handler, which may stop training without a checkpoint
            signal.signal(signal.SIGTERM, self.terminate)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if one is due, except after an epoch's last step."""
        by_steps = self.steps is not None and trainer.global_step % self.steps == 0
        self._due = by_steps or self.terminated or time.monotonic() - self._last >= self.seconds
        if self._due and batch_idx + 1 < trainer.num_training_batches:
            self._write(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the checkpoint that was due at the end of the previous epoch."""
        if self._due or self.terminated:
            self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SequenceModule)
        self._due = False
        if not pl_module.diverged:
            self._try_to_write(trainer)
        if self.terminated:
            raise SIGTERMException

    def _try_to_write(self, trainer: L.Trainer) -> None:
        try:
            for curve_logger in trainer.loggers:
                if isinstance(curve_logger, BufferingLogger):  # otherwise a crash could lose points of earlier steps
                    curve_logger.persist_buffer()
            write_checkpoint(trainer, self.path)
            self.on_write()
        except OSError as error:
            logger.warning("%s: the checkpoint was not written: %s; training continues", self.path, error.strerror)
        self._last = time.monotonic()
