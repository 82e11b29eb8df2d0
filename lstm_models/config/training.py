"""How a model is trained."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lstm_models.config.base import Config
from lstm_models.config.models import AnyModel


class Training(Config):
    """The initial training, by Adam on the squared error."""

    max_epochs: int = Field(ge=1, description="epochs of the initial training")
    learning_rate: float = Field(0.001, gt=0, le=1e30, description="Adam's step size")
    fused: bool = Field(
        False, description="PyTorch's fused Adam: faster, and differs from the default in the last bits"
    )
    batch_size: int = Field(1, ge=1, description="sequences in a step")
    shuffle: bool = Field(False, description="another order each epoch, drawn from the seed and the epoch's number")
    weight_decay: float = Field(0.0, ge=0, description="how much of each weight a step takes away, decoupled (AdamW)")
    lr_schedule: Literal["none", "exponential", "cosine"] = Field(
        "none",
        description="of the step size, epoch by epoch: exponential: times decay; cosine: to 0 at max_epochs",
    )
    lr_gamma: float = Field(0.95, gt=0, le=1, description="the factor of the exponential schedule")
    patience: int | None = Field(
        None, ge=1, description="epochs without a lower validation loss after which training ends; none: it goes on"
    )
    precision: Literal["32", "bf16-mixed"] = Field("32", description="bf16-mixed: products in bfloat16")
    device: Literal["cpu", "auto"] = Field("cpu", description="auto: a GPU where there is one")
    gradient_clip_norm: float | None = Field(
        None, gt=0, description="the most that the gradient's norm may be; a longer one is scaled down to it"
    )
    num_threads: int | None = Field(
        None, ge=1, description="torch's threads while training; none: as many as torch takes"
    )
    log_every_n_steps: int = Field(50, ge=1, description="steps between two points of a curve")
    checkpoint_every_n_steps: int | None = Field(
        None, ge=1, description="steps between two checkpoints, to go on from after a crash; none: not by steps"
    )
    checkpoint_every_n_minutes: float | None = Field(
        1.0, gt=0, description="minutes between two checkpoints, to go on from after a crash; none: not by time"
    )
    log_predictions: bool = Field(
        False, description="draw a curve out_<label> of the latest prediction for each label, as the tutorial does"
    )


class FineTuning(Config):
    """Training that resumes from the checkpoint of the initial one: weights, optimizer, epoch and random state."""

    max_epochs: int = Field(ge=1, description="absolute: 5000 after 2000 means 3000 more")


class Contender(Config):
    """A model with its training settings."""

    model: AnyModel = Field(discriminator="kind")
    training: Training
    fine_tuning: FineTuning
    replicas: int = Field(
        1, ge=1, le=1000, description="copies that are trained together, seeded with the seed, the seed + 1, and so on"
    )

    @model_validator(mode="after")
    def _fine_tuning_goes_on(self) -> Self:
        if self.fine_tuning.max_epochs <= self.training.max_epochs:
            raise PydanticCustomError(
                "epochs",
                "fine_tuning.max_epochs {total} with training.max_epochs {initial}: epoch counts are absolute, so "
                "fine_tuning.max_epochs must be above training.max_epochs",
                {"total": self.fine_tuning.max_epochs, "initial": self.training.max_epochs},
            )
        return self
