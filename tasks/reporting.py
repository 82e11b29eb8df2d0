"""The comparison as people look at it: a table and two figures, in MLflow and in Prefect."""

import math
from collections.abc import Mapping

import pandas as pd
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from lstm_models import figures
from lstm_models.config import PHASES, CompareConfig
from tasks import tracking
from tasks.data import load_table
from tasks.references import Comparison, Copies, DatasetRef, DatasetSummary, Holder, ParentRun, Result
from tasks.runs import RESULT_FILE

MOST_COLUMNS = 4  # predictions that the table shows side by side


@task(cache_policy=NO_CACHE)
def report(
    config: CompareConfig,
    dataset: DatasetRef,
    results: list[Result],
    holders: tuple[Holder, Holder | None],
    parent: ParentRun,
) -> Comparison:
    """Put results together; log table, figures and the whole comparison to the parent run and as Prefect's artifact."""
    comparison = Comparison(
        experiment=config.experiment,
        parent_run_id=parent.run_id,
        dataset=DatasetSummary(
            name=dataset.name,
            digest=dataset.digest,
            sequences=dataset.sequences,
            names=load_table(dataset)[dataset.key].astype(str).tolist() if dataset.sequences <= MOST_COLUMNS else None,
        ),
        results=results,
        champion=holders[0],
        challenger=holders[1],
    )
    client, run_id = tracking.client(), parent.run_id
    client.log_text(run_id, comparison.model_dump_json(indent=2), RESULT_FILE)
    client.log_text(run_id, markdown(comparison), "comparison.md")
    client.set_tag(run_id, "mlflow.note.content", markdown(comparison))  # the run's description in the UI
    client.log_figure(run_id, figures.loss_curves(_curves(results)), "loss_curves.png")
    if any(result.predictions for result in results):
        client.log_figure(run_id, figures.predictions_against_targets(_points(results)), "predictions.png")
    if any(result.copies for result in results):
        client.log_figure(run_id, figures.errors_of_copies(_copies(results)), "copies.png")
    if config.figures.gradients_through_time:
        client.log_figure(run_id, figures.gradients_through_time(_gradients(results)), "gradients_through_time.png")
    create_markdown_artifact(
        key="comparison",
        markdown=f"{markdown(comparison)}\n\n[This run in MLflow]({tracking.run_url(parent.run_id)})",
        description=f"{config.experiment}: contenders and phases compared",
    )
    return comparison


def table(comparison: Comparison) -> pd.DataFrame:
    """The comparison for the eye: one row a contender and phase, numbers rounded to what is of interest."""
    names = comparison.dataset.names or []
    rows = []
    with_copies = any(result.copies for result in comparison.results)
    for result in comparison.results:
        predictions = {
            f"{name} (is {target:g})": f"{prediction:.5f}"
            for name, target, prediction in zip(
                names, result.targets or [], result.predictions or [], strict=bool(names)
            )
        }
        rows.append(
            {
                "contender": result.contender,
                "phase": result.phase,
                "epochs": str(result.epochs),
                **predictions,
                "mse": f"{result.metrics['mse']:.2e}",
                "seconds": f"{result.seconds:.1f}" if result.epochs else "-",
                "weights": str(result.parameters),
                **({"converged": _converged(result.copies)} if with_copies else {}),
            }
        )
    return pd.DataFrame(rows)


def _converged(copies: Copies | None) -> str:
    """How many, and the 95 % interval of their share."""
    return f"{copies.converged}/{copies.count} ({copies.low:.2f}-{copies.high:.2f})" if copies else "-"


def headline(comparison: Comparison) -> str:
    """The finding in a few sentences."""
    champion, challenger = comparison.champion, comparison.challenger
    if challenger:
        finding = (
            f"Lowest error here: {challenger.contender}/{challenger.phase}, now challenger ({challenger.model_uri}). "
            f"The champion stays {champion.contender}/{champion.phase} of an earlier run: no worse, or judged on "
            "other data."
        )
    else:
        finding = f"Lowest error: {champion.contender}/{champion.phase}, now champion ({champion.model_uri})."
    criteria = {result.copies.criterion for result in comparison.results if result.copies}
    copies = "".join(
        f" Of copies the median one is shown; converged: {criterion}, with the share's 95 % interval."
        for criterion in criteria
    )
    return f"{finding}{copies} All errors are in-sample: on the data that was trained on."


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown section."""
    shown = table(comparison)
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {comparison.experiment}\n\n{rows}\n\n{headline(comparison)}"


def _curves(results: list[Result]) -> Mapping[str, figures.Curve]:
    """Each contender's loss over both trainings, as MLflow has it."""
    curves: dict[str, figures.Curve] = {}
    for result in results:
        if result.phase == "untrained":
            continue
        points = tracking.read_curve(result.run_id, "train_loss_epoch")
        before = curves.get(result.contender)
        curves[result.contender] = figures.Curve(
            steps=[*(before.steps if before else []), *points],
            losses=[*(before.losses if before else []), *points.values()],
            resumed_at=before.steps[-1] if before else None,
        )
    return curves


def _points(results: list[Result]) -> Mapping[str, Mapping[str, figures.Points]]:
    return {
        phase: {
            result.contender: figures.Points(result.targets, result.predictions, result.metrics["mse"])
            for result in results
            if result.phase == phase and result.targets and result.predictions
        }
        for phase in PHASES
    }


def _copies(results: list[Result]) -> Mapping[str, Mapping[str, figures.Copies]]:
    """By phase and contender."""
    return {
        phase: {
            result.contender: figures.Copies(
                [math.inf if error is None else error for error in result.copies.errors], result.copies.converged
            )
            for result in results
            if result.phase == phase and result.copies
        }
        for phase in ("initial", "fine_tuned")
    }


def _gradients(results: list[Result]) -> Mapping[str, Mapping[str, dict[str, dict[int, float]]]]:
    """By phase, contender and state, as MLflow has them."""
    found: dict[str, dict[str, dict[str, dict[int, float]]]] = {phase: {} for phase in PHASES}
    for result in results:
        prefix = f"{result.contender}/{result.phase}/" if result.phase == "untrained" else ""
        curves = {state: tracking.read_curve(result.run_id, f"{prefix}dloss_d{state}") for state in ("h", "c")}
        found[result.phase][result.contender] = {state: curve for state, curve in curves.items() if curve}
    return found
