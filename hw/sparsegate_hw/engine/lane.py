"""Cell lanes: from accumulators to gates, states, outputs and the columns that moved."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate.array import Layout, PhaseLayout, images
from sparsegate.array.pipelines import column_width, pipelines, result_width, state_count, state_width, stored
from sparsegate_hw.arithmetic.delay import delay
from sparsegate_hw.engine.cell import CellPipeline
from sparsegate_hw.engine.encoder import THRESHOLD_BITS, DeltaCompare
from sparsegate_hw.engine.lane_control import LaneBus
from sparsegate_hw.engine.pe import depth_bits
from sparsegate_hw.fabric.primitives import ReadOnlyMemory, Register, memory_style


class Lane(wiring.Component):
    """One cell lane: chooses the rows of a unit, adds the bias, runs the cell, keeps states and sent outputs.

    Members: ``acc`` signed(acc_width), one for each row of the lane's clusters, groups already summed, and ``apart``, one for each
    of their second accumulators; ``bus`` (:class:`LaneBus`); ``threshold`` of the phase's output; ``value_mode``: list
    held values instead
    of deltas, for a layer that runs on the last step only. Outputs, valid with ``bus.result_valid``: ``h`` signed; ``real`` (the
    position holds a unit); ``moved``, ``delta`` and ``section`` (the phase) for the column lists. ``saturated_<pipeline>_<site>``:
    an item of that pipeline clipped, this cycle. With state ports: ``words`` to take a position's state from, and ``kept`` to give
    it: h, then the states.

    Timing: as :class:`LaneControl` has it; one unit per cycle. ``kept`` is there a cycle after ``bus.dump``.
    """

    def __init__(self, layout: Layout, bias: Any, real: Any, constants: Any) -> None:
        self._layout, self._bias, self._real, self._constants = layout, bias, real, constants
        self.pipelines = pipelines(layout)
        self._cells = [CellPipeline(pipeline.phase, pipeline.depths) for pipeline in self.pipelines]
        acc = signed(layout.acc_width)
        words = 1 + state_count(layout)
        states = {
            "words": In(signed(layout.state_width)).array(words),
            "kept": Out(signed(layout.state_width)).array(words),
        }
        super().__init__(
            {
                "acc": In(acc).array(layout.lane_clusters * layout.cluster),
                **(
                    {"apart": In(acc).array(layout.lane_clusters * len(layout.apart_rows))} if layout.apart_rows else {}
                ),
                "bus": In(LaneBus(layout)),
                "threshold": In(THRESHOLD_BITS),
                "value_mode": In(1),
                "h": Out(signed(result_width(layout))),
                "real": Out(1),
                "moved": Out(1),
                "delta": Out(signed(layout.delta_width)),
                "section": Out(depth_bits(len(layout.phases))),
                **(states if layout.states else {}),
                **{
                    f"saturated_{pipeline.name}_{site}": Out(1)
                    for pipeline in self.pipelines
                    for site in pipeline.phase.spec.sites
                },
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, bus = self._layout, self.bus
        self._near(m)
        chosen = self._select(m)

        # -- bias ------------------------------------------------------------------------------------------------------
        constants, width = layout.parameters
        word = data.StructLayout(
            {
                "real": 1,
                "bias": data.ArrayLayout(signed(layout.bias_bits), layout.sums),
                "constants": data.ArrayLayout(signed(width), constants),
            }
        )
        m.submodules.biases = biases = ReadOnlyMemory(
            layout.bias_word(),
            images.bias_words(layout, self._bias, self._real, self._constants),
            replaceable=True,
        )
        m.d.comb += biases.address.eq(self._bias_address)
        bias = data.View(word, delay(m, biases.o, layout.depths.bias - 1, "bias", reset_less=True))
        pre = [Signal(signed(layout.acc_width), name=f"pre_{gate}") for gate in range(layout.sums)]
        for gate in range(layout.sums):
            m.d.sync += pre[gate].eq(chosen[gate] + bias.bias[gate])
        parameters = [Signal(signed(width), name=f"parameter_{at}") for at in range(constants)]
        for at, register in enumerate(parameters):
            m.d.sync += register.eq(bias.constants[at])
        real = [Signal(name=f"real_{stage}") for stage in range(len(bus.valid))]
        m.d.sync += real[0].eq(bias.real)
        for before, after in zip(real, real[1:], strict=False):
            m.d.sync += after.eq(before)

        states, writes = self._states(m, platform)

        # -- cells -----------------------------------------------------------------------------------------------------
        result_real = Signal()
        h = Signal.like(self.h, name="result")
        for pipeline, cell in zip(self.pipelines, self._cells, strict=True):
            m.submodules[pipeline.name] = cell
            for gate, name in enumerate(cell.spec.sums):
                m.d.comb += getattr(cell, f"gate_{name}").eq(pre[gate])
            for number, name in enumerate(cell.states):
                m.d.comb += getattr(cell, f"state_{name}").eq(states[number])
            for at, name in enumerate(cell.parameters):
                m.d.comb += getattr(cell, f"parameter_{name}").eq(parameters[at])
            mine = Cat(self._phase == phase for phase in pipeline.phases).any()
            # positions without a unit compute too, from zeros, and a cell may give anything for those
            for site, stage in cell.site_stages.items():
                m.d.comb += getattr(self, f"saturated_{pipeline.name}_{site}").eq(
                    getattr(cell, f"saturated_{site}") & bus.valid[stage] & real[stage] & mine
                )
        written: dict[
            int, list[tuple[Value, Value]]
        ] = {}  # addresses and data of a state, of every pipeline that writes it
        with m.Switch(self._phase):
            for pipeline, cell in zip(self.pipelines, self._cells, strict=True):
                with m.Case(*pipeline.phases):
                    m.d.comb += [h.eq(cell.h), result_real.eq(real[pipeline.latency])]
                    for number, name in enumerate(cell.states):
                        if name in cell.state_stages:
                            stage = cell.state_stages[name]
                            what = getattr(bus, f"written_{stage}"), getattr(cell, f"next_{name}")
                            written.setdefault(number, []).append(what)
                            m.d.comb += [
                                writes[number].addr.eq(what[0]),
                                writes[number].data.eq(what[1]),
                                writes[number].en.eq(bus.valid[stage]),
                            ]
        for number, (what, *others) in written.items():
            if not others:  # wherever it is not enabled, so that nothing is chosen by the phase
                m.d.comb += [writes[number].addr.eq(what[0]), writes[number].data.eq(what[1])]
        if layout.states:
            # while a state comes in, no bias is read to tell whether the position holds a unit
            m.submodules.real = memory = Memory(
                shape=1, depth=layout.position_depth, init=[int(value) for value in self._real]
            )
            here = memory.read_port()
            m.d.comb += here.addr.eq(bus.dump)
            with m.If(bus.loading):
                m.d.comb += [h.eq(self.words[0]), result_real.eq(here.data)]
                for word, write in zip(list(self.words)[1:], writes, strict=True):
                    m.d.comb += [write.addr.eq(bus.dump), write.data.eq(word), write.en.eq(bus.load)]
            self._keep(m, platform, h)
        self._compare(m, platform, h, result_real)
        return m

    def _near(self, m: Module) -> None:
        """Registers of the lane's own for what chooses, addresses and comes from afar.

        With state ports a state may come soon after ``phase`` and ``first`` change, so these are taken as they are.
        """
        bus = self.bus
        self._turn, self._sub = Signal.like(bus.turn, name="turn"), Signal.like(bus.sub, name="sub")
        self._sent_address = Signal.like(bus.sent_address, name="sent_address")
        self._phase, self._first, self._fresh = (
            Signal.like(each, name=name)
            for each, name in ((bus.phase, "phase"), (bus.first, "first"), (bus.fresh, "fresh"))
        )
        self._bias_address, self._state_address = (
            Signal.like(each, name=name) for each, name in ((bus.bias, "bias_address"), (bus.state, "state_address"))
        )
        near = Cat(self._turn, self._sub, self._sent_address, self._bias_address, self._state_address)
        far = Cat(bus.turn, bus.sub, bus.sent_address, bus.bias, bus.state)
        held, wanted = Cat(self._phase, self._first, self._fresh), Cat(bus.phase, bus.first, bus.fresh)
        if self._layout.states:
            m.d.comb += held.eq(wanted)
        else:
            near, far = Cat(near, held), Cat(far, wanted)
        m.submodules.near = register = Register(len(far))
        m.d.comb += [register.i.eq(far), near.eq(register.o), self.section.eq(self._phase)]

    def _select(self, m: Module) -> list[Signal]:
        """The rows of one unit's sums."""
        layout = self._layout

        def of_turn(rows: Any, count: int, name: str) -> list[Signal]:
            found = [Signal(signed(layout.acc_width), name=f"{name}_{row}") for row in range(count)]
            for row in range(count):
                turns = [rows[turn * count + row] for turn in range(layout.lane_clusters)]
                m.d.comb += found[row].eq(Array(turns)[self._turn])
            return found

        cluster = of_turn(self.acc, layout.cluster, "cluster")
        apart_rows = layout.apart_rows
        apart = of_turn(self.apart, len(apart_rows), "cluster_apart") if apart_rows else []

        def of_sum(phase: PhaseLayout, at: int) -> list[Signal]:
            """Where a sum may be, by unit block packed into the cluster."""
            gates = phase.phase.gates
            if at < gates:
                return [cluster[sub * gates + at] for sub in range(phase.packed)]
            gate = phase.phase.apart[at - gates]
            return [apart[apart_rows.index(sub * gates + gate)] for sub in range(phase.packed)]

        chosen = [Signal(signed(layout.acc_width), name=f"chosen_{at}") for at in range(layout.sums)]
        for at, register in enumerate(chosen):
            with m.Switch(self._phase):
                # sums that a phase does not have take any value: a register that kept its old one would need an enable
                shapes: dict[tuple[int, tuple[int, ...]], list[int]] = {}
                for number, phase in enumerate(layout.phases):
                    shapes.setdefault((phase.phase.gates, phase.phase.apart), []).append(number)
                for numbers in shapes.values():
                    phase = layout.phases[numbers[0]]
                    rows = of_sum(phase, at) if at < len(phase.phase.spec.sums) else [cluster[0]]
                    with m.Case(*numbers):
                        m.d.sync += register.eq(Array(rows)[self._sub])
        return chosen

    def _states(self, m: Module, platform: Any) -> tuple[list[Value], list[Any]]:
        """States by number, and the ports that write them. A sequence's first step starts from zero."""
        layout, bus = self._layout, self.bus
        states: list[Value] = []
        writes = []
        self._reads = []
        for number in range(state_count(layout)):
            width, depth = state_width(layout), layout.position_depth
            memory = Memory(shape=signed(width), depth=depth, init=[], attrs=memory_style(platform, width, depth))
            m.submodules[f"states_{number}"] = memory
            read, write = memory.read_port(), memory.write_port()
            writes.append(write)
            if layout.depths.store:
                # nothing reads a phase's states before its last result is compared, which takes longer
                writes[number] = ahead = write.signature.create(path=(f"write_{number}",))
                m.d.sync += [write.addr.eq(ahead.addr), write.data.eq(ahead.data), write.en.eq(ahead.en)]
            m.d.comb += read.addr.eq(
                Mux(bus.dumping, bus.dump, self._state_address) if layout.states else self._state_address
            )
            # what a phase of this very step handed on is never from before the sequence
            handed = [int(len(p.phase.layer.cell.states) <= number < len(stored(p.phase))) for p in layout.phases]
            fresh = self._fresh & ~Array(handed)[self._phase].bool() if any(handed) else self._fresh
            states.append(Mux(fresh, 0, read.data).as_signed())
            self._reads.append(read.data)
        return states, writes

    def _keep(self, m: Module, platform: Any, h: Signal) -> None:
        """h of every position, for whoever asks for the final state; columns only know what was sent of it."""
        layout, bus = self._layout, self.bus
        m.submodules.outputs = memory = Memory(
            shape=signed(len(h)),
            depth=layout.position_depth,
            init=[],
            attrs=memory_style(platform, len(h), layout.position_depth),
        )
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [
            read.addr.eq(bus.dump),
            write.addr.eq(bus.given_address),
            write.data.eq(h),
            write.en.eq(bus.given),
            self.kept[0].eq(read.data),
        ]
        for word, value in zip(list(self.kept)[1:], self._reads, strict=True):
            m.d.comb += word.eq(value)

    def _compare(self, m: Module, platform: Any, h: Signal, result_real: Signal) -> None:
        """The output, then its difference from what was sent, then whether it moved."""
        layout, bus = self._layout, self.bus
        width = column_width(layout)
        m.submodules.sent = sent = Memory(
            shape=signed(width),
            depth=layout.position_depth,
            init=[],
            attrs=memory_style(platform, width, layout.position_depth),
        )
        m.submodules.compare = compare = DeltaCompare(width, layout.depths.compare)
        reference, update = sent.read_port(), sent.write_port()
        # known long before, as the phase is, which may be far away
        feeds = delay(m, Array([int(consumed) for consumed in layout.consumed])[self._phase], 2, "feeds")
        after = range(1, layout.depths.delta)
        h_after = [h, *(Signal.like(self.h, name=f"h_{stage}") for stage in after), self.h]
        real_after = [result_real, *(Signal(name=f"real_after_{stage}") for stage in after), self.real]
        m.d.comb += [
            reference.addr.eq(Mux(bus.loading, bus.dump, self._sent_address) if layout.states else self._sent_address),
            compare.value.eq(h_after[1]),
            compare.reference.eq(Mux(self._first, 0, reference.data)),
            compare.threshold.eq(self.threshold),
            update.addr.eq(bus.result_address),
        ]
        # a cycle after the comparison, long before the position is read again
        m.d.sync += [update.data.eq(compare.update), update.en.eq(bus.update_valid & feeds)]
        moved = Mux(self.value_mode, compare.some, compare.moved)
        m.d.sync += [
            *(after.eq(before) for before, after in zip(h_after, h_after[1:], strict=False)),
            *(after.eq(before) for before, after in zip(real_after, real_after[1:], strict=False)),
            self.delta.eq(Mux(self.value_mode, compare.update, compare.delta)),
            self.moved.eq(bus.update_valid & real_after[-2] & feeds & moved),
        ]
