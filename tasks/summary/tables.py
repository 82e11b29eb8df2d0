"""Format comparisons, paired differences and drift as tables of strings."""

import numpy as np
import pandas as pd

from tasks.schemas import (
    BaselineResult,
    ComparisonReport,
    FeatureDrift,
    PhaseResult,
    ReplicaStats,
    ScoreDifference,
)

# the metrics that a table shows, with their column headings, by the metric that models are compared by
SHOWN_METRICS = {
    "mse": {"mse": "mse", "mae": "mae", "r2": "R2"},
    "scaled_mse": {"scaled_mse": "mse", "scaled_mae": "mae", "mase": "MASE"},
    "log_loss": {"log_loss": "log loss", "accuracy": "accuracy", "auroc": "AUROC"},
}


def comparison_table(comparison: ComparisonReport) -> pd.DataFrame:
    """Return a row per contender and phase, and per baseline, with rounded numbers."""
    with_replicas = any(result.replicas for result in comparison.results)
    rows = []
    for result in comparison.results:
        epochs = f"{result.best_epoch}/{result.epochs}" if result.best_epoch else str(result.epochs)
        rows.append(
            {
                "contender": result.contender,
                "phase": result.phase,
                "epochs": epochs,
                **_predictions(result, comparison.dataset.names or []),
                **_metrics(result, comparison),
                "seconds": f"{result.seconds:.1f}" if result.epochs else "-",
                "params": f"{result.parameters:,}",
                **({"converged": _converged(result.replicas)} if with_replicas else {}),
            }
        )
    none = dict.fromkeys(("epochs", "seconds", "params"), "-")
    rows += [
        {"contender": baseline.name, "phase": "baseline", **none, **_metrics(baseline, comparison)}
        for baseline in comparison.baselines
    ]
    return pd.DataFrame(rows)


def _predictions(result: PhaseResult, names: list[str]) -> dict[str, str]:
    rows = zip(names, result.targets or [], result.predictions or [], strict=bool(names))
    return {f"{name} (is {target:g})": f"{prediction:.5f}" for name, target, prediction in rows}


def _metrics(result: PhaseResult | BaselineResult, comparison: ComparisonReport) -> dict[str, str]:
    if comparison.dataset.in_sample:
        return {"mse": f"{result.metrics['mse']:.2e}"}
    columns: dict[str, str] = {}
    for key, heading in SHOWN_METRICS[comparison.metric].items():
        value = result.metrics.get(key)
        columns[heading] = "-" if value is None else _number(value, 3)
        if key == comparison.metric:
            columns["interval"] = _interval(result.low, result.high)
    return columns


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{_number(low, 2)} to {_number(high, 2)}"


def _number(value: float, digits: int) -> str:
    """Round to this many significant digits; scientific notation only for very small or large values."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def _converged(replicas: ReplicaStats | None) -> str:
    """Format how many replicas have converged, and the 95 % interval of their share."""
    if replicas is None:
        return "-"
    return f"{replicas.converged}/{replicas.count} ({replicas.low:.2f}-{replicas.high:.2f})"


def differences_table(comparison: ComparisonReport) -> pd.DataFrame:
    """Return a row per pair of models with its verdict; no rows in sample."""
    return pd.DataFrame(
        [
            {
                "model": difference.model,
                "verdict": difference.verdict,
                "reference": difference.reference,
                "difference": f"{difference.mean:+.3g}",
                "95 % interval": format_interval(difference),
            }
            for difference in comparison.differences
        ]
    )


def format_interval(difference: ScoreDifference) -> str:
    """Format the 95 % interval of a difference."""
    if difference.low is None or difference.high is None:
        return "too few examples"
    return f"{difference.low:+.3g} to {difference.high:+.3g}"


def drift_table(drift: list[FeatureDrift]) -> pd.DataFrame:
    """Return a row per feature with its drift."""
    return pd.DataFrame(
        [{"feature": feature.feature, "PSI": f"{feature.psi:.3f}", "KS": f"{feature.ks:.3f}"} for feature in drift]
    )
