"""Whole data sets through a Verilated engine, without Python in the loop.

The engine's Verilog becomes C++ (Verilator), which is compiled together with ``emulate.cpp`` and streams a binary file of inputs.
Orders of magnitude faster than a bench in Python; the recording is the same, cycle for cycle, stalls included.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsegate.errors import SparseGateError
from sparsegate_sim import cache, memories, tools, verilated
from sparsegate_sim.drive import (
    DRAIN_CYCLES,
    LOAD,
    MASK,
    RESET_CYCLES,
    SAVE,
    STALL_LEVELS,
    STALL_SPAN,
    STATE_IN,
    STATE_OUT,
    TOO_LONG,
    TOO_LONG_FAULT,
    Plan,
    Port,
    Recording,
)
from sparsegate_sim.runner import LOG, SimulationError, Waves, keep, waves_format

MAX_LANES = 64
DISPATCHER = re.compile(r"^module \\(\S+)\.dispatcher_(\d+) ", re.MULTILINE)
PROBES = """`verilator_config
public_flat_rd -module "*.dispatcher_*" -var "start"
public_flat_rd -module "*.dispatcher_*" -var "beat__valid"
"""
"""What is looked at inside an engine: the beats that each column group's dispatcher issues."""
VERILATE = (
    *("--cc", "--exe", "-O3", "--no-timing", "--prefix", "Vtop", "--Mdir", "objects"),
    *("-Wno-fatal", "-Wno-WIDTH", "-Wno-UNOPTFLAT"),
    # random values for whatever the design does not initialise, instead of flattering zeros
    *("--x-assign", "unique", "--x-initial", "unique"),
)


def build(
    verilog: str, top: str, ports: Mapping[str, Port], waves: Waves | None = None, folder: Path | None = None
) -> Path:
    """Compile an engine; returns the path of the executable, which is reused for equal contents.

    Raises
    ------
    ToolError
        If Verilator or a compiler is missing, too old, or refuses the design.
    """
    found = tools.verilator()
    tools.compiler()
    if waves == "fst":
        tools.fst_headers()
    main = resources.files("sparsegate_sim").joinpath("emulate.cpp").read_text(encoding="utf-8")
    header = _header(ports) + _probes(verilog)
    objects = verilated.runtime(found, waves, folder)

    def make(temporary: Path) -> None:
        (temporary / f"{top}.v").write_text(verilog, encoding="utf-8")
        (temporary / "probes.vlt").write_text(PROBES, encoding="utf-8")
        (temporary / "emulate.cpp").write_text(main, encoding="utf-8")
        (temporary / "ports.h").write_text(header, encoding="utf-8")
        trace = [] if waves is None else [f"--trace-{waves}"]
        verilated.execute(
            [[str(found.path), *VERILATE, *trace, "--top-module", top, "probes.vlt", f"{top}.v"]], temporary, found, top
        )
        verilated.program(temporary, "emulate.cpp", "emulate", objects, [], found, waves)

    key = cache.digest(
        verilog, top, main, header, PROBES, *verilated.key(found, waves), *VERILATE, verilated.FAST, verilated.SLOW
    )
    return cache.built(f"emulate-{key}", make, folder) / "emulate"


def run(
    built: Path,
    plan: Plan,
    ports: Mapping[str, Port],
    folder: Path,
    waves: Path | None = None,
    contents: Mapping[str, str] | None = None,
) -> Recording:
    """Run a plan on a compiled engine. ``folder`` takes the log; ``contents`` are memories' files (``memories.outside``).

    Raises
    ------
    SimulationError
        If the emulator fails.
    """
    folder = Path(folder).resolve()
    waves_format(waves)
    with cache.scratch(folder, LOG) as scratch:
        log = scratch / LOG
        try:
            memories.write(contents or {}, scratch)
            _encode(plan, ports).tofile(scratch / "plan")
            command = [built, scratch / "plan", scratch / "recording"]
            if waves is not None:
                command.append(scratch / "waves")
            if tools.execute(command, log, scratch, tools.environment()):
                raise SimulationError(f"the emulation ended early:\n{tools.tail(log)}")
            if waves is not None:
                keep(scratch / "waves", waves)
            return _decode(np.fromfile(scratch / "recording", "<i8"), ports, plan.beat)
        except OSError as error:
            raise SparseGateError(f"cannot write {folder}: {error.strerror or error}") from error


def _encode(plan: Plan, ports: Mapping[str, Port]) -> NDArray[np.int64]:
    """The file that emulate.cpp reads."""
    width = ports["x__payload"].width - 1
    items = (plan.x & ((1 << width) - 1)) | (plan.x_last.astype(np.int64) << width)
    seed = np.array([plan.stalls or 0], np.uint64).astype(np.int64)
    head = [
        plan.steps,
        -(-plan.outputs // plan.beat),
        plan.states,
        plan.patience,
        plan.limit,
        int(plan.stalls is not None),
        int(seed[0]),
    ]
    parts = [head, list(plan.controls.values()), plan.thresholds, [len(items)], items]
    return np.concatenate([*parts, [len(plan.state_in)], plan.state_in]).astype("<i8")


def _decode(values: NDArray[np.int64], ports: Mapping[str, Port], beat: int) -> Recording:
    """What emulate.cpp wrote."""
    cycles, accepted, stuck, groups = (int(value) for value in values[:4])
    sections, place = [], 4
    for _ in range(8):
        count = int(values[place])
        sections.append(values[place + 1 : place + 1 + count])
        place += 1 + count
    flat_trace, y, state, start, done, flat_faults, counters, beats = sections
    trace = flat_trace.reshape(-1, 4 + _lanes(ports))
    words = _words(ports)
    y, state = y.reshape(-1, 1 + words), state.reshape(-1, 1 + words)
    wide = ports["y__payload"].width - 1  # `last` lies above the data
    width = wide // beat
    data = np.stack([_signed(_field(y[:, 1:], place * width), width) for place in range(beat)], axis=1)
    last = np.zeros_like(data)
    last[:, -1] = _field(y[:, 1:], wide) & 1
    out = np.stack([np.repeat(y[:, 0], beat), data.reshape(-1), last.reshape(-1)], axis=1)
    if STATE_OUT + "__payload" in ports:
        state = np.stack([state[:, 0], _signed(state[:, 1], ports[STATE_OUT + "__payload"].width)], axis=1)
    faults = []
    for what, stream, cycle, *raw in flat_faults.reshape(-1, 3 + 2 * words).tolist():
        if what == 2:
            faults.append(TOO_LONG_FAULT.format(cycle))
        else:
            item, payload = _joined(raw[:words]), _joined(raw[words:])
            became = f"became {payload:#x}" if what else "was withdrawn"
            faults.append(f"cycle {cycle}: {('output', 'state')[stream]} item {item:#x} {became} before it was taken")
    return Recording.from_rows(
        trace,
        out,
        state,
        step_start=start,
        step_done=done,
        cycles=cycles,
        accepted=accepted,
        stuck=bool(stuck),
        beats=beats.reshape(-1, groups) if groups else None,
        counters=dict(zip(_counters(ports), counters.tolist(), strict=True)),
        faults=faults,
    )


def _words(ports: Mapping[str, Port]) -> int:
    """Words of 64 bits in which emulate.cpp holds an item that an engine gives."""
    return -(-max(ports["y__payload"].width, 1) // 64)


def _joined(words: list[int]) -> int:
    """The number of which these are the words, least significant first."""
    return sum((word & MASK) << 64 * number for number, word in enumerate(words))


def _field(words: NDArray[np.int64], low: int) -> NDArray[np.int64]:
    """Bits of numbers (N, words) from ``low`` on, as many as one word takes."""
    at, shift = divmod(low, 64)
    raw = words.view(np.uint64)
    found = raw[:, at] >> np.uint64(shift)
    if shift and at + 1 < raw.shape[1]:
        found = found | raw[:, at + 1] << np.uint64(64 - shift)
    return found.view(np.int64)


def _signed(raw: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Signed values of the low bits of raw ones."""
    half = np.int64(1 << (width - 1))
    return (raw & ((1 << width) - 1) ^ half) - half


def _lanes(ports: Mapping[str, Port]) -> int:
    return sum(1 for name in ports if name.startswith("trace__h__"))


def _counters(ports: Mapping[str, Port]) -> list[str]:
    return [name.removeprefix("counters__") for name in ports if name.startswith("counters__")]


def _probes(verilog: str) -> str:
    """ports.h, continued: what each column group's dispatcher does. An engine has dispatchers, other designs may have none."""
    paths = sorted(DISPATCHER.findall(verilog), key=lambda found: int(found[1]))
    inside = [
        "top.rootp->" + path.replace(".", "__DOT__") + f"__DOT__dispatcher_{group}__DOT__" for path, group in paths
    ]
    lines = [
        '#include "Vtop___024root.h"',
        f"constexpr size_t GROUPS = {len(inside)};",
        f"static bool dispatch_starts(const Vtop &top) {{ return {inside[0] + 'start' if inside else '0'}; }}",
        "static void count_beats(const Vtop &top, int64_t *beats) {",
        *(f"    beats[{group}] += {path}beat___05Fvalid;" for group, path in enumerate(inside)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _header(ports: Mapping[str, Port]) -> str:
    """ports.h: the engine's ports for emulate.cpp."""
    lanes = _lanes(ports)
    if lanes > MAX_LANES:
        raise SparseGateError(f"the emulator traces up to {MAX_LANES} lanes, the engine has {lanes}")
    thresholds = [name for name in ports if name.startswith("threshold__")]

    def member(name: str) -> str:
        # Verilator keeps double underscores for itself
        return "top." + name.replace("__", "___05F")

    def value(name: str) -> str:
        port = ports[name]
        if not port.width:
            return "0"
        return f"extend({member(name)}, {port.width})" if port.signed else f"(int64_t){member(name)}"

    def into(name: str, source: str) -> str:
        """A statement that sets an input, if the engine has it."""
        return f"{member(name)} = {source};" if name in ports else ""

    def bits(name: str) -> str:
        return f"(uint64_t){member(name)} & {(1 << ports[name].width) - 1:#x}u" if name in ports else "0"

    def words(name: str) -> list[str]:
        """The words of an output, which Verilator has in words of 32 bits if it is wider than 64."""
        if ports[name].width <= 64:
            return [f"(uint64_t){member(name)}"]
        halves = [f"(uint64_t){member(name)}[{at}]" for at in range(-(-ports[name].width // 32))]
        pairs = itertools.zip_longest(halves[::2], halves[1::2])
        return [low if high is None else f"{low} | {high} << 32" for low, high in pairs]

    names = ("Y_VALID", "X_READY", "STEP_START", "STEP_DONE", "TRACE_VALID")
    ports_of = ("y__valid", "x__ready", "step_start", "step_done", "trace__valid")
    lines = [f"#define {name} {member(port).removeprefix('top.')}" for name, port in zip(names, ports_of, strict=True)]
    lines += [
        f"constexpr int THRESHOLDS = {len(thresholds)}, WORDS = {_words(ports)};",
        f"constexpr int RESET_CYCLES = {RESET_CYCLES}, DRAIN_CYCLES = {DRAIN_CYCLES}, STALL_SPAN = {STALL_SPAN};",
        f"constexpr uint64_t STALL_LEVELS[] = {{{', '.join(map(str, STALL_LEVELS))}}};",
        "static int64_t extend(uint64_t raw, int width) {",
        "    return static_cast<int64_t>(raw << (64 - width)) >> (64 - width);",
        "}",
        "static std::array<uint64_t, WORDS> y_payload(const Vtop &top) {",
        f"    return {{{', '.join(words('y__payload'))}}};",
        "}",
        f"static void set_x(Vtop &top, int64_t item) {{ {into('x__payload', 'item')} }}",
        f"static void set_x_valid(Vtop &top, bool valid) {{ {into('x__valid', 'valid')} }}",
        f"static void set_state_in(Vtop &top, int64_t item) {{ {into(STATE_IN + '__payload', 'item')} }}",
        f"static void set_state_in_valid(Vtop &top, bool valid) {{ {into(STATE_IN + '__valid', 'valid')} }}",
        f"static bool state_in_ready(const Vtop &top) {{ return {bits(STATE_IN + '__ready')}; }}",
        f"static bool state_out_valid(const Vtop &top) {{ return {bits(STATE_OUT + '__valid')}; }}",
        f"static uint64_t state_out_payload(const Vtop &top) {{ return {bits(STATE_OUT + '__payload')}; }}",
        f"static bool is_too_long(const Vtop &top) {{ return {bits(TOO_LONG)}; }}",
        "static void set_ready(Vtop &top, bool ready) {",
        f"    {into('y__ready', 'ready')}",
        f"    {into(STATE_OUT + '__ready', 'ready')}",
        "}",
        "static void set_controls(Vtop &top, bool load, bool save) {",
        f"    {into(LOAD, 'load')}",
        f"    {into(SAVE, 'save')}",
        # weights are in their memories from the start
        *(f"    {into(name, '0')}" for name in ports if name.startswith("weights__")),
        "}",
        "static void set_thresholds(Vtop &top, const std::vector<int64_t> &values) {",
        *(f"    {member(name)} = values[{number}];" for number, name in enumerate(thresholds)),
        "}",
        "static void record_trace(const Vtop &top, std::vector<int64_t> &out) {",
        *(f"    out.push_back({value(f'trace__{name}')});" for name in ("layer", "position", "real")),
        *(f"    out.push_back({value(f'trace__h__{lane}')});" for lane in range(lanes)),
        "}",
        "static void record_counters(const Vtop &top, std::vector<int64_t> &out) {",
        *(f"    out.push_back({value(f'counters__{name}')});" for name in _counters(ports)),
        "}",
    ]
    return "\n".join(lines) + "\n"
