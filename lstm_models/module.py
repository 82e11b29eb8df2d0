"""The LightningModule: one step, one loss, one optimizer, for every contender."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lstm_models.config import Training
from lstm_models.data.examples import Batch
from lstm_models.network import Network
from lstm_models.replicas import Replicas


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message tells the epoch."""


class SequenceModule(L.LightningModule):
    """Trains a network, or copies of one, on the squared error and logs the tutorial's curves.

    At every `log_every_n_steps`-th step: train_loss, this batch's; with `log_outputs`, out_<label>, the latest
    prediction for a sequence with that label. At the end of an epoch with such a step: train_loss_epoch, the mean over
    the epoch's sequences; where there is validation data, val_loss, the same of it. Of copies, each is the median.

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

    def configure_optimizers(self) -> Any:
        config = self.training_config
        settings: dict[str, Any] = {"lr": config.learning_rate, "fused": config.fused or None}
        if config.weight_decay > 0:
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                self.parameters(), weight_decay=config.weight_decay, **settings
            )
        else:
            optimizer = torch.optim.Adam(self.parameters(), **settings)
        match config.schedule:
            case "exponential":
                schedule: Any = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.decay)
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
        if self.training_config.log_outputs:
            self._latest |= dict(zip(y.tolist(), told.detach().unbind(-1), strict=True))
        # self.log is called only where Lightning will write a point: the call costs as much as the step itself.
        if (self.global_step + 1) % self.training_config.log_every_n_steps == 0:
            self._logged = True
            self.log("train_loss", _median(losses.detach()))
            self.log_dict({f"out_{label:g}": _median(of_copies) for label, of_copies in self._latest.items()})
        return losses.sum()

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
        if self._logged:
            self.log("train_loss_epoch", self.epoch_loss)


def _median(of_copies: Tensor) -> Tensor:
    """A single number as it is; of R copies' the median, the lower of two in the middle, NaN above all numbers."""
    return of_copies if of_copies.dim() == 0 else of_copies.sort().values[(len(of_copies) - 1) // 2]
