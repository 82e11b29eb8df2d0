"""Errors that name what the user gave, in one line."""


def one_line(text: str) -> str:
    """Return a message without line breaks and control characters, so that a terminal shows it as it is."""
    letters = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(text.split()))
    return "".join(letters)


class UserError(ValueError):
    """The user's input can't be used. The message is one line: what, the given value, and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class TableError(UserError):
    """A table can't be used; the message names the column, the row and the fault."""


class UnreachableError(TableError):
    """A table's database or storage was not reached; a retry may succeed."""
