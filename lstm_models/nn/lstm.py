"""The LSTM written by hand: nn.LSTM's interface, parameters and results, from the equations in cells.py."""

import math
from contextlib import nullcontext
from typing import Any, Literal, Self, TypeVar, cast, get_args, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_models.nn import padding, validation
from lstm_models.nn.cells import Cell, Elman, LSTMState
from lstm_models.nn.kernels.dispatch import unroll
from lstm_models.nn.kernels.reference import STANDARD_CELL, Loop

Init = Literal["default", "normal"]
AnyLSTM = TypeVar("AnyLSTM", bound=nn.Module)


class LSTM(nn.Module):
    """A stack of LSTM layers that stands wherever an nn.LSTM does, and adds settings of its own: the last three.

    It takes what nn.LSTM takes and returns what nn.LSTM returns; with two biases the state dict of either loads into
    the other. Parameters of layer k, in the order of the state dict (gates i, f, g, o; P = proj_size, or H without):

        weight_ih_l{k} (4H, D), above the first layer (4H, P), twice as wide if bidirectional; weight_hh_l{k} (4H, P);
        bias_ih_l{k} (4H); with `double_bias` bias_hh_l{k} (4H); with a projection weight_hr_l{k} (P, H);
        the same again with the suffix _reverse for the direction from the end to the beginning. Another cell may have
        other gates, and weights of its own behind these.

    Args:
        input_size: D, the number of features at a time step.
        hidden_size: H.
        num_layers: each layer reads the hidden states of the one below.
        bias: whether the gates have biases.
        batch_first: whether sequences are (B, T, D) instead of (T, B, D). States are (layers, B, ...) either way.
        dropout: probability of zeroing a hidden state on its way from one layer to the next, while training. The draws
            are nn.LSTM's.
        bidirectional: whether each layer also reads from the end to the beginning; its result is both side by side.
        proj_size: P, the size to which hidden states are projected; 0 for none (Sak, Senior and Beaufays 2014).
        device: where the parameters are.
        dtype: their floating-point type.
        double_bias: whether there are two bias vectors, as in nn.LSTM, or one, as in the equations.
        init: "default" draws uniformly from (-1/sqrt(H), 1/sqrt(H)), in nn.LSTM's order; "normal" draws the weights
            from N(0, 1) as the tutorial does: gate by gate in its order f, i, g, o, the recurrent weight before the
            input's, what else there is last, and sets the biases to 0.
        cell: the equations of a time step, such as cells.Peephole().

    Raises:
        ValueError: for a size below 1, a projection not smaller than H, a dropout outside [0, 1], or a cell with a
            forget_bias where there are no biases.
        TypeError: for a size that is no integer, a bias, batch_first or double_bias that is no bool, or a cell that is
            no Cell.
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
        validation.check_settings(
            sizes, {"bias": bias, "batch_first": batch_first, "double_bias": double_bias}, dropout
        )
        if init not in get_args(Init):
            raise ValueError(f"init must be {' or '.join(get_args(Init))}, got {init!r}")
        if not isinstance(cell, Cell):
            raise TypeError(f"cell must be a Cell, such as Peephole(), got {cell!r}")
        if cell.forget_bias is not None and not bias:
            raise ValueError(f"forget_bias={cell.forget_bias} needs bias=True")
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

        # by layer and, within it, by direction: what each one's parameters are called, in nn.LSTM's order
        self._names: list[dict[str, str]] = []
        gates, out_size = len(cell.gates) * hidden_size, proj_size or hidden_size
        directions = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            for suffix in directions:
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (gates, out_size * len(directions) if layer else input_size),
                    "weight_hh": (gates, out_size),
                }
                if bias:
                    shapes |= dict.fromkeys(("bias_ih", "bias_hh") if double_bias else ("bias_ih",), (gates,))
                if proj_size:
                    shapes |= {"weight_hr": (proj_size, hidden_size)}
                shapes |= cell.parameters(hidden_size)
                self._names.append({kind: f"{kind}_l{layer}{suffix}" for kind in shapes})
                for kind, shape in shapes.items():
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(self._names[-1][kind], parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew, as `init` says."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters() if self.init == "default" else ():
            nn.init.uniform_(parameter, -bound, bound)
        for parameters in self._parameters_by_direction():
            if self.init == "normal":
                self._draw_like_the_tutorial(parameters)
            self.cell.reset(parameters)

    @torch.no_grad()
    def _draw_like_the_tutorial(self, parameters: dict[str, Tensor]) -> None:
        by_gate = {kind: parameters[kind].chunk(len(self.cell.gates)) for kind in ("weight_hh", "weight_ih")}
        for gate in filter(self.cell.gates.__contains__, "figo"):
            for rows in by_gate.values():
                rows[self.cell.gates.index(gate)].normal_()
        for kind, parameter in parameters.items():
            if kind.startswith("bias"):
                parameter.zero_()
            elif kind not in by_gate:
                parameter.normal_()

    def _parameters_by_direction(self) -> list[dict[str, Tensor]]:
        """By layer and direction: weight_ih, weight_hh and, where there are any, bias_ih, bias_hh and weight_hr."""
        own = self._parameters  # quicker than getattr; what a parametrization computes is not among them
        return [
            {kind: getattr(self, name) if (value := own.get(name)) is None else value for kind, name in names.items()}
            for names in self._names
        ]

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters, by layer and direction."""
        return [list(parameters.values()) for parameters in self._parameters_by_direction()]

    def flatten_parameters(self) -> None:
        """Nothing: nn.LSTM lays its weights out for cuDNN here, which this class does not use."""

    @overload
    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[PackedSequence, LSTMState]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, LSTMState]:
        """Run whole sequences. P is proj_size, or H without a projection; K is num_layers, times 2 if bidirectional.

        Args:
            input: (T, B, D), or (B, T, D) with batch_first; or one sequence, (T, D); or a PackedSequence.
            hx: the hidden (K, B, P) and the cell state (K, B, H) before the first step; for one sequence (K, P) and
                (K, H); zeros if not given. For a PackedSequence in the order of its unpacked sequences.
            lengths: for a padded batch, how many steps each sequence has, 1 to T, (B): a step past its sequence's end
                changes nothing, and its output is 0. nn.LSTM has no such argument, and needs a PackedSequence for it.

        Returns:
            The last layer's hidden state after every step, in the form of the input with P features, or 2P if
            bidirectional; and LSTMState(hidden, cell), the state of each layer and direction after its last step,
            shaped as hx. Under autocast, both in autocast's type.

        Raises:
            ValueError: if the input does not have 2 or 3 dimensions or is of another type than the weights, or if
                the lengths are not B integers from 1 to T.
            RuntimeError: if the input does not have a time step or input_size features, or the state another shape.
            AttributeError, TypeError, IndexError: as nn.LSTM, for what is no tensor, or no pair of states.
        """
        return self._forward(input, hx, lengths)

    def _forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None,
        lengths: Tensor | None,
        loop: Loop | None = None,
    ) -> tuple[Tensor | PackedSequence, LSTMState]:
        """`forward`, with a loop over time of one's own.

        It is called once for each layer and, within it, each direction; for the backward one with the sequence turned
        round, and always with a padded batch, (T, B, D).
        """
        validation.check_input(input, self.input_size, self.batch_first, cast(Tensor, self.weight_ih_l0).dtype)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths are for a batch; got a PackedSequence, which has its own")
            data, batch_sizes, order, back = input
            before = self._initial_state(hx, data, int(batch_sizes[0]), "a packed batch")
            if order is not None:
                before = [LSTMState(*(part.index_select(0, order) for part in state)) for state in before]
            out, state = self._run_layers(data, before, None, batch_sizes, loop)
            if back is not None:
                state = LSTMState(*(part.index_select(1, back) for part in state))
            return PackedSequence(out, batch_sizes, order, back), state

        one = input.dim() == 2
        x_TBD = input.unsqueeze(1) if one else input.transpose(0, 1) if self.batch_first else input
        before = self._initial_state(hx, x_TBD, x_TBD.size(1), "one sequence" if one else "a batch")
        if lengths is not None:
            validation.check_lengths(lengths, input, x_TBD)
            padding_TB1 = ~padding.is_real(lengths, x_TBD.size(0)).unsqueeze(-1)
            x_TBD = x_TBD.masked_fill(padding_TB1, 0)  # whatever stands there, NaN even
        out_TBP, state = self._run_layers(x_TBD, before, lengths, None, loop)
        if lengths is not None:
            out_TBP = out_TBP.masked_fill(padding_TB1, 0)
        if one:
            return out_TBP.squeeze(1), LSTMState(*(part.squeeze(1) for part in state))
        return out_TBP.transpose(0, 1) if self.batch_first else out_TBP.contiguous(), state

    def _initial_state(
        self, hx: tuple[Tensor, Tensor] | None, x: Tensor, B: int, form: validation.Form
    ) -> list[LSTMState]:
        """The state of each layer and direction before the first step: what is given, or zeros."""
        K, P, H = len(self._names), self.proj_size or self.hidden_size, self.hidden_size
        if hx is None:
            hidden = x.new_zeros(B, P)
            return [LSTMState(hidden, hidden if P == H else x.new_zeros(B, H))] * K
        validation.check_state(hx, x, form, ((K, B, P), (K, B, H)))
        parts = (part.unsqueeze(1) if form == "one sequence" else part for part in hx)
        return [LSTMState(*each) for each in zip(*(part.unbind(0) for part in parts), strict=True)]

    def _run_layers(
        self,
        x: Tensor,
        before: list[LSTMState],
        lengths_B: Tensor | None,
        batch_sizes: Tensor | None,
        loop: Loop | None,
    ) -> tuple[Tensor, LSTMState]:
        """All layers and directions, each from its own state; and the state after the last step, (K, B, ...)."""
        parameters = self._parameters_by_direction()
        device = x.device.type
        autocast = (
            torch._C._is_any_autocast_enabled()
            and torch.amp.is_autocast_available(device)
            and torch.is_autocast_enabled(device)
        )
        if autocast:  # once for the whole loop, as nn.LSTM's own kernels do, rather than in each product
            dtype = torch.get_autocast_dtype(device)
            x, before = _cast(x, dtype), [LSTMState(*(_cast(part, dtype) for part in state)) for state in before]
            parameters = [{kind: _cast(value, dtype) for kind, value in each.items()} for each in parameters]

        directions = 2 if self.bidirectional else 1
        last: list[LSTMState] = []
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            for layer in range(self.num_layers):
                if layer > 0 and self.dropout > 0 and self.training:
                    x = F.dropout(x.contiguous(), self.dropout)  # it draws in the order in which x lies in memory
                results = []
                for direction in range(directions):
                    k = layer * directions + direction
                    result, after = unroll(
                        x, before[k], parameters[k], self.cell, training=self.training, backwards=direction == 1,
                        batch_sizes=batch_sizes, lengths_B=lengths_B, loop=loop,
                    )  # fmt: skip
                    results.append(result)
                    last.append(after)
                x = torch.cat(results, -1) if self.bidirectional else results[0]
        return x, last[0] if len(last) == 1 else LSTMState(*(torch.cat(parts) for parts in zip(*last, strict=True)))

    @classmethod
    def from_builtin(cls, builtin: nn.LSTM | nn.RNN) -> Self:
        """The same written by hand: settings, weights, device, type and training mode of an nn.LSTM, or an nn.RNN.

        Raises:
            ValueError: for an nn.RNN with another activation than tanh.
        """
        if isinstance(builtin, nn.RNN) and builtin.nonlinearity != "tanh":
            raise ValueError(f"an nn.RNN with {builtin.nonlinearity}; only tanh can be taken over")
        return _fill(
            cls(**_settings(builtin), cell=STANDARD_CELL if isinstance(builtin, nn.LSTM) else Elman()), builtin
        )

    def to_builtin(self) -> nn.LSTM:
        """The same LSTM as an nn.LSTM; where this one has one bias, its second is 0.

        Raises:
            ValueError: if it has another cell, or zoneout or recurrent dropout, which nn.LSTM has not.
        """
        if self.cell != Cell(forget_bias=self.cell.forget_bias):
            raise ValueError(f"an nn.LSTM has no {self.cell}")
        return _fill(nn.LSTM(**_settings(self)), self)

    def extra_repr(self) -> str:
        settings = {
            "proj_size": (self.proj_size, 0),
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0),
            "bidirectional": (self.bidirectional, False),
            "double_bias": (self.double_bias, True),
            "init": (self.init, "default"),
            "cell": (self.cell, STANDARD_CELL),
        }
        changed = [f"{name}={value}" for name, (value, default) in settings.items() if value != default]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As autocast does, which leaves float64 alone."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def _settings(lstm: "LSTM | nn.LSTM | nn.RNN") -> dict[str, Any]:
    """What the two kinds have in common, to build another on the meta device, where no weight is drawn."""
    names = (
        "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size",
    )  # fmt: skip
    dtype = cast(Tensor, lstm.weight_ih_l0).dtype
    return {name: getattr(lstm, name) for name in names} | {"device": "meta", "dtype": dtype}


@torch.no_grad()
def _fill(target: AnyLSTM, source: nn.Module) -> AnyLSTM:
    """Give the target, which is on the meta device, the source's weights, device and mode."""
    target.to_empty(device=cast(Tensor, source.weight_ih_l0).device)
    for name, parameter in target.named_parameters():
        value = getattr(source, name, None)
        if value is None:  # the second of two biases, where the source has one
            parameter.zero_()
            parameter.requires_grad_(getattr(source, name.replace("bias_hh", "bias_ih")).requires_grad)
        else:
            parameter.copy_(value)
            parameter.requires_grad_(value.requires_grad)
    return target.train(source.training)
