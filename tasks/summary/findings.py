"""A comparison in words: its tables and its finding, for the terminal, for MLflow and for Prefect."""

import pandas as pd

from tasks.schemas import ComparisonReport, DatasetSummary, FineTuneResult, PhaseResult
from tasks.summary.tables import _difference_interval, comparison_table, differences_table, drift_table


def summarize_comparison(comparison: ComparisonReport) -> str:
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
    criteria = {result.replicas.criterion for result in comparison.results if result.replicas}
    copies = "".join(
        f" Of copies the median one is shown; converged: {criterion}, with the share's 95 % interval."
        for criterion in criteria
    )
    if in_sample:
        return f"{finding}{copies} All errors are in-sample: on the data that was trained on."
    here = challenger or champion
    level = [
        one.reference
        for one in comparison.differences
        if (one.model, one.verdict) == (f"{here.contender}/{here.phase}", "not significant")
    ]
    noise = f" It can't be told from {_join(level)}." if level else ""
    scaled = " mse and mae are of scaled values." if comparison.metric == "scaled_mse" else ""
    return f"{finding}{noise} Intervals are of 95 %.{scaled} {summarize_data(comparison.dataset)}"


def _join(names: list[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


def summarize_data(dataset: DatasetSummary) -> str:
    """What was judged on, and what became of the rows."""
    parts = f"Trained on {dataset.train:,}, validated on {dataset.validation:,}, judged on {dataset.test:,} examples."
    if dataset.rows is None:
        return parts
    rows = dataset.rows
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in rows.dropped.items())
    left_out = f", left out: {dropped}" if dropped else ", none left out"
    notes = "".join(f" Note: {note}." for note in dataset.notes)
    return f"{parts} Rows: {rows.read:,} read, {rows.used:,} used{left_out}.{notes}"


def comparison_markdown(comparison: ComparisonReport) -> str:
    """The comparison as a Markdown section."""
    return "\n\n".join([f"## {comparison.experiment}", *_tables(comparison), summarize_comparison(comparison)])


def _tables(comparison: ComparisonReport) -> list[str]:
    found = [_markdown(comparison_table(comparison))]
    if comparison.differences:
        shown = _markdown(differences_table(comparison))
        found.append(f"Differences in {comparison.metric}, on the same examples:\n\n{shown}")
    return found


def summarize_promotion(
    comparison: ComparisonReport, champion: PhaseResult | None, challenger: PhaseResult, margin: float, veto: str | None
) -> str:
    """Who is champion after a fine-tuning, and why."""
    new = f"Version {challenger.version}"
    if champion is None:
        return f"{new} is champion now: there was none."
    old = f"version {champion.version}"
    told = next((one for one in comparison.differences if one.reference.startswith("champion/")), None)
    by = "" if told is None else f" ({comparison.metric} {told.mean:+.3g}, 95 % interval {_difference_interval(told)})"
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


DRIFT_CAPTION = (
    "How far the inputs of the rows judged by have moved from those trained on (by custom a PSI below 0.1 is stable, "
    "above 0.25 another population):"
)


def fine_tuning_markdown(done: FineTuneResult) -> str:
    """A fine-tuning as a Markdown section."""
    assert done.comparison
    moved = [f"{DRIFT_CAPTION}\n\n{_markdown(drift_table(done.drift))}"] if done.drift else []
    heading = f"## {done.experiment}: version {done.base_version} went on as version {done.challenger}"
    return "\n\n".join(
        [heading, done.message, *_tables(done.comparison), *moved, summarize_data(done.comparison.dataset)]
    )


def _markdown(shown: pd.DataFrame) -> str:
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
