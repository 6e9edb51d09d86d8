"""Pipeline depths of the engine, in clock cycles: the one place where cycle model and hardware agree on them.

The hardware imports these numbers and asserts that its pipelines have them; the cycle model adds them up. Most are the same for
every engine; those that ``HardwareConfig.deep`` chooses are fields of :class:`Depths`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sparsegate.cells import PhaseSpec

MEMORY = 2
"""A read-only memory: its own register, and the one at its output."""
MUL = 3
"""A multiplier: registers at the inputs, within, and at the output."""
SELECT = 1
"""Choice of a cluster and of the rows in it."""
BIAS = 1
"""Addition of the bias."""

OUTPUT = 3
"""From a step's last result to its output frame's first value."""

ADD = 1
RELU = 1
LOOKUP = MEMORY + 2
"""Magnitude, table, sign."""


@dataclass(frozen=True)
class Depths:
    """What an engine chooses: few registers, or more on every way that is long on a large device.

    ``known``: from the register of a list that says whether it has columns to the dispatcher's choice; 0 is in the same cycle.
    ``lists``: from a column's address to what its list says, the list's own register included, 1 or more than 2; of four the first
    is an address beside each list, the last behind the choice of a list. ``hand``: from the dispatchers' last to the sequencer's
    decision; 0 is in the same cycle. ``broadcast``: from dispatchers and sequencer to the clusters, the last register of every
    cluster's own.
    ``fetch``: from an entry's address to the multiplier, the memory's ``MEMORY`` and one behind the choice of the entry in its
    word, or two around its last part. ``bias``: to a lane's memory of biases, and from there to the addition. ``narrow``: rounding
    and saturation. ``rise``: adding what a table's interpolation gives. ``compare``: an output with what was sent of it. ``hold``:
    from what an accumulator holds, and its product, to their addition; 0 is in the same cycle. ``store``: registers before a
    lane's memories of states, which nothing waits for.
    """

    known: int
    lists: int
    hand: int
    broadcast: int
    fetch: int
    bias: int
    narrow: int
    rise: int
    compare: int
    hold: int = 0
    store: int = 0

    @property
    def encode(self) -> int:
        """From a frame's last value to the completed list of its columns, as dispatchers know it."""
        return 2 + self.known

    @property
    def dispatch(self) -> int:
        """From the start of a dispatch, or from the cycle in which its last columns are known, to the first entry at the weight
        memories.
        """
        return 6 + self.lists

    @property
    def nothing(self) -> int:
        """From the same to the end of a dispatch of no columns, as the sequencer knows it."""
        return 3 + self.hand

    @property
    def mac(self) -> int:
        """From an entry at the weight memories to its sum, which is written to the accumulator in that cycle."""
        return self.fetch + MUL + self.hold + 1

    @property
    def drain(self) -> int:
        """Between a handed-over dispatch and the first read-out address: covers ``mac`` beyond the way from a dispatcher's last
        entry to the hand-over and the read-out's own.
        """
        return self.mac - 3 - self.hand

    @property
    def readout(self) -> int:
        """From a read-out address at the sequencer to the accumulator value at the PE's output register: the sequencer's own
        register, the way to the cluster, the address, the accumulator, the output.
        """
        return 4 + self.broadcast

    @property
    def delta(self) -> int:
        """From a cell's output to the decision whether its column moved: the output's register and the decision's around
        the comparison.
        """
        return 2 + self.compare

    def lookup(self, step_bits: int) -> int:
        """Latency of an activation table with so many interpolated bits."""
        return LOOKUP + (MUL + self.rise if step_bits else 0)


SHALLOW = Depths(known=0, lists=1, hand=0, broadcast=1, fetch=MEMORY, bias=1, narrow=1, rise=1, compare=1)
DEEP = Depths(known=1, lists=4, hand=1, broadcast=3, fetch=MEMORY + 1, bias=2, narrow=2, rise=2, compare=2)


def depths(deep: bool, block_banks: int) -> Depths:
    """Of an engine. Accumulators in block RAM lie where the device has its block RAMs, far from multipliers and lanes, and the
    weights' block RAMs are not all nearby then.
    """
    chosen = DEEP if deep else SHALLOW
    return replace(chosen, hold=1, store=1, fetch=chosen.fetch + 1) if block_banks else chosen


def group_sum(groups: int) -> int:
    """Depth of the adder tree over the column groups."""
    return (groups - 1).bit_length()


class StageArithmetic:
    """Counts pipeline stages: every value is the cycle, after the cell's input, at which it is there."""

    def __init__(self, step_bits: int, depths: Depths) -> None:
        self._lookup, self._narrow = depths.lookup(step_bits), depths.narrow
        self.sites: dict[str, int] = {}

    def gate(self, name: str) -> int:
        return 0

    def state(self, name: str) -> int:
        return 0

    def parameter(self, name: str) -> int:
        return 0

    def one(self) -> int:
        return 0

    def relu(self, value: int) -> int:
        return value + RELU

    def mul(self, a: int, b: int) -> int:
        return max(a, b) + MUL

    def add(self, a: int, b: int) -> int:
        return max(a, b) + ADD

    def sub(self, a: int, b: int) -> int:
        return max(a, b) + ADD

    def narrow(self, value: int, target: str, site: str, symmetric: bool = False) -> int:
        self.sites[site] = value + self._narrow
        return value + self._narrow

    def lookup(self, function: str, value: int) -> int:
        return value + self._lookup


@dataclass(frozen=True)
class Stages:
    """Cycles, after a phase's accumulators, at which its new states are there and its narrowing sites' flags; ``latency`` is the
    output's.
    """

    latency: int
    states: Mapping[str, int]
    sites: Mapping[str, int]


def stages(what: PhaseSpec, step_bits: int, depths: Depths) -> Stages:
    """Run a phase's arithmetic for its pipeline stages."""
    arithmetic = StageArithmetic(step_bits, depths)
    step = what.step(arithmetic)
    return Stages(max(step.h, *step.states.values(), 0), dict(step.states), arithmetic.sites)


def cell_latency(what: PhaseSpec, step_bits: int, depths: Depths) -> int:
    """Cycles from a phase's accumulators, biases added, to its output."""
    return stages(what, step_bits, depths).latency


def result_latency(what: PhaseSpec, step_bits: int, groups: int, depths: Depths) -> int:
    """Cycles from a read-out address at the sequencer to the result leaving the lane, and its column being known."""
    around = depths.readout + group_sum(groups) + SELECT + BIAS + depths.delta + depths.known
    return around + cell_latency(what, step_bits, depths)


def load_cycles(positions: int, words: int, depths: Depths) -> int:
    """Cycles of a phase whose units take ``words`` values a position, of all lanes, from the state port: a word a cycle, then the
    position's push, and at last the way through the comparison to the lists. One cycle where there are none.
    """
    return 1 + (positions * (words + 1) + depths.delta + depths.known + 1 if words else 0)


def dump_cycles(positions: int, words: int) -> int:
    """The same for giving them: a word a cycle, after one for the memories. One cycle where there are none."""
    return 1 + (positions * (words + 1) if words else 0)


# -- sequence buffer: only for Programs that need one -----------------------------------------------------------------

BUFFER_FEED = 4
"""From the cycle in which the last value of a sequence, or of a pass, is taken to that in which the next pass's first value is
valid (after the final pass, the output's); one value a cycle follows."""
BUFFER_RETURN = 1
"""From the cycle in which the output's last value leaves to that in which the next sequence's first value may be taken."""
