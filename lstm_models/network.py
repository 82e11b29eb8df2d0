"""A recurrent core with a head: from a sequence to one number. B batch, T time, D input_size, H hidden_size."""

from typing import cast

from torch import Tensor, nn

from lstm_models.config import BuiltIn, HandBuilt
from lstm_models.lstm import LSTM


class Network(nn.Module):
    """The recurrent core's last hidden state, through the head."""

    def __init__(self, recurrent: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = head

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Predict one number for each sequence: (B, T, D) to (B).

        With lengths, of a padded batch; the recurrent core is then the hand-built LSTM, for nn.LSTM takes none.
        """
        _, (hidden_LBH, _) = self.recurrent(x_BTD) if lengths_B is None else self.recurrent(x_BTD, lengths=lengths_B)
        return cast(Tensor, self.head(hidden_LBH[-1])).squeeze(-1)


def build_network(config: HandBuilt | BuiltIn, input_size: int) -> Network:
    """The network that the configuration describes, its weights drawn from torch's global random state."""
    match config:
        case HandBuilt():
            recurrent: nn.Module = LSTM(
                input_size,
                config.hidden_size,
                config.num_layers,
                batch_first=True,
                dropout=config.dropout,
                biases=config.biases,
                init=config.init,
            )
        case BuiltIn():
            recurrent = nn.LSTM(
                input_size, config.hidden_size, config.num_layers, batch_first=True, dropout=config.dropout
            )
    head = nn.Linear(config.hidden_size, 1) if config.head == "linear" else nn.Identity()
    return Network(recurrent, head)
