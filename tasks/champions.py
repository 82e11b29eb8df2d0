"""Who is champion: the rule, the change of the alias, one at a time, and its record."""

import datetime
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import prefect.runtime.flow_run
from mlflow.entities.model_registry import ModelVersion
from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from lstm_models import comparison
from lstm_models.config import CompareConfig, UserError
from tasks import notices, tracking
from tasks.answers import once
from tasks.differences import verdict
from tasks.references import Holder, Judged, ParentRun, Result
from tasks.retries import MAY_PASS

CROWNED = f"{tracking.TAG}champion."  # and when: a version's tag, each time that it becomes champion


class RollbackError(UserError):
    """There is nothing to go back to; the message says why."""


@task(**MAY_PASS)
@once
def choose_champion(
    config: CompareConfig, results: list[Result], parent: ParentRun, veto: str | None = None
) -> tuple[Holder, Holder | None]:
    """Hold the best of these against the registry's champion, and set the alias that follows.

    Args:
        config: whose margin the best has to clear.
        results: of registered models, and others, which are passed over.
        parent: the run that decides.
        veto: why none of them may become champion; None: one may.

    Returns:
        The champion, and the challenger where the best did not become champion.
    """
    name = config.experiment
    candidates: list[Judged] = [result for result in results if result.model_uri]
    with one_at_a_time(name):
        incumbent = tracking.find_alias(name, "champion")
        held = judged(incumbent) if incumbent else None
        best, takes_over = comparison.choose(candidates, held, verdict, config.margin)
        assert isinstance(best, Result)
        assert best.version is not None
        version = tracking.client().get_model_version(name, str(best.version))
        if incumbent and tracking.number(incumbent) == best.version:  # this task's earlier try did it
            why = reigns([version])[-1].why
        elif incumbent and (veto or not takes_over):
            tracking.client().set_registered_model_alias(name, "challenger", version.version)
            return _holder(incumbent, "champion"), _holder(version, "challenger")
        else:
            of = f"better than version {tracking.number(incumbent)}'s {held.loss:.6g}" if incumbent and held else ""
            why = f"loss {best.loss:.6g}, {of or 'the first'}"
            _crown(version, why)
    notices.send("promotion", f"{name}: version {best.version} is champion now: {why}", experiment=name)
    return _holder(version, "champion"), None


def judge(name: str, number: int, now: Result) -> None:
    """Let a version's latest judgement be the one that it shows, and that newcomers are held against."""
    for key, value in judgement_tags(now).items():
        tracking.client().set_model_version_tag(name, str(number), key, value)


def judgement_tags(result: Result) -> dict[str, str]:
    """What a version says of how it was judged, and on which data."""
    return {
        "dataset": result.dataset,
        "judged": result.judged().model_dump_json(),
        **{key: repr(value) for key, value in result.metrics.items()},
    }


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Nobody else changes who is champion of this experiment as long as the block lasts.

    Prefect's server keeps the lock, and takes it back a minute after its holder has died.
    """
    limit = GlobalConcurrencyLimitCreate(name=f"lstm-flows champion of {name}", limit=1)
    with get_client(sync_client=True) as api:
        try:
            api.read_global_concurrency_limit_by_name(limit.name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):  # since
                api.create_global_concurrency_limit(limit)
    with concurrency(limit.name, strict=True, lease_duration=60, raise_on_lease_renewal_failure=False):
        yield


def _crown(version: ModelVersion, why: str) -> None:
    """Make a version champion, and leave on it since when, why, and by which flow run."""
    client, name, number = tracking.client(), version.name, version.version
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # a tag's name takes no +
    record = {"why": why[:4000], "flow_run": prefect.runtime.flow_run.id or "none"}
    client.set_model_version_tag(name, number, CROWNED + since, json.dumps(record))
    client.set_registered_model_alias(name, "champion", number)
    challenger = tracking.find_alias(name, "challenger")
    if challenger and tracking.number(challenger) == int(number):  # nobody is both
        client.delete_registered_model_alias(name, "challenger")


def _holder(version: ModelVersion, alias: str) -> Holder:
    return Holder.model_validate(
        {
            "contender": version.tags["contender"],
            "phase": version.tags["phase"],
            "model_uri": f"models:/{version.name}@{alias}",
            "version": tracking.number(version),
        }
    )


def judged(version: ModelVersion) -> Judged:
    """How it was judged; one of an older program does not tell, and counts as judged on other data."""
    told = version.tags.get("judged")
    return Judged.model_validate_json(told) if told else Judged(loss=math.inf, parameters=0, dataset="")


class Reign(NamedTuple):
    """A time as champion: since when, in UTC; why; the flow run that decided."""

    since: datetime.datetime
    version: int
    why: str
    flow_run: str


def reigns(versions: list[ModelVersion]) -> list[Reign]:
    """Who became champion when, the earliest first.

    A version that follows itself became champion once: the first time, something broke off before the alias was set.
    """
    found = []
    for version in versions:
        for key, told in version.tags.items():
            if key.startswith(CROWNED):
                since = datetime.datetime.fromisoformat(key.removeprefix(CROWNED))
                found.append(Reign(since, tracking.number(version), **json.loads(told)))
    found.sort()
    return [one for one, then in zip(found, [*found[1:], None], strict=True) if not then or then.version != one.version]


def was_champion(version: ModelVersion) -> bool:
    """Whether a version has been champion, or is."""
    return any(key.startswith(CROWNED) for key in version.tags)


@task(**MAY_PASS)
def rollback(experiment: str, number: int | None, why: str) -> Reign:
    """Move the alias champion back, to a version or to the champion before, and record why.

    Raises:
        RollbackError: if there is no such version, or nobody was champion before.
    """
    with one_at_a_time(experiment):
        versions = tracking.versions(experiment)
        champion = tracking.find_alias(experiment, "champion")
        if champion is None:
            raise RollbackError(f"experiment {experiment}: no champion; see lstm-flows history {experiment}")
        if number is None:
            number = _before(reigns(versions), tracking.number(champion), experiment)
        found = {tracking.number(version): version for version in versions}.get(number)
        if found is None:
            raise RollbackError(f"experiment {experiment}: no version {number}; see lstm-flows history {experiment}")
        if tracking.number(found) == tracking.number(champion):
            raise RollbackError(f"experiment {experiment}: version {number} is champion already")
        _crown(found, f"rollback from version {champion.version}: {why}")
    notices.send(
        "rollback", f"{experiment}: back from version {champion.version} to {number}: {why}", experiment=experiment
    )
    return reigns(tracking.versions(experiment))[-1]


def _before(found: list[Reign], champion: int, experiment: str) -> int:
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
