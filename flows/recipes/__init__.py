"""Configurations: the recipes that ship with the program, and the user's own files."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from lstm_models.config import AnyConfig, CompareConfig, Config, ConfigError, parse, parse_config, yaml

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
        if isinstance(values, dict) and source not in names():
            values = {"experiment": Path(source).stem} | values
    for change in changes:
        values = _changed(values, change, CompareConfig)
    return parse_config(_without_the_removed(values), name)


def of_experiment(kind: type[AnyConfig], experiment: str, changes: Sequence[str] = ()) -> AnyConfig:
    """The settings of a flow on an experiment's model, with changes such as `epochs=3`.

    Raises:
        ConfigError: in one line, if the changes make no possible configuration.
    """
    settings = f"experiment {experiment}"
    values: Any = parse(kind, {"experiment": experiment}, settings).model_dump(mode="json")
    for change in changes:
        values = _changed(values, change, kind)
    config = parse(kind, values, settings)
    if values["experiment"] != experiment:
        raise ConfigError(f"{settings}: --set experiment={values['experiment']} given; name the one that is meant")
    return config


def _without_the_removed(values: Any) -> Any:
    """The configuration without the contenders that are null."""
    if not isinstance(values, dict) or not isinstance(values.get("contenders"), dict):
        return values
    kept = {name: contender for name, contender in values["contenders"].items() if contender is not None}
    return {**values, "contenders": kept}


def _read(source: str) -> str:
    if source in names():
        return files(__name__).joinpath(f"{source}.yaml").read_text()
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        close = get_close_matches(source, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}."
        raise ConfigError(f"{source!r}: no such recipe; {hint} A file's name ends in .yaml")
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(yaml.MAX_BYTES + 1)  # one more is refused
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not a text file in UTF-8") from None
    except ValueError:
        raise ConfigError(f"{source!r}: not the name of a file") from None


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text)
    except yaml.YamlError as error:
        raise ConfigError(f"{source}: {error}") from None


def _changed(values: Any, change: str, kind: type[Config]) -> Any:
    """A copy of nested mappings with one value set. (A copy: YAML's anchors let two places share one mapping.)"""
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {change}: write KEY=VALUE, such as seed=7")
    if isinstance(values, dict) and len(path) > 1 and path[0] in kind.model_fields and values.get(path[0]) is None:
        values = values | {path[0]: {}}  # a section that the recipe leaves at its defaults
    return _set(values, path, _parse(text, f"--set {change}"), change)


def _set(values: Any, path: list[str], value: Any, change: str) -> Any:
    name, *rest = path
    if not isinstance(values, dict) or (name not in values and (rest or value is None)):
        allowed = f"; allowed here: {', '.join(map(str, values))}" if isinstance(values, dict) else ""
        raise ConfigError(f"--set {change}: there is no {name!r}{allowed}")
    return {**values, name: _set(values[name], rest, value, change) if rest else value}
