"""The host's side of a board: run sequences through it, survive a bad line, compare with the golden model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsegate import golden, protocol
from sparsegate.array import MAX_MULTIPLIER, HardwareConfig, Layout
from sparsegate.errors import SparseGateError, ToolError
from sparsegate.network import sequences
from sparsegate.program import Program
from sparsegate.protocol import RUN_WORDS, Command, Decoder, Frame, Identity, Reason, StepReply, WeightsReply

BAUD = 1_000_000
SIMULATED = "simulated"
"""A port name that stands for a board made of software, the golden model inside."""


class Port(Protocol):
    """What of ``serial.Serial`` is used."""

    def read(self, size: int = 1) -> bytes:
        """At most ``size`` bytes; fewer, or none, when the port's timeout has passed."""

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""

    @property
    def in_waiting(self) -> int:
        """Bytes that ``read`` would give at once."""

    def close(self) -> None:
        """Give the port back."""


class HostError(SparseGateError):
    """A board that does not answer, answers nonsense, or runs something else."""


@dataclass(frozen=True)
class HostResult:
    """What a board gave.

    ``outputs`` (N, T, outputs) raw, zero where the Program gives none; ``cycles`` (N, T) clock cycles of each step, which overlaps
    no other, as the board counted them, -1 past a sequence's end; ``counters`` what they grew by during the run, modulo 2**32.
    ``mismatches`` counts outputs that differ from the golden model (None where not compared). ``retries``: requests that had to be
    sent again.
    """

    identity: Identity
    outputs: NDArray[np.int64]
    cycles: NDArray[np.int64]
    counters: Mapping[str, int]
    steps: int
    values_compared: int
    mismatches: int | None
    first_mismatch: str | None
    retries: int
    seconds: float

    @property
    def cycles_per_step(self) -> float | None:
        """Mean cycles of a step; None where the board has no clock to count, as the simulated one."""
        busy = self.cycles[self.cycles >= 0]
        return float(busy.mean()) if busy.any() else None


def run(
    port: str | Port,
    program: Program,
    raw: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    thresholds: Sequence[int] | None = None,
    check: bool = True,
    baud: int = BAUD,
    timeout: float = 1.0,
    retries: int = 5,
    progress: Callable[[str], None] | None = None,
    serial_factory: Callable[..., Port] | None = None,
) -> HostResult:
    """Run raw integer sequences (N, T, I) on a board.

    Parameters
    ----------
    port : a serial port's name or pyserial URL, ``"simulated"``, or an open port.
    lengths : (N,) steps of each sequence; all T where omitted.
    thresholds : Θ of each vector; the Program's own where omitted.
    check : compare every output with the golden model.
    timeout : seconds to wait for a reply before the request is sent again, at most ``retries`` times.
    serial_factory : opens ports; ``serial.serial_for_url`` by default.

    Raises
    ------
    HostError
        If the board does not answer, or runs another Program.
    """
    raw = np.asarray(raw)
    if not np.issubdtype(raw.dtype, np.integer):
        raise SparseGateError(f"a board takes integers, not {raw.dtype}; use Program.quantize first")
    _, checked = sequences(raw, lengths, program.inputs)
    thresholds = program.thresholds if thresholds is None else tuple(int(t) for t in thresholds)
    if len(thresholds) != len(program.thresholds):
        raise SparseGateError(
            f"{len(thresholds)} thresholds given, expected {len(program.thresholds)}: {program.vector_names}"
        )
    say = progress or (lambda line: None)
    # the golden model first: what it refuses, the board need not see
    expected = golden.run(program, raw, checked, thresholds) if check else None
    link = open_port(port, program, baud, timeout, serial_factory)
    started = time.monotonic()
    try:
        with Board(link, program, timeout, retries) as board:
            outputs, cycles, counters = _run(board, raw, checked, thresholds, say)
    finally:
        if link is not port:
            link.close()
    mismatches, first = _compare(outputs, expected, program) if expected is not None else (None, None)
    return HostResult(
        identity=board.identity,
        outputs=outputs,
        cycles=cycles,
        counters=counters,
        steps=int(checked.sum()),
        values_compared=int(board.values) if check else 0,
        mismatches=mismatches,
        first_mismatch=first,
        retries=board.retried,
        seconds=time.monotonic() - started,
    )


def open_port(
    port: str | Port, program: Program, baud: int, timeout: float, serial_factory: Callable[..., Port] | None = None
) -> Port:
    """A port that reads in short waits, so that a reply is seen soon after it arrives."""
    if not isinstance(port, str):
        return port
    if port == SIMULATED:
        return SimulatedBoard(program)
    if serial_factory is None:
        try:
            import serial
        except ImportError:
            raise ToolError("talking to a board needs pyserial; 'pip install pyserial' provides it") from None
        serial_factory = serial.serial_for_url
    try:
        return serial_factory(port, baudrate=baud, timeout=min(0.05, timeout))
    except (OSError, ValueError) as error:  # pyserial's own exception is an OSError
        raise HostError(f"cannot open port {port}: {error}") from error


def _run(
    board: Board, raw: NDArray, lengths: NDArray, thresholds: Sequence[int], say: Callable[[str], None]
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    program = board.program
    say(f"board runs {program.name} at {board.identity.clock_hz / 1e6:g} MHz")
    if board.loaded:
        say(f"{board.loaded} words of weights loaded")
    board.set_thresholds(thresholds)
    before = board.counters()
    outputs = np.zeros((*raw.shape[:2], program.outputs), np.int64)
    cycles = np.full(raw.shape[:2], -1, np.int64)
    for n, length in enumerate(lengths):
        for t in range(length):
            reply = board.step(raw[n, t], last=t == length - 1)
            cycles[n, t] = reply.cycles
            if reply.outputs is not None:
                outputs[n, t] = reply.outputs
        say(f"sequence {n + 1} of {len(lengths)}")
    after = board.counters()
    return outputs, cycles, {name: (after[name] - before[name]) & 0xFFFFFFFF for name in after}


def _compare(outputs: NDArray, expected: golden.Trace, program: Program) -> tuple[int, str | None]:
    wrong = np.argwhere(outputs != expected.outputs)
    if not len(wrong):
        return 0, None
    n, t, unit = (int(index) for index in wrong[0])
    return len(wrong), (
        f"sequence {n}, step {t}, layer {program.layers[-1].name!r}, unit {unit}: "
        f"expected {expected.outputs[n, t, unit]}, got {outputs[n, t, unit]}"
    )


class Board:
    """A board at the end of a port.

    Entering the context identifies it, ends a sequence that an earlier host left open, and loads the Program's weights where the
    bitstream has none; not, if they are there already. ``loaded`` counts the words that were written.
    """

    def __init__(self, port: Port, program: Program, timeout: float = 1.0, retries: int = 5) -> None:
        self.program = program
        self.retried = 0
        self.values = self.loaded = 0
        self._port, self._timeout, self._retries = port, timeout, retries
        self._sequence = 0
        self._decoder = Decoder(max_payload=protocol.longest_reply(program))
        self._open = False

    def __enter__(self) -> Board:
        self.identity = Identity.decode(self.ask(Command.IDENTIFY))
        self._verify(self.identity)
        self.ask(Command.RESET)
        if self.identity.loaded:
            self._load()
        return self

    def _load(self) -> None:
        """Write the weights, unless they are there: they are those of the contents digest, which has been compared."""
        reply = WeightsReply.decode(self.ask(Command.WEIGHTS))
        if reply.complete:
            return
        for payload in weight_requests(self.program, reply):
            reply = WeightsReply.decode(self.ask(Command.WEIGHTS, payload))
            self.loaded += len(protocol.decode_weights(payload)[-1])
        if not reply.complete:
            raise HostError(
                f"the board waits for more weights, though all {self.loaded} words of this Program are written"
            )

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # leave the board between sequences; where the line is dead already, the first error is the one to tell
        if self._open and kind is not HostError:
            self.ask(Command.RESET)

    def _verify(self, found: Identity) -> None:
        expected = Identity.of(self.program, found.clock_hz, found.loaded)
        if found.shape != expected.shape:
            raise HostError(
                f"the board runs a network of another shape (digest {found.shape.hex()}, {found.inputs} inputs, {found.outputs} "
                f"outputs), expected {expected.shape.hex()} ({expected.inputs} inputs, {expected.outputs} outputs)"
            )
        if found.contents != expected.contents:
            raise HostError(
                f"the board runs other weights (digest {found.contents.hex()}), expected {expected.contents.hex()}; "
                "load the bitstream that was made from this Program"
            )
        if found != expected:
            raise HostError(f"the board's identity is {found}, expected {expected}")

    def step(self, values: ArrayLike, last: bool) -> StepReply:
        """One time step; raw inputs."""
        width = self.program.input_format.width
        payload = self.ask(Command.FRAME, protocol.encode_step(values, width, last))
        reply = StepReply.decode(payload, self.program.outputs, self.program.output_format.width)
        self._open = not last
        given = last or self.program.layers[-1].when == "step"
        if (reply.outputs is not None) != given:
            raise HostError(
                f"the board gave {'no ' if given else ''}outputs, expected {'some' if given else 'none'} at this step"
            )
        if reply.outputs is not None:
            self.values += len(reply.outputs)
        return reply

    def set_thresholds(self, thresholds: Sequence[int]) -> None:
        """Θ of the input and of each layer's output, from the next sequence on."""
        payload = protocol.encode_thresholds(thresholds)
        if self.ask(Command.THRESHOLDS, payload) != payload:
            raise HostError("the board did not take the thresholds")

    def counters(self) -> dict[str, int]:
        """All counters, as they are now."""
        return protocol.decode_counters(self.ask(Command.COUNTERS), self.program)

    def ask(self, command: Command, payload: bytes = b"") -> bytes:
        """Send a request until it is answered; gives the reply's payload."""
        self._sequence = (self._sequence + 1) & 0xFF
        request = Frame(command, self._sequence, payload)
        trouble = "it does not answer"
        for attempt in range(self._retries + 1):
            self.retried += attempt > 0
            self._send(request.encode())
            reply = self._receive(request)
            if reply is None:
                trouble = "it does not answer"
            elif reply.reason in protocol.TRANSIENT:
                trouble = f"it says: {protocol.MEANING[reply.reason]}"
            elif reply.command == protocol.NAK:
                why = protocol.MEANING[reply.reason] if reply.reason is not None else "of an unknown reason"
                raise HostError(f"the board refused {command.name}: {why}")
            else:
                return reply.payload
        raise HostError(
            f"no good answer to {command.name} after {self._retries + 1} attempts: {trouble}; "
            "check port, baud rate, and that the bitstream is loaded"
        )

    def _send(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except OSError as error:
            raise HostError(f"the port failed: {error}") from error

    def _receive(self, request: Frame) -> Frame | None:
        """The reply to ``request``; late replies to earlier ones are passed over. None if none comes in time."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            try:
                data = self._port.read(max(1, self._port.in_waiting))
            except OSError as error:
                raise HostError(f"the port failed: {error}") from error
            for frame in self._decoder.feed(data):
                if _answers(frame, request):
                    return frame
        for frame in self._decoder.skip():
            if _answers(frame, request):
                return frame
        return None


def _answers(reply: Frame, request: Frame) -> bool:
    """A damaged request may come back under a wrong number: any refusal for the line's sake means that this one must go again."""
    if reply.reason in protocol.TRANSIENT:
        return True
    return reply.sequence == request.sequence and reply.command in (request.command | protocol.REPLY, protocol.NAK)


def weight_requests(program: Program, array: WeightsReply) -> Iterator[bytes]:
    """Payloads of the WEIGHTS requests that fill the weight memories of a board with this array, in its order."""
    config = HardwareConfig(
        array.rows, array.groups, array.lanes, array.cluster, multiplier=MAX_MULTIPLIER, loaded=True
    )
    layout = Layout(program, config)
    words = layout.pack(*layout.weights()).reshape(-1)
    for start in range(0, words.size, RUN_WORDS):
        place = divmod(start, layout.weight_depth)
        yield protocol.encode_weights(*place, words[start : start + RUN_WORDS])


class SimulatedBoard:
    """A board in software: the protocol in front of the golden model. Implements :class:`Port`.

    It knows no clock and no columns: their counters stay 0, as do the cycles of a step. With a ``layout`` whose weights are loaded
    it takes them into ``weights``, one word after the other, and refuses steps until all are there; it computes with the Program's.
    """

    def __init__(self, program: Program, clock_hz: int = 80_000_000, layout: Layout | None = None) -> None:
        self.program = program
        self._layout = layout if layout is not None and layout.config.loaded else None
        self.weights: list[int] = []
        self._identity = Identity.of(program, clock_hz, self._layout is not None)
        self._thresholds = program.thresholds
        self._decoder = Decoder()
        self._out = bytearray()
        self._frames: list[NDArray[np.int64]] = []
        self._replay: tuple[int, Frame] | None = None
        self._counters = dict.fromkeys(protocol.COUNTERS, 0)
        self._saturations: dict[tuple[str, str], int] = {
            (layer.name, site): 0 for layer in program.layers for site in layer.sites
        }

    @property
    def in_waiting(self) -> int:
        return len(self._out)

    def read(self, size: int = 1) -> bytes:
        data = bytes(self._out[:size])
        del self._out[:size]
        return data

    def write(self, data: bytes, /) -> int:
        rejected = self._decoder.rejected
        for request in self._decoder.feed(data):
            self._out += self.answer(request).encode()
        if self._decoder.rejected > rejected:
            self._out += Frame(protocol.NAK, 0, bytes([Reason.CRC])).encode()
        return len(data)

    def close(self) -> None:
        """Nothing to give back."""

    def answer(self, request: Frame) -> Frame:
        """Carry out a request, as the packet layer of a board does."""
        try:
            command = Command(request.command)
        except ValueError:
            return self._refuse(request, Reason.COMMAND)
        if command == Command.FRAME:
            return self._frame(request)
        if command == Command.WEIGHTS:
            return self._weights(request)
        if command == Command.THRESHOLDS and request.payload:
            if len(request.payload) != 2 * len(self._thresholds):
                return self._refuse(request, Reason.LENGTH)
            if self._frames:
                return self._refuse(request, Reason.OPEN)
            self._thresholds = protocol.decode_thresholds(request.payload)
        elif request.payload:
            return self._refuse(request, Reason.LENGTH)
        self._replay = None
        if command == Command.IDENTIFY:
            payload = self._identity.encode()
        elif command == Command.THRESHOLDS:
            payload = protocol.encode_thresholds(self._thresholds)
        elif command == Command.COUNTERS:
            payload = protocol.encode_counters([*self._counters.values(), *self._saturations.values()])
        else:
            payload = bytes([bool(self._frames)])
            if self._frames:
                self._advance(np.zeros(self.program.inputs, np.int64), last=True)
        return Frame(command | protocol.REPLY, request.sequence, payload)

    def _refuse(self, request: Frame, reason: Reason) -> Frame:
        return Frame(protocol.NAK, request.sequence, bytes([reason]))

    def _frame(self, request: Frame) -> Frame:
        form = self.program.input_format
        if len(request.payload) != 1 + self.program.inputs * protocol.value_bytes(form.width):
            return self._refuse(request, Reason.LENGTH)
        values = protocol.unpack(request.payload[1:], form.width)
        if values.min() < form.min or values.max() > form.max:
            return self._refuse(request, Reason.VALUE)
        if not self._complete:
            return self._refuse(request, Reason.UNLOADED)
        if self._replay is not None and self._replay[0] == request.sequence:
            return self._replay[1]
        last = bool(request.payload[0] & protocol.LAST)
        given = last or self.program.layers[-1].when == "step"
        outputs = self._advance(values, last)
        payload = StepReply(0, outputs if given else None).encode(self.program.output_format.width)
        reply = Frame(Command.FRAME | protocol.REPLY, request.sequence, payload)
        self._replay = (request.sequence, reply)
        return reply

    @property
    def _complete(self) -> bool:
        layout = self._layout
        return layout is None or len(self.weights) == layout.config.pes * layout.weight_depth

    def _weights(self, request: Frame) -> Frame:
        layout, size = self._layout, len(request.payload)
        if layout is None:
            return self._refuse(request, Reason.COMMAND)
        if size:
            if size % 2 or not 6 <= size <= 4 + 2 * RUN_WORDS:
                return self._refuse(request, Reason.LENGTH)
            if self._frames:
                return self._refuse(request, Reason.OPEN)
            pe, address, words = protocol.decode_weights(request.payload)
            start = pe * layout.weight_depth + address
            if address >= layout.weight_depth or start > len(self.weights):
                return self._refuse(request, Reason.ORDER)
            self.weights[start:] = words.tolist()
            del self.weights[layout.config.pes * layout.weight_depth :]
        self._replay = None
        reply = WeightsReply(self._complete, layout.rows, layout.groups, layout.cluster, layout.lanes)
        return Frame(request.command | protocol.REPLY, request.sequence, reply.encode())

    def _advance(self, values: NDArray[np.int64], last: bool) -> NDArray[np.int64]:
        """One more step: the golden model over all steps so far."""
        self._frames.append(values)
        trace = golden.run(self.program, np.stack(self._frames)[None], None, self._thresholds, saturations=last)
        self._counters["steps"] += 1
        if last:
            self._frames = []
            for layer in self.program.layers:
                for site, count in trace.saturations[layer.name].items():
                    self._saturations[layer.name, site] += count
        result: NDArray[np.int64] = trace.outputs[0, -1]
        return result
