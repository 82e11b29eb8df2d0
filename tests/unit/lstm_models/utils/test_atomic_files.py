"""Atomic files: the checksum detects every changed byte; a crash between two steps leaves a complete file."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_models.utils import atomic_files


@pytest.fixture(scope="module")
def with_checksum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("with_checksum") / "a.pt"
    torch.save({"a": torch.arange(50.0)}, path)
    atomic_files.append_checksum(path)
    return path


def test_a_file_with_a_checksum_is_a_zip_file_that_torch_loads_and_gets_no_second_one(with_checksum: Path) -> None:
    assert torch.load(with_checksum, weights_only=True)["a"].tolist() == list(range(50))
    with zipfile.ZipFile(with_checksum) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")
    assert not atomic_files.is_corrupted(with_checksum)
    with pytest.raises(ValueError, match="comment"):
        atomic_files.append_checksum(with_checksum)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_checksum_detects_a_changed_bit_at_any_offset(
    with_checksum: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = with_checksum.read_bytes()
    # with a changed prefix the file counts as one without a checksum; torch.load has to detect the corruption
    prefix = range(
        len(content) - atomic_files.CHECKSUM_BYTES,
        len(content) - atomic_files.CHECKSUM_BYTES + len(atomic_files.CHECKSUM_PREFIX),
    )
    offset = data.draw(st.integers(0, len(content) - 1).filter(lambda offset: offset not in prefix))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = tmp_path / "changed.pt"
    changed.write_bytes(content[:offset] + bytes([content[offset] ^ bit]) + content[offset + 1 :])
    comment_length = len(content) - atomic_files.CHECKSUM_BYTES - 2
    assert atomic_files.is_corrupted(changed) == (offset not in (comment_length, comment_length + 1))


@pytest.mark.parametrize("size", [atomic_files.CHUNK_BYTES - 100, 2 * atomic_files.CHUNK_BYTES + 1])
def test_the_checksum_covers_all_blocks_of_a_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "large"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zeros", bytes(size))
    atomic_files.append_checksum(path)
    assert not atomic_files.is_corrupted(path)
    content = bytearray(path.read_bytes())
    content[size // 2] ^= 1
    path.write_bytes(content)
    assert atomic_files.is_corrupted(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"x" * 1000])
def test_a_file_without_a_checksum_is_not_corrupted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plain"
    path.write_bytes(content)
    assert not atomic_files.is_corrupted(path)


def test_the_file_is_synced_before_it_is_renamed_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, partial = tmp_path / "last.ckpt", tmp_path / "partial"
    calls: list[tuple[str, ...]] = []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(descriptor: int) -> None:
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def spied_replace(old: Path, new: Path) -> None:
        calls.append(("replace", Path(old).name, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    first = [("fsync", "partial"), ("replace", "partial", "last.ckpt"), ("fsync", tmp_path.name)]
    later = [first[0], ("replace", "last.ckpt", "last.ckpt.previous"), *first[1:]]
    for text, expected in (("one", first), ("two", later), ("three", later)):
        partial.write_text(text)
        calls.clear()
        atomic_files.atomic_replace(partial, path)
        assert calls == expected
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "last.ckpt": "three",
        "last.ckpt.previous": "two",
    }


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("times", [0, 1])
def test_after_a_crash_at_any_step_the_old_or_the_new_file_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    path, partial = tmp_path / "last.ckpt", tmp_path / "partial"
    path.write_text("before")
    partial.write_text("after")
    done, real = [], getattr(os, call)

    def crashing(*arguments: object) -> object:
        if len(done) == times:
            raise KeyboardInterrupt
        done.append(call)
        return real(*arguments)

    monkeypatch.setattr(os, call, crashing)
    with pytest.raises(KeyboardInterrupt):
        atomic_files.atomic_replace(partial, path)
    remaining = path if path.exists() else atomic_files.previous_path(path)
    assert remaining.read_text() in ("before", "after")
