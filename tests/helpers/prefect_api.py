"""Client of a Prefect server's API for tests of deployments."""

import datetime
from typing import Any

import httpx

from helpers.processes import eventually

FINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class PrefectAPI:
    """Client of a server that workers use at the same time."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON response; like Prefect's own client, retry on a 503, which says that SQLite was busy."""
        responses: list[httpx.Response] = []

        def is_available() -> bool:
            responses.append(httpx.request(method, self.url + path, json=body, timeout=60))
            return responses[-1].status_code != 503

        eventually(is_available)
        return responses[-1].raise_for_status().json() if responses[-1].content else None

    def deployment(self, name: str) -> Any:
        """Return a deployment by FLOW/NAME."""
        return self.request("GET", f"/deployments/name/{name}")

    def start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Schedule a run of a deployment for now, and return its id."""
        body = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        return str(
            self.request("POST", f"/deployments/{self.deployment(deployment)['id']}/create_flow_run", body)["id"]
        )

    def run_by_schedule(self, deployment: str, parameters: dict[str, Any]) -> Any:
        """Add a schedule to a deployment, and return the first run that it creates once its state is final.

        The schedule creates a run every minute, first in ten seconds, so that a slow machine loses at most a minute. It
        is deleted once the first run has started.
        """
        deployment_id = self.deployment(deployment)["id"]
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
        schedule = {"interval": 60, "anchor_date": soon.isoformat(), "timezone": "UTC"}
        body = [{"schedule": schedule, "active": True, "parameters": parameters}]
        (created,) = self.request("POST", f"/deployments/{deployment_id}/schedules", body)
        query = {
            "deployments": {"id": {"any_": [deployment_id]}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        started: list[Any] = []
        previous = {run["id"] for run in self.request("POST", "/flow_runs/filter", query)}

        def has_started() -> bool:
            runs = self.request("POST", "/flow_runs/filter", query)
            started.extend(run for run in runs if run["id"] not in previous)
            return bool(started)

        eventually(has_started)
        self.request("DELETE", f"/deployments/{deployment_id}/schedules/{created['id']}")
        return self.wait_for(started[0]["id"])

    def wait_for(self, flow_run: str) -> Any:
        """Return a flow run once its state is final."""
        eventually(lambda: self.request("GET", f"/flow_runs/{flow_run}")["state_type"] in FINAL_STATES)
        return self.request("GET", f"/flow_runs/{flow_run}")
