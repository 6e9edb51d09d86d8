"""What a layout takes of a device that can be counted exactly: multipliers and memories."""

from __future__ import annotations

from dataclasses import dataclass

from sparsegate.array.layout import Layout
from sparsegate.array.memories import block_rams, memories
from sparsegate.array.pipelines import pipelines
from sparsegate.fpga.family import Device, family
from sparsegate.fpga.memory import blocks
from sparsegate.program import Phase

OTHER_BLOCKS = 1
"""Block RAMs of a family without distributed RAM for what is distributed RAM elsewhere: the identity."""


def exact(layout: Layout, chip: Device, multipliers: str) -> dict[str, float]:
    """Multipliers, those of interpolations beside them, bits of those of logic, block RAMs, single-port memories."""
    pes, lanes, of = layout.rows * layout.groups, layout.lanes, family(chip.family)
    phases, widest = [pipeline.phase for pipeline in pipelines(layout)], of.widest
    values = [PipelineCounts.of(phase, widest) for phase in phases]
    needed = pes * pieces(layout.weight_width, layout.operand_width, widest) + lanes * sum(
        value.multipliers for value in values
    )
    own = chip.dsp if multipliers == "dsp" else 0
    found: dict[str, float] = {
        "interpolations": lanes * sum(len(v.lookups) for p, v in zip(phases, values, strict=True) if p.step_bits),
        "dsp": needed if multipliers == "dsp" else 0,
        "logic": max(0, needed - own) * layout.weight_width * layout.operand_width,
    }
    accumulators = pes + layout.clusters * layout.groups * len(layout.apart_rows)
    scratch = accumulators * sum(
        of.scratch_blocks(layout.partial_width, depth, block)
        for depth, block in zip(layout.acc_bank_depths, layout.acc_in_blocks, strict=True)
    )
    if of.distributed:
        return found | {"bram": sum(block_rams(layout).values()) + scratch}
    found["sprams"] = min(pes, chip.sprams) if layout.config.loaded else 0
    found["bram"] = OTHER_BLOCKS + scratch
    for kind, width, depth, count in memories(layout):
        if kind == "weights":
            found["bram"] += (count - found["sprams"]) * blocks(width, depth, of.name)
        elif kind == "biases":
            found["bram"] += count * blocks(width, depth, of.name)
        else:
            found["bram"] += count * of.fewest_blocks(width, depth)
    return found


def pieces(a: int, b: int, widest: int) -> int:
    """Multipliers of ``widest`` bits for a product of ``a`` by ``b`` bits."""
    return -(-a // widest) * -(-b // widest)


@dataclass
class PipelineCounts:
    """An arithmetic that counts: bits of all results, multipliers of ``widest`` bits, and which tables are read."""

    phase: Phase
    widest: int
    bits: int = 0
    narrowed: int = 0
    multipliers: int = 0

    def __post_init__(self) -> None:
        self.lookups: list[str] = []

    @classmethod
    def of(cls, phase: Phase, widest: int) -> PipelineCounts:
        found = cls(phase, widest)
        phase.spec.step(found)
        return found

    def _made(self, width: int) -> int:
        self.bits += width
        return width

    def gate(self, name: str) -> int:
        return self.phase.formats["acc"].width

    def state(self, name: str) -> int:
        return self.phase.formats[name].width

    def parameter(self, name: str) -> int:
        return self.phase.formats["parameter"].width

    def one(self) -> int:
        return self.phase.formats["gate"].width

    def relu(self, value: int) -> int:
        return self._made(value)

    def mul(self, a: int, b: int) -> int:
        self.multipliers += pieces(a, b, self.widest)
        return self._made(a + b)

    def add(self, a: int, b: int) -> int:
        return self._made(max(a, b) + 1)

    def sub(self, a: int, b: int) -> int:
        return self._made(max(a, b) + 1)

    def narrow(self, value: int, target: str, site: str, symmetric: bool = False) -> int:
        self.narrowed += value
        return self._made(self.phase.formats[target].width)

    def lookup(self, function: str, value: int) -> int:
        self.lookups.append(function)
        return self._made(self.phase.formats["gate"].width)
