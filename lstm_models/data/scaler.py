"""Scale raw values, and scale them back."""

from torch import Tensor, nn


class Scaler(nn.Module):
    """Raw values to the size that networks learn best from, and back; part of the network, so that it is never lost.

    center_D, spread_D: what is subtracted from each of the D columns, and what the rest is divided by.
    """

    center_D: Tensor
    spread_D: Tensor

    def __init__(self, center_D: Tensor, spread_D: Tensor) -> None:
        super().__init__()
        self.register_buffer("center_D", center_D.clone())
        self.register_buffer("spread_D", spread_D.clone())

    def forward(self, x_BTD: Tensor) -> Tensor:
        return (x_BTD - self.center_D) / self.spread_D
