"""Configurations at length: what is right comes back as it was written; what is wrong is one line, whatever it is."""

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
from flows.cli import main
from lstm_models import yaml_text
from lstm_models.config import CompareConfig, Config, Contender, EvaluateConfig, FineTuneConfig, Sql
from lstm_models.config.compare import RESERVED_NAMES
from lstm_models.config.data import WRITTEN

LARGEST = 2**63 - 1
FLOWS: dict[str, type[Config]] = {"fine-tune": FineTuneConfig, "evaluate": EvaluateConfig}
slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def few(examples: int) -> settings:
    """For every run the same examples; a shared machine may pause for longer than by default."""
    return settings(derandomize=True, deadline=None, max_examples=examples, suppress_health_check=slow)


def said(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process, on streams such as a terminal's: exit code, standard output, standard error."""
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


def refused(code: int, out: str, errors: str) -> str:
    """Its one line, of a command that was refused."""
    assert (code, out) == (2, ""), errors
    assert errors.startswith("lstm-flows: ")
    assert errors.endswith("\n")
    line = errors[:-1]
    assert line.isprintable(), "one line, and nothing that a terminal obeys"
    assert "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad") / "my.yaml"


# ---- what is right, by the fields of the settings
class Kind(NamedTuple):
    """What a field may hold: its type, and what narrows that down."""

    type: Any
    narrowed: tuple[Any, ...] = ()

    def bound(self, name: str) -> Any:
        """Such as `ge`, or `min_length`; None where there is none."""
        return next((getattr(each, name) for each in self.narrowed if hasattr(each, name)), None)

    @property
    def check(self) -> str | None:
        """What the function is called that the text has to pass."""
        return next((each.func.__name__ for each in self.narrowed if hasattr(each, "func")), None)

    def plain(self) -> "Kind":
        """Without Annotated."""
        if get_origin(self.type) is not Annotated:
            return self
        first, *more = get_args(self.type)
        flat = [part for each in more for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return Kind(first, (*self.narrowed, *flat)).plain()

    def several(self) -> "list[Kind]":
        """Of a union its types, each by itself."""
        kind = self.plain()
        inner = get_args(kind.type) if get_origin(kind.type) in (Union, UnionType) else None
        return [found for each in inner for found in Kind(each, kind.narrowed).several()] if inner else [kind]


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


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """All that a field may hold, as YAML gives it."""
    return st.one_of([_values_of(each) for each in kind.several()])


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
    """A section's values: the required ones, any of the others; and those made to fit together that have to."""
    needed = {name for name, field in config.model_fields.items() if field.is_required()} | {"kind"}
    strategies = {name: values_of(kind) for name, kind in fields(config).items()}
    values = draw(
        st.fixed_dictionaries(
            {name: values for name, values in strategies.items() if name in needed},
            optional={name: values for name, values in strategies.items() if name not in needed},
        )
    )
    return fit(draw, config, values)


def fit(draw: st.DrawFn, config: type[Config], values: dict[str, Any]) -> dict[str, Any]:
    """A section's values after the rules that hold between them."""
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
            named = [name for name in draw(st.lists(texts, min_size=6, max_size=6, unique=True)) if name not in WRITTEN]
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
                    contender["training"].pop("log_outputs", None)
                else:
                    contender["training"].pop("patience", None)
            if of_table and draw(st.booleans()):
                del values["contenders"]
        case "FineTuneConfig":
            if values.get("mode", "resume") == "resume":
                values.pop("learning_rate", None)
    return values


right = settings_of(CompareConfig)


def written(value: Any) -> str:
    """YAML of anything, in one line: JSON, where JSON has words for it; and text of a Raw's as it is."""
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
    return json.dumps(value).replace("\x7f", r"\u007f")  # which YAML takes in no other way


class Raw(NamedTuple):
    """Text that stands in YAML as it is."""

    text: str


def holds(found: Any, given: Any) -> bool:
    """Whether all that was given is there; more may be."""
    if isinstance(given, dict):
        return isinstance(found, dict) and all(name in found and holds(found[name], given[name]) for name in given)
    return bool(found == given)


def check_right(path: Path, out: str) -> CompareConfig:
    """What a dry run has printed runs as it is: it prints the same again."""
    path.write_text(out, encoding="utf-8")
    assert said("compare", str(path), "--dry-run") == (0, out, "")
    return recipes.load(str(path))


SMALL: dict[str, Any] = {
    "model": {"kind": "hand_built"}, "training": {"max_epochs": 1}, "fine_tuning": {"max_epochs": 2}
}  # fmt: skip
OF_TABLE: dict[str, Any] = {"kind": "table", "path": "a.csv", "target": "y"}


@example(values={"data": OF_TABLE | {"target": "😀"}}, write=written)  # as JSON has it, in two halves
@given(values=right, write=st.sampled_from([written, yaml_text.write]))
@few(40)
def test_what_is_right_comes_back_as_it_was_written(
    path: Path, values: dict[str, Any], write: Callable[[Any], str]
) -> None:
    path.write_text(write(values), encoding="utf-8")
    config = recipes.load(str(path))
    assert holds(config.model_dump(mode="json"), values)
    code, out, errors = said("compare", str(path), "--dry-run")
    assert (code, errors) == (0, "")
    assert check_right(path, out) == config


# ---- what is wrong: one thing of what is right
def places(kind: Kind, value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Kind]]:
    """Where in a configuration there is something, and what may be there."""
    yield path, kind
    for each in kind.several():
        inner = [Kind(arg) for arg in get_args(each.type)]
        if get_origin(each.type) is dict and isinstance(value, dict):
            for name in value:
                yield from places(inner[1], value[name], (*path, name))
        elif get_origin(each.type) is list and isinstance(value, list):
            for index, item in enumerate(value):
                yield from places(inner[0], item, (*path, index))
        elif isinstance(value, dict) and is_section(each.type) and is_of(each.type, value):
            for name, of_field in fields(each.type).items():
                if name in value:
                    yield from places(of_field, value[name], (*path, name))


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def is_of(config: type[Config], value: dict[str, Any]) -> bool:
    """Whether these are the values of this one of several sections."""
    kinds = fields(config).get("kind")
    return kinds is None or value.get("kind") in get_args(kinds.type)


def may_be(kind: Kind, value: Any) -> bool:
    """Whether a value may be right here: False only where it is wrong for certain."""
    return any(_may_be(each, value) for each in kind.several())


def _may_be(kind: Kind, value: Any) -> bool:
    inner = [Kind(each) for each in get_args(kind.type)]
    match get_origin(kind.type) or kind.type:
        case origin if origin is Literal:
            return value in get_args(kind.type) and not isinstance(value, bool | float)
        case origin if origin is list:
            least = kind.bound("min_length") or 0
            return isinstance(value, list) and len(value) >= least and all(may_be(inner[0], each) for each in value)
        case origin if origin is dict:
            names = [name for name in value if may_be(inner[0], name)] if isinstance(value, dict) else []
            return bool(names) and all(name in names and may_be(inner[1], value[name]) for name in value)
        case scalar if scalar is NoneType:
            return value is None
        case scalar if scalar is bool:
            return isinstance(value, bool)
        case scalar if scalar is str:
            return isinstance(value, str) and (kind.check is None or bool(NAME.fullmatch(value)))
        case scalar if scalar in (int, float):
            whole = isinstance(value, int) and abs(value) <= LARGEST
            number = whole or (scalar is float and isinstance(value, float) and math.isfinite(value))
            return number and not isinstance(value, bool) and is_within(kind, value)
    # null takes a contender away
    return (value is None and kind.type is Contender) or (
        isinstance(value, dict) and value.keys() <= fields(kind.type).keys()
    )


NAME = re.compile(r"[A-Za-z0-9_]([\w.-]*)")  # of any kind


def is_within(kind: Kind, value: float) -> bool:
    ge, gt, le, lt = (kind.bound(name) for name in ("ge", "gt", "le", "lt"))
    return (
        (ge is None or value >= ge) and (gt is None or value > gt) and (le is None or value <= le)
        and (lt is None or value < lt)
    )  # fmt: skip


HUGE = Raw("0x" + 5000 * "f")  # Python writes no whole number of as many digits
numbers = st.sampled_from([0, -1, 2**32, 2**63, -(2**63), 10**400, -(10**400), HUGE, 0.5, -0.0, 5e-324, 1e31, 1e308])
odd = st.sampled_from([math.nan, math.inf, -math.inf])
texts_of_all_kinds = st.one_of(
    st.text(max_size=10),
    st.text("\0\x07\x1b\x7f\x85\u2028\u202e\ufeff\n\r\t ", min_size=1, max_size=4),
    st.sampled_from(["x" * 5000, "x\ny", "\x1b[31mred", "1", "null", "", " ", "{}", "%s", "{fault}", "{0}", "é", "😀"]),
).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))
scalars = st.none() | st.booleans() | st.integers() | numbers | st.floats() | odd | texts_of_all_kinds
things = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=5
)


def deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


anything = things | st.just([1] * 300) | st.integers(1, 60).map(deep)


def changed(value: Any, path: tuple[Any, ...], by: Callable[[Any], Any]) -> Any:
    """A copy of nested values with another one at a place."""
    if not path:
        return by(value)
    name, *rest = path
    if isinstance(value, list):
        return [changed(item, tuple(rest), by) if index == name else item for index, item in enumerate(value)]
    return {key: changed(item, tuple(rest), by) if key == name else item for key, item in value.items()}


@st.composite
def wrong(draw: st.DrawFn, config: type[Config], settings: bool = False) -> dict[str, Any]:
    """A right configuration, or settings that --set can give, with one thing wrong for certain."""
    given = draw(settings_of(config))
    found = list(places(Kind(config), given))
    sections = [(path, kind) for path, kind in found if isinstance(at(given, path), dict)]
    if settings:
        found = [(path, kind) for path, kind in found if path not in [(), ("experiment",)]]
    match draw(st.sampled_from(["value", "key"][not found :] if settings else ["value", "key", "twice", "missing"])):
        case "value":
            path, kind = draw(st.sampled_from(found))
            value = draw(anything.filter(lambda value: not may_be(kind, value)))
            return changed(given, path, lambda _: value)
        case "key":
            path, kind = draw(st.sampled_from(sections))
            known = {name for each in kind.several() if is_section(each.type) for name in each.type.model_fields}
            key = draw(scalars.filter(lambda key: key not in known and not (isinstance(key, str) and NAME.match(key))))
            value = draw(anything.filter(lambda value: value is not None))  # which takes a contender away, of any name
            return changed(given, path, lambda section: {**section, key: value})
        case "twice":
            path, _ = draw(st.sampled_from([(path, kind) for path, kind in sections if at(given, path)]))
            section = at(given, path)
            pairs = [f"{written(key)}: {written(section[key])}" for key in section]
            pairs.append(draw(st.sampled_from(pairs)))
            return changed(given, path, lambda _: Raw("{" + ", ".join(pairs) + "}"))
    of_table = given.get("data", {}).get("kind") == "table"
    needed = [
        (path, name)
        for path, kind in sections
        for each in kind.several()
        if is_section(each.type) and is_of(each.type, at(given, path))
        for name, field in each.type.model_fields.items()
        if name in at(given, path)
        and field.is_required()
        # the file's name will do; and a table's contenders need nothing
        and name != "experiment"
        and not (of_table and "contenders" in (*path, name))
    ]
    assume(needed)
    path, name = draw(st.sampled_from(needed))
    return changed(given, path, lambda section: {key: value for key, value in section.items() if key != name})


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


HALF = Raw(r'"\ud800"')  # a character of which the other half is missing


@example(values={"contenders": {"a": SMALL}, HALF: 1})
@example(values={"data": OF_TABLE | {"path": HALF}})
@example(values={"contenders": {"a": SMALL}, "\x1b[31m": 1})
@example(values={"contenders": {"a": SMALL | {"fine_tuning": {"max_epochs": 10**400}}}})
@example(values={"contenders": {"a": SMALL | {"fine_tuning": {"max_epochs": HUGE}}}})
@example(values={"contenders": {"a": SMALL}, "figures": {"gates_of": [2**63]}})
@example(values={"data": OF_TABLE | {"split": {"train": -(2**63)}}})
@given(values=wrong(CompareConfig))
@few(60)
def test_what_is_wrong_is_one_line(path: Path, values: dict[str, Any]) -> None:
    path.write_text(written(values), encoding="utf-8")
    assert refused(*said("compare", str(path), "--dry-run")).startswith(f"lstm-flows: {path}: ")


def test_many_faults_are_told_in_short(path: Path) -> None:
    path.write_text(written({"data": OF_TABLE | {"features": [1] * 1000}}))
    line = refused(*said("compare", str(path), "--dry-run"))
    assert line.count("1 given, must be a valid string; ") == 10
    assert line.endswith("; and 990 more")


# ---- what may be right or wrong: it runs and comes back, or it is one line
def check(path: Path, *arguments: str) -> None:
    code, out, errors = said("compare", *arguments, "--dry-run")
    if code == 0:
        assert errors == ""
        check_right(path, out)
    else:
        refused(code, out, errors)


TOKENS = [
    "1e3",
    ".5",
    "1.",
    "1_000",
    "0o17",
    "017",
    "0x1F",
    "0b11",
    "1:30",
    "+1",
    "~",
    "null",
    "yes",
    "no",
    "on",
    "off",
    "True",
    ".nan",
    ".inf",
    "-.INF",
    "2024-01-31",
    "2024-01-31T12:00:00Z",
    "=",
    "<<",
    "?",
    "-",
    ":",
    ",",
    "[",
    "]",
    "{",
    "}",
    "&",
    "*",
    "!",
    "|",
    ">",
    "%",
    "@",
    "`",
    "#",
    "'",
    '"',
    "&a",
    "*a",
    "!!int",
    "!!str",
    "!!float",
    "!!set",
    "!!omap",
    "!!binary",
    "!!timestamp",
    "!!python/none",
    "---",
    "...",
    "%YAML",
    "seed:",
    "contenders:",
    "data:",
    "experiment:",
    "{kind:",
    "tutorial}",
    "{kind:",
    "table}",
    "kind:",
    "a",
    "b",
]
tokens = st.lists(st.sampled_from([*TOKENS, "\n", "\n  ", " ", "\t"]) | texts_of_all_kinds, max_size=8)
somehow = tokens.map(" ".join) | tokens.map("".join) | st.text(max_size=20)


@st.composite
def altered(draw: st.DrawFn, values: st.SearchStrategy[dict[str, Any]]) -> str:
    """The text of a right configuration with anything at one place."""
    given = draw(values)
    path = draw(st.sampled_from([path for path, _ in places(Kind(CompareConfig), given)]))
    value = draw(anything | somehow.map(Raw))
    return written(changed(given, path, lambda _: value))


@given(content=altered(right) | somehow | st.binary(max_size=40))
@few(100)
def test_any_file_runs_and_comes_back_or_is_one_line(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    check(path, str(path))


@given(source=st.text(max_size=20) | texts_of_all_kinds | somehow.map(lambda text: f"{text}.yaml"))
@few(50)
def test_any_source_is_one_line(source: str) -> None:
    refused(*said("compare", "--dry-run", "--", source))


@st.composite
def keys(draw: st.DrawFn, config: type[Config], values: dict[str, Any]) -> str:
    """What --set may name, and what it may not."""
    path, _ = draw(st.sampled_from(list(places(Kind(config), values))))
    more = draw(st.lists(st.sampled_from([*config.model_fields, "kind", "x", ""]) | texts_of_all_kinds, max_size=2))
    return ".".join([*map(str, path), *more])


def settings_given(config: type[Config], values: dict[str, Any]) -> st.SearchStrategy[list[str]]:
    pairs = st.builds("{}={}".format, keys(config, values), anything.map(written) | somehow)
    return st.lists(pairs | somehow, min_size=1, max_size=3)


RECIPES = {name: recipes.load(name).model_dump(mode="json") for name in ("tutorial", "forecast")}


@example(given=("tutorial", [f"experiment={HUGE.text}"]))
@example(given=("tutorial", ["figures.\x1b[31m=1"]))
@given(
    given=st.one_of(
        [st.tuples(st.just(name), settings_given(CompareConfig, values)) for name, values in RECIPES.items()]
    )
)
@few(100)
def test_any_set_runs_and_comes_back_or_is_one_line(path: Path, given: tuple[str, list[str]]) -> None:
    source, changes = given
    check(path, source, *[part for change in changes for part in ("--set", change)])


@example(given=("fine-tune", "demand", [f"experiment={HUGE.text}"]))
@given(
    given=st.sampled_from(sorted(FLOWS)).flatmap(
        lambda flow: st.tuples(
            st.just(flow),
            st.just("demand") | texts_of_all_kinds,
            settings_given(FLOWS[flow], FLOWS[flow](experiment="demand", split={}).model_dump()),
        )
    )
)
@few(100)
def test_any_settings_of_a_flow_on_an_experiment_are_taken_or_are_one_line(given: tuple[str, str, list[str]]) -> None:
    flow, experiment, changes = given
    code, out, errors = said(
        flow, "--dry-run", *[part for change in changes for part in ("--set", change)], "--", experiment
    )
    if code == 0:
        assert errors == ""
        config = FLOWS[flow].model_validate(yaml_text.read(out))
        assert recipes.of_experiment(FLOWS[flow], experiment, changes) == config
    else:
        refused(code, out, errors)


@given(
    given=st.sampled_from(sorted(FLOWS)).flatmap(
        lambda flow: st.tuples(st.just(flow), settings_of(FLOWS[flow]), wrong(FLOWS[flow], settings=True))
    )
)
@few(60)
def test_the_settings_of_a_flow_on_an_experiment(given: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    flow, right, wrong = given
    code, out, errors = said(flow, "--dry-run", *as_changes(right), "--", right["experiment"])
    assert (code, errors) == (0, "")
    assert holds(yaml_text.read(out), right)
    refused(*said(flow, "--dry-run", *as_changes(wrong), "--", wrong["experiment"]))


def as_changes(values: dict[str, Any]) -> list[str]:
    pairs = [f"{name}={written(value)}" for name, value in values.items()]
    return [part for pair in pairs for part in ("--set", pair)]
