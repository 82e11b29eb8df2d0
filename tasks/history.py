"""An experiment's versions: what continues what, on which rows, how it did, and who was champion when."""

import datetime
import math
from typing import Any

import pandas as pd

from tasks import tracking
from tasks.champions import Reign, judged, reigns


def history(experiment: str) -> list[dict[str, Any]]:
    """A mapping for each version, the oldest first, of primitives.

    Raises:
        NothingTracked: if there is no such registered model.
    """
    aliases = tracking.aliases(experiment)
    versions = tracking.versions(experiment)
    found = reigns(versions)
    return [
        {
            "version": tracking.number(version),
            "contender": version.tags.get("contender"),
            "phase": version.tags.get("phase"),
            "continues": int(version.tags["continues"]) if "continues" in version.tags else None,
            "rows": version.tags.get("rows"),
            "loss": loss if math.isfinite(loss := judged(version).loss) else None,
            "judged_on": judged(version).dataset,
            "champion": _times(found, tracking.number(version)),
            "aliases": sorted(alias for alias, number in aliases.items() if number == tracking.number(version)),
            "made": _moment(datetime.datetime.fromtimestamp(version.creation_timestamp / 1000, datetime.UTC)),
            "flow_run": version.tags.get("prefect_flow_run_id"),
            "run": version.run_id,
        }
        for version in versions
    ]


def _times(found: list[Reign], number: int) -> list[dict[str, str | None]]:
    """When a version was champion, and why."""
    ends: list[datetime.datetime | None] = [*(reign.since for reign in found), None]
    return [
        {
            "since": _moment(reign.since),
            "until": None if end is None else _moment(end),
            "why": reign.why,
            "flow_run": reign.flow_run,
        }
        for reign, end in zip(found, ends[1:], strict=True)
        if reign.version == number
    ]


def _moment(time: datetime.datetime) -> str:
    return time.isoformat(timespec="seconds")


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The same for the eye; times in UTC."""
    return pd.DataFrame(
        [
            {
                "version": str(row["version"]),
                "continues": "-" if row["continues"] is None else str(row["continues"]),
                "model": f"{row['contender']}/{row['phase']}",
                "trained on": row["rows"] or "-",
                "error": "-" if row["loss"] is None else f"{row['loss']:.4g}",
                "champion": "\n".join(f"{_short(time['since'])} - {_short(time['until'])}" for time in row["champion"]),
                "aliases": "\n".join(row["aliases"]),
            }
            for row in rows
        ]
    )


def _short(moment: str | None) -> str:
    return "now" if moment is None else moment[5:16].replace("T", " ")
