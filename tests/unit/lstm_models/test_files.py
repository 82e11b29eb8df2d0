"""Files that are whole: every changed byte is found; a crash between two steps leaves one that is whole."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_models import files


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(50.0)}, path)
    files.seal(path)
    return path


def test_a_sealed_file_is_a_zip_file_that_torch_loads(sealed: Path) -> None:
    assert torch.load(sealed, weights_only=True)["a"].tolist() == list(range(50))
    with zipfile.ZipFile(sealed) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")
    assert not files.is_altered(sealed)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_one_changed_bit_is_found_wherever_it_is(sealed: Path, data: st.DataObject) -> None:
    content = sealed.read_bytes()
    # in the mark itself the file passes for one that was never sealed, and torch is to tell what it is
    mark = range(len(content) - files.SEAL, len(content) - files.SEAL + len(files.MARK))
    place = data.draw(st.integers(0, len(content) - 1).filter(lambda place: place not in mark))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = sealed.with_name("changed.pt")
    changed.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
    comment_length = len(content) - files.SEAL - 2
    assert files.is_altered(changed) == (place not in (comment_length, comment_length + 1))


def test_a_file_without_a_seal_is_not_altered_and_can_not_be_sealed_twice(sealed: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    for content in (b"", b"abc", b"x" * 1000):
        plain.write_bytes(content)
        assert not files.is_altered(plain)
    with pytest.raises(ValueError, match="no zip file without a comment"):
        files.seal(sealed)


def test_a_file_that_gets_its_name_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for text in ("one", "two", "three"):
        partial = tmp_path / "partial"
        partial.write_text(text)
        files.put_in_place(partial, path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "last.ckpt": "three",
        "last.ckpt.previous": "two",
    }


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("times", [0, 1])
def test_whatever_step_a_crash_comes_after_one_of_the_two_is_there(
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
        files.put_in_place(partial, path)
    found = path if path.exists() else files.previous(path)
    assert found.read_text() in ("before", "after")
