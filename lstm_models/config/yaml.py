"""Read and write configurations as YAML, without tags or duplicate keys; 1e-3 is a number, a date is text.

The input is limited in characters and in values, so that nested aliases (a "billion laughs" file) can't exhaust memory.
"""

import re
from typing import Any

import yaml

MAX_BYTES = 1_000_000  # in characters
MAX_VALUES = 100_000

# PyYAML follows YAML 1.1, which requires a dot before the exponent; YAML 1.2 does not.
_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789"))


class YamlError(ValueError):
    """Invalid YAML; the message names the line, the column and the fault."""


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.count = 0  # values so far, including the repetitions by aliases
        self.counts: dict[yaml.Node, int] = {}  # values in each node, including itself

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node and count its values."""
        previous_count, is_alias = self.count, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        # a node without a count is still open: the alias is inside the node it refers to, an infinite recursion
        self.count += self.counts.get(node, MAX_VALUES) if is_alias else 1
        if self.count > MAX_VALUES:
            raise YamlError(
                f"more than {MAX_VALUES:,} values, including repetitions by aliases; a configuration has fewer"
            )
        if not is_alias:
            self.counts[node] = self.count - previous_count
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; a duplicate key is an error."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Construct text; half of a surrogate pair is an error."""
        text = super().construct_scalar(node)
        try:
            # join surrogate pairs, which are JSON's escapes of characters beyond 16 bits
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(
                None, None, "half of a surrogate pair, such as \\ud83d", node.start_mark
            ) from None


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes text which the loader would read as a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)


def load(text: str) -> Any:
    """Return the value that a YAML text represents.

    Raises:
        YamlError: if the text is invalid YAML, has a Python tag or a duplicate key, or is too long.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES:,} characters; a configuration has fewer")
    try:
        return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        location = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise YamlError(f"not valid YAML{location}: {str(error.problem)[:200]}") from None
    except YamlError:
        raise
    except RecursionError:
        raise YamlError("not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        # PyYAML also raises built-in errors for values that do not fit their tag, such as `!!int ''`
        raise YamlError(f"not valid YAML: {str(error).partition(chr(10))[0] or type(error).__name__}") from None


def dump(values: Any) -> str:
    """Return YAML that `load` reads as the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False)
    return text
