"""The core of the engine: streams of one pass at a time in and out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from sparsegate.array import Layout
from sparsegate.array.pipelines import pipelines, result_width, state_count
from sparsegate.program import Program
from sparsegate_hw.arithmetic.delay import delay
from sparsegate_hw.engine.cluster import Cluster
from sparsegate_hw.engine.columns import input_list, lane_lists
from sparsegate_hw.engine.dispatcher import Dispatcher
from sparsegate_hw.engine.encoder import THRESHOLD_BITS, InputEncoder, input_payload
from sparsegate_hw.engine.lane import Lane
from sparsegate_hw.engine.lane_control import LaneBus, LaneControl
from sparsegate_hw.engine.output import OutputBuffer, finals, output_payload
from sparsegate_hw.engine.pe import Beat, WeightWrite, depth_bits
from sparsegate_hw.engine.sequencer import Sequencer
from sparsegate_hw.engine.state import StatePort

COUNTER_BITS = 32


def saturation_sites(program: Program) -> list[tuple[str, str]]:
    """(layer, site) of every saturation counter, in order."""
    return [(layer.name, site) for layer in program.layers for site in layer.sites]


class Counters(wiring.Signature):
    """What the host may read; every counter is 32 bits and wraps.

    ``cycles`` with a frame in work (from the one in which it is taken to the one before its last result; of two at once they count
    once), ``steps`` done, ``columns_seen`` (that a dense engine would have processed),
    ``columns_sent`` (processed), ``saturations`` for each of :func:`saturation_sites`.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(
            {
                "cycles": Out(COUNTER_BITS),
                "steps": Out(COUNTER_BITS),
                "columns_seen": Out(COUNTER_BITS),
                "columns_sent": Out(COUNTER_BITS),
                "saturations": Out(COUNTER_BITS).array(len(saturation_sites(program))),
            }
        )


class TracePort(wiring.Signature):
    """Results as they leave the lanes, for test benches: ``h[lane]`` is what phase number ``layer`` gives for unit
    ``Layout.unit(layer, lane, position)``.

    ``real`` has a bit for each lane: the position holds a unit. No back-pressure; left unconnected it costs nothing.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "layer": Out(depth_bits(len(layout.phases))),
                "position": Out(depth_bits(layout.position_depth)),
                "real": Out(layout.lanes),
                "h": Out(signed(result_width(layout))).array(layout.lanes),
            }
        )


def state_ports(layout: Layout) -> dict[str, Any]:
    """Members by which a state is taken and given."""
    words = stream.Signature(signed(layout.state_width))
    return {"state_in": In(words), "state_out": Out(words), "load": In(1), "save": In(1)}


class Core(wiring.Component):
    """Runs the passes of a Program in turn, a sequence each: :class:`sparsegate_hw.engine.engine.Engine` without its
    sequence buffer.

    ``x`` takes frames of the pass's inputs, ``y`` gives those of its last phase; all else is the engine's.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        super().__init__(
            {
                "x": In(stream.Signature(input_payload(layout))),
                "y": Out(stream.Signature(output_payload(layout))),
                "threshold": In(THRESHOLD_BITS).array(len(layout.phases) + 1),
                "counters": Out(Counters(layout.program)),
                "step_start": Out(1),
                "step_done": Out(1),
                "trace": Out(TracePort(layout)),
                **(state_ports(layout) if layout.states else {}),
                **({"weights": In(WeightWrite(layout))} if layout.config.loaded else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout = self.layout
        m.submodules.encoder = encoder = InputEncoder(layout)
        m.submodules.sequencer = sequencer = Sequencer(layout)
        m.submodules.control = control = LaneControl(layout)
        m.submodules.output_buffer = output = OutputBuffer(layout)
        connect(m, flipped(self.x), encoder.i)
        connect(m, output.o, flipped(self.y))
        m.d.comb += [
            *(into.eq(value) for into, value in zip(encoder.threshold, self.threshold, strict=True)),
            encoder.release.eq(sequencer.release),
            sequencer.frame_ready.eq(encoder.ready),
            sequencer.frame_last.eq(encoder.last),
            sequencer.output_busy.eq(output.busy),
            output.start.eq(sequencer.output),
            output.run.eq(Array([phase.run for phase in layout.phases])[sequencer.phase]),
            output.last.eq(sequencer.last),
            self.step_start.eq(sequencer.step_start),
            self.step_done.eq(sequencer.step_done),
        ]

        lanes = self._lanes(m, sequencer, control, output)
        if layout.states:
            self._states(m, sequencer, control, lanes)
        issued = self._groups(m, encoder, sequencer, control, lanes)
        self._count(m, sequencer, lanes, issued)
        return m

    def _lanes(self, m: Module, sequencer: Sequencer, control: LaneControl, output: OutputBuffer) -> list[Lane]:
        """Cell lanes, their control, and what becomes of their results."""
        layout, phases = self.layout, self.layout.phases
        m.d.comb += [
            control.valid.eq(sequencer.read.valid & ~sequencer.clearing),
            control.turn.eq(sequencer.turn),
            control.sub.eq(sequencer.sub),
            control.phase.eq(sequencer.phase),
            control.first.eq(sequencer.first | self._once(sequencer)),
            control.fresh.eq(sequencer.first),
            control.begin.eq(sequencer.begin),
        ]
        always = [layout.every_step(number) for number in range(len(phases))]
        followed_by_last = [
            int(number + 1 in layout.passes[phase.run].phases and not always[number + 1])
            for number, phase in enumerate(phases)
        ]
        value_mode, held_values = Signal(), Signal()
        threshold = Signal(THRESHOLD_BITS)
        base = Array([phase.position_base for phase in phases])[sequencer.phase]
        position = Signal.like(self.trace.position)
        result = Signal()
        gives = Array([int(number in finals(layout)) for number in range(len(phases))])[sequencer.phase]
        m.d.comb += [
            result.eq(control.bus.result_valid),
            value_mode.eq(held_values),
            position.eq(control.bus.result_address - base),
            output.write.valid.eq(result & gives),
            output.write.position.eq(position),
            self.trace.valid.eq(result),
            self.trace.layer.eq(sequencer.phase),
            self.trace.position.eq(position),
        ]
        if layout.states:
            with m.If(sequencer.loading):
                m.d.comb += [value_mode.eq(0), output.write.valid.eq(0), self.trace.valid.eq(0)]
        # registered: the phase is known long before its first result
        m.d.sync += [
            threshold.eq(Array(self.threshold[number + 1] for number in range(len(phases)))[sequencer.phase]),
            held_values.eq(sequencer.last & Array(followed_by_last)[sequencer.phase]),
        ]
        bias, real = layout.biases()
        constants = layout.constants()
        lanes = []
        for number in range(layout.lanes):
            m.submodules[f"lane_{number}"] = lane = Lane(layout, bias[number], real[number], constants[number])
            for name in LaneBus(layout).members:
                source, target = getattr(control.bus, name), getattr(lane.bus, name)
                pairs = zip(source, target, strict=True) if name == "valid" else [(source, target)]
                m.d.comb += [into.eq(value) for value, into in pairs]
            m.d.comb += [
                lane.threshold.eq(threshold),
                lane.value_mode.eq(value_mode),
                output.h[number].eq(lane.h),
                self.trace.real[number].eq(lane.real),
                self.trace.h[number].eq(lane.h),
            ]
            lanes.append(lane)
        return lanes

    def _once(self, sequencer: Sequencer) -> Value:
        """Whether the phase runs once in a sequence, and so has sent nothing before, though columns are made of its output."""
        layout = self.layout
        once = [int(layout.consumed[n] and not layout.every_step(n)) for n in range(len(layout.phases))]
        return Array(once)[sequencer.phase].bool() if any(once) else Const(0)

    def _states(self, m: Module, sequencer: Sequencer, control: LaneControl, lanes: list[Lane]) -> None:
        """The state port, and what a loaded state means to the lanes."""
        m.submodules.state_port = port = StatePort(self.layout)
        connect(m, flipped(self.state_in), port.i)
        connect(m, port.o, flipped(self.state_out))
        count = 1 + state_count(self.layout)
        carried = Array([int(phase.carried) for phase in self.layout.phases])[sequencer.phase]
        once = self._once(sequencer)
        m.d.comb += [
            sequencer.initial.eq(self.load),
            sequencer.final.eq(self.save),
            sequencer.moved.eq(port.done),
            port.load.eq(sequencer.load),
            port.dump.eq(sequencer.dump),
            port.phase.eq(sequencer.phase),
            control.loading.eq(sequencer.loading),
            control.load.eq(port.push),
            control.dumping.eq(sequencer.dumping),
            control.moving.eq(port.position),
            # what is carried was sent before the first step, everything else starts from zero
            control.first.eq(sequencer.loading | once | (sequencer.first & ~(sequencer.loaded & carried))),
            control.fresh.eq(sequencer.first & ~sequencer.loaded),
        ]
        for number, lane in enumerate(lanes):
            for word in range(count):
                m.d.comb += [
                    lane.words[word].eq(port.words[number * count + word]),
                    port.kept[number * count + word].eq(lane.kept[word]),
                ]

    def _groups(
        self, m: Module, encoder: InputEncoder, sequencer: Sequencer, control: LaneControl, lanes: list[Lane]
    ) -> list[Value]:
        """Column lists, dispatchers and clusters; returns each group's ``issued``."""
        layout = self.layout
        dispatchers = []
        for group in range(layout.groups):
            inputs = input_list(layout, group)
            m.submodules[f"input_list_{group}"] = inputs
            m.d.comb += [
                inputs.push.valid.eq(encoder.push.valid & (encoder.push.group == group)),
                inputs.push.section.eq(encoder.push.bank),
                inputs.push.entry.place.eq(encoder.push.place),
                inputs.push.entry.delta.eq(encoder.push.delta),
                inputs.clear.valid.eq(encoder.open.valid),
                inputs.clear.section.eq(encoder.open.bank),
            ]
            lists = lane_lists(layout, group)
            for number, (lane, columns) in enumerate(zip(lanes, lists, strict=True)):
                m.submodules[f"list_{group}_{number}"] = columns
                turn = (group - number) % layout.groups
                m.d.comb += [
                    columns.push.valid.eq(lane.moved & (control.group == turn)),
                    columns.push.section.eq(lane.section),
                    columns.push.entry.place.eq(control.place),
                    columns.push.entry.delta.eq(lane.delta),
                    columns.clear.valid.eq(sequencer.begin),
                    columns.clear.section.eq(sequencer.phase),
                ]
            m.submodules[f"dispatcher_{group}"] = dispatcher = Dispatcher(layout, group, inputs, lists)
            sides = [(dispatcher.input, inputs)]
            sides += [(getattr(dispatcher, f"lane_{number}"), columns) for number, columns in enumerate(lists)]
            for side, columns in sides:
                connect(m, side, columns.read)
            m.d.comb += [
                dispatcher.start.eq(sequencer.start),
                dispatcher.phase.eq(sequencer.ahead),
                dispatcher.first.eq(sequencer.ahead_first),
                dispatcher.late.eq(sequencer.late),
                dispatcher.known.eq(sequencer.known),
                dispatcher.open.eq(sequencer.open),
                dispatcher.bank.eq(encoder.bank),
            ]
            if layout.states:
                m.d.comb += dispatcher.prime.eq(sequencer.prime)
            dispatchers.append(dispatcher)
        idle: Value = Cat(dispatcher.idle for dispatcher in dispatchers).all()
        for stage in range(layout.depths.hand):
            later = Signal(name=f"idle_{stage}")
            m.d.sync += later.eq(idle & ~sequencer.start)
            idle = later
        m.d.comb += sequencer.idle.eq(idle)

        index, weight = layout.weights()
        for number in range(layout.clusters):
            rows = slice(number * layout.cluster, (number + 1) * layout.cluster)
            m.submodules[f"cluster_{number}"] = cluster = Cluster(layout, index[rows], weight[rows])
            for group, dispatcher in enumerate(dispatchers):
                for name in Beat(layout).members:
                    m.d.comb += getattr(cluster.beat[group], name).eq(getattr(dispatcher.beat, name))
                if layout.config.loaded:
                    # nothing is dispatched while weights are written, so their addresses take the beats' way
                    with m.If(self.weights.valid):
                        m.d.comb += cluster.beat[group].address.eq(self.weights.address)
            if layout.config.loaded:
                count = layout.cluster * layout.groups
                chosen = [self.weights.pe == number * count + pe for pe in range(count)]
                m.d.comb += [
                    cluster.data.eq(self.weights.data),
                    cluster.write.eq(Cat(chosen) & self.weights.valid.replicate(count)),
                ]
            for name in ("valid", "address", "clear"):
                m.d.comb += getattr(cluster.read, name).eq(getattr(sequencer.read, name))
            lane, turn = lanes[number // layout.lane_clusters], number % layout.lane_clusters
            for row in range(layout.cluster):
                m.d.comb += lane.acc[turn * layout.cluster + row].eq(cluster.value[row])
            for row in range(len(layout.apart_rows)):
                m.d.comb += lane.apart[turn * len(layout.apart_rows) + row].eq(cluster.apart[row])
        return [dispatcher.issued for dispatcher in dispatchers]

    def _count(self, m: Module, sequencer: Sequencer, lanes: list[Lane], issued: list[Value]) -> None:
        """Counters; each input is registered once, so that counting is never on a critical path."""
        layout, counters = self.layout, self.counters
        working = Signal(2)  # frames in work: one is dispatched while another is read out
        m.d.sync += working.eq(working + sequencer.step_start - sequencer.step_done)
        columns = [sum(matrix.term.matrix.columns for matrix in phase.matrices) for phase in layout.phases]
        sent = Signal(range(len(issued) + 1))
        seen = Signal(range(max(columns) + 1))
        done = Signal()
        # a phase's columns are counted when it begins to drain: exactly once
        begun = Signal()
        begins: Value = sequencer.begin
        if layout.states:
            begins = begins & ~sequencer.loading
        m.d.sync += [
            begun.eq(begins),
            sent.eq(sum(issued, Const(0, 1))),
            seen.eq(Mux(begins & ~begun, Array(columns)[sequencer.phase], 0)),
            done.eq(sequencer.step_done),
            counters.cycles.eq(counters.cycles + working.any()),
            counters.steps.eq(counters.steps + done),
            counters.columns_sent.eq(counters.columns_sent + sent),
            counters.columns_seen.eq(counters.columns_seen + seen),
        ]
        if layout.states:
            primed = [
                sum(matrix.term.matrix.columns for matrix in phase.matrices if matrix.carried)
                for phase in layout.phases
            ]
            with m.If(sequencer.prime & sequencer.start):
                m.d.sync += seen.eq(Array(primed)[sequencer.ahead])
        shared = {number: pipeline for pipeline in pipelines(layout) for number in pipeline.phases}
        flagged: dict[str, Signal] = {}
        for pipeline in shared.values():
            for site in pipeline.phase.spec.sites:
                name = f"saturated_{pipeline.name}_{site}"
                if name not in flagged:
                    flagged[name] = count = Signal(range(len(lanes) + 1), name=name)
                    flags = Cat(getattr(lane, name) for lane in lanes)
                    m.d.sync += count.eq(sum(delay(m, flags, layout.depths.hand, name), Const(0, 1)))
        sites = [(n, site) for n, phase in enumerate(layout.phases) for site in phase.phase.spec.sites]
        for number, (phase, site) in enumerate(sites):
            clipped = Signal(range(len(lanes) + 1), name=f"clipped_{number}")
            total = self.counters.saturations[number]
            m.d.sync += [
                # a phase stays until its last result has left, some cycles after its last flag
                clipped.eq(Mux(sequencer.phase == phase, flagged[f"saturated_{shared[phase].name}_{site}"], 0)),
                total.eq(total + clipped),
            ]
