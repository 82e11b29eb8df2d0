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
    """Return a console for plain text, of the terminal's width or, if the output is redirected, of this width."""
    from rich.console import Console

    return Console(
        highlight=False, markup=False, emoji=False, color_system=None, width=None if sys.stdout.isatty() else width
    )


def print_table(rows: "pd.DataFrame", text_columns: Sequence[str], width: int = 100) -> None:
    """Print a table of strings, with the text columns left-aligned and the others, which are numbers, right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in rows.columns:
        is_text = name in text_columns
        # fold: a number that is too long wraps rather than being cut off
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text, overflow="fold")
    for row in rows.itertuples(index=False):
        table.add_row(*row)
    make_console(width).print(table)


def show_comparison(comparison: "ComparisonReport", hints: bool) -> None:
    """Print the result of the flow `compare`."""
    from tasks.summary import findings

    console = make_console()
    if comparison.reused:
        console.print(
            "Nothing was trained: a finished run has this configuration, data and code (--force trains again)."
        )
    _show_results(comparison)
    console.print(f"\n{findings.summarize_comparison(comparison)}")
    if hints:
        name = comparison.experiment
        next_command = "compare parity" if name == "tutorial" else "compare tutorial"
        if not comparison.dataset.in_sample:
            next_command = f"predict models:/{name}@champion NEW_ROWS"
        _show_location(comparison.parent_run_id)
        console.print(f"Next: {_program()} {next_command}")


def _show_results(comparison: "ComparisonReport") -> None:
    """Print the results and their paired differences."""
    from tasks.summary import tables

    print_table(tables.comparison_table(comparison), text_columns=("contender", "phase"))
    if comparison.differences:
        make_console().print(f"\nDifferences in {comparison.metric}, on the same examples:")
        print_table(tables.differences_table(comparison), text_columns=("model", "verdict", "reference"))


def _program() -> str:
    """Return how to call the program: by its name if it is on the PATH, else by its relative path."""
    return "lstm-flows" if shutil.which("lstm-flows") else os.path.relpath(sys.argv[0])


def _show_location(run_id: str) -> None:
    """Print where to view a run in the MLflow UI."""
    from tasks import tracking

    start_ui = "" if tracking.tracking_uri().startswith("http") else f"{_program()} ui   then "
    make_console().print(f"\nLook: {start_ui}{tracking.run_url(run_id)}", soft_wrap=True)


def show_fine_tuning(result: "FineTuneResult", hints: bool) -> None:
    """Print the result of the flow `fine_tune`."""
    console = make_console()
    if result.comparison:
        _show_results(result.comparison)
        _show_drift(result.drift)
        console.print()
    console.print(result.message)
    for removed in result.pruned:
        console.print(f"Pruned: {removed}")
    if result.comparison and hints:
        _show_location(result.comparison.parent_run_id)


def _show_drift(drift: "list[FeatureDrift]") -> None:
    from tasks.summary import findings, tables

    if drift:
        make_console().print(f"\n{findings.DRIFT_CAPTION}")
        print_table(tables.drift_table(drift), text_columns=("feature",))


def show_monitoring(point: "MonitoringPoint", hints: bool) -> None:
    """Print the result of the flow `monitor`."""
    console = make_console()
    for name, value in point.metrics.items():
        console.print(f"{name}  {value:.6g}")
    _show_drift(point.drift)
    console.print(f"\n{point.message}" if point.metrics else point.message)
    if point.run_id and hints:
        _show_location(point.run_id)
