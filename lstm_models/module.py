"""The LightningModule: one step, one loss, one optimizer, for every contender."""

import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lstm_models.config import Training
from lstm_models.data.tables import Sequences
from lstm_models.network import Network
from lstm_models.replicas import Replicas


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message tells the epoch."""


class SequenceModule(L.LightningModule):
    """Trains a network, or copies of one, on the squared error and logs the tutorial's curves.

    At every `log_every_n_steps`-th step: train_loss, this batch's; with `log_outputs`, out_<label>, the latest
    prediction for a sequence with that label. At the end of an epoch with such a step: train_loss_epoch, the mean over
    the epoch's sequences. Of copies, each of these is the median.

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
        self._outputs: dict[str, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.training_config
        return torch.optim.Adam(self.parameters(), lr=config.learning_rate, fused=config.fused or None)

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

    def training_step(self, batch: Sequences, batch_idx: int) -> Tensor:
        x_BTD, y_B = batch
        predictions = self.network(x_BTD)  # (B), or (R, B) of R copies
        losses = F.mse_loss(predictions, y_B.expand_as(predictions), reduction="none").mean(-1)
        self._summed_loss = self._summed_loss + losses.detach() * len(y_B)
        self._sequences += len(y_B)
        if self.training_config.log_outputs:
            for label, prediction in zip(y_B.tolist(), _median(predictions.detach()), strict=True):
                self._outputs[f"out_{label:g}"] = prediction
        # self.log is called only where Lightning will write a point: the call costs as much as the step itself.
        if (self.global_step + 1) % self.training_config.log_every_n_steps == 0:
            self._logged = True
            self.log("train_loss", _median(losses.detach().unsqueeze(-1)).squeeze())
            self.log_dict(dict[str, Any](self._outputs))
        return losses.sum()

    def on_train_epoch_end(self) -> None:
        self.epoch_loss = _median(self._summed_loss.unsqueeze(-1)).item() / self._sequences
        if not math.isfinite(self.epoch_loss):
            raise NonFiniteLoss(
                f"the loss became {self.epoch_loss} in epoch {self.current_epoch + 1}; "
                f"a learning_rate below {self.training_config.learning_rate:g} may help"
            )
        if self._logged:
            self.log("train_loss_epoch", self.epoch_loss)


def _median(of_copies: Tensor) -> Tensor:
    """(B) as it is; of (R, B) the median over the copies, NaN above all numbers."""
    return of_copies if of_copies.dim() == 1 else of_copies.sort(dim=0).values[(len(of_copies) - 1) // 2]
