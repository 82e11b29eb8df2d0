"""A comparison in words: its tables and its finding, for the terminal, for MLflow and for Prefect."""

import numpy as np
import pandas as pd

from tasks.references import Baseline, Comparison, Copies, DatasetSummary, Difference, Drifted, FineTuned, Result

# what a table shows of the metrics, by the one that models are compared by, and how each is called
SHOWN = {
    "mse": {"mse": "mse", "mae": "mae", "r2": "R2"},
    "scaled_mse": {"scaled_mse": "mse", "scaled_mae": "mae", "mase": "MASE"},
    "log_loss": {"log_loss": "log loss", "accuracy": "accuracy", "auroc": "AUROC"},
}


def table(comparison: Comparison) -> pd.DataFrame:
    """The comparison for the eye: one row a contender and phase, numbers rounded to what is of interest."""
    with_copies = any(result.copies for result in comparison.results)
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
                **({"converged": _converged(result.copies)} if with_copies else {}),
            }
        )
    none = dict.fromkeys(("epochs", "seconds", "weights"), "-")
    rows += [
        {"contender": one.name, "phase": "baseline", **none, **_metrics(one, comparison)}
        for one in comparison.baselines
    ]
    return pd.DataFrame(rows)


def _predictions(result: Result, names: list[str]) -> dict[str, str]:
    told = zip(names, result.targets or [], result.predictions or [], strict=bool(names))
    return {f"{name} (is {target:g})": f"{prediction:.5f}" for name, target, prediction in told}


def _metrics(judged: Result | Baseline, comparison: Comparison) -> dict[str, str]:
    if comparison.dataset.in_sample:
        return {"mse": f"{judged.metrics['mse']:.2e}"}
    shown: dict[str, str] = {}
    for key, called in SHOWN[comparison.metric].items():
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


def _converged(copies: Copies | None) -> str:
    """How many, and the 95 % interval of their share."""
    return f"{copies.converged}/{copies.count} ({copies.low:.2f}-{copies.high:.2f})" if copies else "-"


def differences(comparison: Comparison) -> pd.DataFrame:
    """Who is better than whom, as far as that can be told: one row a pair, none in sample."""
    return pd.DataFrame(
        [
            {
                "this": one.of,
                "is": one.verdict,
                "than": one.than,
                "difference": f"{one.mean:+.3g}",
                "95 % interval": _interval_of(one),
            }
            for one in comparison.differences
        ]
    )


def _interval_of(difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return "too few to tell"
    return f"{difference.low:+.3g} to {difference.high:+.3g}"


def headline(comparison: Comparison) -> str:
    """The finding in a few sentences."""
    champion, challenger, in_sample = comparison.champion, comparison.challenger, comparison.dataset.in_sample
    finding = "Lowest error" if in_sample else "To be used"
    if challenger:
        no_worse = "no worse" if in_sample else "not worse beyond doubt"
        finding += (
            f" here: {challenger.contender}/{challenger.phase}, now challenger ({challenger.model_uri}). The champion "
            f"stays {champion.contender}/{champion.phase} of an earlier run: {no_worse}, or judged on other data."
        )
    else:
        finding += f": {champion.contender}/{champion.phase}, now champion ({champion.model_uri})."
    criteria = {result.copies.criterion for result in comparison.results if result.copies}
    copies = "".join(
        f" Of copies the median one is shown; converged: {criterion}, with the share's 95 % interval."
        for criterion in criteria
    )
    if in_sample:
        return f"{finding}{copies} All errors are in-sample: on the data that was trained on."
    here = challenger or champion
    level = [
        one.than
        for one in comparison.differences
        if (one.of, one.verdict) == (f"{here.contender}/{here.phase}", "can't tell")
    ]
    noise = f" It can't be told from {_listed(level)}." if level else ""
    scaled = " mse and mae are of scaled values." if comparison.metric == "scaled_mse" else ""
    return f"{finding}{noise} Intervals are of 95 %.{scaled} {data(comparison.dataset)}"


def _listed(names: list[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


def data(dataset: DatasetSummary) -> str:
    """What was judged on, and what became of the rows."""
    parts = f"Trained on {dataset.train:,}, validated on {dataset.validation:,}, judged on {dataset.test:,} examples."
    if dataset.rows is None:
        return parts
    rows = dataset.rows
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in rows.dropped.items())
    left_out = f", left out: {dropped}" if dropped else ", none left out"
    notes = "".join(f" Note: {note}." for note in dataset.notes)
    return f"{parts} Rows: {rows.read:,} read, {rows.used:,} used{left_out}.{notes}"


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown section."""
    return "\n\n".join([f"## {comparison.experiment}", *_tables(comparison), headline(comparison)])


def _tables(comparison: Comparison) -> list[str]:
    found = [_markdown(table(comparison))]
    if comparison.differences:
        shown = _markdown(differences(comparison))
        found.append(f"Differences in {comparison.metric}, on the same examples:\n\n{shown}")
    return found


def decision(
    comparison: Comparison, champion: Result | None, challenger: Result, margin: float, veto: str | None
) -> str:
    """Who is champion after a fine-tuning, and why."""
    new = f"Version {challenger.version}"
    if champion is None:
        return f"{new} is champion now: there was none."
    old = f"version {champion.version}"
    told = next((one for one in comparison.differences if one.than.startswith("champion/")), None)
    by = "" if told is None else f" ({comparison.metric} {told.mean:+.3g}, 95 % interval {_interval_of(told)})"
    beyond = f" by more than the margin of {100 * margin:g} %" if margin else ""
    if comparison.challenger is None:
        return f"{new} is champion now: better than {old}{beyond}{by}."
    stays = f"V{old[1:]} stays champion, and version {challenger.version} is challenger"
    if veto:
        return f"{stays}: the inputs have drifted, {veto}."
    known = told and told.verdict
    if known is None:
        known = "better" if challenger.loss < champion.loss else "worse" if challenger.loss > champion.loss else None
    match known:
        case "better":
            return f"{stays}: better, but not{beyond}{by}."
        case "worse":
            return f"{stays}: it is worse{by}."
    return f"{stays}: it can't be told that it is better{by}."


def drift(found: list[Drifted]) -> pd.DataFrame:
    """Each feature's drift: one row each."""
    return pd.DataFrame([{"feature": one.feature, "PSI": f"{one.psi:.3f}", "KS": f"{one.ks:.3f}"} for one in found])


DRIFT = (
    "How far the inputs of the rows judged by have moved from those trained on (by custom a PSI below 0.1 is stable, "
    "above 0.25 another population):"
)


def fine_tuned_markdown(done: FineTuned) -> str:
    """A fine-tuning as a Markdown section."""
    assert done.comparison
    moved = [f"{DRIFT}\n\n{_markdown(drift(done.drift))}"] if done.drift else []
    heading = f"## {done.experiment}: version {done.continued} went on as version {done.challenger}"
    return "\n\n".join([heading, done.message, *_tables(done.comparison), *moved, data(done.comparison.dataset)])


def _markdown(shown: pd.DataFrame) -> str:
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
