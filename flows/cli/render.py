"""Print results to the terminal."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from tasks.schemas import ComparisonReport, FeatureDrift, FineTuneResult, MonitoringPoint


def make_console(width: int = 100) -> "Console":
    from rich.console import Console

    return Console(
        highlight=False, markup=False, emoji=False, color_system=None, width=None if sys.stdout.isatty() else width
    )


def print_table(rows: "pd.DataFrame", left: Sequence[str], width: int = 100) -> None:
    """A table of text; the columns `left` are words, the others numbers."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in rows.columns:
        # a number that is too long goes on in the next line, rather than losing its end
        shown.add_column(name, justify="left" if name in left else "right", no_wrap=name in left, overflow="fold")
    for row in rows.itertuples(index=False):
        shown.add_row(*row)
    make_console(width).print(shown)


def show_comparison(comparison: "ComparisonReport", hints: bool) -> None:
    from tasks.summary import findings

    console = make_console()
    if comparison.reused:
        console.print("Nothing was trained: an earlier run had this configuration, data and code (--force trains).")
    _show_results(comparison)
    console.print(f"\n{findings.summarize_comparison(comparison)}")
    if hints:
        name = comparison.experiment
        following = "compare parity" if name == "tutorial" else "compare tutorial"
        if not comparison.dataset.in_sample:
            following = f"predict models:/{name}@champion NEW_ROWS"
        _show_location(comparison.parent_run_id)
        console.print(f"Next: {_program()} {following}")


def _show_results(comparison: "ComparisonReport") -> None:
    """Who did how, and who is better than whom."""
    from tasks.summary import tables

    print_table(tables.comparison_table(comparison), left=("contender", "phase"))
    if comparison.differences:
        make_console().print(f"\nDifferences in {comparison.metric}, on the same examples:")
        print_table(tables.differences_table(comparison), left=("model", "verdict", "reference"))


def _program() -> str:
    """What can be typed: the bare name only where the shell finds it."""
    return "lstm-flows" if shutil.which("lstm-flows") else os.path.relpath(sys.argv[0])


def _show_location(run_id: str) -> None:
    """Where a run can be looked at."""
    from tasks import tracking

    first = "" if tracking.tracking_uri().startswith("http") else f"{_program()} ui   then "
    make_console().print(f"\nLook: {first}{tracking.run_url(run_id)}", soft_wrap=True)


def show_fine_tuning(done: "FineTuneResult", hints: bool) -> None:
    console = make_console()
    if done.comparison:
        _show_results(done.comparison)
        _show_drift(done.drift)
        console.print()
    console.print(done.message)
    for removed in done.pruned:
        console.print(f"Pruned: {removed}")
    if done.comparison and hints:
        _show_location(done.comparison.parent_run_id)


def _show_drift(drift: "list[FeatureDrift]") -> None:
    from tasks.summary import findings, tables

    if drift:
        make_console().print(f"\n{findings.DRIFT_CAPTION}")
        print_table(tables.drift_table(drift), left=("feature",))


def show_monitoring(point: "MonitoringPoint", hints: bool) -> None:
    console = make_console()
    for name, value in point.metrics.items():
        console.print(f"{name}  {value:.6g}")
    _show_drift(point.drift)
    console.print(f"\n{point.message}" if point.metrics else point.message)
    if point.run_id and hints:
        _show_location(point.run_id)
