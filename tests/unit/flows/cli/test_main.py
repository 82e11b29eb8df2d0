"""The command line in this process: invalid input, help, dry runs."""

from pathlib import Path

import pytest
import yaml
from helpers.cli_runner import lstm_flows
from helpers.errors import names_all

from flows import recipes

TAG = "!!python/object/apply:os.mkdir [it ran]"
COMMANDS = [
    "compare", "fine-tune", "history", "inspect", "monitor", "predict", "prune", "recipes", "rollback", "ui",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["compare", "nothing.yaml"], ["nothing.yaml", "No such file or directory"]),
        (["compare", "tutoria"], ["'tutoria'", "did you mean tutorial?", ".yaml"]),
        (["compare", "--set", "seed"], ["--set seed", "KEY=VALUE"]),
        (["compare", "--set", "seed=x"], ["tutorial", "seed", "'x'", "integer"]),
        (
            ["compare", "--set", "contenders.built_in.training.learnin_rate=1"],
            ["contenders.built_in.training.learnin_rate", "did you mean learning_rate?"],
        ),
        (["compare", "--dry-run", "--set", f"seed={TAG}"], ["--set seed=", "line 1, column 1", "os.mkdir"]),
        (["compare", "my.yaml"], ["my.yaml", "line 1, column 7", "os.mkdir"]),
        (["compare", "--nothing"], ["--nothing"]),
        (["comparee"], ["'comparee'", "Did you mean 'compare'?"]),
        *(
            (["predict", uri, "days.csv"], [uri, "models:/NAME@ALIAS", "models:/NAME/VERSION"])
            for uri in ("file:///etc/passwd", "runs:/0/model", "models:/../x", "s3://bucket/x")
        ),
        *(
            ([command, "models:/x@champion", "nothing.csv"], ["models:/x@champion", "mlflow.db", "HERE"])
            for command in ("predict", "inspect")
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_input_is_a_one_line_error_and_leaves_nothing(
    empty_directory: Path, arguments: list[str], parts: list[str]
) -> None:
    Path("my.yaml").write_text(f"seed: {TAG}\n")
    code, out, errors = lstm_flows(*arguments)
    assert (code, out) == (2, "")
    assert errors.startswith("lstm-flows: ")
    assert names_all(errors, *(part.replace("HERE", str(empty_directory)) for part in parts))
    assert [path.name for path in empty_directory.iterdir()] == ["my.yaml"]


@pytest.mark.parametrize(
    ("recipe", "change"),
    [("parity", "seed=7"), ("tutorial", "figures.gate_examples=[2]")],  # the recipe doesn't set the second one
)
def test_a_dry_run_prints_the_configuration_and_does_nothing(empty_directory: Path, recipe: str, change: str) -> None:
    code, out, errors = lstm_flows("compare", recipe, "--dry-run", "--set", change)
    assert (code, errors) == (0, "")
    assert yaml.safe_load(out) == recipes.load(recipe, [change]).model_dump(mode="json")
    assert list(empty_directory.iterdir()) == []


def test_recipes_are_listed_with_their_descriptions() -> None:
    code, out, _ = lstm_flows("recipes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == recipes.names()
    # the descriptions are aligned
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in out.splitlines()}) == 1


def test_help_lists_the_commands_and_each_has_an_example() -> None:
    code, out, _ = lstm_flows("--help")
    assert (code, "Example: lstm-flows" in out) == (0, True)
    assert [line.split()[0] for line in out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()] == COMMANDS
    for command in COMMANDS:
        code, out, _ = lstm_flows(command, "--help")
        assert (code, f"Example: lstm-flows {command}" in out) == (0, True)
