"""What all figures share: colours and line styles, canvases, the finding above them, labels at the ends of lines."""

import math
import textwrap
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

# Okabe and Ito's palette, which the colour-blind can tell apart; the dashes and markers serve in grey.
BLUE, ORANGE, GREY, TRUTH = "#0072B2", "#E69F00", "#777777", "#222222"
OTHERS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FIXED = {"hand_built": BLUE, "built_in": ORANGE, "rnn": GREY}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
DOTTED = (0, (1, 2.5))
MARKERS = ("o", "s", "^", "D")

WIDTH = 8  # inches, of 100 pixels
TITLE_WIDTH = 100  # characters of a title that fit beside each other
LABEL_WIDTH = 24  # characters of a name at the end of a line


class LineEnd(NamedTuple):
    """The end of a line, and what is written there."""

    name: str
    x: float
    y: float
    colour: str
    bold: bool = True


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of one panel."""
    figure, panels = new_panels(1, height)
    return figure, panels[0]


def new_panels(panels: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Panels one beside the other, with common axes."""
    figure = Figure(figsize=(WIDTH, height), dpi=100, layout="constrained")
    row: Sequence[Axes] = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    for axes in row:
        style_axes(axes)
    return figure, row


def style_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def contender_colors(names: Sequence[str]) -> dict[str, str]:
    """hand_built and built_in have theirs; every other takes the next that is free."""
    free = iter(OTHERS * (len(names) // len(OTHERS) + 1))
    return {name: FIXED.get(name) or next(free) for name in names}


def set_finding(figure: Figure, finding: str) -> None:
    """Above all panels, on as many lines as it needs. What users wrote is no formula, even between dollar signs."""
    figure.suptitle(textwrap.fill(finding, TITLE_WIDTH), fontsize=11, parse_math=False)


def abbreviate(name: str, most: int = LABEL_WIDTH) -> str:
    """Without its middle, if it is long: names that are alike mostly differ at an end."""
    kept = most - 1
    return name if len(name) <= most else f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


def format_number(value: float) -> str:
    """Two digits, or all those before the point."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:#.2g}".rstrip(".")


def label_ends(axes: Axes, ends: Sequence[LineEnd], fontsize: float = 10) -> None:
    """Write each line's name beside its end, moved up or down as far as the others need.

    The limits of y stay from here on as they are.
    """
    axes.set_ylim(axes.get_ylim())
    line_height = 1.5 * fontsize / 72 * axes.figure.dpi / axes.get_window_extent().height
    heights = [_height(axes, end) for end in ends]
    beside = axes.get_xaxis_transform() + ScaledTranslation(1 / 6, 0, axes.figure.dpi_scale_trans)  # inches
    upwards = sorted(range(len(ends)), key=lambda index: (heights[index], -index))  # of equals the first is on top
    spread = _spread_labels([heights[index] for index in upwards], min(line_height, 1 / max(1, len(ends) - 1)))
    places = dict(zip(upwards, spread, strict=True))
    for index, end in enumerate(ends):
        axes.annotate(
            abbreviate(end.name),
            (end.x, end.y) if math.isfinite(end.y) else (end.x, axes.get_ylim()[0]),
            (end.x, places[index]),
            textcoords=beside,
            color=end.colour,
            fontsize=fontsize,
            fontweight="bold" if end.bold else "normal",
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _height(axes: Axes, end: LineEnd) -> float:
    """Where the line ends, from 0 at the bottom to 1 at the top; at the bottom if it ends nowhere."""
    if not math.isfinite(end.y):
        return 0.0
    pixels = axes.transData.transform((end.x, end.y))
    return min(1.0, max(0.0, float(axes.transAxes.inverted().transform(pixels)[1])))


def _spread_labels(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places in 0 to 1, moved as little as it takes to lie a gap apart.

    Those that would come too near to each other stay about their mean: a monotonic regression, by pooling adjacent
    violators (Ayer et al. 1955), of what is wanted less a gap for each that lies below.
    """
    groups: list[list[float]] = []
    for rank, place in enumerate(wanted):
        groups.append([place - rank * gap])
        while len(groups) > 1 and fmean(groups[-2]) >= fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    lowest = [fmean(group) for group in groups for _ in group]
    highest = 1 - (len(wanted) - 1) * gap
    return [min(max(place, 0), highest) + rank * gap for rank, place in enumerate(lowest)]
