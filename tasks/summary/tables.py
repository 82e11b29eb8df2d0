"""Format comparisons, differences and drift as tables of text."""

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

# what a table shows of the metrics, by the one that models are compared by, and how each is called
SHOWN_METRICS = {
    "mse": {"mse": "mse", "mae": "mae", "r2": "R2"},
    "scaled_mse": {"scaled_mse": "mse", "scaled_mae": "mae", "mase": "MASE"},
    "log_loss": {"log_loss": "log loss", "accuracy": "accuracy", "auroc": "AUROC"},
}


def comparison_table(comparison: ComparisonReport) -> pd.DataFrame:
    """The comparison for the eye: one row a contender and phase, numbers rounded to what is of interest."""
    with_copies = any(result.replicas for result in comparison.results)
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
                "weights": f"{result.parameters:,}",
                **({"converged": _converged(result.replicas)} if with_copies else {}),
            }
        )
    none = dict.fromkeys(("epochs", "seconds", "weights"), "-")
    rows += [
        {"contender": one.name, "phase": "baseline", **none, **_metrics(one, comparison)}
        for one in comparison.baselines
    ]
    return pd.DataFrame(rows)


def _predictions(result: PhaseResult, names: list[str]) -> dict[str, str]:
    told = zip(names, result.targets or [], result.predictions or [], strict=bool(names))
    return {f"{name} (is {target:g})": f"{prediction:.5f}" for name, target, prediction in told}


def _metrics(judged: PhaseResult | BaselineResult, comparison: ComparisonReport) -> dict[str, str]:
    if comparison.dataset.in_sample:
        return {"mse": f"{judged.metrics['mse']:.2e}"}
    shown: dict[str, str] = {}
    for key, called in SHOWN_METRICS[comparison.metric].items():
        value = judged.metrics.get(key)
        shown[called] = "-" if value is None else _number(value, 3)
        if key == comparison.metric:
            shown["interval"] = _interval(judged.low, judged.high)
    return shown


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{_number(low, 2)} to {_number(high, 2)}"


def _number(value: float, digits: int) -> str:
    """Rounded to so many digits that count; with an exponent only where it would be long without."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def _converged(copies: ReplicaStats | None) -> str:
    """How many, and the 95 % interval of their share."""
    return f"{copies.converged}/{copies.count} ({copies.low:.2f}-{copies.high:.2f})" if copies else "-"


def differences_table(comparison: ComparisonReport) -> pd.DataFrame:
    """Who is better than whom, as far as that can be told: one row a pair, none in sample."""
    return pd.DataFrame(
        [
            {
                "model": one.model,
                "verdict": one.verdict,
                "reference": one.reference,
                "difference": f"{one.mean:+.3g}",
                "95 % interval": _difference_interval(one),
            }
            for one in comparison.differences
        ]
    )


def _difference_interval(difference: ScoreDifference) -> str:
    if difference.low is None or difference.high is None:
        return "too few to tell"
    return f"{difference.low:+.3g} to {difference.high:+.3g}"


def drift_table(found: list[FeatureDrift]) -> pd.DataFrame:
    """Each feature's drift: one row each."""
    return pd.DataFrame([{"feature": one.feature, "PSI": f"{one.psi:.3f}", "KS": f"{one.ks:.3f}"} for one in found])
