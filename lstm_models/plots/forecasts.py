"""Figures of forecasts: predictions for some windows, and the error at each step of the horizon."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lstm_models.plots.style import (
    ACTUAL,
    DASHES,
    GREY,
    MARKERS,
    WIDTH,
    LineEnd,
    contender_colors,
    format_number,
    label_ends,
    new_figure,
    set_finding,
    shorten_middle,
    style_axes,
)

EQUAL = 1.01  # errors that differ by less than this factor count as equal
MANY = 200  # above this number of steps lines are thin


@dataclass(frozen=True)
class Forecast:
    """One window of a target column with its predictions; all values in the target's unit.

    Args:
        name: name of the window, e.g. the time of its first forecast.
        target: the column.
        past: values up to the forecast's origin.
        targets: actual values of the S steps after the origin.
        predictions: S predicted values, by contender. All windows have the same contenders.
    """

    name: str
    target: str
    past: Sequence[float]
    targets: Sequence[float]
    predictions: Mapping[str, Sequence[float]]


def forecasts(windows: Sequence[Forecast]) -> Figure:
    """Draw the past, the actual values and each contender's predictions, in one panel per window.

    Each panel shows one horizon of the past, and at least 24 steps.

    Args:
        windows: one or more; three fit on a page.
    """
    height = max(2.0, 0.8 + 0.2 * len(windows[0].predictions))  # inches per panel; all labels fit beside it
    figure = Figure(figsize=(WIDTH, 1 + height * len(windows)), dpi=100, layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(windows), 1, sharex=True, squeeze=False)[:, 0])
    ends = [_draw_window(axes, window) for axes, window in zip(panels, windows, strict=True)]
    panels[-1].set_xlabel("steps from the forecast's origin (grey: the past)")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    label_ends(panels[0], ends[0], fontsize=9)
    set_finding(figure, _forecasts_finding(windows))
    return figure


def _draw_window(axes: Axes, window: Forecast) -> list[LineEnd]:
    """Draw one window and return the ends of its lines."""
    S = len(window.targets)
    ahead, width = range(1, S + 1), 1.6 if S <= MANY else 1.0
    past = window.past[-max(S, 24) :]
    style_axes(axes)
    axes.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=1)
    axes.plot(range(1 - len(past), 1), past, color=GREY, linewidth=0.8 * width)
    axes.plot(ahead, window.targets, color=ACTUAL, linewidth=1.3 * width, marker="D" if S == 1 else None)
    ends = [LineEnd("actual", S, window.targets[-1], ACTUAL)]
    color_of = contender_colors(list(window.predictions))
    for position, (name, values) in enumerate(window.predictions.items()):
        axes.plot(
            ahead,
            values,
            color=color_of[name],
            linestyle=DASHES[position % len(DASHES)],
            linewidth=width,
            marker=MARKERS[position % len(MARKERS)] if S == 1 else None,
            markerfacecolor="none",
            markeredgewidth=1.6,
        )
        ends.append(LineEnd(name, S, values[-1], color_of[name]))
    axes.set_title(window.name, fontsize=10, parse_math=False)
    axes.set_ylabel(shorten_middle(window.target), parse_math=False)
    axes.margins(x=0.02)
    return ends


def _forecasts_finding(windows: Sequence[Forecast]) -> str:
    """Return the contender with the lowest error, by target: errors in different units have no common mean."""
    where = "this window" if len(windows) == 1 else f"these {len(windows)} windows"
    contenders = list(windows[0].predictions)
    targets = dict.fromkeys(window.target for window in windows)
    lowest = {target: _lowest(_absolute_errors(windows, target)) for target in targets}
    if not all(lowest.values()):
        return f"In {where} no mean absolute error is finite"
    if len(targets) > 1:
        by_target = [f"{target}: {_names(errors)} {_first(errors)}" for target, errors in lowest.items()]
        return f"Lowest mean absolute errors in {where}: {'; '.join(by_target)}"
    (errors,) = lowest.values()
    if len(contenders) == 1:
        return f"In {where} the mean absolute error of {contenders[0]} is {_first(errors)}"
    are = "is" if len(errors) == 1 else "are"
    return f"In {where} {_names(errors)} {are} closest to the actual values: mean absolute error {_first(errors)}"


def _absolute_errors(windows: Sequence[Forecast], target: str) -> dict[str, float]:
    """Return each contender's mean absolute error over all steps of the target's windows."""
    errors: dict[str, list[float]] = {}
    for window in windows:
        for name, values in window.predictions.items():
            if window.target == target:
                steps = [abs(value - actual) for value, actual in zip(values, window.targets, strict=True)]
                errors.setdefault(name, []).extend(steps)
    return {name: sum(steps) / len(steps) for name, steps in errors.items()}


def _lowest(errors: Mapping[str, float]) -> dict[str, float]:
    """Return the lowest error and all errors that count as equal to it; empty if no error is finite."""
    least = min((error for error in errors.values() if math.isfinite(error)), default=math.nan)
    return {name: error for name, error in errors.items() if error <= EQUAL * least}


def _names(lowest: Mapping[str, float]) -> str:
    return " and ".join(lowest) + (" (equal within 1 %)" if len(lowest) > 1 else "")


def _first(lowest: Mapping[str, float]) -> str:
    return format_number(next(iter(lowest.values())))


def errors_by_step(
    errors: Mapping[str, Sequence[float]], baselines: Mapping[str, Sequence[float]], unit: str
) -> Figure:
    """Draw the mean squared error over the steps of the horizon; the axis is logarithmic if errors differ twentyfold.

    Args:
        errors: error at each step, by contender.
        baselines: error at each step, by baseline.
        unit: unit of the errors.
    """
    color_of = contender_colors(list(errors))
    lines = [(position, name, values, GREY, 1.2) for position, (name, values) in enumerate(baselines.items())]
    lines += [(position, name, values, color_of[name], 2.0) for position, (name, values) in enumerate(errors.items())]
    S = len(lines[-1][2])
    figure, axes = new_figure(max(4.2, 1.5 + 0.25 * len(lines)))
    for position, _, values, color, width in lines:
        marker = MARKERS[position % len(MARKERS)] if S == 1 else None
        dashes = DASHES[position % len(DASHES)]
        axes.plot(range(1, S + 1), values, color=color, linestyle=dashes, linewidth=width, marker=marker)
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
    label_ends(axes, [LineEnd(name, S, values[-1], color, name in errors) for _, name, values, color, _ in lines])
    set_finding(figure, _errors_finding(errors, baselines))
    return figure


def _errors_finding(errors: Mapping[str, Sequence[float]], baselines: Mapping[str, Sequence[float]]) -> str:
    """Return the errors at the first and last step of the best contender, and where it beats all baselines."""
    lowest = _lowest({name: sum(values) / len(values) for name, values in errors.items()})
    if not lowest:
        return "No contender's error is finite"
    values = errors[next(iter(lowest))]
    S = len(values)
    among = f", lowest of {len(errors)}" if len(errors) > len(lowest) else ""
    steps = f"{format_number(values[0])} at step 1"
    if S > 1:
        steps = f"from {steps} to {format_number(values[-1])} at step {S}"
    return f"{_names(lowest)}{among}: {steps}{_against_baselines(values, baselines)}"


def _against_baselines(values: Sequence[float], baselines: Mapping[str, Sequence[float]]) -> str:
    if not baselines:
        return ""
    S = len(values)
    below = sum(value < min(others) for value, *others in zip(values, *baselines.values(), strict=True))
    reference = next(iter(baselines)) if len(baselines) == 1 else "all baselines"
    if S == 1:
        return f"; {'' if below else 'not '}below {reference}"
    where = {0: "no step", S: "every step"}.get(below, f"{below} of {S} steps")
    return f"; below {reference} at {where}"
