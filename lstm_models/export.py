"""The form in which a network is registered: one program for any number of sequences of any length."""

import torch
from torch import Tensor, nn

from lstm_models.lstm import LSTM
from lstm_models.network import Network


class Exportable(nn.Module):
    """A network as torch.export can store it, its loop over time one operator whatever the number of steps.

    What serves a model hands it one tensor. So the lengths of a padded batch travel in it: NaN in all features, from a
    sequence's end to the end of the batch, is padding. A NaN anywhere else is a missing value, and its prediction NaN.

    An nn.LSTM or nn.RNN is exported as the hand-built LSTM of the same weights: its own operator would store the number
    of steps as a constant.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        recurrent = network.recurrent
        if isinstance(recurrent, nn.LSTM | nn.RNN):
            recurrent = LSTM.from_builtin(recurrent)
        self.network = Network(recurrent, network.head, network.output, network.scaling)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Tell of each sequence, (B, T, D), as `Network` does, and of classes their probabilities, (B, C).

        NaN for a sequence that is nothing but padding.
        """
        step_T = torch.arange(1, x_BTD.size(1) + 1, device=x_BTD.device)
        lengths_B = (~x_BTD.isnan().all(-1) * step_T).amax(1)
        told = self.network(x_BTD, lengths_B.clamp(min=1))
        if self.network.output.kind == "classes":
            told = told.softmax(-1)
        return torch.where((lengths_B > 0).view(-1, *[1] * (told.dim() - 1)), told, torch.nan)
