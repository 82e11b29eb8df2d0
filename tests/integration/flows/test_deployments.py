"""prefect.yaml: its keys, schedules and parameters. Prefect ignores unknown keys; these tests do not."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.processes import ROOT
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.flows import Flow
from pydantic import BaseModel

from flows import recipes


def unknown_keys(values: dict[str, Any], model: type[BaseModel]) -> set[str]:
    names = {field.alias or name for name, field in model.model_fields.items()} | model.model_fields.keys()
    return set(values) - names


def ignored_keys(text: str) -> set[str]:
    """Keys that Prefect would ignore."""
    values = yaml.safe_load(text)
    ignored = unknown_keys(values, PrefectYamlModel)
    for deployment in values["deployments"]:
        ignored |= unknown_keys(deployment, DeploymentConfig)
        ignored |= unknown_keys(deployment["work_pool"], WorkPoolConfig)
        ignored |= unknown_keys(deployment["concurrency_limit"], ConcurrencyLimitSpec)
        for schedule in deployment.get("schedules", []):
            ignored |= unknown_keys(schedule, RawScheduleConfig)
    return ignored


TEXT = (ROOT / "prefect.yaml").read_text()
DEPLOYMENTS = {
    f"{Path(deployment['entrypoint'].split(':')[0]).stem}/{deployment['name']}": deployment
    for deployment in yaml.safe_load(TEXT)["deployments"]
}


def test_prefect_knows_every_key() -> None:
    assert ignored_keys(TEXT) == set()
    for key in ("entrypoint", "timezone", "work_pool", "name"):  # an unknown key is reported
        line = next(line for line in TEXT.splitlines() if f"{key}:" in line)
        indent = " " * line.index(key)
        assert f"{key}_" in ignored_keys(TEXT.replace(f"{key}:", f"{key}_: x\n{indent}{key}:", 1))


def test_each_deployment_has_its_schedule_and_runs_one_at_a_time() -> None:
    schedules = {name: deployment.get("schedules") for name, deployment in DEPLOYMENTS.items()}
    assert schedules == {
        "fine_tune/forecast": [{"cron": "30 2 * * *", "timezone": "Europe/Berlin"}],
        "monitor/forecast": [{"cron": "10 * * * *", "timezone": "Europe/Berlin"}],
        "compare/forecast": [{"cron": "0 4 * * 0", "timezone": "Europe/Berlin"}],
        "compare/tutorial": [{"cron": "0 6 * * 1", "timezone": "UTC"}],
        "compare/parity": None,
    }
    limits = [deployment["concurrency_limit"] for deployment in DEPLOYMENTS.values()]
    assert limits == [{"limit": 1, "collision_strategy": "CANCEL_NEW"}] * len(DEPLOYMENTS)


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
def test_entrypoints_import_and_parameters_fit(name: str) -> None:
    path, _, function = DEPLOYMENTS[name]["entrypoint"].partition(":")
    spec = importlib.util.spec_from_file_location("deployed", ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flow = getattr(module, function)
    assert isinstance(flow, Flow)
    config = flow.validate_parameters(DEPLOYMENTS[name]["parameters"])["config"]
    experiment = recipes.load(config).experiment if isinstance(config, str) else config.experiment
    assert f"{flow.name}/{experiment}" == name
