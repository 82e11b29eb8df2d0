"""Random configurations: valid ones survive a round trip; invalid ones give a one-line error and exit code 2.

The individual errors are tested in tests/unit/lstm_models/config/test_config.py.
"""

import functools
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from flows import recipes
from flows.cli.main import main
from lstm_models.config import CompareConfig, Config, FineTuneConfig, MonitorConfig, Sql, yaml
from lstm_models.config.compare import RESERVED_NAMES
from lstm_models.config.data import RESERVED_COLUMNS

LARGEST = 2**63 - 1
FLOWS: dict[str, type[Config]] = {"fine-tune": FineTuneConfig, "monitor": MonitorConfig}
# a configuration has many fields, and few combinations of a table's fields are valid
large = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much])


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process, and return the exit code, standard output and standard error."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", errors="backslashreplace")
    with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as exited:
        main(arguments)
    texts = []
    for stream in (out, errors):
        stream.flush()
        stream.seek(0)
        texts.append(stream.read())
    assert isinstance(exited.value.code, int)
    return exited.value.code, texts[0], texts[1]


def error_line(code: int, out: str, errors: str) -> str:
    """Assert that a command was rejected in one line on standard error, and return the line."""
    assert (code, out) == (2, ""), errors
    assert errors.startswith("lstm-flows: ")
    assert errors.endswith("\n")
    line = errors[:-1]
    assert line.isprintable(), "one line, without control characters"
    assert "Traceback" not in line
    return line


def check(path: Path, *arguments: str) -> CompareConfig | None:
    """Return the configuration of a dry run, which must load again; None if it was rejected in one line."""
    code, out, errors = run("compare", *arguments, "--dry-run")
    if code == 0:
        assert errors == ""
        path.write_text(out, encoding="utf-8")
        config = recipes.load(str(path))
        assert config.to_yaml() == out  # the output of a dry run is a configuration file
        return config
    error_line(code, out, errors)
    return None


def includes(actual: Any, expected: Any) -> bool:
    """Return whether the actual value has all of the expected ones, unconverted; mappings may have more keys."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(
            name in actual and includes(actual[name], expected[name]) for name in expected
        )
    if isinstance(expected, list):
        return isinstance(actual, list) and len(actual) == len(expected) and all(map(includes, actual, expected))
    if type(actual) is float and type(expected) is int:
        return actual == float(expected)
    return type(actual) is type(expected) and bool(actual == expected)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad") / "my.yaml"


# ---- valid configurations, generated from the fields of the settings
class Kind(NamedTuple):
    """The type of a field, and its constraints."""

    type: Any
    constraints: tuple[Any, ...] = ()

    def bound(self, name: str) -> Any:
        """Return the value of a constraint such as `ge` or `min_length`, or None."""
        return next((getattr(each, name) for each in self.constraints if hasattr(each, name)), None)

    @property
    def check(self) -> str | None:
        """The name of the function that validates the text, or None."""
        return next((each.func.__name__ for each in self.constraints if hasattr(each, "func")), None)

    def plain(self) -> "Kind":
        """Return the kind without Annotated."""
        if get_origin(self.type) is not Annotated:
            return self
        first, *more = get_args(self.type)
        flat = [part for each in more for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return Kind(first, (*self.constraints, *flat)).plain()

    def members(self) -> "list[Kind]":
        """Return the members of a union, or the kind itself."""
        kind = self.plain()
        inner = get_args(kind.type) if get_origin(kind.type) in (Union, UnionType) else None
        return [member for each in inner for member in Kind(each, kind.constraints).members()] if inner else [kind]


def fields(config: type[Config]) -> dict[str, Kind]:
    return {name: Kind(field.annotation, tuple(field.metadata)) for name, field in config.model_fields.items()}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = {
    "_check_name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", fullmatch=True),
    "_check_contender_name": st.from_regex(r"[a-z][a-z0-9_]{0,99}", fullmatch=True).filter(
        lambda name: name not in RESERVED_NAMES and not re.fullmatch(r"v\d+", name)
    ),
    "_check_cell": st.sampled_from(["lstm", "peephole", "layer_norm"])
    | st.from_regex(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", fullmatch=True),
}


for _each in (texts, *NAMES.values()):
    # hypothesis writes a table of characters to a file, which unit tests may not do
    _each.validate()


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Return a strategy for all valid values of a field, as YAML gives them."""
    return st.one_of([_values_of(each) for each in kind.members()])


def _values_of(kind: Kind) -> st.SearchStrategy[Any]:
    inner = [Kind(each) for each in get_args(kind.type)]
    least = kind.bound("min_length") or 0
    match get_origin(kind.type) or kind.type:
        case origin if origin is Literal:
            return st.sampled_from(get_args(kind.type))
        case origin if origin is list:
            return st.lists(values_of(inner[0]), min_size=least, max_size=least + 2)
        case origin if origin is dict:
            return st.dictionaries(values_of(inner[0]), values_of(inner[1]), min_size=least, max_size=least + 1)
        case scalar if scalar is NoneType:
            return st.none()
        case scalar if scalar is bool:
            return st.booleans()
        case scalar if scalar is str:
            return texts if kind.check is None else NAMES[kind.check]
        case scalar if scalar is int:
            low, below, high = kind.bound("ge"), kind.bound("lt"), kind.bound("le")
            return st.integers(-LARGEST if low is None else low, below - 1 if below else high or LARGEST)
        case scalar if scalar is float:
            ge, gt, le, lt = (kind.bound(name) for name in ("ge", "gt", "le", "lt"))
            low, high = (ge if gt is None else gt), (le if lt is None else lt)
            return st.floats(
                low, high, exclude_min=gt is not None, exclude_max=lt is not None, allow_nan=False, allow_infinity=False
            )
        case config:
            return settings_of(config)


@st.composite
def settings_of(draw: st.DrawFn, config: type[Config]) -> dict[str, Any]:
    """Draw the values of a section: the required ones and any of the others, in a valid combination."""
    return make_valid(draw, config, draw(parts_of(config)))


@functools.cache  # building them takes longer than drawing
def parts_of(config: type[Config]) -> st.SearchStrategy[dict[str, Any]]:
    strategies = {name: values_of(kind) for name, kind in fields(config).items()}
    needed = {name for name, field in config.model_fields.items() if field.is_required()} | {"kind"}
    return st.fixed_dictionaries(
        {name: values for name, values in strategies.items() if name in needed},
        optional={name: values for name, values in strategies.items() if name not in needed},
    )


def make_valid(draw: st.DrawFn, config: type[Config], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a section, changed so that their combination is valid."""
    match config.__name__:
        case "HandBuilt" | "BuiltIn" | "RNN":
            if values.get("head", "none") == "none":
                values["hidden_size"] = 1
            if values.get("num_layers", 1) == 1:
                values.pop("dropout", None)
        case "Contender":
            values["training"]["max_epochs"] %= 2**62
            values["training"]["max_epochs"] += 1
            values["fine_tuning"]["max_epochs"] = values["training"]["max_epochs"] + draw(st.integers(1, 2**61))
        case "TableData":
            named = [
                name
                for name in draw(st.lists(texts, min_size=6, max_size=6, unique=True))
                if name not in RESERVED_COLUMNS
            ]
            assume(len(named) == 6)
            label = values.get("task", "forecast") != "forecast"
            values["target"] = named[:2] if not label and draw(st.booleans()) else named[0]
            values["group"] = named[4] if label or draw(st.booleans()) else None
            values["time"] = named[5] if draw(st.booleans()) else None
            values["features"] = draw(st.sampled_from([None, named[2:3], named[2:4]]))
            query = draw(settings_of(Sql))
            values |= draw(st.sampled_from([{"path": named[0], "sql": None}, {"path": None, "sql": query}]))
        case "CompareConfig":
            of_table = values.get("data", {}).get("kind") == "table"
            for contender in values["contenders"].values():
                if of_table:
                    contender.pop("replicas", None)
                    contender["training"].pop("log_predictions", None)
                else:
                    contender["training"].pop("patience", None)
            if of_table and draw(st.booleans()):
                del values["contenders"]
        case "FineTuneConfig":
            if values.get("mode", "continue") == "continue":
                values.pop("learning_rate", None)
    return values


valid_configs = settings_of(CompareConfig)


class Raw(NamedTuple):
    """Text that is written to YAML unchanged."""

    text: str


def written(value: Any) -> str:
    """Return any value as YAML in one line, which is JSON where JSON can represent it."""
    match value:
        case Raw():
            return value.text
        case dict():
            return "{" + ", ".join(f"{written(key)}: {written(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(written, value)) + "]"
        case bool() | None:
            return json.dumps(value)
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else f"{value:+}".replace("inf", ".inf")
    return json.dumps(value).replace("\x7f", r"\u007f")  # YAML accepts this character only escaped


SMALL: dict[str, Any] = {
    "model": {"kind": "hand_built"}, "training": {"max_epochs": 1}, "fine_tuning": {"max_epochs": 2}
}  # fmt: skip
OF_TABLE: dict[str, Any] = {"kind": "table", "path": "a.csv", "target": "y"}
HUGE = Raw("0x" + 5000 * "f")  # Python prints no integer with so many digits
HALF = Raw(r'"\ud800"')  # half of a surrogate pair


@example(values={"data": OF_TABLE | {"target": "😀"}}, write=written)  # in JSON, a surrogate pair
@given(values=valid_configs, write=st.sampled_from([written, yaml.dump]))
@large
def test_valid_configuration_survives_a_round_trip(
    path: Path, values: dict[str, Any], write: Callable[[Any], str]
) -> None:
    path.write_text(write(values), encoding="utf-8")
    config = recipes.load(str(path))
    assert includes(config.model_dump(mode="json"), values)
    assert check(path, str(path)) == config
    assert CompareConfig.model_validate_json(config.model_dump_json()) == config  # as Prefect passes it


# ---- invalid configurations, and altered ones: a round trip or a one-line error
@pytest.mark.parametrize(
    "values",
    [
        {"contenders": {"a": SMALL}, HALF: 1},
        {"data": OF_TABLE | {"path": HALF}},
        {"contenders": {"a": SMALL}, "\x1b[31m": 1},
        {"contenders": {"a": SMALL | {"fine_tuning": {"max_epochs": 10**400}}}},
        {"contenders": {"a": SMALL | {"fine_tuning": {"max_epochs": HUGE}}}},
        {"contenders": {"a": SMALL}, "figures": {"gate_examples": [2**63]}},
        {"data": OF_TABLE | {"split": {"train": -(2**63)}}},
        {"data": Raw("{kind: tutorial, kind: tutorial}"), "contenders": {"a": SMALL}},
        {"contenders": {"a": SMALL | {"replicas": 0}}},
    ],
)
def test_invalid_configuration_is_rejected_in_one_line(path: Path, values: dict[str, Any]) -> None:
    path.write_text(written(values), encoding="utf-8")
    assert error_line(*run("compare", str(path), "--dry-run")).startswith(f"lstm-flows: {path}: ")


numbers = st.sampled_from([0, -1, 2**32, 2**63, -(2**63), 10**400, -(10**400), HUGE, 0.5, -0.0, 5e-324, 1e31, 1e308])
non_finite = st.sampled_from([math.nan, math.inf, -math.inf])
texts_of_all_kinds = st.one_of(
    st.text(max_size=10),
    st.text("\0\x07\x1b\x7f\x85\u2028\u202e\ufeff\n\r\t ", min_size=1, max_size=4),
    st.sampled_from(["x" * 5000, "x\ny", "\x1b[31mred", "1", "null", "", " ", "{}", "%s", "{fault}", "{0}", "é", "😀"]),
).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))
scalars = st.none() | st.booleans() | st.integers() | numbers | st.floats() | non_finite | texts_of_all_kinds
any_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=5
)


def deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


anything = any_values | st.just([1] * 300) | st.integers(1, 60).map(deep)
TOKENS = """1e3 .5 1. 1_000 0o17 017 0x1F 0b11 1:30 +1 ~ null yes no on off True .nan .inf -.INF 2024-01-31
2024-01-31T12:00:00Z = << ? - : , [ ] { } & * ! | > % @ ` # ' " &a *a !!int !!str !!float !!set !!omap !!binary
!!timestamp !!python/none --- ... %YAML seed: contenders: data: experiment: {kind: tutorial} {kind: table} kind: a b"""
tokens = st.lists(st.sampled_from([*TOKENS.split(), "\n", "\n  ", " ", "\t"]) | texts_of_all_kinds, max_size=8)
token_texts = tokens.map(" ".join) | tokens.map("".join) | st.text(max_size=20)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in nested mappings and lists."""
    yield path
    for name, each in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else []):
        yield from paths_of(each, (*path, name))


def changed(value: Any, path: tuple[Any, ...], new_value: Any) -> Any:
    """Return a copy of nested mappings and lists with another value at a path."""
    if not path:
        return new_value
    name, *rest = path
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    new = {key: changed(item, tuple(rest), new_value) if key == name else item for key, item in pairs}
    return new if isinstance(value, dict) else list(new.values())


def at(value: Any, path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda section, name: section[name], path, value)


def similar(value: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of the type of a valid one, most of which are valid too."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.integers(1, 2**40)
        case float():
            return st.floats(0, 1) | st.floats()
        case str():
            return texts_of_all_kinds | st.just(value)
    return st.none() | st.integers(1, 2**40) | texts_of_all_kinds if value is None else st.just(value)


RECIPES = {name: recipes.load(name).model_dump(mode="json") for name in ("tutorial", "forecast")}


@st.composite
def altered_a_little(draw: st.DrawFn) -> str:
    """Draw the text of a valid configuration with one other value of the same type; a quarter of them are valid."""
    original = draw(valid_configs | st.sampled_from(list(RECIPES.values())))
    leaves = [path for path in paths_of(original) if not isinstance(at(original, path), dict | list)]
    path = draw(st.sampled_from(leaves))
    return written(changed(original, path, draw(similar(at(original, path)))))


@st.composite
def altered(draw: st.DrawFn) -> str:
    """Draw the text of a valid configuration with one value replaced by anything, or one added."""
    original = draw(valid_configs)
    path = draw(st.sampled_from(list(paths_of(original))))
    if draw(st.booleans()) and isinstance(path[-1:] and path[-1], str):
        path = (*path[:-1], draw(st.sampled_from(["x", "seed", "kind", "max_epochs"]) | texts_of_all_kinds))
        original = changed(original, path[:-1], {**at(original, path[:-1]), path[-1]: None})
    return written(changed(original, path, draw(anything | token_texts.map(Raw))))


@pytest.mark.parametrize("contents", [altered_a_little(), altered()], ids=["a little", "a lot"])
@given(data=st.data())
@large
def test_altered_configuration_survives_a_round_trip_or_is_rejected_in_one_line(
    path: Path, contents: st.SearchStrategy[str], data: st.DataObject
) -> None:
    content = data.draw(contents)
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    if config := check(path, str(path)):
        original = yaml.load(content)
        contenders = {name: each for name, each in original.get("contenders", {}).items() if each is not None}
        assert includes(config.model_dump(mode="json"), original | ({"contenders": contenders} if contenders else {}))


@given(content=token_texts | st.binary(max_size=40))
@settings(max_examples=100)  # each is rejected quickly
def test_any_file_is_rejected_in_one_line(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    error_line(*run("compare", str(path), "--dry-run"))


@example(source="a\0b.yaml")
@given(source=st.text(max_size=20) | texts_of_all_kinds | token_texts.map(lambda text: f"{text}.yaml"))
def test_any_source_is_rejected_in_one_line(source: str) -> None:
    error_line(*run("compare", "--dry-run", "--", source))


@st.composite
def set_options(draw: st.DrawFn, config: type[Config], values: dict[str, Any]) -> list[str]:
    """Draw valid and invalid --set options."""
    more = st.lists(st.sampled_from([*config.model_fields, "kind", "x", ""]) | texts_of_all_kinds, max_size=2)
    paths = [path for path in paths_of(values) if not isinstance(at(values, path), dict | list)]
    which = draw(st.sampled_from(["valid", "valid", "invalid", "text"]))
    changes = []
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths))
        match which:
            case "valid":
                changes.append(f"{'.'.join(map(str, path))}={written(draw(similar(at(values, path))))}")
            case "invalid":
                changes.append(
                    f"{'.'.join(map(str, [*path, *draw(more)]))}={draw(anything.map(written) | token_texts)}"
                )
            case "text":
                changes.append(draw(token_texts))
    return [part for change in changes for part in ("--set", change)]


@example(command=("tutorial", ["--set", f"experiment={HUGE.text}"]))
@example(command=("tutorial", ["--set", "figures.\x1b[31m=1"]))
@given(
    command=st.sampled_from(sorted(RECIPES)).flatmap(
        lambda name: st.tuples(st.just(name), set_options(CompareConfig, RECIPES[name]))
    )
)
@settings(large, max_examples=60)  # some of which are valid
def test_any_set_option_survives_a_round_trip_or_is_rejected_in_one_line(
    path: Path, command: tuple[str, list[str]]
) -> None:
    source, changes = command
    check(path, source, *changes)


@example(command=("fine-tune", "demand", ["--set", f"experiment={HUGE.text}"]))
@given(
    command=st.sampled_from(sorted(FLOWS)).flatmap(
        lambda flow: st.tuples(
            st.just(flow),
            st.just("demand") | texts_of_all_kinds,
            set_options(FLOWS[flow], FLOWS[flow](experiment="demand", split={}).model_dump()),
        )
    )
)
@settings(large, max_examples=60)  # some of which are valid
def test_any_settings_of_a_flow_are_accepted_or_rejected_in_one_line(command: tuple[str, str, list[str]]) -> None:
    flow, experiment, changes = command
    code, out, errors = run(flow, "--dry-run", *changes, "--", experiment)
    if code == 0:
        assert errors == ""
        config = FLOWS[flow].model_validate(yaml.load(out))
        assert recipes.load_for_experiment(FLOWS[flow], experiment, changes[1::2]) == config
    else:
        error_line(code, out, errors)


@pytest.mark.parametrize("flow", sorted(FLOWS))
@given(data=st.data())
@large
def test_valid_settings_of_a_flow_are_accepted(flow: str, data: st.DataObject) -> None:
    values = data.draw(settings_of(FLOWS[flow]))
    changes = [part for name, value in values.items() for part in ("--set", f"{name}={written(value)}")]
    code, out, errors = run(flow, "--dry-run", *changes, "--", values["experiment"])
    assert (code, errors) == (0, "")
    assert includes(yaml.load(out), values)
