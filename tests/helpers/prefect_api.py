"""A Prefect server's API, as the tests of deployments ask it."""

import datetime
from typing import Any

import httpx

from helpers.processes import eventually

OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class PrefectAPI:
    """A client of a server that is asked while workers use it too."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what the API answers. A 503 says that SQLite was busy: like Prefect's own client, try again."""
        answers: list[httpx.Response] = []

        def answered() -> bool:
            answers.append(httpx.request(method, self.url + path, json=body, timeout=60))
            return answers[-1].status_code != 503

        eventually(answered)
        return answers[-1].raise_for_status().json() if answers[-1].content else None

    def deployment(self, name: str) -> Any:
        """Return a deployment by FLOW/NAME."""
        return self.ask("GET", f"/deployments/name/{name}")

    def start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Schedule a run of a deployment for now, and return its id."""
        body = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        return str(self.ask("POST", f"/deployments/{self.deployment(deployment)['id']}/create_flow_run", body)["id"])

    def run_by_schedule(self, deployment: str, parameters: dict[str, Any]) -> Any:
        """Give a deployment a schedule, and return the first run that it makes, once that is over.

        It fires every minute from ten seconds on, so that a slow machine misses no more than a minute; and no more once
        the first run has begun.
        """
        its_id = self.deployment(deployment)["id"]
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
        schedule = {"interval": 60, "anchor_date": soon.isoformat(), "timezone": "UTC"}
        body = [{"schedule": schedule, "active": True, "parameters": parameters}]
        (made,) = self.ask("POST", f"/deployments/{its_id}/schedules", body)
        wanted = {
            "deployments": {"id": {"any_": [its_id]}},
            "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        begun: list[Any] = []
        before = {run["id"] for run in self.ask("POST", "/flow_runs/filter", wanted)}

        def has_begun() -> bool:
            begun.extend(run for run in self.ask("POST", "/flow_runs/filter", wanted) if run["id"] not in before)
            return bool(begun)

        eventually(has_begun)
        self.ask("DELETE", f"/deployments/{its_id}/schedules/{made['id']}")
        return self.ended(begun[0]["id"])

    def ended(self, flow_run: str) -> Any:
        """Return a flow run, once it is over."""
        eventually(lambda: self.ask("GET", f"/flow_runs/{flow_run}")["state_type"] in OVER)
        return self.ask("GET", f"/flow_runs/{flow_run}")
