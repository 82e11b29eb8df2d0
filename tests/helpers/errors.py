"""Assertions on the facts in an error message: the field, the value, the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def names_all(message: object, *parts: object) -> bool:
    """Assert that an error, or a line of output, is one line and contains each of these parts; return True.

    Use it as `assert names_all(caught.value, "data.split", 0.9, "at most 1")`.
    """
    text = str(message).rstrip("\n")
    missing = [part for part in map(str, parts) if part not in text]
    assert not missing, f"{missing} not in {text!r}"
    assert "\n" not in text, f"more than one line: {text!r}"
    return True


def refused(kind: type[Exception], *parts: object) -> "pytest.RaisesExc[Exception]":
    """Return pytest.raises for an error whose message is one line and contains each of these parts."""
    return pytest.raises(kind, check=lambda error: names_all(error, *parts) and "\n" not in str(error))


@contextmanager
def refused_at(kind: type[Exception], location: object, *parts: object) -> Iterator[None]:
    """Assert that the block raises an error that starts with a location, such as a file's path, and names all parts."""
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value).startswith(f"{location}: ")
    assert names_all(caught.value, *parts)
