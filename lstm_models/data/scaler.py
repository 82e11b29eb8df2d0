"""Scaling of the network's inputs."""

from torch import Tensor, nn


class Scaler(nn.Module):
    """Scaling of raw inputs: subtracts mean_D, then divides by scale_D, both (D).

    It is part of the network and its buffers are in the state dict, so that no checkpoint lacks them.
    """

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, mean_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_D", mean_D.clone())
        self.register_buffer("scale_D", scale_D.clone())

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the scaled inputs, (B, T, D)."""
        return (x_BTD - self.mean_D) / self.scale_D
