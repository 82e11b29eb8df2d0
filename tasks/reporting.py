"""Report a comparison as tables, figures and a summary, in MLflow and in Prefect."""

import math
from collections.abc import Mapping
from itertools import combinations

import pandas as pd
import torch
from matplotlib.figure import Figure
from prefect import task
from prefect.artifacts import create_markdown_artifact

from lstm_models import plots
from lstm_models.config import PHASES, CompareConfig
from lstm_models.data.dataset import Dataset
from lstm_models.evaluation.evaluate import PRIMARY_METRIC
from tasks import tracking
from tasks.data import load_dataset, summarize_data
from tasks.orchestration.result_cache import cached_in_run
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import (
    AliasHolder,
    BaselineResult,
    ComparisonReport,
    DatasetRef,
    FeatureDrift,
    FineTuneResult,
    ParentRun,
    PhaseResult,
    ScoreDifference,
    TrainedVersion,
)
from tasks.significance import score_difference
from tasks.summary import findings
from tasks.tracking.runs import RESULT_FILE

LOSS_NAMES = {"regression": "squared error", "forecast": "squared error, scaled", "classification": "log loss"}


@task(**RETRY_OPTIONS)
@cached_in_run
def report(
    config: CompareConfig,
    dataset: DatasetRef,
    results: list[PhaseResult],
    baselines: list[BaselineResult],
    holders: tuple[AliasHolder, AliasHolder | None],
    parent: ParentRun,
) -> ComparisonReport:
    """Build the comparison, log it with its tables and figures to the parent run, and create a Prefect artifact."""
    data = load_dataset(dataset)
    best = holders[1] or holders[0]
    comparison = _build_report(dataset, data, results, baselines, holders, parent, f"{best.contender}/{best.phase}")
    tracking.mlflow_client().log_text(parent.run_id, comparison.model_dump_json(indent=2), RESULT_FILE)
    _log(config, comparison, data, "comparison", findings.comparison_markdown(comparison))
    return comparison


@task(**RETRY_OPTIONS)
@cached_in_run
def report_fine_tuning(
    config: CompareConfig,
    dataset: DatasetRef,
    version: TrainedVersion,
    champion: PhaseResult | None,
    challenger: PhaseResult,
    baselines: list[BaselineResult],
    holders: tuple[AliasHolder, AliasHolder | None],
    drift: list[FeatureDrift],
    rejection_reason: str | None,
    parent: ParentRun,
) -> FineTuneResult:
    """Report a fine-tuning run like `report`: champion and challenger, the decision, and its reason."""
    data = load_dataset(dataset)
    results = [challenger.model_copy(update={"contender": "challenger"})]
    if champion:
        results.insert(0, champion.model_copy(update={"contender": "champion"}))
    comparison = _build_report(dataset, data, results, baselines, holders, parent, results[-1].name)
    assert challenger.version is not None
    result = FineTuneResult(
        experiment=config.experiment,
        outcome="not promoted" if holders[1] else "promoted",
        message=findings.summarize_promotion(
            comparison, champion, challenger, config.min_improvement, rejection_reason
        ),
        base_version=version.number,
        challenger=challenger.version,
        comparison=comparison,
        drift=drift,
    )
    tracking.mlflow_client().log_text(parent.run_id, result.model_dump_json(indent=2), "fine_tune.json")
    _log(config, comparison, data, "fine-tune", findings.fine_tuning_markdown(result))
    return result


def _build_report(
    dataset: DatasetRef,
    data: Dataset,
    results: list[PhaseResult],
    baselines: list[BaselineResult],
    holders: tuple[AliasHolder, AliasHolder | None],
    parent: ParentRun,
    first: str,
) -> ComparisonReport:
    """Build a comparison; the differences of the result named `first` come first."""
    champion, challenger = holders
    return ComparisonReport(
        experiment=parent.experiment,
        parent_run_id=parent.run_id,
        dataset=summarize_data(dataset, data),
        metric=PRIMARY_METRIC[data.output.kind],
        results=results,
        baselines=baselines,
        differences=[] if data.in_sample else _differences(results, baselines, first),
        champion=champion,
        challenger=challenger,
    )


def _log(config: CompareConfig, comparison: ComparisonReport, data: Dataset, name: str, markdown: str) -> None:
    """Log a report to the parent run as its description, a file and figures; create a Prefect artifact."""
    client, run_id = tracking.mlflow_client(), comparison.parent_run_id
    client.log_text(run_id, markdown, f"{name}.md")
    client.set_tag(run_id, "mlflow.note.content", markdown)  # the run's description in the UI
    for figure_name, figure in _figures(config, comparison, data).items():
        client.log_figure(run_id, figure, f"{figure_name}.png")
    create_markdown_artifact(
        key=name,
        markdown=f"{markdown}\n\n[This run in MLflow]({tracking.run_url(run_id)})",
        description=f"{comparison.experiment}: {', '.join(result.name for result in comparison.results)} compared",
    )


def _last_phases(results: list[PhaseResult]) -> dict[str, PhaseResult]:
    """Return each contender's result after its last phase."""
    return {result.contender: result for result in results}


def _differences(results: list[PhaseResult], baselines: list[BaselineResult], first: str) -> list[ScoreDifference]:
    """Compare the result named `first` and the contenders' last results pairwise, and each with each baseline."""
    first_result = {result.name: result for result in results if result.name == first}
    subjects = list((first_result | {result.name: result for result in _last_phases(results).values()}).values())
    pairs: list[tuple[PhaseResult, PhaseResult | BaselineResult]] = list(combinations(subjects, 2))
    pairs += [(subject, baseline) for subject in subjects for baseline in baselines]
    return [score_difference(*pair) for pair in pairs]


def _figures(config: CompareConfig, comparison: ComparisonReport, data: Dataset) -> dict[str, Figure]:
    """Return the figures that apply to these results, by name."""
    results = comparison.results
    figures = {"loss_curves": plots.loss_curves(_loss_curves(results), LOSS_NAMES[data.output.kind])}
    if any(result.predictions for result in results):
        figures["predictions"] = plots.predictions_against_targets(_prediction_pairs(results), data.in_sample)
    if any(result.replicas for result in results):
        figures["replicas"] = plots.replica_errors(_replica_errors(results))
    if config.figures.gradients_through_time:
        figures["gradients_through_time"] = plots.gradients_through_time(_gradients(results))
    final = _last_phases(results)
    match data.output.kind:
        case "forecast":
            baseline_errors = {
                baseline.name: _read_table(baseline, "steps")[comparison.metric].tolist()
                for baseline in comparison.baselines
            }
            errors = {name: _read_table(result, "steps")[comparison.metric].tolist() for name, result in final.items()}
            figures["error_by_step"] = plots.errors_by_step(errors, baseline_errors, "scaled units squared")
            figures["forecasts"] = plots.forecasts(_forecast_windows(final, data))
        case "classification":
            confusion = {
                name: _read_table(result, "confusion").iloc[:, 1:].to_numpy().tolist() for name, result in final.items()
            }
            figures["confusion"] = plots.confusion_matrices(confusion, data.output.classes)
    return figures


def _read_table(result: PhaseResult | BaselineResult, name: str) -> pd.DataFrame:
    """Read a CSV table among a result's artifacts."""
    file = tracking.join_path(result.artifact_dir, f"{name}.csv")
    return pd.read_csv(tracking.download(f"runs:/{result.run_id}/{file}"))


def _forecast_windows(final: dict[str, PhaseResult], data: Dataset) -> list[plots.Forecast]:
    """Return forecasts of the first target for windows at a quarter, half and three quarters of the test part."""
    predictions = {
        name: pd.read_parquet(tracking.download(str(result.predictions_uri))) for name, result in final.items()
    }
    (table, *_), target, steps = predictions.values(), data.output.targets[0], data.output.horizon
    stored = len(table) // steps
    every = -(-data.test.count // stored)
    windows = []
    for number in sorted({stored // 4, stored // 2, 3 * stored // 4}):
        rows = slice(number * steps, (number + 1) * steps)
        past = data.test.get_batch(torch.tensor([number * every])).x_BTD[0, :, data.output.target_indices[0]]
        keys = table.iloc[number * steps, : table.columns.get_loc("steps_ahead")]
        windows.append(
            plots.Forecast(
                ", ".join(str(key).removesuffix(" 00:00:00") for key in keys),
                target,
                past.tolist(),
                table[target].iloc[rows].tolist(),
                {name: frame[f"{target}_predicted"].iloc[rows].tolist() for name, frame in predictions.items()},
            )
        )
    return windows


def _loss_curves(results: list[PhaseResult]) -> Mapping[str, plots.Curve]:
    """Return each contender's losses over training and fine-tuning, from MLflow."""
    curves: dict[str, plots.Curve] = {}
    for result in results:
        if result.phase == "untrained":
            continue
        points = tracking.read_curve(result.run_id, "train_loss_epoch")
        if not points:  # a champion that was evaluated but not trained in this run
            continue
        previous = curves.get(result.contender)
        curves[result.contender] = plots.Curve(
            steps=[*(previous.steps if previous else []), *points],
            losses=[*(previous.losses if previous else []), *points.values()],
            fine_tuned_from=previous.steps[-1] if previous else None,
            validation={**(previous.validation if previous else {}), **tracking.read_curve(result.run_id, "val_loss")},
        )
    return curves


def _prediction_pairs(results: list[PhaseResult]) -> Mapping[str, Mapping[str, plots.PredictionPairs]]:
    """Return targets and predictions by phase and contender."""
    return {
        phase: {
            result.contender: plots.PredictionPairs(result.targets, result.predictions, result.metrics["mse"])
            for result in results
            if result.phase == phase and result.targets and result.predictions
        }
        for phase in PHASES
    }


def _replica_errors(results: list[PhaseResult]) -> Mapping[str, Mapping[str, plots.ReplicaErrors]]:
    """Return the replicas' errors by phase and contender."""
    return {
        phase: {
            result.contender: plots.ReplicaErrors(
                [math.inf if error is None else error for error in result.replicas.errors], result.replicas.converged
            )
            for result in results
            if result.phase == phase and result.replicas
        }
        for phase in ("initial", "fine_tuned")
    }


def _gradients(results: list[PhaseResult]) -> Mapping[str, Mapping[str, dict[str, dict[int, float]]]]:
    """Return the gradients through time by phase, contender and state, from MLflow."""
    gradients: dict[str, dict[str, dict[str, dict[int, float]]]] = {phase: {} for phase in PHASES}
    for result in results:
        prefix = f"{result.contender}/{result.phase}/" if result.phase == "untrained" else ""
        curves = {state: tracking.read_curve(result.run_id, f"{prefix}dloss_d{state}") for state in ("h", "c")}
        gradients[result.phase][result.contender] = {state: curve for state, curve in curves.items() if curve}
    return gradients
