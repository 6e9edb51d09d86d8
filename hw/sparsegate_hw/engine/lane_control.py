"""What all cell lanes share: the stage of every item, and the addresses of its biases, states and sent values."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout, timing
from sparsegate.array.pipelines import pipelines
from sparsegate_hw.arithmetic.constant import constant
from sparsegate_hw.arithmetic.delay import delay
from sparsegate_hw.engine.pe import depth_bits


def _write_stages(layout: Layout) -> list[int]:
    """Stages of the cells at which some pipeline writes a state."""
    ends = {
        stage
        for pipeline in pipelines(layout)
        for stage in timing.stages(pipeline.phase.spec, pipeline.phase.step_bits, layout.depths).states.values()
    }
    return sorted(ends)


class LaneBus(wiring.Signature):
    """What every lane must know, from the one :class:`LaneControl`; signals are aligned with the lanes' stages.

    ``turn``, ``sub`` choose rows for the select stage, a cycle before it; ``bias`` and ``state`` are addresses, ``timing.MEMORY`` +
    ``depths.bias`` and two cycles ahead of use; ``valid_<s>``: an item is in stage s of the cell; ``written_<s>``, where a cell
    writes a state at that stage: the address of the item's states; ``result_*`` go with a finished item: its memory address, and
    whether it is valid; ``sent_address`` is the same address ``depths.delta`` + 1 cycles earlier, ``update_*`` one cycle earlier.
    ``first``: what was sent before counts as 0; ``fresh``: so do the states. With state ports: ``loading``, and ``load`` an item is
    pushed in place of a result; ``given``, at ``given_address``: a result is ``depths.delta`` cycles before its end; ``dumping``
    reads at ``dump`` instead.

    ``phase``, ``first`` and ``fresh`` are known some cycles before an item of theirs is there, and stay until the last has left.
    """

    def __init__(self, layout: Layout) -> None:
        deepest = max(pipeline.latency for pipeline in pipelines(layout))
        address = depth_bits(layout.position_depth)
        states = {
            "loading": Out(1),
            "load": Out(1),
            "given": Out(1),
            "given_address": Out(address),
            "dumping": Out(1),
            "dump": Out(address),
        }
        super().__init__(
            {
                "phase": Out(depth_bits(len(layout.phases))),
                "first": Out(1),
                "fresh": Out(1),
                "turn": Out(depth_bits(layout.lane_clusters)),
                "sub": Out(depth_bits(layout.cluster)),
                "bias": Out(address),
                "state": Out(address),
                "valid": Out(1).array(deepest + 1),
                **{f"written_{stage}": Out(address) for stage in _write_stages(layout)},
                "sent_address": Out(address),
                "update_valid": Out(1),
                "update_address": Out(address),
                "result_valid": Out(1),
                "result_address": Out(address),
                **(states if layout.states else {}),
            }
        )


class LaneControl(wiring.Component):
    """Walks a read-out's items through the stages that all lanes share, and counts their addresses.

    Members: ``valid``, ``turn``, ``sub`` of a position as the sequencer reads it, one cycle after its decision, a phase's
    positions in order; ``phase``, ``first``, ``fresh``; ``bus`` (:class:`LaneBus`); ``place`` and ``group`` of the result's
    column: lane l's result goes to group ``(group + l) mod groups``; ``begin`` before a read-out, with its ``phase`` for two cycles
    or more. With state ports: ``loading``, ``dumping``, ``load`` pushes the position ``moving`` as if it were a result.

    Timing: a result is valid ``timing.result_latency`` cycles after the sequencer's decision, its registered request included.

    Addresses do not travel with the items: where one is needed, items are counted, which takes fewer registers.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pipelines = pipelines(layout)
        address = depth_bits(layout.position_depth)
        states = {"loading": In(1), "load": In(1), "dumping": In(1), "moving": In(address)}
        super().__init__(
            {
                "valid": In(1),
                "turn": In(depth_bits(layout.lane_clusters)),
                "sub": In(depth_bits(layout.cluster)),
                "phase": In(depth_bits(len(layout.phases))),
                "first": In(1),
                "fresh": In(1),
                "begin": In(1),
                "bus": Out(LaneBus(layout)),
                "place": Out(depth_bits(layout.position_depth)),
                "group": Out(depth_bits(layout.groups)),
                **(states if layout.states else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, bus = self._layout, self.bus
        # the first item is still on its way then
        begun = delay(m, self.begin, 1, "begun")

        def counted(address: Signal, item: Value, bases: list[int], name: str) -> None:
            """Address of the position whose item is there: a phase's items come in the order of its positions."""
            base = Signal.like(address, name=f"{name}_base")
            m.d.sync += [base.eq(constant(m, self.phase, bases, f"{name}_base_now")), address.eq(address + item)]
            with m.If(begun):
                m.d.sync += address.eq(base)

        positions = [phase.position_base for phase in layout.phases]
        states = [phase.state_base for phase in layout.phases]
        ahead = layout.depths.readout - 1 + timing.group_sum(layout.groups)
        # the last register is each lane's own
        turn, sub = delay(m, self.turn, ahead - 1, "turn"), delay(m, self.sub, ahead - 1, "sub")
        # the biases are added to what the select stage gives
        early = timing.MEMORY + layout.depths.bias - timing.SELECT
        valid = delay(m, self.valid, ahead - early, "valid")
        counted(bus.bias, valid, positions, "bias")
        valid = delay(m, valid, early, "valid_read")
        counted(bus.state, valid, states, "state")
        m.d.comb += [
            bus.phase.eq(self.phase),
            bus.first.eq(self.first),
            bus.fresh.eq(self.fresh),
            bus.turn.eq(turn),
            bus.sub.eq(sub),
        ]
        valid = delay(m, delay(m, valid, timing.SELECT, "valid_select"), timing.BIAS, "valid_bias")
        for stage in range(len(bus.valid)):
            m.d.comb += bus.valid[stage].eq(valid)
            if stage in _write_stages(layout):
                counted(getattr(bus, f"written_{stage}"), valid, states, f"written_{stage}")
            if stage == len(bus.valid) - 1:
                break
            # an item leaves at its own pipeline's end, or the next phase's longer pipeline would see it again
            mine = [number for pipeline in self._pipelines if pipeline.latency > stage for number in pipeline.phases]
            valid = delay(m, valid & Cat(self.phase == number for number in mine).any(), 1, f"valid_cell_{stage}")

        # the address of a result's reference is counted by items that end in the next cycle, known in the one before where
        # pipelines are that long
        result, finished = Signal(), Signal()
        early = min(pipeline.latency for pipeline in self._pipelines) >= 2
        finishing = Signal() if early else finished
        if early:
            m.d.sync += finished.eq(finishing)
        sent = Signal.like(bus.sent_address, name="sent_address")
        with m.Switch(self.phase):
            for pipeline in self._pipelines:
                with m.Case(*pipeline.phases):
                    m.d.comb += [
                        result.eq(bus.valid[pipeline.latency]),
                        finishing.eq(bus.valid[pipeline.latency - 1 - early]),
                    ]
        counted(bus.sent_address, finished, positions, "sent")
        m.d.sync += sent.eq(bus.sent_address)
        given = Signal.like(sent, name="given_address")
        m.d.comb += given.eq(sent)
        if layout.states:
            m.d.comb += [
                bus.loading.eq(self.loading),
                bus.load.eq(self.load),
                bus.dumping.eq(self.dumping),
                bus.dump.eq(self.moving),
                bus.given.eq(result),
                bus.given_address.eq(given),
            ]
            with m.If(self.loading):
                m.d.comb += [result.eq(self.load), given.eq(self.moving)]
        m.d.comb += [
            bus.update_valid.eq(delay(m, result, layout.depths.delta - 1, "update_valid")),
            bus.update_address.eq(delay(m, given, layout.depths.delta - 1, "update_address")),
            bus.result_valid.eq(delay(m, bus.update_valid, 1, "result_valid")),
            bus.result_address.eq(delay(m, bus.update_address, 1, "result_address")),
        ]
        with m.If(self.begin):
            m.d.sync += [self.place.eq(0), self.group.eq(0)]
        with m.Elif(bus.result_valid):
            with m.If(self.group == layout.groups - 1):
                m.d.sync += [self.group.eq(0), self.place.eq(self.place + 1)]
            with m.Else():
                m.d.sync += self.group.eq(self.group + 1)
        return m
