"""What an error has to say, whatever its words: the thing, the value, the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def names_all(message: object, *parts: object) -> bool:
    """Return whether an error, or a line of output, is one line and holds each of these parts.

    An assertion on it shows the message: `assert names_all(caught.value, "data.split", 0.9, "at most 1")`.
    """
    text = str(message).rstrip("\n")
    missing = [part for part in map(str, parts) if part not in text]
    assert not missing, f"{missing} not in {text!r}"
    assert "\n" not in text, f"more than one line: {text!r}"
    return True


def refused(kind: type[Exception], *parts: object) -> "pytest.RaisesExc[Exception]":
    """pytest.raises, of an error that is one line and holds each of these parts."""
    return pytest.raises(kind, check=lambda error: names_all(error, *parts) and "\n" not in str(error))


@contextmanager
def refused_at(kind: type[Exception], place: object, *parts: object) -> Iterator[None]:
    """The block raises an error that begins with a place, such as a file's path, and names all parts."""
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value).startswith(f"{place}: ")
    assert names_all(caught.value, *parts)
