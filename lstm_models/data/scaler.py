"""Scale raw values, and scale them back."""

from torch import Tensor, nn


class Scaler(nn.Module):
    """Raw values to the size that networks learn best from, and back; part of the network, so that it is never lost.

    mean_D, scale_D: what is subtracted from each of the D columns, and what the rest is divided by.
    """

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, mean_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_D", mean_D.clone())
        self.register_buffer("scale_D", scale_D.clone())

    def forward(self, x_BTD: Tensor) -> Tensor:
        return (x_BTD - self.mean_D) / self.scale_D
