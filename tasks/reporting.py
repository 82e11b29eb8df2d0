"""The comparison as people look at it: tables, figures and a finding, in MLflow and in Prefect."""

import math
from collections.abc import Mapping
from itertools import combinations

import pandas as pd
import torch
from matplotlib.figure import Figure
from prefect import task
from prefect.artifacts import create_markdown_artifact

from lstm_models import figures
from lstm_models.config import PHASES, CompareConfig
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation import HEADLINES
from tasks import text, tracking
from tasks.answers import once
from tasks.data import load_dataset, summary
from tasks.differences import difference
from tasks.references import (
    Baseline,
    Comparison,
    DatasetRef,
    Difference,
    Drifted,
    FineTuned,
    Holder,
    ParentRun,
    Result,
    Version,
)
from tasks.retries import MAY_PASS
from tasks.runs import RESULT_FILE

LOSSES = {"number": "squared error", "forecast": "squared error, scaled", "classes": "log loss"}


@task(**MAY_PASS)
@once
def report(
    config: CompareConfig,
    dataset: DatasetRef,
    results: list[Result],
    baselines: list[Baseline],
    holders: tuple[Holder, Holder | None],
    parent: ParentRun,
) -> Comparison:
    """Put results together; log tables, figures and the whole to the parent run, and to Prefect as an artifact."""
    data = load_dataset(dataset)
    chosen = holders[1] or holders[0]
    comparison = _put_together(dataset, data, results, baselines, holders, parent, f"{chosen.contender}/{chosen.phase}")
    tracking.client().log_text(parent.run_id, comparison.model_dump_json(indent=2), RESULT_FILE)
    _log(config, comparison, data, "comparison", text.markdown(comparison))
    return comparison


@task(**MAY_PASS)
@once
def report_fine_tuning(
    config: CompareConfig,
    dataset: DatasetRef,
    version: Version,
    champion: Result | None,
    challenger: Result,
    baselines: list[Baseline],
    holders: tuple[Holder, Holder | None],
    drift: list[Drifted],
    veto: str | None,
    parent: ParentRun,
) -> FineTuned:
    """The same for a version that went on: what became of it, and why."""
    data = load_dataset(dataset)
    results = [challenger.model_copy(update={"contender": "challenger"})]
    if champion:
        results.insert(0, champion.model_copy(update={"contender": "champion"}))
    comparison = _put_together(dataset, data, results, baselines, holders, parent, results[-1].name)
    assert challenger.version is not None
    done = FineTuned(
        experiment=config.experiment,
        outcome="kept" if holders[1] else "promoted",
        message=text.decision(comparison, champion, challenger, config.margin, veto),
        continued=version.number,
        challenger=challenger.version,
        comparison=comparison,
        drift=drift,
    )
    tracking.client().log_text(parent.run_id, done.model_dump_json(indent=2), "fine_tune.json")
    _log(config, comparison, data, "fine-tune", text.fine_tuned_markdown(done))
    return done


def _put_together(
    dataset: DatasetRef,
    data: Dataset,
    results: list[Result],
    baselines: list[Baseline],
    holders: tuple[Holder, Holder | None],
    parent: ParentRun,
    first: str,
) -> Comparison:
    """`first`: whose differences from the others are told first."""
    champion, challenger = holders
    return Comparison(
        experiment=parent.experiment,
        parent_run_id=parent.run_id,
        dataset=summary(dataset, data),
        metric=HEADLINES[data.output.kind],
        results=results,
        baselines=baselines,
        differences=[] if data.in_sample else _differences(results, baselines, first),
        champion=champion,
        challenger=challenger,
    )


def _log(config: CompareConfig, comparison: Comparison, data: Dataset, name: str, shown: str) -> None:
    """To the parent run as its description, a file and figures; to Prefect as an artifact."""
    client, run_id = tracking.client(), comparison.parent_run_id
    client.log_text(run_id, shown, f"{name}.md")
    client.set_tag(run_id, "mlflow.note.content", shown)  # the run's description in the UI
    for figure_name, figure in _figures(config, comparison, data).items():
        client.log_figure(run_id, figure, f"{figure_name}.png")
    create_markdown_artifact(
        key=name,
        markdown=f"{shown}\n\n[This run in MLflow]({tracking.run_url(run_id)})",
        description=f"{comparison.experiment}: {', '.join(result.name for result in comparison.results)} compared",
    )


def _final(results: list[Result]) -> dict[str, Result]:
    """Each contender's, after its last phase."""
    return {result.contender: result for result in results}


def _differences(results: list[Result], baselines: list[Baseline], first: str) -> list[Difference]:
    """Between the one named and the contenders' last phases, and from each of these to each baseline."""
    named = {result.name: result for result in results if result.name == first}
    subjects = list((named | {result.name: result for result in _final(results).values()}).values())
    pairs: list[tuple[Result, Result | Baseline]] = list(combinations(subjects, 2))
    pairs += [(one, baseline) for one in subjects for baseline in baselines]
    return [difference(*pair) for pair in pairs]


def _figures(config: CompareConfig, comparison: Comparison, data: Dataset) -> dict[str, Figure]:
    """By name, those that there is something to see in."""
    results = comparison.results
    found = {"loss_curves": figures.loss_curves(_curves(results), LOSSES[data.output.kind])}
    if any(result.predictions for result in results):
        found["predictions"] = figures.predictions_against_targets(_points(results), data.in_sample)
    if any(result.copies for result in results):
        found["copies"] = figures.errors_of_copies(_copies(results))
    if config.figures.gradients_through_time:
        found["gradients_through_time"] = figures.gradients_through_time(_gradients(results))
    final = _final(results)
    match data.output.kind:
        case "forecast":
            steps = {one.name: _stored(one, "steps")[comparison.metric].tolist() for one in comparison.baselines}
            own = {name: _stored(one, "steps")[comparison.metric].tolist() for name, one in final.items()}
            found["error_by_step"] = figures.errors_by_step(own, steps, "scaled units squared")
            found["forecasts"] = figures.forecasts(_windows(final, data))
        case "classes":
            confused = {name: _stored(one, "confusion").iloc[:, 1:].to_numpy().tolist() for name, one in final.items()}
            found["confusion"] = figures.confusion(confused, data.output.classes)
    return found


def _stored(judged: Result | Baseline, name: str) -> pd.DataFrame:
    """A table among the files of what was judged."""
    file = tracking.within(judged.artifacts, f"{name}.csv")
    return pd.read_csv(tracking.download(f"runs:/{judged.run_id}/{file}"))


def _windows(final: dict[str, Result], data: Dataset) -> list[figures.Forecast]:
    """The first target's forecasts of three windows: at a quarter, half and three quarters of the test part."""
    told = {name: pd.read_parquet(tracking.download(str(one.predictions_uri))) for name, one in final.items()}
    (table, *_), target, steps = told.values(), data.output.targets[0], data.output.steps
    stored = len(table) // steps
    every = -(-data.test.count // stored)
    found = []
    for number in sorted({stored // 4, stored // 2, 3 * stored // 4}):
        rows = slice(number * steps, (number + 1) * steps)
        past = data.test.take(torch.tensor([number * every])).x_BTD[0, :, data.output.places[0]]
        keys = table.iloc[number * steps, : table.columns.get_loc("steps_ahead")]
        found.append(
            figures.Forecast(
                name=", ".join(str(key).removesuffix(" 00:00:00") for key in keys),
                target=target,
                past=past.tolist(),
                truth=table[target].iloc[rows].tolist(),
                told={name: own[f"{target}_predicted"].iloc[rows].tolist() for name, own in told.items()},
            )
        )
    return found


def _curves(results: list[Result]) -> Mapping[str, figures.Curve]:
    """Each contender's loss over both trainings, as MLflow has it."""
    curves: dict[str, figures.Curve] = {}
    for result in results:
        if result.phase == "untrained":
            continue
        points = tracking.read_curve(result.run_id, "train_loss_epoch")
        if not points:  # a champion that was judged, not trained
            continue
        before = curves.get(result.contender)
        curves[result.contender] = figures.Curve(
            steps=[*(before.steps if before else []), *points],
            losses=[*(before.losses if before else []), *points.values()],
            resumed_at=before.steps[-1] if before else None,
            validation={**(before.validation if before else {}), **tracking.read_curve(result.run_id, "val_loss")},
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
