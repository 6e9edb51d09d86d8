from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from sparsegate.errors import SparseGateError
from sparsegate_sim import cache


def test_digests_tell_parts_apart() -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
    assert cache.digest("ab", "c") == cache.digest("ab", "c")


def test_a_build_is_made_once(tmp_path) -> None:
    made = []

    def build(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    first = cache.built("key", build, tmp_path / "new" / "folder")
    assert (first / "file").read_text() == "content"
    assert cache.built("key", build, tmp_path / "new" / "folder") == first
    assert len(made) == 1
    assert sorted(path.name for path in first.parent.iterdir()) == ["key"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_build_that_fails_or_is_interrupted_leaves_nothing(tmp_path, error) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise error

    with pytest.raises(error):
        cache.built("key", build, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert cache.built("key", lambda folder: None, tmp_path).is_dir()


def test_two_that_want_the_same_build_make_it_once(tmp_path) -> None:
    made = []

    def build(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)

    threads = [threading.Thread(target=cache.built, args=("key", build, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SparseGateError, match="cannot write .*file"):
        cache.built("key", lambda folder: None, tmp_path / "file")
    with pytest.raises(SparseGateError, match="cannot write .*file"), cache.scratch(tmp_path / "file" / "deeper"):
        pass


def test_scratch_folders_vanish(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), cache.scratch(tmp_path) as folder:
        (folder / "something").write_text("here")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_root_follows_the_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SPARSEGATE_BUILD", str(tmp_path))
    assert cache.root() == tmp_path / "sim"
    monkeypatch.delenv("SPARSEGATE_BUILD")
    monkeypatch.chdir(tmp_path)
    assert cache.root() == tmp_path / "build" / "sim"
