"""An experiment's versions: what continues what, on which rows, how it did, and who was champion when."""

import datetime
import json
import math
from typing import Any, NamedTuple

import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from tasks import tracking
from tasks.schemas import Score

CHAMPION_TAG = f"{tracking.TAG}champion."  # and when: a version's tag, each time that it becomes champion


class ChampionTenure(NamedTuple):
    """A time as champion: since when, in UTC; why; the flow run that decided."""

    since: datetime.datetime
    version: int
    reason: str
    flow_run: str


def version_history(experiment: str) -> list[dict[str, Any]]:
    """A mapping for each version, the oldest first, of primitives.

    Raises:
        NothingTracked: if there is no such registered model.
    """
    aliases = tracking.aliases(experiment)
    versions = tracking.versions(experiment)
    found = promotion_history(versions)
    return [
        {
            "version": tracking.version_number(version),
            "contender": version.tags.get("contender"),
            "phase": version.tags.get("phase"),
            "continues": int(version.tags["continues"]) if "continues" in version.tags else None,
            "rows": version.tags.get("rows"),
            "loss": loss if math.isfinite(loss := stored_score(version).loss) else None,
            "dataset": stored_score(version).dataset,
            "champion": _tenures(found, tracking.version_number(version)),
            "aliases": sorted(alias for alias, number in aliases.items() if number == tracking.version_number(version)),
            "created": _isoformat(datetime.datetime.fromtimestamp(version.creation_timestamp / 1000, datetime.UTC)),
            "flow_run": version.tags.get("prefect_flow_run_id"),
            "run": version.run_id,
        }
        for version in versions
    ]


def _tenures(found: list[ChampionTenure], number: int) -> list[dict[str, str | None]]:
    """When a version was champion, and why."""
    ends: list[datetime.datetime | None] = [*(reign.since for reign in found), None]
    return [
        {
            "since": _isoformat(reign.since),
            "until": None if end is None else _isoformat(end),
            "reason": reign.reason,
            "flow_run": reign.flow_run,
        }
        for reign, end in zip(found, ends[1:], strict=True)
        if reign.version == number
    ]


def _isoformat(time: datetime.datetime) -> str:
    return time.isoformat(timespec="seconds")


def history_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The same for the eye; times in UTC."""
    return pd.DataFrame(
        [
            {
                "version": str(row["version"]),
                "continues": "-" if row["continues"] is None else str(row["continues"]),
                "model": f"{row['contender']}/{row['phase']}",
                "trained on": row["rows"] or "-",
                "error": "-" if row["loss"] is None else f"{row['loss']:.4g}",
                "champion": "\n".join(
                    f"{_short_time(time['since'])} - {_short_time(time['until'])}" for time in row["champion"]
                ),
                "aliases": "\n".join(row["aliases"]),
            }
            for row in rows
        ]
    )


def _short_time(moment: str | None) -> str:
    return "now" if moment is None else moment[5:16].replace("T", " ")


def stored_score(version: ModelVersion) -> Score:
    """How it was judged; one of an older program does not tell, and counts as judged on other data."""
    told = version.tags.get("score")
    return Score.model_validate_json(told) if told else Score(loss=math.inf, parameters=0, dataset="")


def promotion_history(versions: list[ModelVersion]) -> list[ChampionTenure]:
    """Who became champion when, the earliest first.

    A version that follows itself became champion once: the first time, something broke off before the alias was set.
    """
    found = []
    for version in versions:
        for key, told in version.tags.items():
            if key.startswith(CHAMPION_TAG):
                since = datetime.datetime.fromisoformat(key.removeprefix(CHAMPION_TAG))
                found.append(ChampionTenure(since, tracking.version_number(version), **json.loads(told)))
    found.sort()
    return [one for one, then in zip(found, [*found[1:], None], strict=True) if not then or then.version != one.version]


def was_champion(version: ModelVersion) -> bool:
    """Whether a version has been champion, or is."""
    return any(key.startswith(CHAMPION_TAG) for key in version.tags)
