"""What a cell does not need is not in its netlist."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.back import rtlil

from sparsegate.array import HardwareConfig
from sparsegate.cells import CELLS
from sparsegate.network.synthetic import Shape, network
from sparsegate.pattern import NM
from sparsegate.quantize import quantize
from sparsegate_hw.engine.engine import Engine

UNITS = 8


@dataclass
class Netlist:
    """What an engine is made of: ``ports``, ``modules``, ``memories`` (module, name, bits of a word), and how many multipliers."""

    ports: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    memories: list[tuple[str, str, int]] = field(default_factory=list)
    multipliers: int = 0

    def words(self, name: str) -> list[int]:
        """Bits of the words of all memories that are called so, or lie in a component that is; a bank of several has a number."""
        paths = [[*module.split("."), memory] for module, memory, _ in self.memories]
        called = [[part for part in path if part != "memory"][-1] for path in paths]
        return [
            width
            for here, (*_, width) in zip(called, self.memories, strict=True)
            if re.fullmatch(rf"{name}(_\d+)?", here)
        ]


def netlist(*shapes: Shape, **options) -> Netlist:
    """The netlist of a network on one cluster."""
    program = quantize(network(4, shapes, seed=1), np.random.default_rng(1).normal(size=(2, 4, 4)))
    rows = max(phase.gates for phase in program.phases)
    text = rtlil.convert(Engine(program, HardwareConfig(rows, multiplier=40, **options)), name="engine", emit_src=False)
    found, module = Netlist(multipliers=text.count("cell $mul ")), ""
    for line in text.splitlines():
        if match := re.match(r"module \\(\S+)", line):
            module = match[1]
            found.modules.add(module)
        elif match := re.match(r"\s+memory width (\d+) size \d+ \\(\S+)", line):
            found.memories.append((module, match[2], int(match[1])))
        elif module == "engine" and (match := re.match(r"\s+wire .*(?:input|output) \d+ .*\\(\S+)", line)):
            found.ports.add(match[1])
    return found


def layer(kind: str, **options) -> Shape:
    return Shape(kind, UNITS, NM(1, 4), NM(1, 4), **options)


PLAIN = netlist(layer("lstm"))


def test_a_plain_lstm_holds_nothing_but_its_own() -> None:
    assert not {
        name for name in PLAIN.ports if name.startswith("state") or name in ("initial", "final", "load", "save")
    }
    assert "too_long" not in PLAIN.ports
    assert not {name for name in PLAIN.modules if name.endswith((".buffer", ".state_port"))}
    assert {"x__payload", "y__payload", "step_done"} <= PLAIN.ports
    assert PLAIN.words("accumulators_apart") == []
    assert PLAIN.words("outputs") == []  # h itself, which only somebody who asks for the final state needs
    assert len(PLAIN.words("accumulators")) == 4
    assert len(PLAIN.words("rom")) == 5  # sigmoid of i, f, o, tanh of g and of c


@pytest.mark.parametrize(
    ("kind", "multipliers", "tables"),
    # of a PE each, and in the cell; sigmoid and tanh
    [
        ("lstm", 4 + 3, 5),
        ("lstm_peephole", 4 + 3 + 3, 5),
        ("cifg", 3 + 3, 4),
        ("cifg_peephole", 3 + 3 + 2, 4),
        ("gru", 3 + 3, 3),
        ("gru_reset_before", 2 + 3, 3),
        ("rnn_tanh", 1, 1),
        ("rnn_relu", 1, 0),
        ("linear", 1, 0),
        ("linear_relu", 1, 0),
        ("linear_sigmoid", 1, 1),
        ("linear_tanh", 1, 1),
    ],
)
def test_a_cell_has_the_multipliers_tables_and_memories_of_its_arithmetic(
    kind: str, multipliers: int, tables: int
) -> None:
    shape = layer(kind) if CELLS[kind].recurrent else Shape(kind, UNITS, NM(1, 4))
    found = netlist(shape)
    assert found.multipliers == multipliers
    assert len(found.words("rom")) == tables
    assert len(found.words("accumulators_apart")) == len(CELLS[kind].apart)
    kept = len(CELLS[kind].states) + len(CELLS[kind].handed)
    assert len([name for _, name, _ in found.memories if name.startswith("states")]) == kept


def test_parameters_take_words_only_where_a_cell_has_them() -> None:
    """The constants of a unit stand beside its biases: three peepholes of 8 bits make the word 24 bits wider."""
    assert netlist(layer("lstm_peephole")).words("biases")[0] - PLAIN.words("biases")[0] == 3 * 8


def test_what_is_asked_for_is_there() -> None:
    stateful = netlist(layer("lstm"), states=True)
    assert {"state_in__payload", "state_out__payload"} <= stateful.ports
    assert any(name.endswith(".state_port") for name in stateful.modules)
    assert stateful.words("outputs") != []
    buffered = netlist(layer("lstm", both=True), steps=4)
    assert "too_long" in buffered.ports
    assert "engine.buffer" in buffered.modules
    assert not {name for name in buffered.ports if name.startswith("state")}


def test_a_mixture_holds_each_cell_once_a_lane() -> None:
    mixed = netlist(layer("lstm"), layer("gru"), layer("lstm"), Shape("linear_relu", 3))
    cells = [name for name in mixed.modules if re.search(r"lane_0\.[a-z_]+_\d$", name)]
    assert sorted(name.rsplit(".", 1)[1][:-2] for name in cells) == ["gru", "linear_relu", "lstm"]
    assert len(mixed.words("accumulators_apart")) == 2  # a row's, in both banks
