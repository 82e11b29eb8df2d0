"""The commands of the README's section on schedules: real servers, a worker, a run that the schedule starts."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import mlflow
from helpers.configurations import TINY
from helpers.prefect_api import PrefectAPI
from helpers.processes import BIN, ROOT, eventually, running
from helpers.servers import SQLiteServers

from flows import recipes


def test_a_scheduled_run_completes_with_its_runs_in_mlflow(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for package in ("flows", "tasks", "lstm_models"):
        shutil.copytree(ROOT / package, checkout / package)
    shutil.copy(ROOT / "prefect.yaml", checkout)
    # the default is a minute
    with SQLiteServers(tmp_path, PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="3") as servers:
        options: dict[str, Any] = {"cwd": checkout, "env": servers.environment}

        def prefect(*arguments: str) -> None:
            completed = subprocess.run(
                [BIN / "prefect", *arguments], **options, capture_output=True, text=True, check=False
            )
            assert completed.returncode == 0, completed.stdout + completed.stderr

        prefect("work-pool", "create", "--type", "process", "lstm-flows")
        prefect("--no-prompt", "deploy", "--all")
        log = tmp_path / "worker.log"
        with running([str(BIN / "prefect"), "worker", "start", "--pool", "lstm-flows"], log, **options):
            eventually(lambda: "started!" in log.read_text())
            api = PrefectAPI(servers.urls["prefect"])
            weekly = api.deployment("compare/tutorial")["schedules"]
            assert [(each["schedule"]["cron"], each["schedule"]["timezone"]) for each in weekly] == [
                ("0 6 * * 1", "UTC")
            ]
            assert api.deployment("compare/parity")["schedules"] == []
            # the tiny configuration as a whole object
            config = recipes.load("tutorial", [*TINY, "contenders.hand_built=null"]).model_dump(mode="json")
            run = api.run_by_schedule("compare/tutorial", {"config": config})
        assert (run["state_type"], run["auto_scheduled"]) == ("COMPLETED", True), log.read_text()

        client = mlflow.MlflowClient(servers.urls["mlflow"])
        experiment = client.get_experiment_by_name("tutorial")
        assert experiment
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        assert [(each.info.run_name, each.info.status) for each in runs] == [
            ("compare tutorial", "FINISHED"),
            ("built_in/initial", "FINISHED"),
            ("built_in/fine_tuned", "FINISHED"),
        ]
        assert runs[0].data.tags["lstm_flows.prefect_flow_run_id"] == run["id"]
        assert client.get_model_version_by_alias("tutorial", "champion").status == "READY"
