"""Cell lanes: from accumulators to gates, states, outputs and the columns that moved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sparsegate import timing
from sparsegate.cells import Fixed, IntegerArithmetic
from sparsegate.layout import Layout
from sparsegate.program import Layer
from sparsegate_hw.arithmetic import PipelineArithmetic
from sparsegate_hw.delta import THRESHOLD_BITS, DeltaCompare
from sparsegate_hw.pe import depth_bits


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A cell pipeline of every lane, and the layers that share it: same kind, same formats."""

    name: str
    layer: Layer
    phases: tuple[int, ...]

    @cached_property
    def latency(self) -> int:
        return timing.cell_latency(self.layer.cell, self.layer.step_bits)


def pipelines(layout: Layout) -> list[Pipeline]:
    """The distinct pipelines of a Program, in order of first use."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for number, phase in enumerate(layout.phases):
        layer = phase.layer
        names = ("acc", "h", *layer.cell.formats)
        key = (layer.kind, layer.step_bits, *(layer.formats[name] for name in names))
        kinds.setdefault(key, []).append(number)
    return [
        Pipeline(f"{key[0]}_{number}", layout.phases[phases[0]].layer, tuple(phases))
        for number, (key, phases) in enumerate(kinds.items())
    ]


def state_width(layout: Layout) -> int:
    """Bits of the lanes' state memory word for one state: the widest over all layers (0 without states)."""
    return max((p.layer.formats[s].width for p in layout.phases for s in p.layer.cell.states), default=0)


def state_count(layout: Layout) -> int:
    """States kept for a unit: the most of any layer."""
    return max(len(phase.layer.cell.states) for phase in layout.phases)


def result_width(layout: Layout) -> int:
    """Bits of a lane's result: the widest output of any layer."""
    return max(phase.layer.formats["h"].width for phase in layout.phases)


def column_width(layout: Layout) -> int:
    """Bits of the widest result that feeds columns."""
    widths = [p.layer.formats["h"].width for number, p in enumerate(layout.phases, 1) if layout.consumed[number]]
    return max(widths, default=2)


class LaneBus(wiring.Signature):
    """What every lane must know, from the one :class:`LaneControl`; signals are aligned with the lanes' stages.

    ``turn``, ``sub`` choose rows for the select stage; ``bias`` and ``state`` are addresses, a cycle ahead of use;
    ``valid_<s>``: an item is in stage s of the cell; ``write`` is the position whose state is written; ``result_*`` go with a
    finished item: its memory address, and whether it is valid; ``sent_address`` is
    the same address ``timing.DELTA`` cycles earlier, ``update_*`` one cycle earlier.
    """

    def __init__(self, layout: Layout) -> None:
        deepest = max(pipeline.latency for pipeline in pipelines(layout))
        address = depth_bits(layout.position_depth)
        super().__init__(
            {
                "phase": Out(depth_bits(len(layout.phases))),
                "first": Out(1),
                "turn": Out(depth_bits(layout.lane_clusters)),
                "sub": Out(depth_bits(layout.cluster)),
                "bias": Out(address),
                "state": Out(address),
                "valid": Out(1).array(deepest + 1),
                "position": Out(address).array(deepest + 1),
                "sent_address": Out(address),
                "update_valid": Out(1),
                "update_address": Out(address),
                "result_valid": Out(1),
                "result_address": Out(address),
            }
        )


class LaneControl(wiring.Component):
    """Walks the control of a read-out through the stages that all lanes share.

    Members: ``valid``, ``turn``, ``sub``, ``address`` of a position as the sequencer reads it, one cycle after its
    decision; ``phase``, ``first``; ``bus`` (:class:`LaneBus`); ``place`` and ``group`` of the result's column: lane l's
    result goes to group ``(group + l) mod groups``; ``begin`` pulses before a read-out.

    Timing: a result is valid ``timing.result_latency`` cycles after the sequencer's decision, its registered request included.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pipelines = pipelines(layout)
        super().__init__(
            {
                "valid": In(1),
                "turn": In(depth_bits(layout.lane_clusters)),
                "sub": In(depth_bits(layout.cluster)),
                "address": In(depth_bits(layout.position_depth)),
                "phase": In(depth_bits(len(layout.phases))),
                "first": In(1),
                "begin": In(1),
                "bus": Out(LaneBus(layout)),
                "place": Out(depth_bits(layout.position_depth)),
                "group": Out(depth_bits(layout.groups)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, bus = self._layout, self.bus

        def delayed(value: Value, cycles: int, name: str) -> Value:
            for cycle in range(cycles):
                register = Signal.like(value, name=f"{name}_{cycle + 1}")
                m.d.sync += register.eq(value)
                value = register
            return value

        ahead = timing.READOUT - 1 + timing.group_sum(layout.groups)
        valid, turn, sub, address = (
            delayed(value, ahead, name)
            for value, name in (
                (self.valid, "valid"),
                (self.turn, "turn"),
                (self.sub, "sub"),
                (self.address, "address"),
            )
        )
        m.d.comb += [
            bus.phase.eq(self.phase),
            bus.first.eq(self.first),
            bus.turn.eq(turn),
            bus.sub.eq(sub),
            bus.bias.eq(address),
        ]
        valid, address = (
            delayed(valid, timing.SELECT, "valid_select"),
            delayed(address, timing.SELECT, "address_select"),
        )
        m.d.comb += bus.state.eq(address)
        valid, address = delayed(valid, timing.BIAS, "valid_bias"), delayed(address, timing.BIAS, "address_bias")
        for stage in range(len(bus.valid)):
            m.d.comb += [bus.valid[stage].eq(valid), bus.position[stage].eq(address)]
            if stage == len(bus.valid) - 1:
                break
            # an item leaves at its own pipeline's end, or the next phase's longer pipeline would see it again
            mine = [number for pipeline in self._pipelines if pipeline.latency > stage for number in pipeline.phases]
            stays = valid & Cat(self.phase == number for number in mine).any()
            valid, address = delayed(stays, 1, f"valid_cell_{stage}"), delayed(address, 1, f"address_cell_{stage}")

        result = Signal()
        with m.Switch(self.phase):
            for pipeline in self._pipelines:
                with m.Case(*pipeline.phases):
                    m.d.comb += [
                        result.eq(bus.valid[pipeline.latency]),
                        bus.sent_address.eq(bus.position[pipeline.latency]),
                    ]
        m.d.comb += [
            bus.update_valid.eq(delayed(result, timing.DELTA - 1, "update_valid")),
            bus.update_address.eq(delayed(bus.sent_address, timing.DELTA - 1, "update_address")),
            bus.result_valid.eq(delayed(bus.update_valid, 1, "result_valid")),
            bus.result_address.eq(delayed(bus.update_address, 1, "result_address")),
        ]
        with m.If(self.begin):
            m.d.sync += [self.place.eq(0), self.group.eq(0)]
        with m.Elif(bus.result_valid):
            with m.If(self.group == layout.groups - 1):
                m.d.sync += [self.group.eq(0), self.place.eq(self.place + 1)]
            with m.Else():
                m.d.sync += self.group.eq(self.group + 1)
        return m


class CellPipeline(wiring.Component):
    """One cell as a pipeline, built from its arithmetic.

    Members: ``gate_<name>`` signed(acc.width), the exact pre-activations; ``state_<name>`` the states before the step;
    ``h`` the output; ``next_<name>`` the new states, ``state_stages[name]`` cycles after the gates; ``saturated_<site>``
    flags, ``site_stages[site]`` cycles after the gates.

    Timing: ``latency`` cycles from gates to ``h``; one item per cycle, no back-pressure.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer, self.cell = layer, layer.cell
        self.latency = timing.cell_latency(layer.cell, layer.step_bits)
        form = layer.formats
        super().__init__(
            {
                **{f"gate_{name}": In(signed(form["acc"].width)) for name in self.cell.gates},
                **{f"state_{name}": In(signed(form[name].width)) for name in self.cell.states},
                "h": Out(signed(form["h"].width)),
                **{f"next_{name}": Out(signed(form[name].width)) for name in self.cell.states},
                **{f"saturated_{site}": Out(1) for site in self.cell.sites},
            }
        )
        stages = timing.stages(layer.cell, layer.step_bits)
        self.state_stages, self.site_stages = stages.states, stages.sites

    def model(self, gates: dict[str, Any], states: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Integer model: h and the new states."""
        step = self.cell.step(IntegerArithmetic(self.layer.formats, self.layer.step_bits, gates, states))
        h: Fixed = step.h
        return h.raw, {name: value.raw for name, value in step.states.items()}

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        gates = {name: getattr(self, f"gate_{name}") for name in self.cell.gates}
        states = {name: getattr(self, f"state_{name}") for name in self.cell.states}
        arithmetic = PipelineArithmetic(m, self.layer.formats, self.layer.step_bits, gates, states)
        step = self.cell.step(arithmetic)
        m.d.comb += self.h.eq(arithmetic.at(step.h, self.latency))
        for name, node in step.states.items():
            m.d.comb += getattr(self, f"next_{name}").eq(arithmetic.at(node, self.state_stages[name]))
        for item in arithmetic.saturations:
            assert item.stage == self.site_stages[item.site], "timing and pipeline disagree"
            m.d.comb += getattr(self, f"saturated_{item.site}").eq(item.flag)
        return m


class Lane(wiring.Component):
    """One cell lane: chooses the rows of a unit, adds the bias, runs the cell, keeps states and sent outputs.

    Members: ``acc`` signed(acc_width), one for each row of the lane's clusters, groups already summed; ``bus``
    (:class:`LaneBus`); ``threshold`` of the phase's output; ``value_mode``: list held values instead of deltas, for a layer
    that runs on the last step only. Outputs, valid with ``bus.result_valid``: ``h`` signed; ``real`` (the position holds a
    unit); ``moved`` and ``delta`` for the column lists. ``saturated_<pipeline>_<site>``: an item of that pipeline clipped,
    this cycle.

    Timing: as :class:`LaneControl` has it; one unit per cycle.
    """

    def __init__(self, layout: Layout, bias: Any, real: Any) -> None:
        self._layout, self._bias, self._real = layout, bias, real
        self.pipelines = pipelines(layout)
        self._cells = [CellPipeline(pipeline.layer) for pipeline in self.pipelines]
        super().__init__(
            {
                "acc": In(signed(layout.acc_width)).array(layout.lane_clusters * layout.cluster),
                "bus": In(LaneBus(layout)),
                "threshold": In(THRESHOLD_BITS),
                "value_mode": In(1),
                "h": Out(signed(result_width(layout))),
                "real": Out(1),
                "moved": Out(1),
                "delta": Out(signed(layout.delta_width)),
                **{
                    f"saturated_{pipeline.name}_{site}": Out(1)
                    for pipeline in self.pipelines
                    for site in pipeline.layer.cell.sites
                },
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout, bus = self._layout, self.bus
        gates = max(phase.layer.gates for phase in layout.phases)

        # -- select: the rows of one unit's gates ----------------------------------------------------------------------
        cluster = [Signal(signed(layout.acc_width), name=f"cluster_{row}") for row in range(layout.cluster)]
        for row in range(layout.cluster):
            rows = [self.acc[turn * layout.cluster + row] for turn in range(layout.lane_clusters)]
            m.d.comb += cluster[row].eq(Array(rows)[bus.turn])
        chosen = [Signal(signed(layout.acc_width), name=f"chosen_{gate}") for gate in range(gates)]
        for gate, register in enumerate(chosen):
            with m.Switch(bus.phase):
                for count in sorted({phase.layer.gates for phase in layout.phases}):
                    numbers = [n for n, phase in enumerate(layout.phases) if phase.layer.gates == count]
                    # gates that a layer does not have take any value: a register that kept its old one would need an enable
                    rows = [sub * count + gate for sub in range(layout.cluster // count)] if gate < count else [gate]
                    with m.Case(*numbers):
                        m.d.sync += register.eq(Array(cluster[row] for row in rows)[bus.sub])

        # -- bias ------------------------------------------------------------------------------------------------------
        word = data.StructLayout({"real": 1, "bias": data.ArrayLayout(signed(layout.acc_width), gates)})
        init = [
            {"real": int(real), "bias": [int(value) for value in bias[:gates]]}
            for real, bias in zip(self._real, self._bias, strict=True)
        ]
        m.submodules.biases = biases = Memory(shape=word, depth=layout.position_depth, init=init)
        bias = biases.read_port()
        m.d.comb += bias.addr.eq(bus.bias)
        pre = [Signal(signed(layout.acc_width), name=f"pre_{gate}") for gate in range(gates)]
        for gate in range(gates):
            m.d.sync += pre[gate].eq(chosen[gate] + bias.data.bias[gate])
        real = [Signal(name=f"real_{stage}") for stage in range(len(bus.valid))]
        m.d.sync += real[0].eq(bias.data.real)
        for before, after in zip(real, real[1:], strict=False):
            m.d.sync += after.eq(before)

        # -- states: a sequence's first step starts from zero ----------------------------------------------------------
        states: list[Value] = []
        writes = []
        for number in range(state_count(layout)):
            memory = Memory(shape=signed(state_width(layout)), depth=layout.position_depth, init=[])
            m.submodules[f"states_{number}"] = memory
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += read.addr.eq(bus.state)
            states.append(Mux(bus.first, 0, read.data).as_signed())
            writes.append(write)

        # -- cells -----------------------------------------------------------------------------------------------------
        result_real = Signal()
        h = Signal.like(self.h, name="result")
        for pipeline, cell in zip(self.pipelines, self._cells, strict=True):
            m.submodules[pipeline.name] = cell
            layer = pipeline.layer
            for gate, name in enumerate(layer.cell.gates):
                m.d.comb += getattr(cell, f"gate_{name}").eq(pre[gate])
            for number, name in enumerate(layer.cell.states):
                m.d.comb += getattr(cell, f"state_{name}").eq(states[number])
            mine = Cat(bus.phase == phase for phase in pipeline.phases).any()
            # positions without a unit hold zeros, which never saturate
            for site, stage in cell.site_stages.items():
                m.d.comb += getattr(self, f"saturated_{pipeline.name}_{site}").eq(
                    getattr(cell, f"saturated_{site}") & bus.valid[stage] & mine
                )
        with m.Switch(bus.phase):
            for pipeline, cell in zip(self.pipelines, self._cells, strict=True):
                with m.Case(*pipeline.phases):
                    m.d.comb += [h.eq(cell.h), result_real.eq(real[pipeline.latency])]
                    for number, name in enumerate(pipeline.layer.cell.states):
                        stage = cell.state_stages[name]
                        m.d.comb += [
                            writes[number].addr.eq(bus.position[stage]),
                            writes[number].data.eq(getattr(cell, f"next_{name}")),
                            writes[number].en.eq(bus.valid[stage]),
                        ]

        # -- delta: the output, then its difference from what was sent, then whether it moved ----------------------------
        width = column_width(layout)
        m.submodules.sent = sent = Memory(shape=signed(width), depth=layout.position_depth, init=[])
        m.submodules.compare = compare = DeltaCompare(width)
        reference, update = sent.read_port(), sent.write_port()
        feeds = Array([int(layout.consumed[number + 1]) for number in range(len(layout.phases))])[bus.phase]
        h_1, h_2 = Signal.like(self.h, name="h_1"), Signal.like(self.h, name="h_2")
        real_1 = Signal()
        real_2 = Signal()
        m.d.comb += [
            reference.addr.eq(bus.sent_address),
            compare.value.eq(h_1),
            compare.reference.eq(Mux(bus.first, 0, reference.data)),
            compare.threshold.eq(self.threshold),
            update.addr.eq(bus.update_address),
            update.data.eq(compare.update),
            update.en.eq(bus.update_valid & feeds),
        ]
        moved = Mux(self.value_mode, compare.update != 0, compare.moved)
        m.d.sync += [
            h_1.eq(h),
            h_2.eq(h_1),
            self.h.eq(h_2),
            real_1.eq(result_real),
            real_2.eq(real_1),
            self.real.eq(real_2),
            self.delta.eq(Mux(self.value_mode, compare.update, compare.delta)),
            self.moved.eq(bus.update_valid & real_2 & feeds & moved),
        ]
        return m
