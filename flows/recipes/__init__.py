"""Configurations: the recipes that ship with the program, and the user's own files."""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lstm_models.config import CompareConfig, ConfigError, parse_config

DEFAULT = "tutorial"


def names() -> list[str]:
    """The recipes, the default first."""
    found = sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )
    return sorted(found, key=lambda name: name != DEFAULT)


def description(name: str) -> str:
    """A recipe's first line, a comment that says what it is."""
    return files(__name__).joinpath(f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


def load(source: CompareConfig | str, changes: Sequence[str] = ()) -> CompareConfig:
    """The configuration of a recipe's name or of a YAML file, with changes such as `seed=7`.

    Args:
        source: a recipe's name, the path of a file that ends in .yaml or .yml, or a configuration, taken as it is.
        changes: `key=value`, the key dotted, the value YAML; null takes a contender away.

    Raises:
        ConfigError: in one line, if the source is not there, is no YAML, or describes no possible configuration.
    """
    if isinstance(source, CompareConfig):
        values: Any = source.model_dump(mode="json")
        name = source.experiment
    else:
        name, values = source, _parse(_read(source), source)
    for change in changes:
        _apply(change, values)
    return parse_config(values, name)


def _read(source: str) -> str:
    if source in names():
        return files(__name__).joinpath(f"{source}.yaml").read_text()
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        close = get_close_matches(source, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}."
        raise ConfigError(f"{source!r}: no such recipe; {hint} A file's name ends in .yaml")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not a text file in UTF-8") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, and reads 1e-3 as the number that it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    # PyYAML wants a dot before the exponent, as YAML 1.1 does; YAML 1.2 does not
    re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}: not valid YAML{place}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None


def _apply(change: str, values: Any) -> None:
    """Set one value in nested mappings."""
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {change}: write KEY=VALUE, such as seed=7")
    value = _parse(text, f"--set {change}")
    here = values
    for depth, part in enumerate(path[:-1]):
        if not isinstance(here, dict) or not isinstance(here.get(part), dict):
            below = ".".join(path[:depth]) or "the configuration"
            known = f"; allowed here: {', '.join(map(str, here))}" if isinstance(here, dict) else ""
            raise ConfigError(f"--set {change}: {below} has no section {part!r}{known}")
        here = here[part]
    if value is None and path[:-1] == ["contenders"]:
        here.pop(path[-1], None)
    else:
        here[path[-1]] = value
