"""Forecasts over the steps of the horizon: what was told of some windows, and how the error grows step by step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lstm_models.plots.style import (
    DASHES,
    GREY,
    MARKERS,
    TRUTH,
    WIDTH,
    LineEnd,
    abbreviate,
    contender_colors,
    format_number,
    label_ends,
    new_figure,
    set_finding,
    style_axes,
)

EQUAL = 1.01  # errors that differ by less than this factor are called equal
MANY = 200  # steps from which lines are thin


@dataclass(frozen=True)
class Forecast:
    """A window of one target column, and what is told of its future; all in the target's unit.

    Args:
        name: what the window is called, e.g. the time of its first forecast.
        target: the column.
        past: its values up to the forecast's origin.
        truth: its values in the S steps after that.
        told: what each contender told of these, S values. All windows have the same contenders.
    """

    name: str
    target: str
    past: Sequence[float]
    truth: Sequence[float]
    told: Mapping[str, Sequence[float]]


def forecasts(windows: Sequence[Forecast]) -> Figure:
    """A panel a window, one below the other: the past, what came, and what each contender told of it.

    Of the past one horizon is to be seen, and 24 steps at least.

    Args:
        windows: one or more; three fit a page.
    """
    height = max(2.0, 0.8 + 0.2 * len(windows[0].told))  # inches a panel, for all names to fit beside it
    figure = Figure(figsize=(WIDTH, 1 + height * len(windows)), dpi=100, layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(windows), 1, sharex=True, squeeze=False)[:, 0])
    ends = [_draw_window(axes, window) for axes, window in zip(panels, windows, strict=True)]
    panels[-1].set_xlabel("steps from the forecast's origin (grey: the past)")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    label_ends(panels[0], ends[0], fontsize=9)
    set_finding(figure, _nearest(windows))
    return figure


def _draw_window(axes: Axes, window: Forecast) -> list[LineEnd]:
    """Give back where its lines end."""
    S = len(window.truth)
    ahead, width = range(1, S + 1), 1.6 if S <= MANY else 1.0
    past = window.past[-max(S, 24) :]
    style_axes(axes)
    axes.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=1)
    axes.plot(range(1 - len(past), 1), past, color=GREY, linewidth=0.8 * width)
    axes.plot(ahead, window.truth, color=TRUTH, linewidth=1.3 * width, marker="D" if S == 1 else None)
    ends = [LineEnd("truth", S, window.truth[-1], TRUTH)]
    colour_of = contender_colors(list(window.told))
    for position, (name, values) in enumerate(window.told.items()):
        axes.plot(
            ahead,
            values,
            color=colour_of[name],
            linestyle=DASHES[position % len(DASHES)],
            linewidth=width,
            marker=MARKERS[position % len(MARKERS)] if S == 1 else None,
            markerfacecolor="none",
            markeredgewidth=1.6,
        )
        ends.append(LineEnd(name, S, values[-1], colour_of[name]))
    axes.set_title(window.name, fontsize=10, parse_math=False)
    axes.set_ylabel(abbreviate(window.target), parse_math=False)
    axes.margins(x=0.02)
    return ends


def _nearest(windows: Sequence[Forecast]) -> str:
    """Who is nearest to the truth, target by target, for errors in different units have no mean."""
    here = "this window" if len(windows) == 1 else f"these {len(windows)} windows"
    told = list(windows[0].told)
    targets = dict.fromkeys(window.target for window in windows)
    lowest = {target: _lowest(_absolute_errors(windows, target)) for target in targets}
    if not all(lowest.values()):
        return f"In {here} no mean absolute error is finite"
    if len(targets) > 1:
        each = [f"{target}: {_names(errors)} {_first(errors)}" for target, errors in lowest.items()]
        return f"Nearest to the truth in {here}, and the mean absolute error: {'; '.join(each)}"
    (errors,) = lowest.values()
    if len(told) == 1:
        return f"In {here} the mean absolute error of {told[0]} is {_first(errors)}"
    are = "is" if len(errors) == 1 else "are"
    return f"In {here} {_names(errors)} {are} nearest to the truth: mean absolute error {_first(errors)}"


def _absolute_errors(windows: Sequence[Forecast], target: str) -> dict[str, float]:
    """The mean over all steps of the target's windows, by contender."""
    errors: dict[str, list[float]] = {}
    for window in windows:
        for name, values in window.told.items():
            if window.target == target:
                steps = [abs(value - truth) for value, truth in zip(values, window.truth, strict=True)]
                errors.setdefault(name, []).extend(steps)
    return {name: sum(steps) / len(steps) for name, steps in errors.items()}


def _lowest(errors: Mapping[str, float]) -> dict[str, float]:
    """The lowest error, and those that are as good as equal to it; nothing if no error is finite."""
    least = min((error for error in errors.values() if math.isfinite(error)), default=math.nan)
    return {name: error for name, error in errors.items() if error <= EQUAL * least}


def _names(lowest: Mapping[str, float]) -> str:
    return " and ".join(lowest) + (" (equal within 1 %)" if len(lowest) > 1 else "")


def _first(lowest: Mapping[str, float]) -> str:
    return format_number(next(iter(lowest.values())))


def errors_by_step(
    errors: Mapping[str, Sequence[float]], baselines: Mapping[str, Sequence[float]], unit: str
) -> Figure:
    """The mean squared error over the steps of the horizon, from 1; on a log axis if errors differ twentyfold.

    Args:
        errors: of each step, by contender.
        baselines: the same, by baseline.
        unit: of the errors.
    """
    colour_of = contender_colors(list(errors))
    lines = [(place, name, values, GREY, 1.2) for place, (name, values) in enumerate(baselines.items())]
    lines += [(place, name, values, colour_of[name], 2.0) for place, (name, values) in enumerate(errors.items())]
    S = len(lines[-1][2])
    figure, axes = new_figure(max(4.2, 1.5 + 0.25 * len(lines)))
    for place, _, values, colour, width in lines:
        marker = MARKERS[place % len(MARKERS)] if S == 1 else None
        dashes = DASHES[place % len(DASHES)]
        axes.plot(range(1, S + 1), values, color=colour, linestyle=dashes, linewidth=width, marker=marker)
    finite = [value for _, _, values, *_ in lines for value in values if math.isfinite(value)]
    if finite and 0 < 20 * min(finite) < max(finite):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step of the horizon")
    axes.set_ylabel(f"mean squared error ({unit})", parse_math=False)
    axes.margins(x=0.02)
    if S == 1:
        axes.set_xticks([1])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_ends(axes, [LineEnd(name, S, values[-1], colour, name in errors) for _, name, values, colour, _ in lines])
    set_finding(figure, _over_the_horizon(errors, baselines))
    return figure


def _over_the_horizon(errors: Mapping[str, Sequence[float]], baselines: Mapping[str, Sequence[float]]) -> str:
    """Of the contender with the lowest mean: its first and last step, and where it beats all baselines."""
    lowest = _lowest({name: sum(values) / len(values) for name, values in errors.items()})
    if not lowest:
        return "No contender's error is finite"
    values = errors[next(iter(lowest))]
    S = len(values)
    among = f", lowest of {len(errors)}" if len(errors) > len(lowest) else ""
    steps = f"{format_number(values[0])} at step 1"
    if S > 1:
        steps = f"from {steps} to {format_number(values[-1])} at step {S}"
    return f"{_names(lowest)}{among}: {steps}{_beside(values, baselines)}"


def _beside(values: Sequence[float], baselines: Mapping[str, Sequence[float]]) -> str:
    if not baselines:
        return ""
    S = len(values)
    below = sum(value < min(others) for value, *others in zip(values, *baselines.values(), strict=True))
    of = next(iter(baselines)) if len(baselines) == 1 else "all baselines"
    if S == 1:
        return f"; {'' if below else 'not '}below {of}"
    where = {0: "no step", S: "every step"}.get(below, f"{below} of {S} steps")
    return f"; below {of} at {where}"
