"""Small things that cells are wired with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Array, Cat, Const, Instance, Module, Signal, Value
from numpy.typing import NDArray


def kept(value: Value, name: str) -> Signal:
    """A register like ``value`` that no reset reaches, as those in multipliers and memories."""
    return Signal.like(value, name=name, reset_less=True)


def extended(value: Value, width: int) -> Signal | Value:
    """A signed value in more bits."""
    return Cat(value, value[-1].replicate(width - len(value)))


def pins(stem: str, value: Value) -> dict[str, Value]:
    """A port for every bit, as Lattice's cells have them."""
    return {f"{stem}{bit}": value[bit] for bit in range(len(value))}


def shifted_sum(rows: Sequence[Value]) -> Value:
    """sum of rows[k] << k, as a tree."""
    if len(rows) <= 1:
        return rows[0] if rows else Const(0)
    half = len(rows) // 2
    return shifted_sum(rows[:half]) + shifted_sum(rows[half:]).shift_left(half)


def choose(values: Sequence[Value], at: Value) -> Value:
    """One of the values; the only one without a multiplexer."""
    return Array(values)[at] if len(values) > 1 else values[0]


def wired(cell: Instance, out: Signal, value: Value) -> Module:
    """A cell and ``out``, which is ``value`` of its pins."""
    m = Module()
    m.submodules.cell = cell
    m.d.comb += out.eq(value)
    return m


def word_bits(words: Sequence[int], width: int, depth: int) -> NDArray[np.uint8]:
    """Bits of words, least significant first, zeros to ``depth``. (depth, width)"""
    size = -(-width // 8)
    raw = b"".join(word.to_bytes(size, "little") for word in words).ljust(depth * size, b"\0")
    return np.unpackbits(np.frombuffer(raw, np.uint8).reshape(depth, size), axis=1, bitorder="little")[:, :width]
