"""Variants of the LSTM cell, and the table of all cells by name.

z_i stands for the pre-activation of gate i in the equations of cells.py, and so on; each class documents only what
differs from those equations. Most are the variants of Greff et al. 2016 ("LSTM: A Search Space Odyssey"). The paper
starts from an LSTM with peepholes and removes or adds one part; here each variant starts from the standard cell.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lstm_models.nn.cells import Cell, Step, Weights


class Peephole(Cell):
    """LSTM cell with peephole connections: z_i + w_ci * c_{t-1}, z_f + w_cf * c_{t-1}, z_o + w_co * c_t.

    Source: Gers and Schmidhuber 2000, "Recurrent nets that time and count".
    """

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the peephole weights."""
        return dict.fromkeys(("weight_ci", "weight_cf", "weight_co"), (hidden_size,))

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with peephole connections."""
        i, f, g, o = self.preactivations(z_BG, previous, weights)
        i = (i + weights["weight_ci"] * previous.c).sigmoid()
        f = (f + weights["weight_cf"] * previous.c).sigmoid()
        g = g.tanh()
        c = f * previous.c + i * g
        o = (o + weights["weight_co"] * c).sigmoid()
        return Step(i, f, g, o, c, o * c.tanh())


class NoInputGate(Cell):
    """LSTM cell without input gate: i_t = 1. Source: Greff et al. 2016, NIG."""

    gates = "fgo"

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with i_t = 1."""
        f, g, o = self.preactivations(z_BG, previous, weights)
        f, g, o = f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * previous.c + g
        return Step(torch.ones_like(f), f, g, o, c, o * c.tanh())


class NoForgetGate(Cell):
    """LSTM cell without forget gate: f_t = 1, as in Hochreiter and Schmidhuber 1997.

    Source: Greff et al. 2016, NFG.
    """

    gates = "igo"

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with f_t = 1."""
        i, g, o = self.preactivations(z_BG, previous, weights)
        i, g, o = i.sigmoid(), g.tanh(), o.sigmoid()
        c = previous.c + i * g
        return Step(i, torch.ones_like(i), g, o, c, o * c.tanh())


class NoOutputGate(Cell):
    """LSTM cell without output gate: o_t = 1. Source: Greff et al. 2016, NOG."""

    gates = "ifg"

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with o_t = 1."""
        i, f, g = self.preactivations(z_BG, previous, weights)
        i, f, g = i.sigmoid(), f.sigmoid(), g.tanh()
        c = f * previous.c + i * g
        return Step(i, f, g, torch.ones_like(i), c, c.tanh())


class NoInputActivation(Cell):
    """LSTM cell with a linear candidate: g_t = z_g. Source: Greff et al. 2016, NIAF."""

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with g_t = z_g."""
        i, f, g, o = self.preactivations(z_BG, previous, weights)
        i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
        c = f * previous.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())


class NoOutputActivation(Cell):
    """LSTM cell without output activation: h_t = o_t * c_t. Source: Greff et al. 2016, NOAF."""

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with h_t = o_t * c_t."""
        i, f, g, o = self.preactivations(z_BG, previous, weights)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * previous.c + i * g
        return Step(i, f, g, o, c, o * c)


class CoupledGates(Cell):
    """LSTM cell with coupled input and forget gates: f_t = 1 - i_t. Source: Greff et al. 2016, CIFG."""

    gates = "igo"

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with f_t = 1 - i_t."""
        i, g, o = self.preactivations(z_BG, previous, weights)
        i, g, o = i.sigmoid(), g.tanh(), o.sigmoid()
        f = 1 - i
        c = f * previous.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())


class FullGateRecurrence(Cell):
    """LSTM cell whose gates read the gates of the previous step.

    (z_i, z_f, z_o) + R (i_{t-1}, f_{t-1}, o_{t-1}), with R (3H, 3H).

    The gates before the first step are 0 for any initial state. Running a sequence in two parts, with the state passed
    on, therefore gives another result than running it whole.

    Source: Greff et al. 2016, FGR; after Hochreiter and Schmidhuber 1997.
    """

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return name and shape of R."""
        return {"weight_gates": (3 * hidden_size, 3 * hidden_size)}

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with the gates of the previous step as further inputs."""
        i, f, g, o = self.preactivations(z_BG, previous, weights)
        gates_B3H = torch.cat([previous.i, previous.f, previous.o], dim=-1)
        more_i, more_f, more_o = F.linear(gates_B3H, weights["weight_gates"]).chunk(3, dim=-1)
        i, f, g, o = (i + more_i).sigmoid(), (f + more_f).sigmoid(), g.tanh(), (o + more_o).sigmoid()
        c = f * previous.c + i * g
        return Step(i, f, g, o, c, o * c.tanh())


class LayerNorm(Cell):
    """LSTM cell with layer normalization: z = N_ih(W_i x_t) + N_hh(W_h h_{t-1}) + b, h_t = o_t * tanh(N_c(c_t)).

    N(a) = weight * (a - mean(a)) / sqrt(var(a) + 1e-5) + bias, over the elements of one sequence's vector: 4H for the
    pre-activations, H for c. The weights start at 1, the biases at 0. The paper has no 1e-5; it prevents a division by
    0 where all elements are equal.

    Source: Ba, Kiros and Hinton 2016, the LSTM of the supplementary material.
    """

    def parameters(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the normalization weights and biases."""
        sizes = {"ih": 4 * hidden_size, "hh": 4 * hidden_size, "c": hidden_size}
        return {f"{kind}_norm_{name}": (size,) for name, size in sizes.items() for kind in ("weight", "bias")}

    def project_input(self, x_TBD: Tensor, weights: Weights) -> Tensor:
        """Return the normalized part of the input in the gate pre-activations, plus the bias, (T, B, G*H)."""
        z_TBG = _layer_norm(F.linear(x_TBD, weights["weight_ih"]), weights, "ih")
        return z_TBG + weights["bias"] if "bias" in weights else z_TBG

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step with layer normalization."""
        z_BG = z_BG + _layer_norm(F.linear(previous.h, weights["weight_hh"]), weights, "hh")
        i, f, g, o = z_BG.chunk(4, dim=-1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * previous.c + i * g
        return Step(i, f, g, o, c, o * _layer_norm(c, weights, "c").tanh())

    @torch.no_grad()
    def reset(self, weights: Weights) -> None:
        """Set the forget bias, and the normalization to the identity: weights of 1, biases of 0."""
        super().reset(weights)
        for name in ("ih", "hh", "c"):
            weights[f"weight_norm_{name}"].fill_(1)
            weights[f"bias_norm_{name}"].zero_()


class Elman(Cell):
    """Cell of a plain recurrent network, without gates or a cell state: h_t = tanh(z_g).

    LSTM with this cell runs the weights of an nn.RNN. In the Step, i and o are 1, f is 0, and c is h without projection
    and zoneout. Source: Elman 1990.
    """

    gates = "g"

    def step(self, z_BG: Tensor, previous: Step, weights: Weights) -> Step:
        """Compute one time step of a plain recurrent network."""
        (g,) = self.preactivations(z_BG, previous, weights)
        g = g.tanh()
        return Step(torch.ones_like(g), torch.zeros_like(g), g, torch.ones_like(g), g.clone(), g.clone())


def _layer_norm(vector: Tensor, weights: Weights, name: str) -> Tensor:
    """Normalize over the last dimension, with the weight and bias stored under this name."""
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
