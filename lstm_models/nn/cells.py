"""The equations of one time step: the LSTM's, and what others have made of them.

Shapes: B batch, T time, D input_size, H hidden_size, G gates of a cell side by side. Tensor names end in their shape.

The tutorial's four gates (with the letters of nn.LSTM, in whose order they are stored):

    i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)     input gate
    f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)     forget gate
    g_t = tanh   (W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)     candidate
    o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)     output gate
    c_t = f_t * c_{t-1} + i_t * g_t                          cell state, the long memory
    h_t = o_t * tanh(c_t)                                    hidden state, the short memory

Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000. The tutorial has
one bias a gate where nn.LSTM has two, b_i and b_h; only their sum matters to what the cell computes.

A cell of one's own is a subclass of Cell with another `step`. Below, z_i stands for the sum that the sigmoid of i takes
in the equations above, and so on; each class says what it changes, all else is as above. They are the variants of
Greff et al. 2016 ("LSTM: A Search Space Odyssey"), which starts from an LSTM with peepholes and takes one thing away or
adds one; here each starts from the equations above.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GATE_LABELS = {
    "i": "input gate", "f": "forget gate", "g": "candidate", "o": "output gate", "c": "cell state", "h": "hidden state",
}  # fmt: skip

Weights = Mapping[str, Tensor]


class LSTMState(NamedTuple):
    """What an LSTM carries from one time step to the next: `hidden` and `cell`, each (B, H)."""

    hidden: Tensor
    cell: Tensor


class Step(NamedTuple):
    """All that one time step computes, each (B, H): the activated gates, cell and hidden state (h with P numbers)."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor
    c: Tensor
    h: Tensor


@dataclass(frozen=True)
class Cell:
    """The LSTM's cell, and the base of the others.

    Args:
        forget_bias: where the forget gate's bias starts, instead of being drawn; None draws it. 1 lets the cell
            remember from the beginning (Jozefowicz, Zaremba and Sutskever 2015).
        recurrent_dropout: probability of zeroing a number of h_{t-1} on its way into the gates, while training. One
            mask serves all time steps of a sequence (Gal and Ghahramani 2016).
        zoneout: probability of a number of h_t or of c_t staying what it was in the step before, while training; in
            evaluation the two are mixed in that proportion (Krueger et al. 2017).

    Raises:
        ValueError: for a probability outside [0, 1), or a forget_bias for a cell without a forget gate of its own.
    """

    forget_bias: float | None = None
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0

    gates: ClassVar[str] = "ifgo"  # whose weights and biases there are, in this order

    def __post_init__(self) -> None:
        for name in ("recurrent_dropout", "zoneout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be a probability from 0 to below 1, got {getattr(self, name)!r}")
        if self.forget_bias is not None and "f" not in self.gates:
            raise ValueError(f"forget_bias={self.forget_bias}: {type(self).__name__} has no forget gate of its own")

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights that this cell has beside weight_ih, weight_hh and the biases."""
        return {}

    def from_input(self, x_TBD: Tensor, weights: Weights) -> Tensor:
        """What the input gives to the gates' sums, for all time steps in one matrix product: (T, B, G*H)."""
        return F.linear(x_TBD, weights["weight_ih"], weights.get("bias"))

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        """One time step, for all sequences at once: no branch on a tensor's values, and nothing changed in place.

        Args:
            z_BG: what `from_input` gave to this step, (B, G*H); in the order of `gates`.
            before: the step before. At the first step c and h are the initial state, and the gates 0.
            weights: weight_ih and weight_hh; bias, the sum of all biases, if there is one; and those of `parameters`.
        """
        i, f, g, o = self.sums(z_BG, before, weights)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * before.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())

    def sums(self, z_BG: Tensor, before: Step, weights: Weights) -> tuple[Tensor, ...]:
        """z_BG + W_h h_{t-1}, gate by gate: the sums before their activation, (B, H) each, in the order of `gates`."""
        return (z_BG + F.linear(before.h, weights["weight_hh"])).chunk(len(self.gates), dim=-1)

    @torch.no_grad()
    def reset(self, weights: Weights) -> None:
        """Set what does not start as it was drawn; `weights` as they are stored, with bias_ih and bias_hh."""
        if self.forget_bias is not None:
            for name in ("bias_ih", "bias_hh"):
                if name in weights:  # only their sum matters: the first has it
                    forget = weights[name].chunk(len(self.gates))[self.gates.index("f")]
                    forget.fill_(self.forget_bias if name == "bias_ih" else 0)


class Peephole(Cell):
    """The gates see the cell state: z_i + w_ci * c_{t-1}, z_f + w_cf * c_{t-1}, z_o + w_co * c_t.

    Source: Gers and Schmidhuber 2000, "Recurrent nets that time and count".
    """

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("weight_ci", "weight_cf", "weight_co"), (hidden_size,))

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        i, f, g, o = self.sums(z_BG, before, weights)
        i = (i + weights["weight_ci"] * before.c).sigmoid()
        f = (f + weights["weight_cf"] * before.c).sigmoid()
        g = g.tanh()
        c = f * before.c + i * g
        o = (o + weights["weight_co"] * c).sigmoid()
        return Step(i, f, g, o, c, o * c.tanh())


class NoInputGate(Cell):
    """i_t = 1. Source: Greff et al. 2016, NIG."""

    gates = "fgo"

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        f, g, o = self.sums(z_BG, before, weights)
        f, g, o = f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * before.c + g
        return Step(torch.ones_like(f), f, g, o, c, o * c.tanh())


class NoForgetGate(Cell):
    """f_t = 1, as in Hochreiter and Schmidhuber 1997. Source: Greff et al. 2016, NFG."""

    gates = "igo"

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        i, g, o = self.sums(z_BG, before, weights)
        i, g, o = i.sigmoid(), g.tanh(), o.sigmoid()
        c = before.c + i * g
        return Step(i, torch.ones_like(i), g, o, c, o * c.tanh())


class NoOutputGate(Cell):
    """o_t = 1. Source: Greff et al. 2016, NOG."""

    gates = "ifg"

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        i, f, g = self.sums(z_BG, before, weights)
        i, f, g = i.sigmoid(), f.sigmoid(), g.tanh()
        c = f * before.c + i * g
        return Step(i, f, g, torch.ones_like(i), c, c.tanh())


class NoInputActivation(Cell):
    """g_t = z_g. Source: Greff et al. 2016, NIAF."""

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        i, f, g, o = self.sums(z_BG, before, weights)
        i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
        c = f * before.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())


class NoOutputActivation(Cell):
    """h_t = o_t * c_t. Source: Greff et al. 2016, NOAF."""

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        i, f, g, o = self.sums(z_BG, before, weights)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * before.c + i * g
        return Step(i, f, g, o, c, o * c)


class CoupledGates(Cell):
    """f_t = 1 - i_t: what is written takes the place of what was there. Source: Greff et al. 2016, CIFG."""

    gates = "igo"

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        i, g, o = self.sums(z_BG, before, weights)
        i, g, o = i.sigmoid(), g.tanh(), o.sigmoid()
        f = 1 - i
        c = f * before.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())


class FullGateRecurrence(Cell):
    """Each gate sees all gates of the step before: (z_i, z_f, z_o) + R (i_{t-1}, f_{t-1}, o_{t-1}), R (3H, 3H).

    Before the first step the gates are 0, whatever the initial state: a sequence can't be cut in two and continued.

    Source: Greff et al. 2016, FGR; after Hochreiter and Schmidhuber 1997.
    """

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        return {"weight_gates": (3 * hidden_size, 3 * hidden_size)}

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        i, f, g, o = self.sums(z_BG, before, weights)
        gates_B3H = torch.cat([before.i, before.f, before.o], dim=-1)
        more_i, more_f, more_o = F.linear(gates_B3H, weights["weight_gates"]).chunk(3, dim=-1)
        i, f, g, o = (i + more_i).sigmoid(), (f + more_f).sigmoid(), g.tanh(), (o + more_o).sigmoid()
        c = f * before.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())


class LayerNorm(Cell):
    """z = N_ih(W_i x_t) + N_hh(W_h h_{t-1}) + b, and h_t = o_t * tanh(N_c(c_t)).

    N(a) = gain * (a - mean(a)) / sqrt(var(a) + 1e-5) + shift over all numbers of one sequence's vector: 4H for the
    sums, H for c. The gains start at 1, the shifts at 0. Deviation: the paper has no 1e-5, which keeps from dividing by
    0 where all numbers are the same.

    Source: Ba, Kiros and Hinton 2016, the LSTM of the supplementary material.
    """

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        sizes = {"ih": 4 * hidden_size, "hh": 4 * hidden_size, "c": hidden_size}
        return {f"{kind}_norm_{name}": (size,) for name, size in sizes.items() for kind in ("weight", "bias")}

    def from_input(self, x_TBD: Tensor, weights: Weights) -> Tensor:
        z_TBG = _layer_norm(F.linear(x_TBD, weights["weight_ih"]), weights, "ih")
        return z_TBG + weights["bias"] if "bias" in weights else z_TBG

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        z_BG = z_BG + _layer_norm(F.linear(before.h, weights["weight_hh"]), weights, "hh")
        i, f, g, o = z_BG.chunk(4, dim=-1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * before.c + i * g
        return Step(i, f, g, o, c, o * _layer_norm(c, weights, "c").tanh())

    @torch.no_grad()
    def reset(self, weights: Weights) -> None:
        super().reset(weights)
        for name in ("ih", "hh", "c"):
            weights[f"weight_norm_{name}"].fill_(1)
            weights[f"bias_norm_{name}"].zero_()


class Elman(Cell):
    """No LSTM at all: the plain recurrent network's h_t = tanh(z_g), which has neither gates nor a cell state.

    With it an nn.RNN's weights can be run, and opened, like an LSTM's. What is shown as c is h before any projection
    and zoneout; of the gates i and o count as open and f as shut. Source: Elman 1990.
    """

    gates = "g"

    def step(self, z_BG: Tensor, before: Step, weights: Weights) -> Step:
        (g,) = self.sums(z_BG, before, weights)
        g = g.tanh()
        return Step(torch.ones_like(g), torch.zeros_like(g), g, torch.ones_like(g), g.clone(), g.clone())


def _layer_norm(vector: Tensor, weights: Weights, name: str) -> Tensor:
    """Layer normalisation over the last dimension, with this name's gain and shift."""
    return F.layer_norm(vector, vector.shape[-1:], weights[f"weight_norm_{name}"], weights[f"bias_norm_{name}"])


CELLS: dict[str, type[Cell]] = {
    "lstm": Cell,
    "peephole": Peephole,
    "no_input_gate": NoInputGate,
    "no_forget_gate": NoForgetGate,
    "no_output_gate": NoOutputGate,
    "no_input_activation": NoInputActivation,
    "no_output_activation": NoOutputActivation,
    "coupled_gates": CoupledGates,
    "full_gate_recurrence": FullGateRecurrence,
    "layer_norm": LayerNorm,
}
