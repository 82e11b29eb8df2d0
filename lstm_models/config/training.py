"""Settings of training."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config.base import Config
from lstm_models.config.models import AnyModel


class Training(Config):
    """Initial training: Adam on the squared error, or on the cross-entropy for classes."""

    max_epochs: int = Field(ge=1, description="maximum number of epochs of the initial training")
    learning_rate: float = Field(0.001, gt=0, le=1e30, description="learning rate of Adam")
    fused: bool = Field(
        False, description="use PyTorch's fused Adam: faster, differs from the default in the last bits"
    )
    batch_size: int = Field(1, ge=1, description="number of sequences per batch")
    shuffle: bool = Field(
        False, description="reshuffle the sequences in every epoch; the order depends on the seed and the epoch only"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (AdamW); 0: Adam")
    lr_schedule: Literal["none", "exponential", "cosine"] = Field(
        "none",
        description="learning-rate schedule, applied per epoch: exponential multiplies by lr_gamma, cosine decays to "
        "0 at max_epochs",
    )
    lr_gamma: float = Field(0.95, gt=0, le=1, description="decay factor of the exponential schedule")
    patience: int | None = Field(
        None,
        ge=1,
        description="early stopping: number of epochs without a lower validation loss after which training stops; "
        "null: no early stopping",
    )
    precision: Literal["32", "bf16-mixed"] = Field(
        "32", description="floating-point precision; bf16-mixed: matrix products in bfloat16"
    )
    device: Literal["cpu", "auto"] = Field("cpu", description="auto: a GPU if available, otherwise the CPU")
    gradient_clip_norm: float | None = Field(
        None, gt=0, description="maximum norm of the gradient; larger gradients are scaled down; null: no clipping"
    )
    num_threads: int | None = Field(
        None, ge=1, description="number of CPU threads PyTorch uses during training; null: PyTorch's default"
    )
    log_every_n_steps: int = Field(50, ge=1, description="number of steps between two logged points of a curve")
    checkpoint_every_n_steps: int | None = Field(
        None, ge=1, description="number of steps between two checkpoints to resume from; null: not by steps"
    )
    checkpoint_every_n_minutes: float | None = Field(
        1.0, gt=0, description="minutes between two checkpoints to resume from; null: not by time"
    )
    log_predictions: bool = Field(
        False, description="log a curve out_<label> with the latest prediction for each label, as the tutorial does"
    )


class FineTuning(Config):
    """Fine-tuning from the checkpoint of the initial training: weights, optimizer, epoch count and random state."""

    max_epochs: int = Field(
        ge=1, description="total number of epochs, including the initial training: 5000 after 2000 adds 3000"
    )


class Contender(Config):
    """A model with its training settings."""

    model: AnyModel = Field(discriminator="kind")
    training: Training
    fine_tuning: FineTuning
    replicas: int = Field(
        1, ge=1, le=1000, description="number of replicas trained together; replica i, from 0, uses the seed plus i"
    )

    @model_validator(mode="after")
    def _check_max_epochs(self) -> Self:
        if self.fine_tuning.max_epochs <= self.training.max_epochs:
            raise PydanticCustomError(
                "epochs",
                "fine_tuning.max_epochs {total} with training.max_epochs {initial}: epoch counts are absolute, so "
                "fine_tuning.max_epochs must be above training.max_epochs",
                {"total": self.fine_tuning.max_epochs, "initial": self.training.max_epochs},
            )
        return self
