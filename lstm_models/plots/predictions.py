"""Figures of predictions against targets: scatter plots for numbers, confusion matrices for classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from lstm_models.plots.style import GREY, MARKERS, WIDTH, contender_colors, new_panels, set_finding, shorten_middle

MAX_LABELLED_CLASSES = 12  # up to this number of classes the cells show their counts
CHARACTER = 0.075  # inches, the width of a character at 8 points
FEW = 60  # up to this number of points the markers are large


@dataclass(frozen=True)
class PredictionPairs:
    """A contender's predictions, their targets and the mean squared error."""

    targets: Sequence[float]
    predictions: Sequence[float]
    mse: float


def predictions_against_targets(phases: Mapping[str, Mapping[str, PredictionPairs]], in_sample: bool = True) -> Figure:
    """Draw each contender's predictions over the targets, with the identity line, in one panel per phase.

    Args:
        phases: by phase and contender.
        in_sample: whether the contenders were trained on these targets; else the targets are those of the test part.
    """
    figure, panels = new_panels(len(phases), 3.4)
    color_of = contender_colors(list(next(iter(phases.values()))))
    values = [value for panel in phases.values() for points in panel.values() for value in points.targets]
    ends = [min(values), max(values)]
    for axes, (phase, contenders) in zip(panels, phases.items(), strict=True):
        axes.plot(ends, ends, color=GREY, linewidth=1)
        for position, (name, points) in enumerate(contenders.items()):
            smaller = min(1.0, FEW / len(points.targets)) ** 0.5
            axes.scatter(
                points.targets,
                points.predictions,
                s=max(6, max(10, 90 - 40 * position) * smaller),
                marker=MARKERS[position % len(MARKERS)],
                facecolors="none" if position else color_of[name],
                edgecolors=color_of[name],
                linewidths=1.8 * max(0.4, smaller),
                label=f"{name}, mse {points.mse:.1e}",
                zorder=3 + position,
            )
        axes.set_title(phase.replace("_", "-"), fontsize=10)
        axes.set_xlabel("target")
        axes.legend(fontsize=7, frameon=False, loc="upper left")
    panels[0].set_ylabel("prediction")
    last = phases[list(phases)[-1]]
    closest = min(last, key=lambda name: last[name].mse)
    where = "in sample" if in_sample else "on the test part"
    set_finding(figure, f"{closest} is closest to the targets (on the line), {where}")
    return figure


def confusion_matrices(matrices: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]) -> Figure:
    """Draw each contender's confusion matrix: a row per actual class, a column per predicted class.

    Args:
        matrices: counts of sequences, by contender; up to four fit on a page.
        classes: names of the classes, in the order of rows and columns.
    """
    names = [shorten_middle(name, 14) for name in classes]
    columns = len(matrices) if len(classes) <= 4 else min(2, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    beside = 1.7 + CHARACTER * max(map(len, names))  # inches: names, axis labels and the color bar
    side = min((WIDTH - beside) / columns - 0.1, 4.5, 1.2 * len(classes))
    horizontal = max(map(len, names)) * len(names) * CHARACTER < 0.9 * side
    below = 0.5 if horizontal else 0.4 + CHARACTER * max(map(len, names))
    figure = Figure(figsize=(WIDTH, 0.6 + (side + 0.35) * rows + below), dpi=100, layout="compressed")
    panels: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    color_of = contender_colors(list(matrices))
    ticks = range(0, len(classes), math.ceil(len(classes) / (side / 0.17)))
    for axes, (name, counts) in zip(panels, matrices.items(), strict=False):
        image = _draw_counts(axes, counts, side / len(classes))
        axes.set_title(shorten_middle(name, int(side / 0.1)), fontsize=10, fontweight="bold", color=color_of[name])
        shown = [names[tick] for tick in ticks]
        axes.set_xticks(ticks, shown, rotation=0 if horizontal else 90, fontsize=8, parse_math=False)
        axes.set_yticks(ticks, shown, fontsize=8, parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        axes.label_outer()
    for axes in panels[len(matrices) :]:
        axes.remove()
    bar = figure.colorbar(image, ax=panels[: len(matrices)], fraction=0.03, pad=0.02)
    bar.set_label("share of the actual class (row)")
    accuracies = [
        f"{name}{'' if position else ' is correct'} in {_percent(counts)} %"
        for position, (name, counts) in enumerate(matrices.items())
    ]
    set_finding(figure, f"{', '.join(accuracies)} of {_total(next(iter(matrices.values()))):,}")
    return figure


def _draw_counts(axes: Axes, counts: Sequence[Sequence[int]], cell: float) -> AxesImage:
    """Draw cells `cell` inches wide, shaded by their share of the row; the row of an absent class is blank."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(counts) > MAX_LABELLED_CLASSES:
        return image
    digits = max(len(str(count)) for row in counts for count in row)
    fontsize = min(10.0, 72 * cell / (0.7 * digits))
    for row, numbers in enumerate(counts):
        for column, count in enumerate(numbers):
            color = "white" if shares[row][column] > 0.6 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=fontsize, color=color)
    return image


def _total(counts: Sequence[Sequence[int]]) -> int:
    return sum(map(sum, counts))


def _percent(counts: Sequence[Sequence[int]]) -> str:
    """Return the percentage of correct predictions: 100 only if all are correct, 0 only if none is."""
    correct = sum(row[index] for index, row in enumerate(counts))
    rounded = round(100 * correct / _total(counts))
    if 0 < correct < _total(counts) and rounded in (0, 100):
        return "over 99" if rounded else "under 1"
    return str(rounded)
