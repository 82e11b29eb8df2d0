"""Promotion and rollback of the champion, one at a time, with a record of each change."""

import datetime
import json

import prefect.runtime.flow_run
from mlflow.entities.model_registry import ModelVersion
from prefect import task

from lstm_models.config import CompareConfig
from lstm_models.evaluation import model_selection
from lstm_models.evaluation.model_selection import Score
from lstm_models.utils.errors import UserError
from tasks import tracking
from tasks.orchestration import notifications
from tasks.orchestration.locks import promotion_lock
from tasks.orchestration.result_cache import cached_in_run
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import AliasHolder, ParentRun, PhaseResult
from tasks.significance import paired_verdict
from tasks.tracking.history import CHAMPION_TAG, ChampionTenure, promotion_history, stored_score


class RollbackError(UserError):
    """The rollback has no valid target; the message says why."""


@task(**RETRY_OPTIONS)
@cached_in_run
def promote_best(
    config: CompareConfig, results: list[PhaseResult], parent: ParentRun, rejection_reason: str | None = None
) -> tuple[AliasHolder, AliasHolder | None]:
    """Compare the best of the results with the champion, and set the alias champion or challenger on its version.

    Args:
        config: Its min_improvement is the share of the champion's loss by which the best must be better.
        results: Those without a registered model are ignored.
        parent: The run that makes the decision.
        rejection_reason: Why none of them may become champion; None if one may.

    Returns:
        The champion, and the challenger if the best did not become champion.
    """
    name = config.experiment
    candidates: list[Score] = [result for result in results if result.model_uri]
    with promotion_lock(name):
        incumbent = tracking.find_alias(name, "champion")
        incumbent_score = stored_score(incumbent) if incumbent else None
        best, is_better = model_selection.select_champion(
            candidates, incumbent_score, paired_verdict, config.min_improvement
        )
        assert isinstance(best, PhaseResult)
        assert best.version is not None
        version = tracking.mlflow_client().get_model_version(name, str(best.version))
        if incumbent and tracking.version_number(incumbent) == best.version:  # an earlier attempt promoted it
            reason = promotion_history([version])[-1].reason
        elif incumbent and (rejection_reason or not is_better):
            tracking.mlflow_client().set_registered_model_alias(name, "challenger", version.version)
            return _alias_holder(incumbent, "champion"), _alias_holder(version, "challenger")
        else:
            comparison = "first champion"
            if incumbent and incumbent_score:
                comparison = f"better than version {tracking.version_number(incumbent)}'s {incumbent_score.loss:.6g}"
            reason = f"loss {best.loss:.6g}, {comparison}"
            _set_champion(version, reason)
    notifications.send("promotion", f"{name}: version {best.version} is now champion: {reason}", experiment=name)
    return _alias_holder(version, "champion"), None


def update_score(name: str, number: int, result: PhaseResult) -> None:
    """Replace a version's score by that of its latest evaluation, with which candidates are compared."""
    for key, value in score_tags(result).items():
        tracking.mlflow_client().set_model_version_tag(name, str(number), key, value)


def score_tags(result: PhaseResult) -> dict[str, str]:
    """Return the tags of a version for its evaluation: dataset, score and metrics."""
    return {
        "dataset": result.dataset,
        "score": result.score().model_dump_json(),
        **{key: repr(value) for key, value in result.metrics.items()},
    }


def _set_champion(version: ModelVersion, reason: str) -> None:
    """Set the alias champion, after the version is tagged with the time, the reason and the flow run."""
    client, name, number = tracking.mlflow_client(), version.name, version.version
    # not isoformat, because the name of a tag must not contain +
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    record = {"reason": reason[:4000], "flow_run": prefect.runtime.flow_run.id or "none"}
    client.set_model_version_tag(name, number, CHAMPION_TAG + since, json.dumps(record))
    client.set_registered_model_alias(name, "champion", number)
    challenger = tracking.find_alias(name, "challenger")
    if challenger and tracking.version_number(challenger) == int(number):  # no version has both aliases
        client.delete_registered_model_alias(name, "challenger")


def _alias_holder(version: ModelVersion, alias: str) -> AliasHolder:
    return AliasHolder.model_validate(
        {
            "contender": version.tags["contender"],
            "phase": version.tags["phase"],
            "model_uri": f"models:/{version.name}@{alias}",
            "version": tracking.version_number(version),
        }
    )


@task(**RETRY_OPTIONS)
def rollback(experiment: str, number: int | None, reason: str) -> ChampionTenure:
    """Move the alias champion to a version, or to the previous champion, and record the reason.

    Raises:
        RollbackError: If there is no champion, no such version or no previous champion, or the version is champion.
    """
    with promotion_lock(experiment):
        versions = tracking.versions(experiment)
        champion = tracking.find_alias(experiment, "champion")
        if champion is None:
            raise RollbackError(f"experiment {experiment}: no champion; see lstm-flows history {experiment}")
        if number is None:
            number = _previous_champion(promotion_history(versions), tracking.version_number(champion), experiment)
        target = {tracking.version_number(version): version for version in versions}.get(number)
        if target is None:
            raise RollbackError(f"experiment {experiment}: no version {number}; see lstm-flows history {experiment}")
        if tracking.version_number(target) == tracking.version_number(champion):
            raise RollbackError(f"experiment {experiment}: version {number} is already champion")
        _set_champion(target, f"rollback from version {champion.version}: {reason}")
    notifications.send(
        "rollback",
        f"{experiment}: rolled back from version {champion.version} to {number}: {reason}",
        experiment=experiment,
    )
    return promotion_history(tracking.versions(experiment))[-1]


def _previous_champion(tenures: list[ChampionTenure], champion: int, experiment: str) -> int:
    """Return the version that was champion before this one, without those that were rolled back."""
    succession: list[int] = []
    for tenure in tenures:
        end = succession.index(tenure.version) if tenure.version in succession else None
        succession = [*succession[:end], tenure.version]
    predecessors = succession[: succession.index(champion)] if champion in succession else succession
    if predecessors:
        return predecessors[-1]
    raise RollbackError(
        f"experiment {experiment}: there was no champion before version {champion}; pass a version, see "
        f"lstm-flows history {experiment}"
    )
