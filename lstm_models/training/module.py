"""The LightningModule that trains every contender."""

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
    """The loss became NaN or infinite; the message names the epoch."""


class SequenceModule(L.LightningModule):
    """LightningModule that trains a network, or its replicas, and logs the tutorial's curves.

    At every `log_every_n_steps`-th step it logs train_loss, the batch's mean loss, and, with `log_predictions`,
    out_<label>, the latest prediction for a sequence with that label. It logs train_loss_epoch, the mean over the
    epoch's sequences, at the end of the last epoch and of each epoch with a logged step; with validation data, at the
    end of every epoch, together with val_loss, the mean over the validation data. With replicas, each is the median.

    Checkpoints include the module's state within the epoch, so that resuming in mid-epoch loses no point.

    Args:
        network: the network or the replicas to train.
        training: the training settings.

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
        self._latest: dict[float, Tensor] = {}  # latest prediction by label
        self._point: dict[str, Tensor] = {}  # this step's; Lightning logs it after all hooks of the step

    @property
    def diverged(self) -> bool:
        """Whether the loss became NaN or infinite in this epoch."""
        return not math.isfinite(_median(self._summed_loss))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state within the epoch."""
        checkpoint["epoch_state"] = {
            "epoch_loss": self.epoch_loss,
            "summed_loss": self._summed_loss,
            "sequences": self._sequences,
            "logged": self._logged,
            "latest": {label: prediction.clone() for label, prediction in self._latest.items()},
            "point": dict(self._point),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state within the epoch."""
        if state := checkpoint.get("epoch_state"):  # missing in older checkpoints, which end with an epoch
            self.epoch_loss = state["epoch_loss"]
            self._summed_loss = state["summed_loss"]
            self._sequences = state["sequences"]
            self._logged = state["logged"]
            self._latest = state["latest"]
            self._point = state["point"]

    def on_train_start(self) -> None:
        """Move the restored state to the device, and log the last step's point if it may be missing."""
        self._summed_loss = self._summed_loss.to(self.device)
        self._latest = {label: prediction.to(self.device) for label, prediction in self._latest.items()}
        if self._point:  # the interrupted training may have stopped before it logged this point
            point = {name: value.item() for name, value in self._point.items()}
            for logger in self.loggers:
                logger.log_metrics({**point, "epoch": self.current_epoch}, self.global_step - 1)
                logger.save()
            self._point = {}

    def configure_optimizers(self) -> Any:
        """Return Adam or AdamW, with the learning-rate schedule if there is one."""
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
        """Clip the norm of the gradient, of each replica by itself."""
        if isinstance(self.network, Replicas) and gradient_clip_val:
            self.network.clip_gradients(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_start(self) -> None:
        """Reset the epoch's sums."""
        self._summed_loss = torch.zeros((), device=self.device)
        self._sequences = 0
        self._logged = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's mean loss, summed over replicas, and log the step's point."""
        x_BTD, y, lengths_B = batch
        predictions = self.network(x_BTD, lengths_B)  # (B, ...), or (R, B) for R replicas
        losses = self.network.losses(predictions, y).mean(-1)
        self._summed_loss = self._summed_loss + losses.detach() * len(y)
        self._sequences += len(y)
        if self.training_config.log_predictions:
            self._latest |= dict(zip(y.tolist(), predictions.detach().unbind(-1), strict=True))
        # log only at the steps where Lightning writes a point: a call takes as long as the step itself
        if (self.global_step + 1) % self.training_config.log_every_n_steps == 0:
            self._logged = True
            outputs = {f"out_{label:g}": _median(prediction) for label, prediction in self._latest.items()}
            self._point = {"train_loss": _median(losses.detach()), **outputs}
            self.log_dict(self._point)
        return losses.sum()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Clear the step's point."""
        self._point = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the validation loss."""
        x_BTD, y, lengths_B = batch
        losses = self.network.losses(self.network(x_BTD, lengths_B), y).mean(-1)
        self.log("val_loss", _median(losses), batch_size=len(y), on_epoch=True)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss.

        Raises:
            NonFiniteLoss: if it is NaN or infinite.
        """
        self.epoch_loss = _median(self._summed_loss).item() / self._sequences
        if not math.isfinite(self.epoch_loss):
            raise NonFiniteLoss(
                f"the loss became {self.epoch_loss} in epoch {self.current_epoch + 1}; "
                f"a learning_rate below {self.training_config.learning_rate:g} may help"
            )
        last = self.current_epoch + 1 == self.trainer.max_epochs
        if self._logged or last or self.trainer.val_dataloaders is not None:
            self.log("train_loss_epoch", self.epoch_loss)


def _median(values: Tensor) -> Tensor:
    """Return the lower median over R replicas, with NaN above all numbers; a single number as it is."""
    return values if values.dim() == 0 else values.sort().values[(len(values) - 1) // 2]
