"""The host against a software board, over lines that lose, damage and delay bytes."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from sparsegate import golden, host
from sparsegate.array import HardwareConfig, Layout
from sparsegate.errors import SparseGateError
from sparsegate.host import HostError, SimulatedBoard
from sparsegate.network import synthetic
from sparsegate.pattern import NM
from sparsegate.protocol import NAK, REPLY, Command, Frame, Identity, Reason, encode_weights
from sparsegate.quantize import quantize


def make_program(when="step", seed=0):
    shapes = [synthetic.Shape("lstm", 6, NM(1, 2), NM(1, 2)), synthetic.Shape("linear", 3, when=when)]
    x = np.random.default_rng(seed).normal(size=(4, 6, 4))
    return quantize(synthetic.network(4, shapes, seed), x)


def stimulus(program, seed=0, count=3, steps=5):
    raw = synthetic.stimulus(program.input_format, count, steps, program.inputs, seed)
    return raw, np.random.default_rng(seed).integers(1, steps + 1, count)


class Line:
    """A port whose bytes pass a bad line in both directions."""

    def __init__(self, board, seed, rate):
        self.board, self.random, self.rate = board, random.Random(seed), rate
        self.closed = False

    def spoil(self, data):
        out = bytearray()
        for byte in data:
            draw = self.random.random()
            if draw < self.rate:
                continue
            out.append(byte ^ (1 << self.random.randrange(8)) if draw < 2 * self.rate else byte)
        return bytes(out)

    @property
    def in_waiting(self):
        return self.board.in_waiting

    def read(self, size=1):
        return self.spoil(self.board.read(size))

    def write(self, data):
        return self.board.write(self.spoil(data))

    def close(self):
        self.closed = True


@pytest.mark.parametrize("when", ["step", "last"])
def test_a_run_equals_the_golden_model(when):
    program = make_program(when)
    raw, lengths = stimulus(program)
    lines = []
    result = host.run(host.SIMULATED, program, raw, lengths, progress=lines.append)
    assert (result.mismatches, result.first_mismatch, result.retries) == (0, None, 0)
    assert (result.outputs == golden.run(program, raw, lengths).outputs).all()
    assert result.steps == result.counters["steps"] == lengths.sum()
    assert result.values_compared == 3 * (lengths.sum() if when == "step" else len(lengths))
    assert (result.cycles >= 0).sum() == lengths.sum()
    assert lines[-1] == "sequence 3 of 3"
    trace = golden.run(program, raw, lengths, saturations=True)
    for layer, sites in trace.saturations.items():
        for site, count in sites.items():
            assert result.counters[f"saturations.{layer}.{site}"] == count


def test_thresholds_are_set():
    program = make_program()
    raw, lengths = stimulus(program)
    result = host.run(SimulatedBoard(program), program, raw, lengths, thresholds=(20, 10, 0))
    assert (result.outputs == golden.run(program, raw, lengths, (20, 10, 0)).outputs).all()
    assert (result.outputs != golden.run(program, raw, lengths).outputs).any()
    with pytest.raises(SparseGateError, match="2 thresholds given, expected 3"):
        host.run(host.SIMULATED, program, raw, lengths, thresholds=(1, 2))


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_line_costs_retries_only(seed):
    program = make_program(seed=seed)
    raw, lengths = stimulus(program, seed, steps=8)
    board = SimulatedBoard(program)
    result = host.run(Line(board, seed, 0.004), program, raw, lengths, timeout=0.02, retries=30)
    assert result.mismatches == 0
    assert result.retries > 0
    # nothing was fed twice
    assert result.counters["steps"] == lengths.sum()


@pytest.mark.parametrize("array", [HardwareConfig(4, loaded=True), HardwareConfig(8, 3, 1, loaded=True)])
def test_weights_are_loaded_once(array):
    program = make_program()
    raw, lengths = stimulus(program, steps=8)
    layout = Layout(program, array)
    board = SimulatedBoard(program, layout=layout)
    line = Line(board, 2, 0.0005)
    with host.Board(line, program, timeout=0.02, retries=30) as link:
        words = layout.pack(*layout.weights()).reshape(-1)
        assert link.loaded == len(words)
        assert board.weights == words.tolist()
        assert link.identity.loaded
    result = host.run(board, program, raw, lengths)
    assert result.mismatches == 0
    with host.Board(board, program) as link:
        assert link.loaded == 0
    # a host that dies while it loads
    del board.weights[5:]
    assert host.run(board, program, raw, lengths).mismatches == 0
    assert board.weights == words.tolist()


def test_a_board_without_its_weights_refuses_steps():
    program = make_program()
    raw, _ = stimulus(program)
    board = SimulatedBoard(program, layout=Layout(program, HardwareConfig(4, loaded=True)))
    link = host.Board(board, program)
    with pytest.raises(HostError, match="the board refused FRAME: not all weights are loaded yet"):
        link.step(raw[0, 0], last=True)
    with pytest.raises(HostError, match="refused WEIGHTS: weights before these are not loaded yet"):
        link.ask(Command.WEIGHTS, encode_weights(1, 0, [1]))

    class Forgetful(SimulatedBoard):
        @property
        def _complete(self):
            return False

    with pytest.raises(HostError, match="waits for more weights, though all \\d+ words"):
        host.run(Forgetful(program, layout=Layout(program, HardwareConfig(4, loaded=True))), program, raw)


def test_wrong_outputs_are_named():
    program = make_program()
    raw, lengths = stimulus(program)

    class Broken(SimulatedBoard):
        def _advance(self, values, last):
            return super()._advance(values, last) + np.array([0, int(self._counters["steps"] == 2), 0])

    result = host.run(Broken(program), program, raw, lengths)
    expected = golden.run(program, raw, lengths).outputs
    assert result.mismatches == 1
    assert result.first_mismatch is not None
    assert "layer 'linear1', unit 1" in result.first_mismatch
    wrong = np.argwhere(result.outputs != expected)[0]
    assert result.first_mismatch.startswith(f"sequence {wrong[0]}, step {wrong[1]}")
    assert host.run(Broken(program), program, raw, lengths, check=False).mismatches is None


def test_a_board_that_runs_something_else_is_refused():
    program = make_program()
    raw, lengths = stimulus(program)
    with pytest.raises(HostError, match="runs other weights"):
        layers = (replace(program.layers[0], bias=program.layers[0].bias + 1), *program.layers[1:])
        host.run(SimulatedBoard(replace(program, layers=layers)), program, raw, lengths)
    with pytest.raises(HostError, match="network of another shape"):
        host.run(SimulatedBoard(make_program("last")), program, raw, lengths)

    class Lying(SimulatedBoard):
        def __init__(self, program):
            super().__init__(program)
            self._identity = replace(Identity.of(program, 1), sites=99)

    with pytest.raises(HostError, match="the board's identity is"):
        host.run(Lying(program), program, raw, lengths)


def test_silence_nonsense_and_refusals():
    program = make_program()
    raw, lengths = stimulus(program)

    class Silent(SimulatedBoard):
        def answer(self, request):
            if request.command == self.silent_on:
                self.asked += 1
                return self.instead
            return super().answer(request)

    def board(command, instead):
        port = Silent(program)
        port.silent_on, port.instead, port.asked = command, instead, 0
        return port

    def fails(port, match):
        with pytest.raises(HostError, match=match):
            host.run(port, program, raw, lengths, timeout=0.02, retries=2)

    stale = Frame(Command.IDENTIFY | REPLY, 200, b"")
    port = board(Command.IDENTIFY, stale)
    fails(port, "no good answer to IDENTIFY after 3 attempts: it does not answer")
    assert port.asked == 3
    fails(board(Command.RESET, Frame(NAK, 0, bytes([Reason.CRC]))), "no good answer to RESET .* the checksum was wrong")
    fails(board(Command.FRAME, Frame(NAK, 5, bytes([Reason.VALUE]))), "refused FRAME: a value does not fit")
    fails(board(Command.THRESHOLDS, Frame(Command.THRESHOLDS | REPLY, 3, b"")), "did not take the thresholds")
    fails(board(Command.FRAME, Frame(Command.FRAME | REPLY, 5, bytes(5))), "the board gave no outputs, expected some")


def test_a_sequence_left_open_is_closed_first():
    program = make_program()
    raw, lengths = stimulus(program)
    board = SimulatedBoard(program)
    with host.Board(board, program) as first:
        first.step(raw[0, 0], last=False)
        board._out.clear()
        first._open = False  # the host dies here
    assert host.run(board, program, raw, lengths).mismatches == 0


def test_an_interrupted_run_leaves_the_board_between_sequences():
    program = make_program()
    raw, _ = stimulus(program)
    board = SimulatedBoard(program)
    with pytest.raises(KeyboardInterrupt), host.Board(board, program) as link:
        link.step(raw[0, 0], last=False)
        raise KeyboardInterrupt
    assert board._frames == []


def test_ports():
    program = make_program()
    raw, lengths = stimulus(program)
    opened = []

    def factory(name, baudrate, timeout):
        opened.append(Line(SimulatedBoard(program), 0, 0.0))
        assert (name, baudrate) == ("/dev/ttyUSB0", 115200)
        return opened[0]

    result = host.run("/dev/ttyUSB0", program, raw, lengths, baud=115200, serial_factory=factory)
    assert result.mismatches == 0
    assert opened[0].closed

    def missing(*arguments, **options):
        raise OSError("no such device")

    with pytest.raises(HostError, match="cannot open port COM9: no such device"):
        host.run("COM9", program, raw, lengths, serial_factory=missing)
    with pytest.raises(HostError, match="cannot open port"):
        host.run("/nonexistent/port", program, raw, lengths)
    with pytest.raises(HostError, match="cannot open port"):
        host.run("unknown-scheme://x", program, raw, lengths)


def test_inputs_are_checked_first():
    program = make_program()
    raw, lengths = stimulus(program)
    with pytest.raises(SparseGateError, match="a board takes integers, not float64"):
        host.run(host.SIMULATED, program, raw.astype(float), lengths)
    with pytest.raises(SparseGateError, match=r"expected \(N, T, 4\)"):
        host.run(host.SIMULATED, program, raw[:, :, :2], lengths)
    for check in (True, False):
        with pytest.raises(SparseGateError, match=r"raw inputs|values lie in"):
            host.run(host.SIMULATED, program, np.full_like(raw, 1000), lengths, check=check)


def test_a_real_serial_port_loops_back():
    """pyserial's loop:// gives back what is sent: the host must not take its own requests for replies."""
    program = make_program()
    raw, lengths = stimulus(program)
    with pytest.raises(HostError, match="no good answer to IDENTIFY"):
        host.run("loop://", program, raw, lengths, timeout=0.05, retries=1)
