"""Summarize comparisons and fine-tuning runs in sentences and Markdown, for the terminal, MLflow and Prefect."""

import pandas as pd

from tasks.schemas import ComparisonReport, DatasetSummary, FineTuneResult, PhaseResult
from tasks.summary.tables import comparison_table, differences_table, drift_table, format_interval

DRIFT_CAPTION = (
    "Drift of the inputs from the training rows to the test rows (rule of thumb: a PSI below 0.1 is stable, above 0.25 "
    "a major shift):"
)


def summarize_comparison(comparison: ComparisonReport) -> str:
    """Summarize a comparison in a few sentences."""
    champion, challenger, in_sample = comparison.champion, comparison.challenger, comparison.dataset.in_sample
    finding = "Lowest error" if in_sample else "Selected"
    if challenger:
        no_worse = "it is not worse" if in_sample else "it is not significantly worse"
        finding += (
            f" in this comparison: {challenger.contender}/{challenger.phase}, now challenger ({challenger.model_uri}). "
            f"{champion.contender}/{champion.phase} of an earlier run remains champion: {no_worse}, or was evaluated "
            "on other data."
        )
    else:
        finding += f": {champion.contender}/{champion.phase}, now champion ({champion.model_uri})."
    criteria = {result.replicas.criterion for result in comparison.results if result.replicas}
    replicas = "".join(
        f" Contenders with replicas show the median replica. Converged: {criterion}, with the share's 95 % interval."
        for criterion in criteria
    )
    if in_sample:
        return f"{finding}{replicas} All errors are in-sample: measured on the training data."
    selected = challenger or champion
    tied = [
        difference.reference
        for difference in comparison.differences
        if (difference.model, difference.verdict) == (f"{selected.contender}/{selected.phase}", "not significant")
    ]
    ties = f" It does not differ significantly from {_join(tied)}." if tied else ""
    scaled = " mse and mae are in scaled units." if comparison.metric == "scaled_mse" else ""
    return f"{finding}{ties} Intervals are 95 % confidence intervals.{scaled} {summarize_data(comparison.dataset)}"


def _join(names: list[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


def summarize_data(dataset: DatasetSummary) -> str:
    """Summarize the sizes of the parts and, for a table, the rows read, used and dropped."""
    parts = (
        f"Trained on {dataset.train:,}, validated on {dataset.validation:,}, evaluated on {dataset.test:,} examples."
    )
    if dataset.rows is None:
        return parts
    rows = dataset.rows
    counts = ", ".join(f"{count:,} {reason}" for reason, count in rows.dropped.items())
    dropped = f", dropped: {counts}" if counts else ", none dropped"
    notes = "".join(f" Note: {note}." for note in dataset.notes)
    return f"{parts} Rows: {rows.read:,} read, {rows.used:,} used{dropped}.{notes}"


def comparison_markdown(comparison: ComparisonReport) -> str:
    """Format a comparison as a Markdown section."""
    return "\n\n".join([f"## {comparison.experiment}", *_tables(comparison), summarize_comparison(comparison)])


def _tables(comparison: ComparisonReport) -> list[str]:
    tables = [_markdown(comparison_table(comparison))]
    if comparison.differences:
        differences = _markdown(differences_table(comparison))
        tables.append(f"Differences in {comparison.metric}, on the same examples:\n\n{differences}")
    return tables


def summarize_promotion(
    comparison: ComparisonReport,
    champion: PhaseResult | None,
    challenger: PhaseResult,
    min_improvement: float,
    rejection_reason: str | None,
) -> str:
    """Summarize which version is champion after fine-tuning, and why.

    Args:
        comparison: The comparison of champion and challenger.
        champion: The champion's result before the decision; None if there was no champion.
        challenger: The result of the fine-tuned version.
        min_improvement: The share of the champion's loss by which the challenger had to be better.
        rejection_reason: Why no version may be promoted; None if one may.
    """
    new = f"Version {challenger.version}"
    if champion is None:
        return f"{new} is now champion: there was none."
    old = f"version {champion.version}"
    difference = next(
        (difference for difference in comparison.differences if difference.reference.startswith("champion/")), None
    )
    by = (
        ""
        if difference is None
        else f" ({comparison.metric} {difference.mean:+.3g}, 95 % interval {format_interval(difference)})"
    )
    beyond = f" by more than the min_improvement of {100 * min_improvement:g} %" if min_improvement else ""
    if comparison.challenger is None:
        return f"{new} is now champion: better than {old}{beyond}{by}."
    remains = f"V{old[1:]} remains champion, and version {challenger.version} is challenger"
    if rejection_reason:
        return f"{remains}: the inputs have drifted, {rejection_reason}."
    verdict: str | None = difference.verdict if difference else None
    if verdict is None:
        verdict = "better" if challenger.loss < champion.loss else "worse" if challenger.loss > champion.loss else None
    match verdict:
        case "better":
            return f"{remains}: it is better, but not{beyond}{by}."
        case "worse":
            return f"{remains}: it is worse{by}."
    return f"{remains}: the improvement is not statistically significant{by}."


def fine_tuning_markdown(result: FineTuneResult) -> str:
    """Format the result of a fine-tuning run as a Markdown section."""
    assert result.comparison
    drift = [f"{DRIFT_CAPTION}\n\n{_markdown(drift_table(result.drift))}"] if result.drift else []
    heading = f"## {result.experiment}: version {result.challenger}, fine-tuned from version {result.base_version}"
    return "\n\n".join(
        [heading, result.message, *_tables(result.comparison), *drift, summarize_data(result.comparison.dataset)]
    )


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
