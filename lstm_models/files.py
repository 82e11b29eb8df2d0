"""Files that are whole or not there: sealed with a digest, synced to the disk, renamed; and the one before is kept."""

import hashlib
import os
import struct
from pathlib import Path

MARK = b"sha256:"
SEAL = len(MARK) + 64  # bytes
AT_ONCE = 2**20


def seal(path: Path) -> None:
    """Write a zip file's digest into it, as its comment: it stays a zip file, which torch loads.

    The digest is of all bytes but the last two, which tell the comment's length: a zip file's last field.
    """
    with open(path, "r+b") as file:
        end = file.seek(-2, os.SEEK_END)
        if file.read() != b"\0\0":
            raise ValueError(f"{path}: no zip file without a comment")
        digest = _digest(path, end)
        file.seek(end)
        file.write(struct.pack("<H", SEAL) + digest)


def is_altered(path: Path) -> bool:
    """Whether a file has a seal, and is not what was sealed."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - SEAL))
        found = file.read()
    return MARK in found and found != _digest(path, size - SEAL - 2)


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file its name, so that whoever looks, also after the machine has crashed, finds one that is whole.

    The one before stays, as `previous` calls it.
    """
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, previous(path))
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def previous(path: Path) -> Path:
    """Where the file lies that was at a path before."""
    return path.with_name(f"{path.name}.previous")


def _digest(path: Path, end: int) -> bytes:
    """The seal of a file's first bytes."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while end > 0 and (block := file.read(min(AT_ONCE, end))):
            content.update(block)
            end -= len(block)
    return MARK + content.hexdigest().encode()
