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
    """Random stalls of one source and one sink; without a seed there are none."""

    def __init__(self, seed: int | None) -> None:
        self.random = None if seed is None else Random(seed)
        self.cycle = 0
        self.levels = (0, 0)

    def next(self) -> tuple[bool, bool]:
        """Whether, in the coming cycle, the source may offer an item and the sink accept one."""
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

    ``x`` (values,) and ``x_last`` (values,) in stream order; ``thresholds`` of the input and every layer; ``stalls`` a seed or
    None; ``steps`` and ``outputs`` how many steps and output values are expected; ``patience`` cycles without any progress after
    which the engine counts as stuck; ``limit`` the last cycle simulated whatever happens (0: none).
    """

    x: NDArray[np.int64]
    x_last: NDArray[np.bool_]
    thresholds: tuple[int, ...]
    steps: int
    outputs: int
    stalls: int | None = None
    patience: int = 10_000
    limit: int = 0

    def save(self, path: Path) -> None:
        """Write an npz file."""
        rest = {"stalls": self.stalls, "thresholds": list(self.thresholds)}
        rest |= {key: getattr(self, key) for key in ("steps", "outputs", "patience", "limit")}
        with artefact.writing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, x=self.x, x_last=self.x_last, rest=np.frombuffer(json.dumps(rest).encode(), np.uint8))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            rest = json.loads(file["rest"].tobytes())
            rest["thresholds"] = tuple(rest["thresholds"])
            return cls(x=file["x"], x_last=file["x_last"], **rest)


def plan(
    program: Program,
    raw: ArrayLike,
    lengths: ArrayLike | None = None,
    thresholds: Sequence[int] | None = None,
    stalls: int | None = None,
) -> Plan:
    """The plan that streams a batch of sequences back to back: raw (N, T, I), lengths (N,)."""
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
    if len(thresholds) != len(program.layers) + 1 or not all(0 <= value <= MAX_THRESHOLD for value in thresholds):
        raise SparseGateError(f"{len(program.layers) + 1} thresholds in 0..65535 expected, found {thresholds}")
    last = np.zeros((len(x), program.inputs), bool)
    last[np.cumsum(lengths) - 1, -1] = True
    frames = len(lengths) if program.layers[-1].when == "last" else len(x)
    entries = sum(
        layer.matrix_x.weight.size + (layer.matrix_h.weight.size if layer.matrix_h else 0) for layer in program.layers
    )
    return Plan(
        x=x.reshape(-1),
        x_last=last.reshape(-1),
        thresholds=thresholds,
        steps=len(x),
        outputs=frames * program.outputs,
        stalls=stalls,
        # even one PE that processes every entry would be done by then
        patience=10_000 + 2 * entries,
    )


@dataclass
class Recording:
    """What an engine gave. One entry an event, in order; cycles are counted from reset.

    ``trace_*``: results as they left the lanes (events,), ``trace_h`` (events, lanes), ``trace_real`` bit l for lane l.
    ``y_*``: accepted output values. ``step_start``, ``step_done``: cycles of the pulses. ``accepted``: input values taken.
    ``faults``: broken rules of the protocol, as sentences. ``stuck``: whether patience or limit ended the run.
    """

    trace_cycle: NDArray[np.int64]
    trace_layer: NDArray[np.int64]
    trace_position: NDArray[np.int64]
    trace_real: NDArray[np.uint64]
    trace_h: NDArray[np.int64]
    y_cycle: NDArray[np.int64]
    y_data: NDArray[np.int64]
    y_last: NDArray[np.bool_]
    step_start: NDArray[np.int64]
    step_done: NDArray[np.int64]
    cycles: int = 0
    accepted: int = 0
    stuck: bool = False
    counters: Mapping[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    ARRAYS = (
        "trace_cycle",
        "trace_layer",
        "trace_position",
        "trace_real",
        "trace_h",
        "y_cycle",
        "y_data",
        "y_last",
        "step_start",
        "step_done",
    )

    @classmethod
    def from_rows(cls, trace: NDArray[np.int64], out: NDArray[np.int64], **rest: Any) -> Recording:
        """From a row an event: ``trace`` (events, 4 + lanes) as cycle, layer, position, real, h; ``out`` as cycle, data, last."""
        return cls(
            trace_cycle=trace[:, 0],
            trace_layer=trace[:, 1],
            trace_position=trace[:, 2],
            trace_real=trace[:, 3].astype(np.uint64),
            trace_h=trace[:, 4:],
            y_cycle=out[:, 0],
            y_data=out[:, 1],
            y_last=out[:, 2].astype(bool),
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


class Driver:
    """Feeds a plan through an engine's pins and records what comes out.

    Each cycle: :meth:`before`, let the design settle, :meth:`after`, let the clock rise. Until :attr:`done`; then :meth:`finish`.
    """

    def __init__(self, plan: Plan, ports: Mapping[str, Port], pins: Pins) -> None:
        self.plan, self.ports, self.pins = plan, ports, pins
        self.lanes = sum(1 for name in ports if name.startswith("trace__h__"))
        self._data = ports["x__payload"].width - 1  # `last` lies above the data
        mask = (1 << self._data) - 1
        self._items = [
            (int(value) & mask) | int(last) << self._data for value, last in zip(plan.x, plan.x_last, strict=True)
        ]
        self._y = Port(ports["y__payload"].width - 1, True)
        self._stalls = Stalls(plan.stalls)
        self._offered = self._ready = False
        self._inputs: dict[str, int] = {}  # as last written
        self._held: int | None = None  # an output item that was offered but not taken yet
        self._quiet = self._extra = 0
        self._trace: list[tuple[int, ...]] = []
        self._out: list[tuple[int, int, int]] = []
        self._start: list[int] = []
        self._done: list[int] = []
        self.cycle = self.accepted = 0
        self.stuck = False
        self.faults: list[str] = []

    @property
    def done(self) -> bool:
        """Whether everything expected came out, or nothing will."""
        return self.stuck or self._extra > DRAIN_CYCLES

    def reset(self) -> None:
        """Inputs before cycle 0, while the design is held in reset."""
        for name in ("x__valid", "x__payload", "y__ready"):
            self._write(name, 0)
        for number, threshold in enumerate(self.plan.thresholds):
            self._write(f"threshold__{number}", threshold)

    def before(self) -> None:
        """Set this cycle's inputs."""
        may_offer, ready = self._stalls.next()
        # a source that has offered an item keeps offering it until it is taken
        offer = self.accepted < len(self._items) and (self._offered or may_offer)
        if offer:
            self._write("x__payload", self._items[self.accepted])
        self._write("x__valid", int(offer))
        self._write("y__ready", int(ready))
        self._offered, self._ready = offer, ready

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
        if read("x__ready") and self._offered:
            self.accepted += 1
            self._offered = False
            progress = True
        if read("trace__valid"):
            head = (cycle, read("trace__layer"), read("trace__position"), read("trace__real"))
            self._trace.append((*head, *(read(f"trace__h__{lane}") for lane in range(self.lanes))))
            progress = True
        if read("y__valid"):
            payload = read("y__payload")
            if self._held is not None and payload != self._held:
                self.faults.append(
                    f"cycle {cycle}: output item {self._held:#x} became {payload:#x} before it was taken"
                )
            self._held = None if self._ready else payload
            if self._ready:
                self._out.append((cycle, self._y.value(payload), payload >> self._y.width))
                progress = True
        elif self._held is not None:
            self.faults.append(f"cycle {cycle}: output item {self._held:#x} was withdrawn before it was taken")
            self._held = None
        if read("step_done"):
            self._done.append(cycle)
            progress = True
        self._quiet = 0 if progress else self._quiet + 1
        if len(self._done) >= self.plan.steps and len(self._out) >= self.plan.outputs:
            self._extra += 1
        elif self._quiet > self.plan.patience or cycle == self.plan.limit - 1:
            self.stuck = True
        self.cycle += 1

    def finish(self) -> Recording:
        """Read the counters and hand over everything recorded."""
        prefix = "counters__"
        counters = {name.removeprefix(prefix): self.pins.read(name) for name in self.ports if name.startswith(prefix)}
        return Recording.from_rows(
            np.array(self._trace, np.int64).reshape(-1, 4 + self.lanes),
            np.array(self._out, np.int64).reshape(-1, 3),
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
