"""The LightningModule: one step, one loss, one optimizer, for every contender."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lstm_models.config import Training
from lstm_models.data.windows import Batch
from lstm_models.nn.network import Network
from lstm_models.nn.replicas import Replicas


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message tells the epoch."""


class SequenceModule(L.LightningModule):
    """Trains a network, or copies of one, on the squared error and logs the tutorial's curves.

    At every `log_every_n_steps`-th step: train_loss, this batch's; with `log_predictions`, out_<label>, the latest
    prediction for a sequence with that label. At the end of the last epoch and of each with such a step, or of all
    where there is validation data: train_loss_epoch, the mean over the epoch's sequences, and val_loss, the same of the
    validation data. Of copies, each is the median.
    What it knows of the epoch goes into every checkpoint, so that one from the middle of an epoch loses no point.

    Raises:
        NonFiniteLoss: at the end of an epoch in which a loss was NaN or infinite.
    """

    def __init__(self, network: Network | Replicas, training: Training) -> None:
        super().__init__()
        self.network = network
        self.training_config = training
        self.epoch_loss = math.nan  # of the last complete epoch
        self._summed_loss = torch.zeros(())
        self._sequences = 0
        self._logged = False
        self._latest: dict[float, Tensor] = {}  # predictions by label
        self._point: dict[str, Tensor] = {}  # of this step: Lightning logs it when all hooks of the step have run

    @property
    def diverged(self) -> bool:
        """Whether the loss has become NaN or infinite in this epoch."""
        return not math.isfinite(_median(self._summed_loss))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_state"] = {
            "epoch_loss": self.epoch_loss,
            "summed_loss": self._summed_loss,
            "sequences": self._sequences,
            "logged": self._logged,
            "latest": {label: prediction.clone() for label, prediction in self._latest.items()},
            "point": dict(self._point),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if so_far := checkpoint.get("epoch_state"):  # older checkpoints, all of a whole epoch, have none
            self.epoch_loss = so_far["epoch_loss"]
            self._summed_loss = so_far["summed_loss"]
            self._sequences = so_far["sequences"]
            self._logged = so_far["logged"]
            self._latest = so_far["latest"]
            self._point = so_far["point"]

    def on_train_start(self) -> None:
        self._summed_loss = self._summed_loss.to(self.device)
        self._latest = {label: prediction.to(self.device) for label, prediction in self._latest.items()}
        if self._point:  # the training that wrote the checkpoint may have ended before it logged this
            point = {name: value.item() for name, value in self._point.items()}
            for logger in self.loggers:
                logger.log_metrics({**point, "epoch": self.current_epoch}, self.global_step - 1)
                logger.save()
            self._point = {}

    def configure_optimizers(self) -> Any:
        config = self.training_config
        settings: dict[str, Any] = {"lr": config.learning_rate, "fused": config.fused or None}
        if config.weight_decay > 0:
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                self.parameters(), weight_decay=config.weight_decay, **settings
            )
        else:
            optimizer = torch.optim.Adam(self.parameters(), **settings)
        match config.lr_schedule:
            case "exponential":
                schedule: Any = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.lr_gamma)
            case "cosine":
                schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs or 1)
            case _:
                return optimizer
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if isinstance(self.network, Replicas) and gradient_clip_val:
            self.network.clip_gradients(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_start(self) -> None:
        self._summed_loss = torch.zeros((), device=self.device)
        self._sequences = 0
        self._logged = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x_BTD, y, lengths_B = batch
        told = self.network(x_BTD, lengths_B)  # (B, ...), or (R, B) of R copies
        losses = self.network.losses(told, y).mean(-1)
        self._summed_loss = self._summed_loss + losses.detach() * len(y)
        self._sequences += len(y)
        if self.training_config.log_predictions:
            self._latest |= dict(zip(y.tolist(), told.detach().unbind(-1), strict=True))
        # self.log is called only where Lightning will write a point: the call costs as much as the step itself.
        if (self.global_step + 1) % self.training_config.log_every_n_steps == 0:
            self._logged = True
            outputs = {f"out_{label:g}": _median(of_copies) for label, of_copies in self._latest.items()}
            self._point = {"train_loss": _median(losses.detach()), **outputs}
            self.log_dict(self._point)
        return losses.sum()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._point = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x_BTD, y, lengths_B = batch
        losses = self.network.losses(self.network(x_BTD, lengths_B), y).mean(-1)
        self.log("val_loss", _median(losses), batch_size=len(y), on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.epoch_loss = _median(self._summed_loss).item() / self._sequences
        if not math.isfinite(self.epoch_loss):
            raise NonFiniteLoss(
                f"the loss became {self.epoch_loss} in epoch {self.current_epoch + 1}; "
                f"a learning_rate below {self.training_config.learning_rate:g} may help"
            )
        last = self.current_epoch + 1 == self.trainer.max_epochs
        if self._logged or last or self.trainer.val_dataloaders is not None:
            self.log("train_loss_epoch", self.epoch_loss)


def _median(of_copies: Tensor) -> Tensor:
    """A single number as it is; of R copies' the median, the lower of two in the middle, NaN above all numbers."""
    return of_copies if of_copies.dim() == 0 else of_copies.sort().values[(len(of_copies) - 1) // 2]
