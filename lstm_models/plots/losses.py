"""Training figures: loss curves, and the distribution of the errors of a model's replicas."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lstm_models.plots.style import (
    DASHES,
    DOTTED,
    MARKERS,
    LineEnd,
    contender_colors,
    label_ends,
    new_figure,
    new_panels,
    set_finding,
)


@dataclass(frozen=True)
class Curve:
    """A contender's loss over optimizer steps.

    Args:
        steps: optimizer step of each point, from 0.
        losses: mean loss over the epoch that ends at this step.
        fine_tuned_from: step of the checkpoint from which fine-tuning starts, if any.
        validation: loss on the validation part, by step; empty without a validation part.
    """

    steps: Sequence[int]
    losses: Sequence[float]
    fine_tuned_from: int | None
    validation: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplicaErrors:
    """Mean squared errors of a contender's replicas, infinite for failed ones, and the number that converged."""

    errors: Sequence[float]
    converged: int


def loss_curves(curves: Mapping[str, Curve], loss: str = "squared error") -> Figure:
    """Draw each contender's loss over optimizer steps and mark the start of fine-tuning.

    Args:
        curves: by contender.
        loss: name of the loss on the axis.
    """
    figure, axes = new_figure(4.2)
    color_of = contender_colors(list(curves))
    last_step = max(curve.steps[-1] for curve in curves.values())
    for position, (name, curve) in enumerate(curves.items()):
        color, dashes = color_of[name], DASHES[position % len(DASHES)]
        axes.plot(curve.steps, curve.losses, color=color, linestyle=dashes, linewidth=1.6)
        if curve.validation:
            axes.plot(
                list(curve.validation), list(curve.validation.values()), color=color, linestyle=DOTTED, linewidth=1.2
            )
        _mark_fine_tuning(axes, curve, color, last_step)
    axes.set_yscale("log")
    axes.set_xlabel("optimizer steps")
    validated = any(curve.validation for curve in curves.values())
    axes.set_ylabel(f"{loss}, mean over an epoch" + ("\n(thin dots: validation)" if validated else ""))
    axes.margins(x=0.02)
    label_ends(
        axes, [LineEnd(name, curve.steps[-1], curve.losses[-1], color_of[name]) for name, curve in curves.items()]
    )
    if validated:
        name, step, least = _lowest_validation(curves)
        axes.plot(step, least, "D", color=color_of[name], markersize=5, zorder=3)
        axes.annotate("lowest", (step, least), (0, -15), textcoords="offset points", color=color_of[name], ha="center")
        set_finding(figure, f"{name} has the lowest validation loss: {least:.2g} after {step + 1:,} steps")
    else:
        name = min(curves, key=lambda name: curves[name].losses[-1])
        steps, losses = curves[name].steps, curves[name].losses
        set_finding(figure, f"{name} has the lowest final loss: {losses[-1]:.2g} after {steps[-1] + 1:,} steps")
    return figure


def _mark_fine_tuning(axes: Axes, curve: Curve, color: str, last_step: int) -> None:
    """Mark the step from which a curve is fine-tuned, with the text where there is space for it."""
    if curve.fine_tuned_from is None:
        return
    loss = curve.losses[curve.steps.index(curve.fine_tuned_from)]
    axes.plot(curve.fine_tuned_from, loss, "o", color="white", markeredgecolor=color, markersize=8, zorder=3)
    is_at_left = 4 * curve.fine_tuned_from < last_step
    axes.annotate(
        "fine-tuning starts",
        (curve.fine_tuned_from, loss),
        (8, 6) if is_at_left else (-6, -14),
        textcoords="offset points",
        color=color,
        ha="left" if is_at_left else "right",
    )


def _lowest_validation(curves: Mapping[str, Curve]) -> tuple[str, int, float]:
    """Return the contender, step and loss of the lowest point of all validation curves."""
    points = [(name, step, loss) for name, curve in curves.items() for step, loss in curve.validation.items()]
    return min(points, key=lambda point: math.inf if math.isnan(point[2]) else point[2])


def replica_errors(phases: Mapping[str, Mapping[str, ReplicaErrors]]) -> Figure:
    """Draw the cumulative distribution of each contender's replica errors, in one panel per phase."""
    figure, panels = new_panels(len(phases), 3.6)
    color_of = contender_colors(list(next(iter(phases.values()))))
    for axes, (phase, contenders) in zip(panels, phases.items(), strict=True):
        for position, (name, replicas) in enumerate(contenders.items()):
            errors = sorted(error for error in replicas.errors if math.isfinite(error))
            shares = [number / len(replicas.errors) for number in range(1, len(errors) + 1)]
            axes.step(
                errors,
                shares,
                where="post",
                color=color_of[name],
                linestyle=DASHES[position % len(DASHES)],
                marker=MARKERS[position % len(MARKERS)],
                markersize=3,
                label=f"{name}, {len(replicas.errors)} replicas",
            )
        axes.set_title(phase.replace("_", "-"), fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("mean squared error")
        axes.legend(fontsize=7, frameon=False, loc="lower right")
    panels[0].set_ylabel("share of replicas with at most this error")
    last = phases[list(phases)[-1]]
    counts = [f"{replicas.converged} of {len(replicas.errors)} replicas of {name}" for name, replicas in last.items()]
    set_finding(figure, f"{' and '.join(counts)} converged")
    return figure
