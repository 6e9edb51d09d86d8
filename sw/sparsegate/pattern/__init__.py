"""Sparsity patterns behind one interface, :class:`Pattern`: the hardware's N:M, and those that it is compared with."""

from __future__ import annotations

import re
from collections.abc import Callable

from sparsegate.errors import SparseGateError
from sparsegate.pattern.bank_balanced import BankBalanced
from sparsegate.pattern.base import Pattern, Storage
from sparsegate.pattern.block import Block
from sparsegate.pattern.column_balanced import ColumnBalanced
from sparsegate.pattern.load_balanced import LoadBalanced
from sparsegate.pattern.nm import DENSE, MAX_BLOCK, NM, Wanted, blocked, common_block, pair, unblocked
from sparsegate.pattern.unstructured import Unstructured

Written = str | Pattern | tuple[str | Pattern, str | Pattern]
"""How the patterns of Wx and Wh may be written: one for both matrices, or a pair."""

_SHARE, _SIZE = r"([\d./]+)", r"(\d{1,9})"
_FORMS: dict[str, Callable[..., Pattern]] = {
    rf"{_SIZE}:{_SIZE}": lambda n, m: NM(int(n), int(m)),
    "dense": lambda: DENSE,
    rf"unstructured:{_SHARE}": Unstructured,
    rf"bbs:{_SIZE}:{_SIZE}": lambda n, m: BankBalanced(int(n), int(m)),
    rf"ese:{_SHARE}:{_SIZE}": lambda share, elements: LoadBalanced(share, int(elements)),
    rf"block:{_SHARE}:{_SIZE}x{_SIZE}(?::(max))?": lambda share, height, width, measure: Block(
        share, int(height), int(width), measure or "norm"
    ),
    rf"cbtd:{_SHARE}:{_SIZE}": lambda share, subcolumns: ColumnBalanced(share, int(subcolumns)),
}


def parse(text: str | Pattern) -> Pattern:
    """The pattern of a text: N:M, bank-balanced rows of N:M, or a density with what the pattern needs to know besides."""
    if isinstance(text, Pattern):
        return text
    for form, make in _FORMS.items():
        match = re.fullmatch(form, str(text), re.ASCII)
        if match:
            return make(*match.groups())
    raise SparseGateError(
        "a pattern is written like '2:16', 'dense', 'unstructured:1/8', 'bbs:2:16', 'ese:1/8:16', 'block:1/8:4x4' or "
        f"'cbtd:1/8:8', not {text!r}"
    )


def both(wanted: Written) -> tuple[Pattern, Pattern]:
    """Patterns of Wx and Wh."""
    values = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    if len(values) != 2:
        raise SparseGateError(f"a pattern is one for both matrices or a pair for Wx and Wh, not {len(values)} values")
    return parse(values[0]), parse(values[1])


__all__ = [
    "DENSE",
    "MAX_BLOCK",
    "NM",
    "BankBalanced",
    "Block",
    "ColumnBalanced",
    "LoadBalanced",
    "Pattern",
    "Storage",
    "Unstructured",
    "Wanted",
    "Written",
    "blocked",
    "both",
    "common_block",
    "pair",
    "parse",
    "unblocked",
]
