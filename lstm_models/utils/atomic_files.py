"""Files that are whole or not there: sealed with a digest, synced to the disk, renamed; and the one before is kept.

And what torch.load is not to be handed, though it be with weights_only: what grows when it is read.
"""

import hashlib
import os
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

CHECKSUM_PREFIX = b"sha256:"
CHECKSUM_BYTES = len(CHECKSUM_PREFIX) + 64  # bytes
CHUNK_BYTES = 2**20
ALLOWED_GLOBALS = re.compile(r"torch \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)|collections OrderedDict")


class UnsafeFileError(ValueError):
    """A file is not to be loaded; the message says what is in it."""


def validate_tensor_file(source: Path | BinaryIO) -> None:
    """See to it that a zip file of torch.save's holds tensors and primitives, in its own size.

    weights_only runs no one's code, but it makes a bytearray of any length that a pickle asks for.

    Raises:
        Unsafe: if a record is compressed, or a pickle names anything but what tensors are made of.
        BadZipFile: if it is no zip file.
    """
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise UnsafeFileError(f"{info.filename[-60:]} in it is compressed")
            if info.filename.endswith("/data.pkl"):
                for opcode, named, _ in pickletools.genops(archive.read(info)):
                    if opcode.name.endswith("GLOBAL") and not ALLOWED_GLOBALS.fullmatch(str(named)):
                        name = str(named).replace(" ", ".") if named else "what it hides"
                        raise UnsafeFileError(f"its pickle names {name[:60]}, no part of a tensor")


def append_checksum(path: Path) -> None:
    """Write a zip file's digest into it, as its comment: it stays a zip file, which torch loads.

    The digest is of all bytes but the last two, which tell the comment's length: a zip file's last field.
    """
    with open(path, "r+b") as file:
        end = file.seek(-2, os.SEEK_END)
        if file.read() != b"\0\0":
            raise ValueError(f"{path}: no zip file without a comment")
        digest = _digest(path, end)
        file.seek(end)
        file.write(struct.pack("<H", CHECKSUM_BYTES) + digest)


def is_corrupted(path: Path) -> bool:
    """Whether a file has a seal, and is not what was sealed."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - CHECKSUM_BYTES))
        found = file.read()
    return CHECKSUM_PREFIX in found and found != _digest(path, size - CHECKSUM_BYTES - 2)


def atomic_replace(partial: Path, path: Path) -> None:
    """Give a file its name, so that whoever looks, also after the machine has crashed, finds one that is whole.

    The one before stays, as `previous` calls it.
    """
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, previous_path(path))
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def previous_path(path: Path) -> Path:
    """Where the file lies that was at a path before."""
    return path.with_name(f"{path.name}.previous")


def _digest(path: Path, end: int) -> bytes:
    """The seal of a file's first bytes."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while end > 0 and (block := file.read(min(CHUNK_BYTES, end))):
            content.update(block)
            end -= len(block)
    return CHECKSUM_PREFIX + content.hexdigest().encode()
