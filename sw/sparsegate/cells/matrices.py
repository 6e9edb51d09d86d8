"""Names of a layer's matrices: the one place that tells them, of which all others ask."""

from __future__ import annotations

from typing import Literal, get_args

Key = Literal["x", "h", "p"]
"""Wx, Wh, and the projection."""
KEYS: tuple[Key, ...] = get_args(Key)
MATRIX_OF: dict[str, Key] = {"x": "x", "h": "h", "q": "h", "m": "p"}
"""Which of them multiplies a vector of the cell: the recurrent matrix sees h, or a GRU's q = r h."""
WEIGHT_FORMATS: dict[str, str] = {key: f"w{key}" for key in KEYS}
"""Name of the format of each one's weights."""
TITLES: dict[str, str] = {key: f"W{key}" for key in KEYS}
"""What a person reads."""
