"""Every figure, alike: one finding each, in the title; a contender has one colour everywhere, and one line style."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart; the dashes and markers serve in grey.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#777777"
OTHERS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FIXED = {"hand_built": BLUE, "built_in": ORANGE}
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
    figure = Figure(figsize=(8, 3.4), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(phases), sharex=True, sharey=True, squeeze=False)[0]
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
        _plain(axes)
    panels[0].set_ylabel("prediction")
    last = list(phases)[-1]
    nearest = min(phases[last], key=lambda name: phases[last][name].mse)
    figure.suptitle(f"{nearest} comes nearest to the targets (on the line), in sample", fontsize=11)
    return figure


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
