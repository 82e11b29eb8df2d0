"""History of an experiment's model versions: their training data, scores and times as champion."""

import datetime
import json
import math
from typing import Any, NamedTuple

import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from lstm_models.evaluation.model_selection import Score
from tasks import tracking

CHAMPION_TAG = f"{tracking.TAG}champion."  # followed by a time: a version gets such a tag at each promotion


class ChampionTenure(NamedTuple):
    """Period of a version as champion: its start, in UTC, the reason for the promotion, and the flow run."""

    since: datetime.datetime
    version: int
    reason: str
    flow_run: str


def version_history(experiment: str) -> list[dict[str, Any]]:
    """Return a dictionary of JSON-serializable values for each version, the oldest first.

    Raises:
        NotFoundError: If there is no such registered model.
    """
    aliases = tracking.aliases(experiment)
    versions = tracking.versions(experiment)
    tenures = promotion_history(versions)
    return [
        {
            "version": tracking.version_number(version),
            "contender": version.tags.get("contender"),
            "phase": version.tags.get("phase"),
            "continues": int(version.tags["continues"]) if "continues" in version.tags else None,
            "rows": version.tags.get("rows"),
            "loss": loss if math.isfinite(loss := stored_score(version).loss) else None,
            "dataset": stored_score(version).dataset,
            "champion": _version_tenures(tenures, tracking.version_number(version)),
            "aliases": sorted(alias for alias, number in aliases.items() if number == tracking.version_number(version)),
            "created": _isoformat(datetime.datetime.fromtimestamp(version.creation_timestamp / 1000, datetime.UTC)),
            "flow_run": version.tags.get("prefect_flow_run_id"),
            "run": version.run_id,
        }
        for version in versions
    ]


def _version_tenures(tenures: list[ChampionTenure], number: int) -> list[dict[str, str | None]]:
    """Return the periods in which a version was champion, with their reasons."""
    ends: list[datetime.datetime | None] = [*(tenure.since for tenure in tenures), None]
    return [
        {
            "since": _isoformat(tenure.since),
            "until": None if end is None else _isoformat(end),
            "reason": tenure.reason,
            "flow_run": tenure.flow_run,
        }
        for tenure, end in zip(tenures, ends[1:], strict=True)
        if tenure.version == number
    ]


def _isoformat(time: datetime.datetime) -> str:
    return time.isoformat(timespec="seconds")


def history_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of `version_history` as a table to display; times are in UTC."""
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


def _short_time(time: str | None) -> str:
    """Return MM-DD HH:MM of an ISO time; "now" for None."""
    return "now" if time is None else time[5:16].replace("T", " ")


def stored_score(version: ModelVersion) -> Score:
    """Return a version's score; a version without one, from an older program, has an infinite loss on no dataset."""
    score = version.tags.get("score")
    return Score.model_validate_json(score) if score else Score(loss=math.inf, parameters=0, dataset="")


def promotion_history(versions: list[ModelVersion]) -> list[ChampionTenure]:
    """Return the promotions of all versions, the earliest first.

    Of consecutive promotions of the same version only the last one counts: the others were interrupted before the
    alias was set.
    """
    tenures = []
    for version in versions:
        for key, record in version.tags.items():
            if key.startswith(CHAMPION_TAG):
                since = datetime.datetime.fromisoformat(key.removeprefix(CHAMPION_TAG))
                tenures.append(ChampionTenure(since, tracking.version_number(version), **json.loads(record)))
    tenures.sort()
    return [
        tenure
        for tenure, successor in zip(tenures, [*tenures[1:], None], strict=True)
        if not successor or successor.version != tenure.version
    ]


def was_champion(version: ModelVersion) -> bool:
    """Return whether a version is or has been champion."""
    return any(key.startswith(CHAMPION_TAG) for key in version.tags)
