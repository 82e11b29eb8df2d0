"""prefect.yaml is read back: Prefect ignores keys that it does not know, this test does not."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig, WorkPoolConfig
from prefect.flows import Flow
from pydantic import BaseModel

from flows import recipes

ROOT = Path(__file__).parent.parent.parent


def unknown_keys(values: dict[str, Any], model: type[BaseModel]) -> set[str]:
    names = {field.alias or name for name, field in model.model_fields.items()} | model.model_fields.keys()
    return set(values) - names


def faults(text: str) -> set[str]:
    """Keys that Prefect would ignore."""
    values = yaml.safe_load(text)
    found = unknown_keys(values, PrefectYamlModel)
    for deployment in values["deployments"]:
        found |= unknown_keys(deployment, DeploymentConfig)
        found |= unknown_keys(deployment["work_pool"], WorkPoolConfig)
        for schedule in deployment.get("schedules", []):
            found |= unknown_keys(schedule, RawScheduleConfig)
    return found


TEXT = (ROOT / "prefect.yaml").read_text()
DEPLOYMENTS = {deployment["name"]: deployment for deployment in yaml.safe_load(TEXT)["deployments"]}


def test_prefect_knows_every_key() -> None:
    assert faults(TEXT) == set()


@pytest.mark.parametrize("key", ["entrypoint", "timezone", "work_pool", "name"])
def test_a_key_that_prefect_does_not_know_is_found(key: str) -> None:
    assert f"{key}_" in faults(TEXT.replace(f"{key}:", f"{key}_: x\n{indent(key)}{key}:", 1))


def indent(key: str) -> str:
    """What stands before a key, so that another can stand below it."""
    line = next(line for line in TEXT.splitlines() if f"{key}:" in line)
    return " " * line.index(key)


def test_the_deployments_are_these() -> None:
    assert DEPLOYMENTS.keys() == {"tutorial", "parity"}
    (schedule,) = DEPLOYMENTS["tutorial"]["schedules"]
    assert schedule == {"cron": "0 6 * * 1", "timezone": "UTC"}
    assert "schedules" not in DEPLOYMENTS["parity"]


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
    parameters = flow.validate_parameters(DEPLOYMENTS[name]["parameters"])
    assert recipes.load(parameters["config"]).experiment == name
