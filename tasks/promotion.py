"""Who is champion: the rule, the change of the alias, one at a time, and its record."""

import datetime
import json

import prefect.runtime.flow_run
from mlflow.entities.model_registry import ModelVersion
from prefect import task

from lstm_models.config import CompareConfig
from lstm_models.evaluation import model_selection
from lstm_models.utils.errors import UserError
from tasks import tracking
from tasks.orchestration import notifications
from tasks.orchestration.locks import promotion_lock
from tasks.orchestration.result_cache import cached_in_run
from tasks.orchestration.retry_policy import RETRY_OPTIONS
from tasks.schemas import AliasHolder, ParentRun, PhaseResult, Score
from tasks.significance import paired_verdict
from tasks.tracking.history import CHAMPION_TAG, ChampionTenure, promotion_history, stored_score


class RollbackError(UserError):
    """There is nothing to go back to; the message says why."""


@task(**RETRY_OPTIONS)
@cached_in_run
def promote_best(
    config: CompareConfig, results: list[PhaseResult], parent: ParentRun, rejection_reason: str | None = None
) -> tuple[AliasHolder, AliasHolder | None]:
    """Hold the best of these against the registry's champion, and set the alias that follows.

    Args:
        config: whose margin the best has to clear.
        results: of registered models, and others, which are passed over.
        parent: the run that decides.
        rejection_reason: why none of them may become champion; None: one may.

    Returns:
        The champion, and the challenger where the best did not become champion.
    """
    name = config.experiment
    candidates: list[Score] = [result for result in results if result.model_uri]
    with promotion_lock(name):
        incumbent = tracking.find_alias(name, "champion")
        held = stored_score(incumbent) if incumbent else None
        best, takes_over = model_selection.select_champion(candidates, held, paired_verdict, config.min_improvement)
        assert isinstance(best, PhaseResult)
        assert best.version is not None
        version = tracking.mlflow_client().get_model_version(name, str(best.version))
        if incumbent and tracking.version_number(incumbent) == best.version:  # this task's earlier try did it
            why = promotion_history([version])[-1].reason
        elif incumbent and (rejection_reason or not takes_over):
            tracking.mlflow_client().set_registered_model_alias(name, "challenger", version.version)
            return _alias_holder(incumbent, "champion"), _alias_holder(version, "challenger")
        else:
            of = (
                f"better than version {tracking.version_number(incumbent)}'s {held.loss:.6g}"
                if incumbent and held
                else ""
            )
            why = f"loss {best.loss:.6g}, {of or 'the first'}"
            _set_champion(version, why)
    notifications.send("promotion", f"{name}: version {best.version} is champion now: {why}", experiment=name)
    return _alias_holder(version, "champion"), None


def update_score(name: str, number: int, now: PhaseResult) -> None:
    """Let a version's latest judgement be the one that it shows, and that newcomers are held against."""
    for key, value in score_tags(now).items():
        tracking.mlflow_client().set_model_version_tag(name, str(number), key, value)


def score_tags(result: PhaseResult) -> dict[str, str]:
    """What a version says of how it was judged, and on which data."""
    return {
        "dataset": result.dataset,
        "score": result.score().model_dump_json(),
        **{key: repr(value) for key, value in result.metrics.items()},
    }


def _set_champion(version: ModelVersion, reason: str) -> None:
    """Make a version champion, and leave on it since when, why, and by which flow run."""
    client, name, number = tracking.mlflow_client(), version.name, version.version
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # a tag's name takes no +
    record = {"reason": reason[:4000], "flow_run": prefect.runtime.flow_run.id or "none"}
    client.set_model_version_tag(name, number, CHAMPION_TAG + since, json.dumps(record))
    client.set_registered_model_alias(name, "champion", number)
    challenger = tracking.find_alias(name, "challenger")
    if challenger and tracking.version_number(challenger) == int(number):  # nobody is both
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
    """Move the alias champion back, to a version or to the champion before, and record why.

    Raises:
        RollbackError: if there is no such version, or nobody was champion before.
    """
    with promotion_lock(experiment):
        versions = tracking.versions(experiment)
        champion = tracking.find_alias(experiment, "champion")
        if champion is None:
            raise RollbackError(f"experiment {experiment}: no champion; see lstm-flows history {experiment}")
        if number is None:
            number = _previous_champion(promotion_history(versions), tracking.version_number(champion), experiment)
        found = {tracking.version_number(version): version for version in versions}.get(number)
        if found is None:
            raise RollbackError(f"experiment {experiment}: no version {number}; see lstm-flows history {experiment}")
        if tracking.version_number(found) == tracking.version_number(champion):
            raise RollbackError(f"experiment {experiment}: version {number} is champion already")
        _set_champion(found, f"rollback from version {champion.version}: {reason}")
    notifications.send(
        "rollback", f"{experiment}: back from version {champion.version} to {number}: {reason}", experiment=experiment
    )
    return promotion_history(tracking.versions(experiment))[-1]


def _previous_champion(found: list[ChampionTenure], champion: int, experiment: str) -> int:
    """Who was champion before this one took over; one that was gone back from does not count."""
    line: list[int] = []
    for reign in found:
        until = line.index(reign.version) if reign.version in line else None
        line = [*line[:until], reign.version]
    earlier = line[: line.index(champion)] if champion in line else line
    if earlier:
        return earlier[-1]
    raise RollbackError(
        f"experiment {experiment}: nobody was champion before version {champion}; give a version, see "
        f"lstm-flows history {experiment}"
    )
