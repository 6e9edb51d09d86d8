"""Sizes of a layout: what synthesis makes of it that can be counted, and what the laws of LUTs and flip-flops are linear in."""

from __future__ import annotations

from collections.abc import Mapping

from sparsegate.array import Layout
from sparsegate.array.pipelines import pipelines
from sparsegate.array.resources import PipelineCounts, exact
from sparsegate.fpga.devices import Device, device
from sparsegate.fpga.family import family
from sparsegate.fpga.memory import blocks

LARGEST = device("LFE5U-85F")


def sizes(layout: Layout, chip: Device = LARGEST, multipliers: str = "dsp") -> dict[str, float]:
    """Counts of a layout on a device: ``bram`` exactly as synthesis makes them, ``dsp`` as many as it asks for, which the device
    may not have, and what the laws are linear in. Of the device's ``sprams``, loaded weights take one a PE.

    ``products``: bits of the PEs' products; ``logic``: bits of the partial products of as many of them as there are multipliers
    made of logic, because the device has no more; ``accumulators``: cells of 16 words and 4 bits in their memories, ``adders``:
    bits of the adders before these, one for each bank, and ``forwarded`` of the sums that are forwarded to them; ``lane_bits``:
    bits of all values in the lanes' pipelines; ``lists`` and ``memories``: such cells in the column lists, and of weights and
    biases. ``interpolations``: multiplications that are made of logic where a device has no multipliers to spare. ``deep``: bits
    of the registers that a deep engine has more, in PEs, clusters, dispatchers and, of what is narrowed, lanes, and of those
    before the additions where accumulators are in block RAM.
    """
    return linear(layout, chip.family) | exact(layout, chip, multipliers)


def linear(layout: Layout, of: str) -> dict[str, float]:
    """What the laws are linear in."""
    pes, lanes = layout.rows * layout.groups, layout.lanes
    values = [PipelineCounts.of(pipeline.phase, family(of).widest) for pipeline in pipelines(layout)]
    lists = sum(
        _cells(
            sum(layout.bank_depth(phase, group, lane) for phase in range(len(layout.phases))), layout.delta_width + 4
        )
        for group in range(layout.groups)
        for lane in range(lanes)
    )
    word = layout.bias_word()
    accumulators = pes + layout.clusters * layout.groups * len(layout.apart_rows)
    hold = layout.depths.hold
    in_blocks = [block and family(of).block_banks for block in layout.acc_in_blocks]
    forwarded = sum(
        3 + hold * (layout.loop_distance <= 1) if block else max(0, 3 + hold - layout.loop_distance)
        for block in in_blocks
    )
    found: dict[str, float] = {
        "one": 1,
        "pes": pes,
        "groups": layout.groups,
        "products": pes * (layout.weight_width + layout.operand_width),
        "accumulators": pes
        * sum(
            _cells(depth, layout.partial_width)
            for depth, block in zip(layout.acc_bank_depths, in_blocks, strict=True)
            if not block
        ),
        "adders": accumulators * layout.acc_banks * layout.partial_width,
        "forwarded": accumulators * forwarded * layout.partial_width,
        "lane_bits": lanes * (sum(value.bits for value in values) + layout.sums * layout.acc_width),
        "lists": lists,
        "memories": sum(
            count * _cells(depth, width)
            for count, depth, width in (
                (lanes, layout.position_depth, word),
                (pes, layout.weight_words, layout.weight_planes * layout.entry_width),
            )
            if not blocks(width, depth, of)
        ),
    }
    beat = layout.operand_width + layout.acc_depth.bit_length()
    found["deep"] = layout.config.deep * (
        pes * layout.entry_width
        + layout.clusters * layout.groups * (2 * beat + layout.weight_depth.bit_length())
        + layout.groups * (lanes + 1) * 2 * layout.delta_width
        + lanes * sum(value.narrowed for value in values)
    ) + hold * (found["products"] + found["adders"])
    return found


def dsp_of(found: Mapping[str, float], chip: Device, multipliers: str) -> int:
    """Multipliers of a layout's sizes, interpolations included as far as a device has some to spare."""
    needed = int(found["dsp"])
    return needed + (min(max(0, chip.dsp - needed), int(found.get("interpolations", 0))) if multipliers == "dsp" else 0)


def _cells(depth: int, width: int) -> int:
    """Cells of distributed RAM of 16 words of 4 bits."""
    return -(-depth // 16) * -(-width // 4)
