"""Folders that appear whole or not at all."""

from __future__ import annotations

import pytest

from sparsegate.errors import SparseGateError
from sparsegate_hw.synthesis.folders import making


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_appears_whole(tmp_path):
    with making(tmp_path / "deep" / "final", keep=lambda staging: False) as staging:
        (staging / "a").write_text("1")
        assert not (tmp_path / "deep" / "final").exists()
    assert names(tmp_path) == ["a", "deep", "final"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SparseGateError("it failed")])
def test_or_not_at_all(tmp_path, error):
    with (
        pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else SparseGateError),
        making(tmp_path / "final", keep=lambda staging: False) as staging,
    ):
        (staging / "a").write_text("1")
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [False, True])
def test_one_that_is_there_is_replaced_or_kept(tmp_path, keep):
    """What lies in it beside the new files stays."""
    final = tmp_path / "final"
    final.mkdir()
    for name in ("a", "mine"):
        (final / name).write_text("old")
    with making(final, keep=lambda staging: keep) as staging:
        (staging / "a").write_text("new")
    assert (final / "a").read_text() == ("old" if keep else "new")
    assert (final / "mine").read_text() == "old"
    assert names(tmp_path) == ["a", "final", "mine"]


def test_errors_name_the_folder_that_a_person_knows(tmp_path):
    with (
        pytest.raises(SparseGateError, match="^.*/final/a is bad$"),
        making(tmp_path / "final", keep=lambda staging: False) as staging,
    ):
        raise SparseGateError(f"{staging}/a is bad")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SparseGateError, match="cannot write .*file/final"):
        making(tmp_path / "file" / "final", keep=lambda staging: False).__enter__()
