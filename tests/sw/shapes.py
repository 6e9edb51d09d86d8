"""Strategies that draw networks of the whole family: every kind, direction, projection and head."""

from __future__ import annotations

from hypothesis import strategies as st

from sparsegate.cells import CELLS, cell
from sparsegate.network.synthetic import Shape
from sparsegate.pattern import NM
from sparsegate.quantize import QuantizeConfig

RECURRENT = [kind for kind, what in CELLS.items() if what.recurrent]
HEADS = [kind for kind, what in CELLS.items() if not what.recurrent]

patterns = st.sampled_from([NM(1, 1), NM(1, 4), NM(2, 4), NM(3, 4), NM(1, 8)])
configs = st.builds(
    QuantizeConfig,
    activation_bits=st.integers(4, 16),
    weight_bits=st.integers(2, 16),
    state_bits=st.sampled_from([6, 12, 16, 24]),
    table_bits=st.sampled_from([4, 8, 11]),
    output_bits=st.sampled_from([4, 16, 32]),
)


@st.composite
def recurrent(draw, kind: str | None = None, units: int = 9) -> Shape:
    """One recurrent layer, in one direction or both, with or without a projection."""
    kind = draw(st.sampled_from(RECURRENT)) if kind is None else kind
    size = draw(st.integers(1, units))
    way = draw(st.sampled_from([{}, {"both": True}, {"reverse": True}]))
    projection = {}
    if cell(kind).projectable and draw(st.booleans()):
        projection = {"outputs": draw(st.integers(1, size)), "pattern_p": draw(patterns)}
    return Shape(kind, size, draw(patterns), draw(patterns), **projection, **way)


@st.composite
def stacks(draw, kind: str | None = None, depth: int = 2) -> list[Shape]:
    """Recurrent layers, the first of ``kind`` if that is given, and perhaps a head at every step, the last or the final one."""
    found = [draw(recurrent(kind))]
    found += [draw(recurrent()) for _ in range(draw(st.integers(0, depth - 1)))]
    if draw(st.booleans()):
        when = draw(st.sampled_from(["step", "last", "final"]))
        for _ in range(draw(st.integers(1, 2))):
            found.append(Shape(draw(st.sampled_from(HEADS)), draw(st.integers(1, 4)), draw(patterns), when=when))
    return found
