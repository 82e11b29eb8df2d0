"""The README's section on schedules, command by command: real servers, a worker, a run that the schedule starts."""

import datetime
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import mlflow
from helpers.configurations import TINY
from helpers.processes import BIN, ROOT, eventually, free_port, responds, running

from flows import recipes

CONFIG = recipes.load("tutorial", TINY).model_dump(mode="json")


def test_a_run_that_the_schedule_starts_ends_completed_with_its_runs_in_mlflow(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for package in ("flows", "tasks", "lstm_models"):
        shutil.copytree(ROOT / package, checkout / package)
    shutil.copy(ROOT / "prefect.yaml", checkout)
    prefect_port, mlflow_port = free_port(), free_port()
    api, tracking_uri = f"http://127.0.0.1:{prefect_port}/api", f"http://127.0.0.1:{mlflow_port}"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))},
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",  # instead of a minute, in which the moment would pass
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    here: dict[str, Any] = {"cwd": checkout, "env": environment}

    def prefect(*arguments: str) -> None:
        done = subprocess.run([BIN / "prefect", *arguments], **here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    with ExitStack() as stack:
        store = tmp_path / "mlflow"
        store.mkdir()
        stack.enter_context(
            running(
                [
                    str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1",
                    "--backend-store-uri", f"sqlite:///{store}/mlflow.db", "--artifacts-destination", str(store),
                ],
                tmp_path / "mlflow.log",
                **here,
            )
        )  # fmt: skip
        server = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)]
        stack.enter_context(running(server, tmp_path / "server.log", **here))
        eventually(lambda: responds(f"{api}/health"))
        prefect("work-pool", "create", "--type", "process", "lstm-flows")
        prefect("--no-prompt", "deploy", "--all")
        worker = [str(BIN / "prefect"), "worker", "start", "--pool", "lstm-flows"]
        stack.enter_context(running(worker, tmp_path / "worker.log", **here))
        eventually(lambda: responds(f"{tracking_uri}/health"))
        eventually(lambda: "started!" in (tmp_path / "worker.log").read_text())

        with httpx.Client(base_url=api, timeout=30) as client:
            weekly = deployment(client, "tutorial")["schedules"]
            assert [schedule["schedule"]["cron"] for schedule in weekly] == ["0 6 * * 1"]
            assert [schedule["schedule"]["timezone"] for schedule in weekly] == ["UTC"]
            assert deployment(client, "parity")["schedules"] == []
            schedule_soon(client, deployment(client, "tutorial")["id"])
            eventually(lambda: scheduled_run(client)["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))
            run = scheduled_run(client)
        assert (run["state_type"], run["auto_scheduled"]) == ("COMPLETED", True), (tmp_path / "worker.log").read_text()

        found = mlflow.MlflowClient(tracking_uri)
        experiment = found.get_experiment_by_name("tutorial")
        assert experiment
        runs = found.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        assert [(one.info.run_name, one.info.status) for one in runs] == [
            ("compare tutorial", "FINISHED"),
            ("hand_built/initial", "FINISHED"),
            ("hand_built/fine_tuned", "FINISHED"),
            ("built_in/initial", "FINISHED"),
            ("built_in/fine_tuned", "FINISHED"),
        ]
        assert runs[0].data.tags["lstm_flows.prefect_flow_run_id"] == run["id"]
        assert found.get_model_version_by_alias("tutorial", "champion").status == "READY"


def ask(client: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    """What the API answers. A 503 says that SQLite was busy: like Prefect's own client, try again."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(client.request(method, path, json=body))
        return answers[-1].status_code != 503

    eventually(answered)
    return answers[-1].raise_for_status().json()


def deployment(client: httpx.Client, name: str) -> Any:
    return ask(client, "GET", f"/deployments/name/compare/{name}")


def schedule_soon(client: httpx.Client, deployment_id: str) -> None:
    """Once an hour, the first time in fifteen seconds, with the tiny configuration as a whole object."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=15)
    schedule = {"interval": 3600, "anchor_date": soon.isoformat(), "timezone": "UTC"}
    body = [{"schedule": schedule, "active": True, "parameters": {"config": CONFIG}}]
    ask(client, "POST", f"/deployments/{deployment_id}/schedules", body)


def scheduled_run(client: httpx.Client) -> Any:
    """The earliest run of the deployment that a schedule has made; without a state where there is none yet."""
    tutorial = {"id": {"any_": [deployment(client, "tutorial")["id"]]}}
    body = {"sort": "EXPECTED_START_TIME_ASC", "limit": 1, "deployments": tutorial}
    runs = ask(client, "POST", "/flow_runs/filter", body)
    return runs[0] if runs else {"state_type": None}
