"""Delay lines."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal


def delay(m: Module, value: Any, cycles: int, name: str, reset_less: bool = False) -> Any:
    """``value``, of any shape, so many cycles later, in registers ``<name>_1``, ``<name>_2``, ... (none: the value itself).

    ``reset_less``: for data, whose validity is known elsewhere; a reset is one more net to every corner.
    """
    for cycle in range(1, cycles + 1):
        register = Signal.like(value, name=f"{name}_{cycle}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
