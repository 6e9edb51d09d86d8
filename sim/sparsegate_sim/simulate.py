"""Run a Program's engine in RTL and hold every value, cycle and counter against the golden model and the cycle model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import artefact, golden
from sparsegate.array import HardwareConfig, Layout, cycles
from sparsegate.errors import SparseGateError
from sparsegate.program import Program, RawState
from sparsegate_sim import cache, emulate, frames, memories, runner
from sparsegate_sim.drive import Driver, Plan, Recording, plan, ports, signals, verilog_ports
from sparsegate_sim.scoreboard import Scoreboard

Simulator = Literal["verilator", "icarus", "amaranth"]
TOP = "engine"
PERIOD = 1e-8
"""Clock period in Amaranth's simulator, in seconds: that of the cocotb benches."""


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation showed.

    ``values_compared`` outputs of every phase at every step, values of the output stream, and final states; ``mismatches`` how
    many of them differ from the golden model, ``first_mismatch`` the first as a sentence. ``step_start`` and ``step_end`` (N, S)
    are the cycles, counted from reset, in which a step took its frame and delivered its last result, pass after pass as in
    ``Trace.ran`` (-1 past a sequence's end, or where it never did). Without stalls they are held against the cycle model:
    ``cycle_mismatches`` (None with stalls). ``counter_mismatches`` are sentences about counters that differ. ``group_beats``
    (dispatches, groups): weight entries that each column group issued, which a compiled Verilator run counts inside the engine
    (None elsewhere) and holds against the cycle model; they count as counters. ``state``: the raw final states that the engine
    gave, to be handed to another run (None where none were asked for, or not all came).
    ``cycles`` is the length of the run; ``seconds`` its time, without ``build_seconds``.
    """

    simulator: str
    sequences: int
    steps: int
    values_compared: int
    mismatches: int
    first_mismatch: str | None
    step_start: NDArray[np.int64]
    step_end: NDArray[np.int64]
    cycles: int
    cycle_mismatches: int | None
    first_cycle_mismatch: str | None
    counters: dict[str, int]
    counter_mismatches: list[str] = field(default_factory=list)
    group_beats: NDArray[np.int64] | None = None
    state: dict[str, dict[str, NDArray[np.int64]]] | None = None
    seconds: float = 0.0
    build_seconds: float = 0.0
    waves: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether every value, cycle and counter is what it should be."""
        return not (self.mismatches or self.cycle_mismatches or self.counter_mismatches)

    @property
    def cycles_counted(self) -> int:
        """Cycles from the first step's start to the last step's end; compares with ``Cycles.total``."""
        return int(self.step_end.max() - self.step_start[0, 0])

    @property
    def summary(self) -> str:
        """One sentence."""
        head = f"{self.values_compared} values of {self.steps} steps in {self.sequences} sequences compared on {self.simulator}"
        if self.passed:
            return f"{head}: all equal"
        counter = self.counter_mismatches[0] if self.counter_mismatches else None
        first = self.first_mismatch or self.first_cycle_mismatch or counter
        cycles = f", {self.cycle_mismatches} cycles differ" if self.cycle_mismatches else ""
        return f"{head}: {self.mismatches} differ{cycles}; first: {first}"


def simulate(
    program: Program,
    config: HardwareConfig,
    raw: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    state: RawState | None = None,
    final: bool | None = None,
    simulator: str = "verilator",
    thresholds: Sequence[int] | None = None,
    stalls: int | None = None,
    waves: str | Path | None = None,
    folder: str | Path | None = None,
    fast: bool | None = None,
    verilog: str | None = None,
    layout: Layout | None = None,
) -> SimulationResult:
    """Stream a batch of sequences through a Program's engine.

    Parameters
    ----------
    raw, lengths : (N, T, I) integers in the Program's input format, and (N,) steps of each sequence.
    state : raw states to start from, as ``golden.run`` takes them; the Program's ``initial`` where omitted.
    final : take and compare the states after each sequence (default: if ``config.states``, which both need).
    simulator : "verilator", "icarus" or "amaranth".
    thresholds : Θ of each of ``program.vectors``; the Program's own where omitted.
    stalls : seed of random stalls at all ends; None for sources always valid and sinks always ready.
    waves : a .vcd or .fst file to write waveforms to (Amaranth's simulator writes .vcd only).
    folder : where the log goes; beside the compiled simulations where omitted.
    fast : with Verilator, stream through a compiled C++ loop (the default) instead of the cocotb bench.
    verilog : the engine's Verilog where it has been emitted already; its top module is called "engine".
    layout : of the Program on the configuration, where it has been made already.

    Raises
    ------
    ToolError
        If a simulator is missing, too old, or refuses the design.
    """
    _check(simulator, fast, waves)
    layout = layout or Layout(program, config)
    final = config.states if final is None else final
    carries = any(layer.carried for layer in program.layers)  # else there is no state to take or give
    final = final and carries
    loaded = carries and (state is not None or bool(program.initial))
    if (loaded or final) and not config.states:
        what = "a state to start from" if loaded else "the state after each sequence"
        raise SparseGateError(f"{what} takes an array with state ports (states=True)")
    trace = golden.run(program, raw, lengths, thresholds, saturations=True, state=state)
    longest = int(trace.lengths.max())
    if not program.streams and longest > config.steps:
        raise SparseGateError(
            f"a sequence has {longest} steps, but the engine's buffer holds {config.steps}; set steps={longest}"
        )
    count = len(trace.lengths)
    work = plan(
        program,
        raw,
        lengths,
        thresholds,
        stalls,
        state_in=frames.words(layout, program.states(state, count), count) if loaded else (),
        states=count * sum(frames.sizes(layout)) if final else 0,
        beat=config.outputs,
    )
    begin = time.perf_counter()
    component = None
    if simulator == "amaranth":
        from sparsegate_hw.engine.engine import Engine

        component = Engine(program, config, layout)
    elif verilog is None:
        verilog = _verilog(program.digest, config, _Holder(layout))
    made = time.perf_counter() - begin
    recording, seconds, build_seconds = record(
        component, work, simulator=simulator, verilog=verilog, waves=waves, folder=folder, fast=fast
    )
    board = Scoreboard(trace, layout, final)
    predicted = cycles.predict(trace, layout, final)
    where = None if waves is None else Path(waves)
    return judge(board, recording, predicted, simulator, stalls, seconds, made + build_seconds, where)


@dataclass(frozen=True)
class _Holder:
    """Carries a layout past the cache's key, in which the Program's digest and the configuration stand for it."""

    layout: Layout = field(compare=False)


@lru_cache(maxsize=4)
def _verilog(digest: str, config: HardwareConfig, holder: _Holder) -> str:
    from sparsegate_hw.engine.engine import Engine
    from sparsegate_hw.synthesis.verilog import convert

    return convert(Engine(holder.layout.program, config, holder.layout), TOP)


def record(
    component: Any,
    work: Plan,
    *,
    simulator: str,
    verilog: str | None = None,
    waves: str | Path | None = None,
    folder: str | Path | None = None,
    fast: bool | None = None,
) -> tuple[Recording, float, float]:
    """Run a plan on any component with an engine's ports; returns the recording, and seconds of run and of build.

    ``component`` may be None where its Verilog, with a top module "engine", is given and the simulator reads that.
    """
    _check(simulator, fast, waves)
    waves = None if waves is None else Path(waves).resolve()
    form = runner.waves_format(waves)
    folder = cache.root() / "runs" if folder is None else Path(folder)
    begin = time.perf_counter()
    if simulator == "amaranth":
        recording = _amaranth(component, work, waves)
        return recording, time.perf_counter() - begin, 0.0
    if verilog is None:
        from sparsegate_hw.synthesis.verilog import convert

        verilog = convert(component, TOP)
    verilog, contents = memories.outside(verilog)
    pins = verilog_ports(verilog, TOP)
    if simulator == "verilator" and fast is not False:
        built = emulate.build(verilog, TOP, pins, form)
        middle = time.perf_counter()
        recording = emulate.run(built, work, pins, folder, waves, contents)
    else:
        built = runner.build(verilog, TOP, simulator, form)  # type: ignore[arg-type]
        middle = time.perf_counter()
        recording = _cocotb(built, work, pins, simulator, folder, waves, contents)
    return recording, time.perf_counter() - middle, middle - begin


def _check(simulator: str, fast: bool | None, waves: str | Path | None) -> None:
    """Refuse what no simulator does, before anything is built."""
    if simulator not in get_args(Simulator):
        raise SparseGateError(f"unknown simulator {simulator!r}; expected one of {', '.join(get_args(Simulator))}")
    if fast and simulator != "verilator":
        raise SparseGateError(f"fast emulation is Verilator's; {simulator} runs the bench")
    if runner.waves_format(None if waves is None else Path(waves)) == "fst" and simulator == "amaranth":
        raise SparseGateError(f"Amaranth's simulator writes .vcd waveforms only, not {waves}")


def _cocotb(
    built: Path,
    work: Plan,
    pins: Any,
    simulator: str,
    folder: Path,
    waves: Path | None,
    contents: Mapping[str, str],
) -> Recording:
    """Run the cocotb bench; plan and recording travel through files."""
    with cache.scratch(folder) as scratch:
        work.save(scratch / "plan.npz")
        artefact.write_json(scratch / "ports.json", {name: [port.width, port.signed] for name, port in pins.items()})
        environment = {
            "SPARSEGATE_PLAN": str(scratch / "plan.npz"),
            "SPARSEGATE_PORTS": str(scratch / "ports.json"),
            "SPARSEGATE_RECORDING": str(scratch / "recording.npz"),
        }
        runner.run(
            built,
            TOP,
            simulator,  # type: ignore[arg-type]
            "sparsegate_sim.benches.engine",
            folder=folder,
            environment=environment,
            waves=waves,
            contents=contents,
        )
        return Recording.load(scratch / "recording.npz")


class _AmaranthPins:
    """A component's ports in Amaranth's simulator."""

    def __init__(self, context: Any, component: Any) -> None:
        self._context, self._signals = context, signals(component)

    def read(self, name: str) -> int:
        return int(self._context.get(self._signals[name]))

    def write(self, name: str, value: int) -> None:
        self._context.set(self._signals[name], value)


def _amaranth(component: Any, work: Plan, waves: Path | None) -> Recording:
    from amaranth.sim import Simulator as Library

    recordings = []

    async def bench(context: Any) -> None:
        driver = Driver(work, ports(component), _AmaranthPins(context, component))
        driver.reset()
        while not driver.done:
            driver.before()
            driver.after()
            await context.tick()
        recordings.append(driver.finish())

    simulation = Library(component)
    simulation.add_clock(PERIOD)
    simulation.add_testbench(bench)
    if waves is None:
        simulation.run()
    else:
        with (
            artefact.writing(waves) as temporary,
            temporary.open("w", encoding="utf-8") as file,
            simulation.write_vcd(file),
        ):
            simulation.run()
    return recordings[0]


def judge(
    board: Scoreboard,
    recording: Recording,
    predicted: cycles.Cycles | None,
    simulator: str,
    stalls: int | None = None,
    seconds: float = 0.0,
    build_seconds: float = 0.0,
    waves: Path | None = None,
) -> SimulationResult:
    """Hold a recording against the golden run and, where there is one, against the cycle model."""
    trace = board.trace
    verdict = board.check(recording)
    ran = trace.ran  # (N, S)
    start, end = _placed(recording.step_start, ran), _placed(recording.step_done, ran)
    mismatches: int | None = None
    first = None
    if predicted is not None and stalls is None:
        differ = (start != predicted.start) | (end != predicted.end)
        surplus = sum(max(0, len(pulses) - int(ran.sum())) for pulses in (recording.step_start, recording.step_done))
        mismatches = int(differ.sum()) + surplus
        if differ.any():
            n, t = (int(value) for value in np.argwhere(differ)[0])
            first = (
                f"sequence {n}, {_step_name(trace, t)}: expected cycles {predicted.start[n, t]} to {predicted.end[n, t]},"
                f" counted {start[n, t]} to {end[n, t]}"
            )
        elif surplus:
            first = f"{surplus} start or done pulses after the last step"
    return SimulationResult(
        simulator=simulator,
        sequences=len(trace.lengths),
        steps=int(trace.lengths.sum()),
        values_compared=verdict.compared,
        mismatches=verdict.mismatches,
        first_mismatch=verdict.first,
        step_start=start,
        step_end=end,
        cycles=recording.cycles,
        cycle_mismatches=mismatches,
        first_cycle_mismatch=first,
        counters=dict(recording.counters),
        counter_mismatches=_counters(trace, recording, predicted),
        group_beats=recording.beats,
        state=_final(board, recording),
        seconds=seconds,
        build_seconds=build_seconds,
        waves=waves,
    )


def _step_name(trace: golden.Trace, at: int) -> str:
    """The step at a place of ``Trace.ran``; of several passes, in the order in which its pass runs."""
    if len(trace.passes) == 1:
        return f"step {at}"
    run = 0
    for this in trace.passes:
        steps = int(this.lengths.max())
        if at < steps:
            break
        at, run = at - steps, run + 1
    return f"pass {run}, its step {at}"


def _final(board: Scoreboard, recording: Recording) -> dict[str, dict[str, NDArray[np.int64]]] | None:
    """The final states that were given, if all were."""
    count = len(board.trace.lengths)
    if not board.final or len(recording.state_data) != count * sum(frames.sizes(board.layout)):
        return None
    return frames.states(board.layout, recording.state_data, count)


def _placed(pulses: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Cycles of pulses, one a step, at their sequence and step."""
    flat = np.full(int(valid.sum()), -1, np.int64)
    count = min(len(flat), len(pulses))
    flat[:count] = pulses[:count]
    placed = np.full(valid.shape, -1, np.int64)
    placed[valid] = flat
    return placed


def _counters(trace: golden.Trace, recording: Recording, predicted: cycles.Cycles | None) -> list[str]:
    """Sentences about counters that are not what golden and cycle model say; absent counters are not compared."""
    expected = {"steps": int(trace.ran.sum())}
    if len(recording.step_start) == len(recording.step_done):
        # of two steps at once a cycle counts once; steps start and end in order
        before = np.maximum.accumulate(np.concatenate([[0], recording.step_done]))[:-1]
        expected["cycles"] = int((recording.step_done - np.maximum(recording.step_start, before)).sum())
    if predicted is not None:
        expected |= {"columns_seen": predicted.columns_seen, "columns_sent": predicted.columns_sent}
    if trace.saturations:
        number = 0
        for layer in trace.program.layers:
            for site in layer.sites:
                expected[f"saturations__{number}"] = trace.saturations[layer.name][site]
                number += 1
    found = recording.counters
    differ = {key: want for key, want in expected.items() if key in found and found[key] != want}
    sentences = [f"counter {key}: expected {want}, got {found[key]}" for key, want in differ.items()]
    if predicted is not None and recording.beats is not None:
        pairs = zip(predicted.group_beats.tolist(), recording.beats.sum(axis=0).tolist(), strict=True)
        sentences += [
            f"beats of group {group}: expected {want}, got {got}"
            for group, (want, got) in enumerate(pairs)
            if want != got
        ]
    return sentences
