"""Every figure, alike: one finding each, in the title; a contender has one colour everywhere, and one line style."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lstm_models.cells import LABELS, Step

# Okabe and Ito's palette, which the colour-blind can tell apart; the dashes and markers serve in grey.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#777777"
OTHERS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FIXED = {"hand_built": BLUE, "built_in": ORANGE, "rnn": GREY}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Curve:
    """A contender's loss over optimizer steps. `resumed_at` is the last step before the checkpoint it resumed from."""

    steps: Sequence[int]
    losses: Sequence[float]
    resumed_at: int | None


@dataclass(frozen=True)
class Points:
    """What a contender predicts, beside what was to be predicted."""

    targets: Sequence[float]
    predictions: Sequence[float]
    mse: float


@dataclass(frozen=True)
class Copies:
    """The mean squared errors of a contender's copies, infinite for those that failed, and how many converged."""

    errors: Sequence[float]
    converged: int


def loss_curves(curves: Mapping[str, Curve]) -> Figure:
    """Loss over steps, by contender, the resume point marked."""
    figure, axes = _figure(8, 4.2)
    colours = _colours(list(curves))
    for position, (name, curve) in enumerate(curves.items()):
        colour, dashes = colours[name], DASHES[position % len(DASHES)]
        axes.plot(curve.steps, curve.losses, color=colour, linestyle=dashes, linewidth=1.6)
        axes.annotate(
            f" {name}",
            (curve.steps[-1], curve.losses[-1]),
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
        if curve.resumed_at is not None:
            loss = curve.losses[curve.steps.index(curve.resumed_at)]
            axes.plot(curve.resumed_at, loss, "o", color="white", markeredgecolor=colour, markersize=8, zorder=3)
            axes.annotate(
                "resumed", (curve.resumed_at, loss), (-6, -14), textcoords="offset points", color=colour, ha="right"
            )
    lowest = min(curves, key=lambda name: curves[name].losses[-1])
    last = curves[lowest]
    axes.set_title(f"{lowest} ends lowest: a loss of {last.losses[-1]:.2g} after {last.steps[-1] + 1:,} steps")
    axes.set_yscale("log")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("squared error, mean over an epoch")
    axes.margins(x=0.02)
    return figure


def predictions_against_targets(phases: Mapping[str, Mapping[str, Points]]) -> Figure:
    """A panel a phase: what each contender predicts over what was to be predicted, and the line where both agree."""
    figure, panels = _panels(list(phases), 3.4)
    colours = _colours(list(next(iter(phases.values()))))
    values = [value for panel in phases.values() for points in panel.values() for value in points.targets]
    ends = [min(values), max(values)]
    for axes, (phase, contenders) in zip(panels, phases.items(), strict=True):
        axes.plot(ends, ends, color=GREY, linewidth=1)
        for position, (name, points) in enumerate(contenders.items()):
            axes.scatter(
                points.targets,
                points.predictions,
                s=90 - 40 * position,
                marker=MARKERS[position % len(MARKERS)],
                facecolors="none" if position else colours[name],
                edgecolors=colours[name],
                linewidths=1.8,
                label=f"{name}, mse {points.mse:.1e}",
                zorder=3 + position,
            )
        axes.set_title(phase.replace("_", "-"), fontsize=10)
        axes.set_xlabel("target")
        axes.legend(fontsize=7, frameon=False, loc="upper left")
    panels[0].set_ylabel("prediction")
    last = list(phases)[-1]
    nearest = min(phases[last], key=lambda name: phases[last][name].mse)
    figure.suptitle(f"{nearest} comes nearest to the targets (on the line), in sample", fontsize=11)
    return figure


def errors_of_copies(phases: Mapping[str, Mapping[str, Copies]]) -> Figure:
    """A panel a phase: which share of a contender's copies has an error of at most so much."""
    figure, panels = _panels(list(phases), 3.6)
    colours = _colours(list(next(iter(phases.values()))))
    for axes, (phase, contenders) in zip(panels, phases.items(), strict=True):
        for position, (name, copies) in enumerate(contenders.items()):
            errors = sorted(error for error in copies.errors if math.isfinite(error))
            shares = [number / len(copies.errors) for number in range(1, len(errors) + 1)]
            axes.step(
                errors,
                shares,
                where="post",
                color=colours[name],
                linestyle=DASHES[position % len(DASHES)],
                marker=MARKERS[position % len(MARKERS)],
                markersize=3,
                label=f"{name}, {len(copies.errors)} copies",
            )
        axes.set_title(phase.replace("_", "-"), fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("mean squared error")
        axes.legend(fontsize=7, frameon=False, loc="lower right")
    panels[0].set_ylabel("share of copies with at most this error")
    last = phases[list(phases)[-1]]
    counts = [f"{copies.converged} of {len(copies.errors)} copies of {name}" for name, copies in last.items()]
    figure.suptitle(f"{' and '.join(counts)} converged", fontsize=11)
    return figure


def gradients_through_time(phases: Mapping[str, Mapping[str, Mapping[str, Mapping[int, float]]]]) -> Figure:
    """A panel a phase: how much the loss depends on each contender's states h, and c, at each time step."""
    figure, panels = _panels(list(phases), 3.8)
    colours = _colours(list(next(iter(phases.values()))))
    for axes, (phase, contenders) in zip(panels, phases.items(), strict=True):
        for position, (name, states) in enumerate(contenders.items()):
            for state, curve in states.items():
                axes.plot(
                    list(curve),
                    list(curve.values()),
                    color=colours[name],
                    linestyle="-" if state == "h" else DASHES[1],
                    linewidth=max(1.2, 3.2 - position),  # equal curves: the one below is seen at its edges
                    label=f"{name}, {state}",
                )
        axes.set_title(phase.replace("_", "-"), fontsize=10)
        axes.set_yscale("log")
        axes.set_xlabel("time step t")
    panels[0].set_ylabel("|dLoss/dh_t|, |dLoss/dc_t|")
    panels[-1].legend(fontsize=7, frameon=False, loc="lower right")
    last = phases[list(phases)[-1]]
    kept = {name: list((_any(states.get("c")) or states.get("h") or {}).values()) for name, states in last.items()}
    reaches = [f"{name} {_reach(gradients)} steps" for name, gradients in kept.items()]
    figure.suptitle(f"A thousandth of the gradient reaches back: {', '.join(reaches)}", fontsize=11)
    return figure


def _any(curve: Mapping[int, float] | None) -> Mapping[int, float] | None:
    """A cell state that the loss does not depend on tells nothing."""
    return curve if curve and any(curve.values()) else None


def _reach(gradients: Sequence[float]) -> int:
    """How many steps, counted from the end, there are before the first whose gradient is below a thousandth."""
    back = list(reversed(gradients))
    return next((steps for steps, gradient in enumerate(back) if gradient < back[0] / 1000), len(back))


def gates(name: str, x_BTD: Tensor, opened: Step, sequences: Sequence[str]) -> Figure:
    """A column a sequence, a row for x and each of i, f, g, o, c, h: its units, of all layers, over time.

    Args:
        name: whose they are.
        x_BTD: the sequences, (B, T, D).
        opened: what `trace` makes of them, (K, B, T, H) each.
        sequences: their names, B.
    """
    K, B, T, H = opened.c.shape
    parts = {"x": x_BTD.unsqueeze(0)}
    parts |= {letter: part.detach() for letter, part in zip(Step._fields, opened, strict=True)}
    figure = Figure(figsize=(8, 1.3 + 7 * max(0.7, min(1.5, 0.06 * K * H))), dpi=100, layout="constrained")
    panels = figure.subplots(len(parts), B, sharex=True, squeeze=False)
    for row, (letter, part) in enumerate(parts.items()):
        highest = max(1.0, part.abs().max().item())
        low, colours = (0.0, "Blues") if letter in "ifo" else (-highest, "PuOr_r")
        for column, sequence in enumerate(sequences):
            axes = panels[row, column]
            units_over_time = part[:, column].transpose(1, 2).flatten(0, 1)  # (K units, T)
            image = axes.imshow(
                units_over_time.numpy(),
                aspect="auto",
                cmap=colours,
                vmin=low,
                vmax=highest,
                extent=(0.5, T + 0.5, 0, 1),
            )
            axes.set_yticks([])
            if units_over_time.numel() <= 12:
                _write_numbers(axes, units_over_time, low, highest)
            if row == 0:
                axes.set_title(sequence, fontsize=10)
        panels[row, 0].set_ylabel(f"{letter}\n{LABELS.get(letter, 'input')}", fontsize=8)
        figure.colorbar(image, ax=list(panels[row]), fraction=0.03, pad=0.01).ax.tick_params(labelsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("time step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(T, 10)))
    figure.suptitle(f"{name}: {_finding(x_BTD, opened, sequences)}", fontsize=11)
    return figure


def _finding(x_BTD: Tensor, opened: Step, sequences: Sequence[str]) -> str:
    """What the cell state has kept at the end."""
    last_BN = opened.c.detach()[:, :, -1].transpose(0, 1).flatten(1)
    T = x_BTD.size(1)
    if len(sequences) == 1:
        return f"after step {T} the cell state of {sequences[0]} is {last_BN.norm().item():.2g} long"
    apart = torch.cdist(last_BN, last_BN).max().item()
    if len(sequences) > 2:
        return f"after step {T} the cell states are up to {apart:.2g} apart"
    differing = (x_BTD[0] != x_BTD[1]).any(-1).nonzero().flatten().tolist()
    alone = f"differ in step {differing[0] + 1} alone, and are" if len(differing) == 1 else "are"
    return f"{' and '.join(sequences)} {alone} {apart:.2g} apart in the cell state after step {T}"


def _write_numbers(axes: Axes, units_over_time: Tensor, low: float, high: float) -> None:
    units, T = units_over_time.shape
    for unit in range(units):
        for step in range(T):
            value = units_over_time[unit, step].item()
            dark = value > 0.6 * high or (low < 0 and value < 0.6 * low)
            place = (step + 1, 1 - (unit + 0.5) / units)
            axes.text(*place, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")


def _panels(titles: Sequence[str], height: float) -> tuple[Figure, Sequence[Axes]]:
    """One beside the other, with common axes."""
    figure = Figure(figsize=(8, height), dpi=100, layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
    for axes in panels:
        _plain(axes)
    return figure, panels


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _colours(names: Sequence[str]) -> dict[str, str]:
    """hand_built and built_in have theirs; every other takes the next that is free."""
    free = iter(OTHERS * (len(names) // len(OTHERS) + 1))
    return {name: FIXED.get(name) or next(free) for name in names}
