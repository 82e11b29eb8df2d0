"""Shared style of all figures: colors, line styles, panels, the title with the finding, and labels at line ends."""

import math
import textwrap
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

# The color-blind-safe palette of Okabe and Ito; dashes and markers distinguish the lines in grayscale print.
BLUE, ORANGE, GREY, ACTUAL = "#0072B2", "#E69F00", "#777777", "#222222"
OTHERS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FIXED = {"hand_built": BLUE, "built_in": ORANGE, "rnn": GREY}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
DOTTED = (0, (1, 2.5))
MARKERS = ("o", "s", "^", "D")

WIDTH = 8  # inches, of 100 pixels
TITLE_WIDTH = 100  # characters that fit on one line of a title
LABEL_WIDTH = 24  # characters of a label at the end of a line


class LineEnd(NamedTuple):
    """End point of a line and its label."""

    name: str
    x: float
    y: float
    color: str
    bold: bool = True


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure with one panel, and the panel."""
    figure, panels = new_panels(1, height)
    return figure, panels[0]


def new_panels(panels: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with a row of panels that share their axes, and the panels."""
    figure = Figure(figsize=(WIDTH, height), dpi=100, layout="constrained")
    row: Sequence[Axes] = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    for axes in row:
        style_axes(axes)
    return figure, row


def style_axes(axes: Axes) -> None:
    """Remove the top and right spines and add a light grid below the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def contender_colors(names: Sequence[str]) -> dict[str, str]:
    """Return each contender's color: a fixed one for the default contenders, the next free one for all others."""
    free = iter(OTHERS * (len(names) // len(OTHERS) + 1))
    return {name: FIXED.get(name) or next(free) for name in names}


def set_finding(figure: Figure, finding: str) -> None:
    """Set the figure's title, wrapped; dollar signs in user-defined names do not start a formula."""
    figure.suptitle(textwrap.fill(finding, TITLE_WIDTH), fontsize=11, parse_math=False)


def shorten_middle(name: str, most: int = LABEL_WIDTH) -> str:
    """Replace the middle of a name that is longer than `most` by an ellipsis; similar names mostly differ at an end."""
    letters = most - 1
    return name if len(name) <= most else f"{name[: letters - letters // 2]}…{name[-(letters // 2) :]}"


def format_number(value: float) -> str:
    """Format a number with two significant digits, or with all digits before the decimal point."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:#.2g}".rstrip(".")


def label_ends(axes: Axes, ends: Sequence[LineEnd], fontsize: float = 10) -> None:
    """Write each line's name beside its end, moved up or down so that no labels overlap.

    This fixes the limits of the y-axis.
    """
    axes.set_ylim(axes.get_ylim())
    line_height = 1.5 * fontsize / 72 * axes.figure.dpi / axes.get_window_extent().height
    heights = [_height(axes, end) for end in ends]
    beside = axes.get_xaxis_transform() + ScaledTranslation(1 / 6, 0, axes.figure.dpi_scale_trans)  # inches
    upwards = sorted(range(len(ends)), key=lambda index: (heights[index], -index))  # ties: the first is on top
    spread = _spread_labels([heights[index] for index in upwards], min(line_height, 1 / max(1, len(ends) - 1)))
    positions = dict(zip(upwards, spread, strict=True))
    for index, end in enumerate(ends):
        axes.annotate(
            shorten_middle(end.name),
            (end.x, end.y) if math.isfinite(end.y) else (end.x, axes.get_ylim()[0]),
            (end.x, positions[index]),
            textcoords=beside,
            color=end.color,
            fontsize=fontsize,
            fontweight="bold" if end.bold else "normal",
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.color,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _height(axes: Axes, end: LineEnd) -> float:
    """Return the height of the line's end, from 0 (bottom) to 1 (top); 0 if the last value is not finite."""
    if not math.isfinite(end.y):
        return 0.0
    pixels = axes.transData.transform((end.x, end.y))
    return min(1.0, max(0.0, float(axes.transAxes.inverted().transform(pixels)[1])))


def _spread_labels(wanted: Sequence[float], gap: float) -> list[float]:
    """Return ascending positions in 0 to 1, at least `gap` apart and as close as possible to the wanted ones.

    Labels that would overlap are centered on their mean: an isotonic regression, by pooling adjacent violators (Ayer et
    al. 1955), of the wanted positions minus one gap for each label below.
    """
    groups: list[list[float]] = []
    for rank, position in enumerate(wanted):
        groups.append([position - rank * gap])
        while len(groups) > 1 and fmean(groups[-2]) >= fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    lowest = [fmean(group) for group in groups for _ in group]
    highest = 1 - (len(wanted) - 1) * gap
    return [min(max(position, 0), highest) + rank * gap for rank, position in enumerate(lowest)]
