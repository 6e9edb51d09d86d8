"""Compiled simulations, addressed by content: the same design, tools and flags are never built twice."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsegate.errors import SparseGateError


def root() -> Path:
    """Where compiled simulations live: ``build/sim``, or ``$SPARSEGATE_BUILD/sim``."""
    return Path(os.environ.get("SPARSEGATE_BUILD", "build")).resolve() / "sim"


def digest(*parts: str) -> str:
    """Short content digest of everything that decides a build."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode()
        state.update(f"{len(data)}:".encode() + data)
    return state.hexdigest()[:20]


def built(key: str, build: Callable[[Path], None], folder: Path | None = None) -> Path:
    """The folder of a build, made by ``build(temporary folder)`` unless it exists.

    A build appears whole or not at all; two processes that want the same one wait for each other instead of building twice.
    """
    folder = root() if folder is None else Path(folder)
    target = folder / key
    if target.is_dir():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{key}.lock"):
            if target.is_dir():
                return target
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder))
            try:
                build(temporary)
                temporary.chmod(0o755)
                try:
                    temporary.rename(target)
                except OSError:
                    # somebody else's equal build may have come first
                    if not target.is_dir():
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise SparseGateError(f"cannot write {folder}: {error.strerror or error}") from error
    return target


@contextmanager
def scratch(folder: Path, log: str | None = None) -> Iterator[Path]:
    """A temporary folder inside ``folder``, removed whatever happens; its file ``log`` is kept in ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".run-", dir=folder))
    except OSError as error:
        raise SparseGateError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield temporary
    finally:
        # written in the temporary folder, so that two runs never share one
        if log is not None and (temporary / log).exists():
            (temporary / log).replace(folder / log)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # removed while still held: whoever waits on it finds the finished build, whoever comes later makes a new file
            path.unlink(missing_ok=True)
