"""LSTM module with the interface, parameters and results of nn.LSTM, written from the equations in cells.py."""

import math
from typing import Self, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_models.nn import conversion, initialization, padding, validation
from lstm_models.nn.cells import Cell, LSTMState
from lstm_models.nn.initialization import Init
from lstm_models.nn.kernels.reference import STANDARD_CELL, Loop
from lstm_models.nn.layers import initial_states, run_layers

_DEFAULTS = {
    "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False,
    "double_bias": True, "init": "default", "cell": STANDARD_CELL,
}  # fmt: skip


class LSTM(nn.Module):
    """Multi-layer LSTM that replaces an nn.LSTM, with three more settings: double_bias, init and cell.

    It has the arguments and results of nn.LSTM. With two biases, the state dict of either loads into the other.
    Parameters of layer k, in the order of the state dict (gates i, f, g, o; P = proj_size, or H without projection):

        weight_ih_l{k} (4H, D), above the first layer (4H, P), twice as wide if bidirectional; weight_hh_l{k} (4H, P);
        bias_ih_l{k} (4H); with `double_bias` bias_hh_l{k} (4H); with a projection weight_hr_l{k} (P, H);
        the same with the suffix _reverse for the backward direction. Other cells may have other gates, and further
        weights after these.

    Args:
        input_size: D, the number of input features.
        hidden_size: H, the size of the cell state.
        num_layers: Number of stacked layers.
        bias: Whether the gates have biases.
        batch_first: Whether sequences are (B, T, D) instead of (T, B, D). States are (K, B, ...) either way.
        dropout: Probability of zeroing an element of a hidden state between two layers, in training mode. The random
            draws equal nn.LSTM's.
        bidirectional: Whether each layer also reads the sequence backward; its output concatenates both directions.
        proj_size: P, the size to which hidden states are projected; 0 for none (Sak, Senior and Beaufays 2014).
        device: Device of the parameters.
        dtype: Floating-point type of the parameters.
        double_bias: Whether there are two bias vectors, as in nn.LSTM, or one, as in the equations.
        init: "default" draws uniformly from (-1/sqrt(H), 1/sqrt(H)), in nn.LSTM's order; "normal" draws the weights
            from N(0, 1) and sets the biases to 0. It draws in the order of the tutorial: gate by gate (f, i, g, o), for
            each gate the recurrent weight before the input weight, and all other weights last.
        cell: The equations of a time step, such as cell_variants.Peephole().

    Raises:
        ValueError: If a size is below 1, the projection is not smaller than H, dropout is outside [0, 1], init is
            unknown, or the cell has a forget_bias although bias is False.
        TypeError: If a size is no integer, bias, batch_first or double_bias is no bool, or the cell is no Cell.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        double_bias: bool = True,
        init: Init = "default",
        cell: Cell = STANDARD_CELL,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers, "proj_size": proj_size}
        switches = {"bias": bias, "batch_first": batch_first, "double_bias": double_bias}
        validation.check_settings(sizes, switches, dropout)
        initialization.check_init(init)
        validation.check_cell(cell, bias)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.double_bias = double_bias
        self.init = init
        self.cell = cell
        # parameter names by layer and, within it, by direction, in nn.LSTM's order
        self._names: list[dict[str, str]] = []
        self._register_parameters(device, dtype)
        self.reset_parameters()

    def _register_parameters(self, device: torch.device | str | int | None, dtype: torch.dtype | None) -> None:
        """Create the parameters of all layers and directions without values."""
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        num_biases = 0 if not self.bias else 2 if self.double_bias else 1
        for layer in range(self.num_layers):
            size = len(suffixes) * (self.proj_size or self.hidden_size) if layer else self.input_size
            for suffix in suffixes:
                shapes = initialization.weight_shapes(self.cell, size, self.hidden_size, self.proj_size, num_biases)
                self._names.append({kind: f"{kind}_l{layer}{suffix}" for kind in shapes})
                for kind, shape in shapes.items():
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(self._names[-1][kind], parameter)

    def reset_parameters(self) -> None:
        """Draw the initial parameters again, as `init` defines."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters() if self.init == "default" else ():
            nn.init.uniform_(parameter, -bound, bound)
        for weights in self._weights():
            if self.init == "normal":
                initialization.draw_normal(weights, self.cell.gates)
            self.cell.reset(weights)

    def _weights(self) -> list[dict[str, Tensor]]:
        """Return the weights by layer and direction, by their names without layer and direction."""
        stored = self._parameters  # faster than getattr; lacks the weights that a parametrization computes
        return [
            {kind: getattr(self, key) if (value := stored.get(key)) is None else value for kind, key in names.items()}
            for names in self._names
        ]

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters by layer and direction."""
        return [list(weights.values()) for weights in self._weights()]

    @property
    def _state_sizes(self) -> tuple[int, int, int]:
        """K, P and H."""
        return len(self._names), self.proj_size or self.hidden_size, self.hidden_size

    def flatten_parameters(self) -> None:
        """Do nothing. nn.LSTM arranges its weights for cuDNN here, which this class does not use."""

    @overload
    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[PackedSequence, LSTMState]: ...

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, LSTMState]:
        """Run whole sequences. P is proj_size, or H without projection; K is num_layers, times 2 if bidirectional.

        Args:
            input: (T, B, D), or (B, T, D) with batch_first; or one sequence, (T, D); or a PackedSequence.
            hx: The initial hidden state (K, B, P) and cell state (K, B, H); for one sequence (K, P) and (K, H); zeros
                by default. For a PackedSequence in the order of the sequences before packing.
            lengths: The number of steps of each sequence of a padded batch, (B), from 1 to T. Steps after the end of a
                sequence do not change its state, and their output is 0. nn.LSTM needs a PackedSequence for this.

        Returns:
            The hidden states of the last layer at every step, in the form of the input, with P features, or 2P if
            bidirectional; and LSTMState(hidden, cell), the state of each layer and direction after its last step,
            shaped as hx. Under autocast, both have autocast's type.

        Raises:
            ValueError: If the input does not have 2 or 3 dimensions or has another type than the weights, or if the
                lengths are not B integers from 1 to T.
            RuntimeError: If the input has no time step or not input_size features, or the state has another shape.
            AttributeError, TypeError, IndexError: As nn.LSTM, for an input that is no tensor, or a state that is no
                pair of tensors.
        """
        return self._forward(input, hx, lengths)

    def _forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None,
        lengths: Tensor | None,
        loop: Loop | None = None,
    ) -> tuple[Tensor | PackedSequence, LSTMState]:
        """Run `forward` with another loop over time.

        The loop is called once for each layer and direction, for the backward direction with the sequence reversed, and
        always with a padded batch, (T, B, D).
        """
        validation.check_input(input, self.input_size, self.batch_first, cast(Tensor, self.weight_ih_l0).dtype)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths require a padded batch, got a PackedSequence; call without lengths")
            data, batch_sizes, order, inverse_order = input
            initial = initial_states(hx, data, int(batch_sizes[0]), "a packed batch", self._state_sizes)
            if order is not None:
                initial = [LSTMState(*(part.index_select(0, order) for part in state)) for state in initial]
            out, state = self._run_layers(data, initial, None, batch_sizes, loop)
            if inverse_order is not None:
                state = LSTMState(*(part.index_select(1, inverse_order) for part in state))
            return PackedSequence(out, batch_sizes, order, inverse_order), state

        unbatched = input.dim() == 2
        x_TBD = input.unsqueeze(1) if unbatched else input.transpose(0, 1) if self.batch_first else input
        form: validation.Form = "one sequence" if unbatched else "a batch"
        initial = initial_states(hx, x_TBD, x_TBD.size(1), form, self._state_sizes)
        if lengths is not None:
            validation.check_lengths(lengths, input, x_TBD)
            padding_TB1 = ~padding.valid_mask(lengths, x_TBD.size(0)).unsqueeze(-1)
            x_TBD = x_TBD.masked_fill(padding_TB1, 0)  # the padding may hold anything, even NaN
        out_TBP, state = self._run_layers(x_TBD, initial, lengths, None, loop)
        if lengths is not None:
            out_TBP = out_TBP.masked_fill(padding_TB1, 0)
        if unbatched:
            return out_TBP.squeeze(1), LSTMState(*(part.squeeze(1) for part in state))
        return out_TBP.transpose(0, 1) if self.batch_first else out_TBP.contiguous(), state

    def _run_layers(
        self, x: Tensor, initial: list[LSTMState], lengths: Tensor | None, batch_sizes: Tensor | None, loop: Loop | None
    ) -> tuple[Tensor, LSTMState]:
        """Run all layers and directions with the settings of this module."""
        return run_layers(
            x, initial, self._weights(), self.cell, dropout=self.dropout, bidirectional=self.bidirectional,
            training=self.training, lengths_B=lengths, batch_sizes=batch_sizes, loop=loop,
        )  # fmt: skip

    @classmethod
    def from_builtin(cls, builtin: nn.LSTM | nn.RNN) -> Self:
        """Return an LSTM with the settings, weights, device, type and training mode of an nn.LSTM or nn.RNN.

        Raises:
            ValueError: If it is an nn.RNN with another activation than tanh.
        """
        cell = conversion.matching_cell(builtin)
        return conversion.copy_weights(cls(**conversion.common_settings(builtin), cell=cell), builtin)

    def to_builtin(self) -> nn.LSTM:
        """Return an nn.LSTM with the same settings and weights; bias_hh is 0 if this LSTM has one bias.

        Raises:
            ValueError: If this LSTM has another cell, zoneout or recurrent dropout, which nn.LSTM lacks.
        """
        if self.cell != Cell(forget_bias=self.cell.forget_bias):
            raise ValueError(f"nn.LSTM has no {self.cell}; only the standard cell can be converted")
        return conversion.copy_weights(nn.LSTM(**conversion.common_settings(self)), self)

    def extra_repr(self) -> str:
        """Return the settings that differ from their defaults, in nn.LSTM's format."""
        changed = [
            f"{name}={getattr(self, name)}" for name, default in _DEFAULTS.items() if getattr(self, name) != default
        ]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])
