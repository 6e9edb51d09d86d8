"""Driving an engine cycle by cycle, the same way in every simulator.

A :class:`Plan` says what to feed, a :class:`Driver` decides what the inputs are in each cycle and notes what the outputs did, a
:class:`Recording` holds what came out. None of them knows a simulator; ``emulate.cpp`` does the same in C++, bit for bit, stalls
included.

A cycle: inputs are set, combinational outputs settle, outputs are observed, the clock rises. Cycle 0 is the first one after reset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact
from sparsegate.errors import SparseGateError
from sparsegate.network import sequences
from sparsegate.program import MAX_THRESHOLD, Program

RESET_CYCLES = 2
DRAIN_CYCLES = 64
"""Cycles run after the last expected value, in which nothing more may come out."""
STALL_SPAN = 64
"""Cycles for which a source or sink keeps its stall probability."""
STALL_LEVELS = (0, 0, 64, 128, 230, 252)
"""Stall probabilities, in 256ths, of which one is drawn for every span: from never to nearly always."""
MASK = (1 << 64) - 1
STATE_IN, STATE_OUT = "state_in", "state_out"
"""Streams of initial and final states, which an engine has if it is asked for."""
LOAD, SAVE, TOO_LONG = "load", "save", "too_long"
"""Ports that say whether there are initial and final states, and the one that refuses a sequence; not every engine has them."""

TOO_LONG_FAULT = "cycle {}: the engine says that a sequence is too long for its buffer"


class Random:
    """SplitMix64 (Steele, Lea, Flood 2014): 64 random bits a call, as easily written in C++ as here."""

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


class Stalls:
    """Random stalls of the sources and of the sinks; without a seed there are none."""

    def __init__(self, seed: int | None) -> None:
        self.random = None if seed is None else Random(seed)
        self.cycle = 0
        self.levels = (0, 0)

    def next(self) -> tuple[bool, bool]:
        """Whether, in the coming cycle, a source may offer an item and a sink accept one."""
        if self.random is None:
            return True, True
        if self.cycle % STALL_SPAN == 0:
            draw = self.random.next()
            self.levels = (STALL_LEVELS[(draw & 0xFFFF) % 6], STALL_LEVELS[(draw >> 16 & 0xFFFF) % 6])
        self.cycle += 1
        draw = self.random.next()
        return (draw & 0xFF) >= self.levels[0], (draw >> 8 & 0xFF) >= self.levels[1]


@dataclass(frozen=True)
class Port:
    """Width and signedness of one port of the design, under its Verilog name."""

    width: int
    signed: bool = False

    def value(self, raw: int) -> int:
        """Signed value of raw bits."""
        raw &= (1 << self.width) - 1
        return raw - (1 << self.width) if self.signed and raw >> (self.width - 1) & 1 else raw


@dataclass(frozen=True)
class Plan:
    """What an engine is fed, and how much it should give.

    ``x`` (values,) and ``x_last`` (values,) in stream order; ``thresholds`` of every vector; ``steps``, ``outputs`` and ``states``:
    how many steps, output values and words of final states are expected; ``beat`` output values come at a time; ``state_in``
    (words,): initial states, in stream order;
    ``stalls`` a seed or None; ``patience`` cycles without any progress after which the engine counts as stuck; ``limit`` the last
    cycle simulated whatever happens (0: none).
    """

    x: NDArray[np.int64]
    x_last: NDArray[np.bool_]
    thresholds: tuple[int, ...]
    steps: int
    outputs: int
    state_in: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    states: int = 0
    stalls: int | None = None
    patience: int = 10_000
    limit: int = 0
    beat: int = 1

    @property
    def controls(self) -> dict[str, int]:
        """Inputs that keep their value during a run, other than thresholds."""
        return {LOAD: int(len(self.state_in) > 0), SAVE: int(self.states > 0)}

    def save(self, path: Path) -> None:
        """Write an npz file."""
        rest = {"stalls": self.stalls, "thresholds": list(self.thresholds)}
        rest |= {key: getattr(self, key) for key in ("steps", "outputs", "states", "patience", "limit", "beat")}
        packed = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        with artefact.writing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, rest=packed, x=self.x, x_last=self.x_last, state_in=self.state_in)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            rest = json.loads(file["rest"].tobytes())
            rest["thresholds"] = tuple(rest["thresholds"])
            return cls(x=file["x"], x_last=file["x_last"], state_in=file["state_in"], **rest)


def plan(
    program: Program,
    raw: ArrayLike,
    lengths: ArrayLike | None = None,
    thresholds: Sequence[int] | None = None,
    stalls: int | None = None,
    *,
    state_in: ArrayLike = (),
    states: int = 0,
    beat: int = 1,
) -> Plan:
    """The plan that streams a batch of sequences back to back: raw (N, T, I), lengths (N,).

    ``state_in``: words of the sequences' initial states, in stream order; ``states``: how many words of final states will come.
    ``beat``: the engine's ``HardwareConfig.outputs``.
    """
    raw = np.asarray(raw)
    if not np.issubdtype(raw.dtype, np.integer):
        raise SparseGateError(f"a simulation takes integers, not {raw.dtype}; use Program.quantize first")
    _, lengths = sequences(raw, lengths, program.inputs)
    form = program.input_format
    valid = np.arange(raw.shape[1])[None, :] < lengths[:, None]  # (N, T)
    x = raw[valid].astype(np.int64)  # (steps, I), in order
    if x.min() < form.min or x.max() > form.max:
        raise SparseGateError(f"raw inputs lie in {x.min()}..{x.max()}, but {form} holds {form.min}..{form.max}")
    thresholds = program.thresholds if thresholds is None else tuple(int(value) for value in thresholds)
    if len(thresholds) != len(program.vectors) or not all(0 <= value <= MAX_THRESHOLD for value in thresholds):
        raise SparseGateError(
            f"{len(program.vectors)} thresholds in 0..{MAX_THRESHOLD} expected, found {', '.join(map(str, thresholds))}"
        )
    last = np.zeros((len(x), program.inputs), bool)
    last[np.cumsum(lengths) - 1, -1] = True
    every = program.layers[program.output_vectors[0] - 1].when == "step"
    entries = sum(term.matrix.weight.size for phase in program.phases for term in phase.terms)
    return Plan(
        x=x.reshape(-1),
        x_last=last.reshape(-1),
        thresholds=thresholds,
        steps=sum(len(x) if this.when == "step" else len(lengths) for this in program.passes),
        outputs=(len(x) if every else len(lengths)) * program.outputs,
        state_in=np.asarray(state_in, np.int64),
        states=states,
        stalls=stalls,
        # even one PE that processes every entry would be done by then
        patience=10_000 + 2 * entries,
        beat=beat,
    )


@dataclass
class Recording:
    """What an engine gave. One entry an event, in order; cycles are counted from reset.

    ``trace_*``: results as they left the lanes (events,), ``trace_h`` (events, lanes), ``trace_real`` bit l for lane l.
    ``y_*``: accepted output values (those of a beat have one cycle, and its ``last`` is the last one's), ``state_*`` accepted
    words of final states. ``step_start``, ``step_done``: cycles of the pulses. ``accepted``: input values taken.
    ``faults``: broken rules of the protocol, as sentences. ``stuck``: whether patience or limit ended the run. ``beats``
    (dispatches, groups): weight entries that each column group's dispatcher issued, where a simulator looks inside the engine.
    """

    trace_cycle: NDArray[np.int64]
    trace_phase: NDArray[np.int64]
    trace_position: NDArray[np.int64]
    trace_real: NDArray[np.uint64]
    trace_h: NDArray[np.int64]
    y_cycle: NDArray[np.int64]
    y_data: NDArray[np.int64]
    y_last: NDArray[np.bool_]
    state_cycle: NDArray[np.int64]
    state_data: NDArray[np.int64]
    step_start: NDArray[np.int64]
    step_done: NDArray[np.int64]
    cycles: int = 0
    accepted: int = 0
    stuck: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    beats: NDArray[np.int64] | None = None

    ARRAYS = (
        "trace_cycle",
        "trace_phase",
        "trace_position",
        "trace_real",
        "trace_h",
        "y_cycle",
        "y_data",
        "y_last",
        "state_cycle",
        "state_data",
        "step_start",
        "step_done",
    )

    @classmethod
    def from_rows(
        cls, trace: NDArray[np.int64], out: NDArray[np.int64], states: NDArray[np.int64], **rest: Any
    ) -> Recording:
        """From a row an event: ``trace`` (events, 4 + lanes) as cycle, phase, position, real, h; ``out`` as cycle, data, last;
        ``states`` as cycle, data.
        """
        return cls(
            trace_cycle=trace[:, 0],
            trace_phase=trace[:, 1],
            trace_position=trace[:, 2],
            trace_real=trace[:, 3].astype(np.uint64),
            trace_h=trace[:, 4:],
            y_cycle=out[:, 0],
            y_data=out[:, 1],
            y_last=out[:, 2].astype(bool),
            state_cycle=states[:, 0],
            state_data=states[:, 1],
            **rest,
        )

    def save(self, path: Path) -> None:
        """Write an npz file."""
        rest = {key: getattr(self, key) for key in ("cycles", "accepted", "stuck", "faults")} | {
            "counters": dict(self.counters)
        }
        arrays = {key: getattr(self, key) for key in self.ARRAYS}
        with artefact.writing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, rest=np.frombuffer(json.dumps(rest).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            rest = json.loads(file["rest"].tobytes())
            return cls(**{key: file[key] for key in cls.ARRAYS}, **rest)


class Pins(Protocol):
    """Access to a design's ports by their Verilog names, whatever the simulator."""

    def read(self, name: str) -> int:
        """Value of a port; signed ports give signed values. Unresolved bits (X) raise ValueError."""

    def write(self, name: str, value: int) -> None:
        """Set an input port."""


class Source:
    """Offers items to one stream of an engine."""

    def __init__(self, items: Sequence[int]) -> None:
        self.items, self.accepted, self.offered = items, 0, False

    def next(self, may_offer: bool) -> int | None:
        """The item offered in this cycle, if any."""
        # a source that has offered an item keeps offering it until it is taken
        self.offered = self.accepted < len(self.items) and (self.offered or may_offer)
        return self.items[self.accepted] if self.offered else None

    def observe(self, ready: int) -> bool:
        """Whether the item was taken."""
        taken = self.offered and bool(ready)
        self.accepted += taken
        self.offered &= not taken
        return taken


class Sink:
    """Takes items from one stream of an engine, and watches that none changes or vanishes before it is taken."""

    def __init__(self, name: str, faults: list[str]) -> None:
        self.taken: list[tuple[int, int]] = []  # cycle, payload
        self._name, self._faults = name, faults
        self._held: int | None = None  # an item that was offered but not taken yet

    def observe(self, cycle: int, ready: bool, payload: int | None) -> bool:
        """Whether an item was taken; ``payload`` is None where none is offered."""
        held = self._held
        if held is not None and payload != held:
            what = "was withdrawn" if payload is None else f"became {payload:#x}"
            self._faults.append(f"cycle {cycle}: {self._name} item {held:#x} {what} before it was taken")
        self._held = None if ready else payload
        if payload is None or not ready:
            return False
        self.taken.append((cycle, payload))
        return True


class Driver:
    """Feeds a plan through an engine's pins and records what comes out.

    Each cycle: :meth:`before`, let the design settle, :meth:`after`, let the clock rise. Until :attr:`done`; then :meth:`finish`.
    """

    def __init__(self, plan: Plan, ports: Mapping[str, Port], pins: Pins) -> None:
        self.plan, self.ports, self.pins = plan, ports, pins
        self.lanes = sum(1 for name in ports if name.startswith("trace__h__"))
        width = ports["x__payload"].width - 1  # `last` lies above the data
        last = plan.x_last.astype(np.int64) << width
        self.faults: list[str] = []
        # streams by the prefix of their ports; those of states where the engine has them
        self._sources = {"x": Source(((plan.x & ((1 << width) - 1)) | last).tolist())}
        self._sinks = {"y": Sink("output", self.faults)}
        if STATE_IN + "__valid" in ports:
            mask = (1 << ports[STATE_IN + "__payload"].width) - 1
            self._sources[STATE_IN] = Source((plan.state_in & mask).tolist())
            self._sinks[STATE_OUT] = Sink("state", self.faults)
        self._stalls = Stalls(plan.stalls)
        self._ready = False
        self._inputs: dict[str, int] = {}  # as last written
        self._quiet = self._extra = 0
        self._trace: list[tuple[int, ...]] = []
        self._start: list[int] = []
        self._done: list[int] = []
        self._long = False
        self.cycle = 0
        self.stuck = False

    @property
    def accepted(self) -> int:
        """Input values that the engine took."""
        return self._sources["x"].accepted

    @property
    def done(self) -> bool:
        """Whether everything expected came out, or nothing will."""
        return self.stuck or self._extra > DRAIN_CYCLES

    def reset(self) -> None:
        """Inputs before cycle 0, while the design is held in reset."""
        for name in self._sources:
            self._write(f"{name}__valid", 0)
            self._write(f"{name}__payload", 0)
        for name in self._sinks:
            self._write(f"{name}__ready", 0)
        for name, value in self.plan.controls.items():
            if name in self.ports:
                self._write(name, value)
        for number, threshold in enumerate(self.plan.thresholds):
            self._write(f"threshold__{number}", threshold)
        for name in self.ports:
            if name.startswith("weights__"):  # they are in their memories from the start
                self._write(name, 0)

    def before(self) -> None:
        """Set this cycle's inputs."""
        may_offer, self._ready = self._stalls.next()
        for name, source in self._sources.items():
            item = source.next(may_offer)
            if item is not None:
                self._write(f"{name}__payload", item)
            self._write(f"{name}__valid", int(item is not None))
        for name in self._sinks:
            self._write(f"{name}__ready", int(self._ready))

    def _write(self, name: str, value: int) -> None:
        # writing a value that is there already costs as much as a new one
        if self._inputs.get(name) != value:
            self._inputs[name] = value
            self.pins.write(name, value)

    def after(self) -> None:
        """Observe this cycle's settled outputs."""
        read, cycle, progress = self.pins.read, self.cycle, False
        if read("step_start"):
            self._start.append(cycle)
            progress = True
        for name, source in self._sources.items():
            progress |= source.observe(read(f"{name}__ready"))
        if read("trace__valid"):
            head = (cycle, read("trace__layer"), read("trace__position"), read("trace__real"))
            self._trace.append((*head, *(read(f"trace__h__{lane}") for lane in range(self.lanes))))
            progress = True
        for name, sink in self._sinks.items():
            payload = self._raw(f"{name}__payload") if read(f"{name}__valid") else None
            progress |= sink.observe(cycle, self._ready, payload)
        if read("step_done"):
            self._done.append(cycle)
            progress = True
        if TOO_LONG in self.ports and not self._long and read(TOO_LONG):
            self._long = True
            self.faults.append(TOO_LONG_FAULT.format(cycle))
        self._quiet = 0 if progress else self._quiet + 1
        if self._complete():
            self._extra += 1
        elif self._quiet > self.plan.patience or cycle == self.plan.limit - 1:
            self.stuck = True
        self.cycle += 1

    def _raw(self, name: str) -> int:
        return self.pins.read(name) & ((1 << self.ports[name].width) - 1)

    def _complete(self) -> bool:
        states = len(self._sinks[STATE_OUT].taken) if STATE_OUT in self._sinks else 0
        given = self.plan.beat * len(self._sinks["y"].taken)
        enough = len(self._done) >= self.plan.steps and given >= self.plan.outputs
        return enough and states >= self.plan.states

    def finish(self) -> Recording:
        """Read the counters and hand over everything recorded."""
        prefix = "counters__"
        counters = {name.removeprefix(prefix): self.pins.read(name) for name in self.ports if name.startswith(prefix)}
        beat, wide = self.plan.beat, self.ports["y__payload"].width - 1  # `last` lies above the data
        y = Port(wide // beat, True)
        out = [
            (cycle, y.value(payload >> place * y.width), payload >> wide if place == beat - 1 else 0)
            for cycle, payload in self._sinks["y"].taken
            for place in range(beat)
        ]
        states: list[tuple[int, int]] = []
        if STATE_OUT in self._sinks:
            word = Port(self.ports[STATE_OUT + "__payload"].width, True)
            states = [(cycle, word.value(payload)) for cycle, payload in self._sinks[STATE_OUT].taken]
        return Recording.from_rows(
            np.array(self._trace, np.int64).reshape(-1, 4 + self.lanes),
            np.array(out, np.int64).reshape(-1, 3),
            np.array(states, np.int64).reshape(-1, 2),
            step_start=np.array(self._start, np.int64),
            step_done=np.array(self._done, np.int64),
            cycles=self.cycle,
            accepted=self.accepted,
            stuck=self.stuck,
            counters=counters,
            faults=self.faults,
        )


def ports(component: Any) -> dict[str, Port]:
    """Ports of an Amaranth component under their Verilog names, without clock and reset."""
    shapes = {name: signal.shape() for name, signal in signals(component).items()}
    return {name: Port(shape.width, shape.signed) for name, shape in shapes.items()}


def verilog_ports(verilog: str, top: str) -> dict[str, Port]:
    """Ports of a module in Verilog as Yosys writes it, without clock and reset."""
    module = re.search(rf"^module {re.escape(top)}\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)
    if module is None:
        raise SparseGateError(f"the Verilog holds no module {top!r}")
    found = {}
    for match in re.finditer(
        r"^  (?:input|output) (signed )?(?:\[(-?\d+):0\] )?\\?(\S+?) *;", module.group(), re.MULTILINE
    ):
        sign, high, name = match.groups()
        if name not in ("clk", "rst"):
            found[name] = Port(int(high or 0) + 1, sign is not None)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def signals(component: Any) -> dict[str, Any]:
    """Amaranth values of a component's ports under their Verilog names."""
    from amaranth.hdl import Value

    found = {"__".join(map(str, path)): Value.cast(value) for path, _, value in component.signature.flatten(component)}
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts h__10 after h__9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split("__")]
