"""Load configurations: the recipes that ship with the package, and user files."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from lstm_models.config import AnyConfig, CompareConfig, Config, ConfigError, parse, parse_config, yaml

DEFAULT = "tutorial"


def names() -> list[str]:
    """Return the names of the recipes, the default first."""
    recipes = sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )
    return sorted(recipes, key=lambda name: name != DEFAULT)


def description(name: str) -> str:
    """Return the description of a recipe: the comment in its first line."""
    return files(__name__).joinpath(f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


def load(source: CompareConfig | str, changes: Sequence[str] = ()) -> CompareConfig:
    """Load a recipe or a YAML file, and apply changes such as `seed=7`.

    Args:
        source: the name of a recipe, the path of a .yaml or .yml file, or a configuration.
        changes: `key=value` items with a dotted key and a YAML value; null removes a contender.

    Raises:
        ConfigError: if the source does not exist, is invalid YAML, or is not a valid configuration; in one line.
    """
    if isinstance(source, CompareConfig):
        values: Any = source.model_dump(mode="json")
        name = source.experiment
    else:
        name, values = source, _parse(_read(source), source)
        if isinstance(values, dict) and source not in names():
            values = {"experiment": Path(source).stem} | values
    for change in changes:
        values = _apply_change(values, change, CompareConfig)
    return parse_config(_drop_null_contenders(values), name)


def load_for_experiment(kind: type[AnyConfig], experiment: str, changes: Sequence[str] = ()) -> AnyConfig:
    """Return the settings of a flow on an experiment's model, with changes such as `epochs=3`.

    Raises:
        ConfigError: if the changed settings are not a valid configuration; in one line.
    """
    source = f"experiment {experiment}"
    values: Any = parse(kind, {"experiment": experiment}, source).model_dump(mode="json")
    for change in changes:
        values = _apply_change(values, change, kind)
    config = parse(kind, values, source)
    if values["experiment"] != experiment:
        raise ConfigError(
            f"{source}: --set experiment={values['experiment']} differs from it; pass the experiment as the argument"
        )
    return config


def _drop_null_contenders(values: Any) -> Any:
    """Return the configuration without the contenders that are null."""
    if not isinstance(values, dict) or not isinstance(values.get("contenders"), dict):
        return values
    contenders = {name: contender for name, contender in values["contenders"].items() if contender is not None}
    return {**values, "contenders": contenders}


def _read(source: str) -> str:
    if source in names():
        return files(__name__).joinpath(f"{source}.yaml").read_text()
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        close = get_close_matches(source, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"available recipes: {', '.join(names())}."
        raise ConfigError(f"{source!r}: no such recipe; {hint} The path of a file must end in .yaml or .yml")
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(yaml.MAX_BYTES + 1)  # one character more is rejected
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not a text file in UTF-8") from None
    except ValueError:
        raise ConfigError(f"{source!r}: not a valid file name") from None


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text)
    except yaml.YamlError as error:
        raise ConfigError(f"{source}: {error}") from None


def _apply_change(values: Any, change: str, kind: type[Config]) -> Any:
    """Return a copy of nested mappings with one value set; with YAML anchors, two keys may share one mapping."""
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {change}: write KEY=VALUE, such as seed=7")
    if isinstance(values, dict) and len(path) > 1 and path[0] in kind.model_fields and values.get(path[0]) is None:
        values = values | {path[0]: {}}  # a section that the recipe leaves out
    return _set(values, path, _parse(text, f"--set {change}"), change)


def _set(values: Any, path: list[str], value: Any, change: str) -> Any:
    name, *rest = path
    if not isinstance(values, dict) or (name not in values and (rest or value is None)):
        allowed = f"; allowed here: {', '.join(map(str, values))}" if isinstance(values, dict) else ""
        raise ConfigError(f"--set {change}: there is no {name!r}{allowed}")
    return {**values, name: _set(values[name], rest, value, change) if rest else value}
