"""Atomic file replacement with checksums, and a safety check for files before torch.load.

A file is written in full, given a checksum, synced to the disk and renamed; its previous version is retained. The
safety check rejects files that torch.load would expand beyond their own size, even with weights_only.
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
    """A file is unsafe to load; the message names the offending content."""


def validate_tensor_file(source: Path | BinaryIO) -> None:
    """Raise if a zip file from torch.save holds anything but uncompressed tensors and primitives.

    weights_only prevents code execution, but it still allocates a bytearray of any length that a pickle requests.

    Raises:
        UnsafeFileError: if a record is compressed, or a pickle imports a global that tensors do not need.
        BadZipFile: if the file is not a zip file.
    """
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise UnsafeFileError(f"its record {info.filename[-60:]} is compressed")
            if info.filename.endswith("/data.pkl"):
                for opcode, argument, _ in pickletools.genops(archive.read(info)):
                    if opcode.name.endswith("GLOBAL") and not ALLOWED_GLOBALS.fullmatch(str(argument)):
                        name = str(argument).replace(" ", ".") if argument else "a hidden global"
                        raise UnsafeFileError(f"its pickle imports {name[:60]}, which is not part of a tensor")


def append_checksum(path: Path) -> None:
    """Append a zip file's SHA-256 digest to it as the zip comment; torch still loads the file.

    The digest covers all bytes but the last two: they hold the comment's length, the last field of a zip file.

    Raises:
        ValueError: if the file is not a zip file without a comment.
    """
    with open(path, "r+b") as file:
        end = file.seek(-2, os.SEEK_END)
        if file.read() != b"\0\0":
            raise ValueError(
                f"{path}: not a zip file, or it has a comment already; expected a zip file without a comment"
            )
        digest = _digest(path, end)
        file.seek(end)
        file.write(struct.pack("<H", CHECKSUM_BYTES) + digest)


def is_corrupted(path: Path) -> bool:
    """Return whether a file has a checksum that does not match its content."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - CHECKSUM_BYTES))
        checksum = file.read()
    return CHECKSUM_PREFIX in checksum and checksum != _digest(path, size - CHECKSUM_BYTES - 2)


def atomic_replace(partial: Path, path: Path) -> None:
    """Rename a partial file to its final path, so that a complete file exists at any time, even after a crash.

    The previous version is retained at `previous_path(path)`.
    """
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, previous_path(path))
    os.replace(partial, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def previous_path(path: Path) -> Path:
    """Return the path of the previous version of a file."""
    return path.with_name(f"{path.name}.previous")


def _digest(path: Path, end: int) -> bytes:
    """Return the checksum of a file's first `end` bytes."""
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while end > 0 and (block := file.read(min(CHUNK_BYTES, end))):
            content.update(block)
            end -= len(block)
    return CHECKSUM_PREFIX + content.hexdigest().encode()
