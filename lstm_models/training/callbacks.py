"""What is watched, and written, while a training runs."""

import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lstm_models.training.checkpoint import CheckpointError, continues_training, write_checkpoint
from lstm_models.training.module import SequenceModule

logger = logging.getLogger("lstm_flows")


class BestCheckpoint(L.Callback):
    """Watches the validation loss: writes a checkpoint whenever it is lower than ever, and ends training by patience.

    The same training, resumed, goes on with both; fine-tuning begins anew. See `checkpoint` for what tells them apart.

    Args:
        path: the checkpoint file to write; none: none is written.
        patience: epochs without a lower loss after which the training ends; none: it goes on.
        is_fine_tuning: whether a checkpoint to go on from is another training's, whatever its max_epochs.
    """

    def __init__(self, path: Path | None, patience: int | None, is_fine_tuning: bool = False) -> None:
        self.path = path
        self.patience = patience
        self.is_fine_tuning = is_fine_tuning
        self.loss = math.inf
        self.epoch = 0
        self.waited = 0  # epochs since

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.loss:
            self.loss, self.epoch, self.waited = loss, trainer.current_epoch + 1, 0
            if self.path:
                write_checkpoint(trainer, self.path)
        else:
            self.waited += 1
            if self.patience and self.waited >= self.patience:
                trainer.should_stop = True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = {"loss": self.loss, "epoch": self.epoch, "waited": self.waited}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.is_fine_tuning or not continues_training(checkpoint, trainer.max_epochs):
            return
        if not (before := checkpoint.get("best")):
            return
        self.loss, self.epoch, self.waited = before["loss"], before["epoch"], before["waited"]
        if self.path and self.epoch and not self.path.exists():
            raise CheckpointError(
                f"{self.path}: missing; the training to go on with has written epoch {self.epoch} there"
            )


@runtime_checkable
class BufferingLogger(Protocol):
    """A logger that holds points back for a while."""

    def persist_buffer(self) -> None: ...


class PeriodicCheckpoint(L.Callback):
    """Writes a checkpoint every so many steps or minutes, from which the training goes on to the last bit.

    One that is due with an epoch's last step is written when the epoch is complete, its validation included. None is
    written once the loss has become NaN or infinite. One that can't be written, or not be sent, as on a full disk, is a
    warning: the one before stays, and the training goes on.

    Where SIGTERM is waited for (takes_sigterm), the step is finished, one is written, and the training is left.

    Args:
        path: the checkpoint file to write.
        steps: how often, in steps; none: not by steps.
        minutes: how often, in minutes; none: not by time.
        written: what to do when one has been written.
    """

    def __init__(
        self, path: Path, steps: int | None, minutes: float | None, written: Callable[[], object] = lambda: None
    ) -> None:
        self.path = path
        self.steps = steps
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.written = written
        self.takes_sigterm = False
        self.terminated = False
        self._due = False

    def terminate(self, *_: object) -> None:
        """What to do on SIGTERM."""
        self.terminated = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = time.monotonic()  # no clock that can be set
        if self.takes_sigterm:  # Lightning's own handler may end the training where there is no checkpoint
            signal.signal(signal.SIGTERM, self.terminate)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        by_steps = self.steps is not None and trainer.global_step % self.steps == 0
        self._due = by_steps or self.terminated or time.monotonic() - self._last >= self.seconds
        if self._due and batch_idx + 1 < trainer.num_training_batches:
            self._write(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
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
            for curves in trainer.loggers:
                if isinstance(curves, BufferingLogger):  # or else points before the checkpoint could be lost in a crash
                    curves.persist_buffer()
            write_checkpoint(trainer, self.path)
            self.written()
        except OSError as error:
            logger.warning("%s: no checkpoint could be kept: %s; the training goes on", self.path, error.strerror)
        self._last = time.monotonic()
