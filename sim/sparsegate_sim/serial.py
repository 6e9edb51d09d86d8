"""A host's serial port on the pins of a simulated board: bits, and nothing but bits, at the UART's baud rate."""

from __future__ import annotations

from collections import deque


class Line:
    """Both directions of a UART, 8 data bits, no parity, one stop bit, advanced a clock cycle at a time.

    Each cycle: the board's rx takes :meth:`drive`'s value, and :meth:`observe` is told the board's tx.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        self._bits: deque[int] = deque()
        self._level, self._left = 1, 0
        self._waiting = 0  # cycles to the middle of the next bit that is received
        self._received: list[int] | None = None
        self.bytes = bytearray()
        self.broken = 0
        """Bytes received without a stop bit."""

    @property
    def idle(self) -> bool:
        """Whether everything that was sent is on its way."""
        return not self._bits and not self._left

    def send(self, data: bytes, pause: int = 0) -> None:
        """Queue bytes; ``pause`` idle bits before each."""
        for byte in data:
            self._bits.extend([1] * pause + [0, *((byte >> place) & 1 for place in range(8)), 1])

    def drive(self) -> int:
        """Level of the board's rx in the coming cycle."""
        if not self._left:
            if not self._bits:
                return 1
            self._level, self._left = self._bits.popleft(), self.divisor
        self._left -= 1
        return self._level

    def observe(self, tx: int) -> None:
        """The board's tx in this cycle."""
        if self._received is None:
            if not tx:  # a start bit began; its data bits are sampled in their middles
                self._received, self._waiting = [], self.divisor + self.divisor // 2
            return
        self._waiting -= 1
        if self._waiting:
            return
        self._waiting = self.divisor
        self._received.append(tx)
        if len(self._received) == 9:
            *bits, stop = self._received
            if stop:
                self.bytes.append(sum(bit << place for place, bit in enumerate(bits)))
            else:
                self.broken += 1
            self._received = None
