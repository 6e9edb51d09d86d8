"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsegate.errors import SparseGateError


@contextmanager
def making(final: str | Path, keep: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a new folder beside ``final``; on success it becomes ``final``, after a failure or Ctrl-C nothing of it is left.

    Where ``final`` is there already, perhaps from another process, ``keep(staging)`` says whether it stays as it is. If not, it
    is replaced; what it holds beside the new files is kept.
    """
    final = Path(final).absolute()
    staging = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        _put(staging, final, keep)
    except OSError as error:
        raise SparseGateError(f"cannot write {final}: {error.strerror or error}") from error
    except SparseGateError as error:
        if str(staging) not in str(error):
            raise
        # a person knows the folder by the name that it would have had
        raise SparseGateError(str(error).replace(str(staging), str(final))) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put(staging: Path, final: Path, keep: Callable[[Path], bool]) -> None:
    try:
        os.rename(staging, final)  # also onto an empty folder
        return
    except OSError:
        if not final.is_dir():
            raise
    if keep(staging):  # another process was first
        return
    aside = staging.with_name(f"{staging.name}.old")
    try:
        os.rename(final, aside)
        os.rename(staging, final)
        for entry in sorted(aside.iterdir()):
            if not (final / entry.name).exists():
                os.rename(entry, final / entry.name)
    finally:
        if aside.exists() and not final.exists():
            os.rename(aside, final)
        shutil.rmtree(aside, ignore_errors=True)
