"""Configurations as text: YAML without tags, without a key given twice, with 1e-3 as the number, dates as the text.

What is read is bounded: in characters, and in values, so that no alias of an alias of an alias fills the memory.
"""

import re
from typing import Any

import yaml

MAX_BYTES = 1_000_000  # characters
MAX_VALUES = 100_000

# PyYAML wants a dot before the exponent, as YAML 1.1 does; YAML 1.2 does not.
_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789"))


class YamlError(ValueError):
    """A text is no YAML that can be used; the message tells the place and the fault."""


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.count = 0  # values so far, each as often as aliases repeat it
        self.counts: dict[yaml.Node, int] = {}  # of each value's own, itself included

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, is_alias = self.count, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        # an alias inside of what it names: not counted yet, and without end
        self.count += self.counts.get(node, MAX_VALUES) if is_alias else 1
        if self.count > MAX_VALUES:
            raise YamlError(f"more than {MAX_VALUES:,} values, with what aliases repeat; a configuration has fewer")
        if not is_alias:
            self.counts[node] = self.count - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")  # as JSON escapes what is beyond 16 bits
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(
                None, None, "it has half of a character, such as \\ud83d", node.start_mark
            ) from None


class _Dumper(yaml.SafeDumper):
    """Quotes the text that the loader would read as a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)


def load(text: str) -> Any:
    """The value that a YAML text stands for.

    Raises:
        YamlError: for whatever is no YAML, carries a tag of Python's, gives a key twice, or is too long.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES:,} characters; a configuration has fewer")
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise YamlError(f"not valid YAML{place}: {str(error.problem)[:200]}") from None
    except YamlError:
        raise
    except RecursionError:
        raise YamlError("not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        # besides its own, PyYAML raises these for values that do not fit their tag, such as `!!int ''`
        raise YamlError(f"not valid YAML: {str(error).partition(chr(10))[0] or type(error).__name__}") from None


def dump(values: Any) -> str:
    """YAML that `read` turns into the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False)
    return text
