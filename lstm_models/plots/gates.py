"""Figures of a network's internals: gates and states over time, and gradients through time."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lstm_models.nn.cells import GATE_LABELS, Step
from lstm_models.plots.style import DASHES, WIDTH, contender_colors, new_panels, set_finding


def gradients_through_time(phases: Mapping[str, Mapping[str, Mapping[str, Mapping[int, float]]]]) -> Figure:
    """Draw the norm of the loss gradient with respect to each contender's states h and c, in one panel per phase."""
    figure, panels = new_panels(len(phases), 3.8)
    color_of = contender_colors(list(next(iter(phases.values()))))
    for axes, (phase, contenders) in zip(panels, phases.items(), strict=True):
        for position, (name, states) in enumerate(contenders.items()):
            for state, curve in states.items():
                axes.plot(
                    list(curve),
                    list(curve.values()),
                    color=color_of[name],
                    linestyle="-" if state == "h" else DASHES[1],
                    linewidth=max(1.2, 3.2 - position),  # of equal curves, the lower one shows at the edges
                    label=f"{name}, {state}",
                )
        axes.set_title(phase.replace("_", "-"), fontsize=10)
        axes.set_yscale("log")
        axes.set_xlabel("time step t")
    panels[0].set_ylabel("|dLoss/dh_t|, |dLoss/dc_t|")
    panels[-1].legend(fontsize=7, frameon=False, loc="lower right")
    last = phases[list(phases)[-1]]
    gradients = {
        name: list((_nonzero(states.get("c")) or states.get("h") or {}).values()) for name, states in last.items()
    }
    reaches = [f"{name} {_reach(norms)} steps" for name, norms in gradients.items()]
    set_finding(figure, f"The gradient reaches back (to a thousandth): {', '.join(reaches)}")
    return figure


def _nonzero(curve: Mapping[int, float] | None) -> Mapping[int, float] | None:
    """Return the curve, or None if the loss does not depend on this state."""
    return curve if curve and any(curve.values()) else None


def _reach(norms: Sequence[float]) -> int:
    """Return the number of last steps before the gradient falls below a thousandth of that at the last step."""
    back = list(reversed(norms))
    return next((steps for steps, norm in enumerate(back) if norm < back[0] / 1000), len(back))


def gates(name: str, x_BTD: Tensor, steps: Step, sequences: Sequence[str]) -> Figure:
    """Draw the units of all layers over time: a column per sequence, a row for each of x, i, f, g, o, c and h.

    Args:
        name: name of the network, for the title.
        x_BTD: the sequences, (B, T, D).
        steps: gates and states from `record_gates`, each (K, B, T, H); NaN after the end of a sequence.
        sequences: names of the B sequences.
    """
    K, B, T, H = steps.c.shape
    ended_BT1 = steps.c.detach()[0, ..., :1].isnan()
    parts = {"x": x_BTD.masked_fill(ended_BT1, torch.nan).unsqueeze(0)}
    parts |= {letter: part.detach() for letter, part in zip(Step._fields, steps, strict=True)}
    figure = Figure(figsize=(WIDTH, 1.3 + 7 * max(0.7, min(1.5, 0.06 * K * H))), dpi=100, layout="constrained")
    panels = figure.subplots(len(parts), B, sharex=True, squeeze=False)
    for row, (letter, part) in enumerate(parts.items()):
        highest = max(1.0, part.abs().nan_to_num().max().item())
        low, shades = (0.0, "Blues") if letter in "ifo" else (-highest, "PuOr_r")
        for column, sequence in enumerate(sequences):
            axes = panels[row, column]
            units_over_time = part[:, column].transpose(1, 2).flatten(0, 1)  # (K units, T)
            image = axes.imshow(
                units_over_time.numpy(),
                aspect="auto",
                cmap=shades,
                vmin=low,
                vmax=highest,
                extent=(0.5, T + 0.5, 0, 1),
            )
            axes.set_yticks([])
            if units_over_time.numel() <= 12:
                _write_numbers(axes, units_over_time, low, highest)
            if row == 0:
                axes.set_title(sequence, fontsize=10, parse_math=False)
        panels[row, 0].set_ylabel(f"{letter}\n{GATE_LABELS.get(letter, 'input')}", fontsize=8)
        figure.colorbar(image, ax=list(panels[row]), fraction=0.03, pad=0.01).ax.tick_params(labelsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("time step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(T, 10)))
    set_finding(figure, f"{name}: {_finding(x_BTD, steps, sequences)}")
    return figure


def _finding(x_BTD: Tensor, steps: Step, sequences: Sequence[str]) -> str:
    """Return the finding: the norm of the last cell state, or the distance between the last cell states."""
    c_KBTH, T = steps.c.detach(), x_BTD.size(1)
    lengths = (~c_KBTH[0, ..., 0].isnan()).sum(1).tolist()
    last_BN = torch.stack([c_KBTH[:, number, length - 1].flatten() for number, length in enumerate(lengths)])
    at_end = f"after step {T}" if set(lengths) == {T} else "at their ends"
    if len(sequences) == 1:
        return f"{at_end} the cell state of {sequences[0]} has norm {last_BN.norm().item():.2g}"
    apart = torch.cdist(last_BN, last_BN).max().item()
    if len(sequences) > 2:
        return f"{at_end} the cell states are up to {apart:.2g} apart"
    differing = (x_BTD[0] != x_BTD[1]).any(-1).nonzero().flatten().tolist()
    relation = f"differ only in step {differing[0] + 1} and are" if len(differing) == 1 else "are"
    return f"{' and '.join(sequences)} {relation} {apart:.2g} apart in the cell state {at_end}"


def _write_numbers(axes: Axes, units_over_time: Tensor, low: float, high: float) -> None:
    units, T = units_over_time.shape
    for unit in range(units):
        for step in range(T):
            value = units_over_time[unit, step].item()
            dark = value > 0.6 * high or (low < 0 and value < 0.6 * low)
            position = (step + 1, 1 - (unit + 0.5) / units)
            axes.text(
                *position, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
