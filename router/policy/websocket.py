"""WebSocket frames (RFC 6455, 5), walked over from head to head: what they carry passes as it came.

A `Scanner` sees one direction. It knows where frames end, so that a frame of our own can be put between two of theirs, and
it takes out the answers to our own pings. What breaks the framing ends it: everything before the bad frame passes,
nothing of it and nothing behind. The same bytes in other pieces give the same result.
"""

from __future__ import annotations

CONTINUATION, TEXT, BINARY = 0, 1, 2
CLOSE, PING, PONG = 8, 9, 10
_FIN, _MASKED = 0x80, 0x80
_LONGEST_CONTROL = 125

NORMAL, GOING_AWAY, PROTOCOL_ERROR, TOO_BIG, INTERNAL_ERROR = 1000, 1001, 1002, 1009, 1011
NO_CODE = 1005
"""What a close frame without a code means (RFC 6455, 7.4.1); never sent."""


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """A whole control frame; `mask` (4 bytes) where it goes to a server."""
    assert len(payload) <= _LONGEST_CONTROL
    if not mask:
        return bytes((_FIN | opcode, len(payload))) + payload
    return bytes((_FIN | opcode, _MASKED | len(payload))) + mask + _masked(payload, mask)


def closing(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A close frame."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[: _LONGEST_CONTROL - 2], mask)


def _masked(payload: bytes, mask: bytes) -> bytes:
    return bytes([byte ^ mask[at & 3] for at, byte in enumerate(payload)])


class _Violation(Exception):
    """(code, reason) of the close frame that says so."""


class Scanner:
    """One direction of one connection."""

    __slots__ = (
        "_expected", "_held", "_insert", "_last", "_left", "_masks", "_max_message", "_message", "_more_bits", "_open",
        "_start_bits", "close_code", "muted", "over", "saw_data", "saw_ping", "violation",
    )  # fmt: skip

    def __init__(self, *, masks: bool, max_message_bytes: int, start_bits: int = 0, more_bits: int = 0) -> None:
        """`masks`: as callers do and servers must not. `start_bits`, `more_bits`: reserved bits (of 0x70) that extensions
        use in the first frame of a message and in the others.
        """
        self._masks = masks
        self._max_message = max_message_bytes
        self._start_bits = start_bits
        self._more_bits = more_bits
        self._held = b""
        """A frame's head that is not whole yet, or a control frame."""
        self._left = 0
        """Of the payload of a data frame whose head has passed."""
        self._open = False
        """Whether a message goes on in the next data frame."""
        self._message = 0
        """Bytes that the open message has announced."""
        self._insert = b""
        self._last = False
        self._expected = b""
        self.saw_data = False
        """A data frame has begun; for the owner to clear."""
        self.saw_ping = False
        """A ping has passed; for the owner to clear."""
        self.close_code = 0
        """Of the close frame that passed."""
        self.violation: tuple[int, str] | None = None
        """(code, reason) of the close frame that its sender deserves."""
        self.over = False
        """A close frame or a violation has come: nothing more will."""
        self.muted = False
        """Our own last frame has gone: nothing more passes."""

    @property
    def waits(self) -> bool:
        """Whether a frame of ours waits for the end of one of theirs."""
        return bool(self._insert)

    def expect(self, payload: bytes) -> None:
        """Take the pong with this payload out: it answers a ping of ours."""
        self._expected = payload

    def insert(self, ours: bytes, *, last: bool = False) -> bytes:
        """Put a frame of ours into what passes; returns what of it can go at once. `last`: nothing of theirs follows."""
        if self.muted or self.close_code:
            return b""
        if self._left:
            self._insert, self._last = ours if last else self._insert + ours, last
            return b""
        self.muted = last
        return ours

    def passes_whole(self, size: int) -> bool:
        """Whether the next `size` bytes are all of the frame that has begun, so that there is nothing to look at."""
        return self._left >= size

    def feed(self, data: bytes) -> list[bytes]:
        """What passes of `data` and of what was held, in slices."""
        if self.over:
            return []
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        pieces: list[bytes] = []
        passed = [] if self.muted else pieces
        start = at = 0
        try:
            while True:
                if self._left:
                    step = min(self._left, size - at)
                    at += step
                    self._left -= step
                    if self._left:
                        break
                    if self._insert:
                        pieces += (data[start:at], self._insert)
                        start = at
                        self._insert = b""
                        if self._last:
                            self.muted = True
                            pieces = []
                end = self._head(data, at, size)
                if end == at:  # not whole
                    self._held = data[at:]
                    break
                if end < 0:  # an answer to our own ping
                    if at > start:
                        pieces.append(data[start:at])
                    start = at = -end
                    continue
                at = end
                if self.close_code:
                    break
        except _Violation as violation:
            self.violation = violation.args
            self.over = True
        if at > start:
            pieces.append(data if start == 0 and at == size else data[start:at])
        return passed

    def _head(self, data: bytes, at: int, size: int) -> int:
        """Where what passes with the head at `at` ends: a data frame's head, a whole control frame. `at` itself where
        that has not all come, the negative end of what is taken out. Raises `_Violation`.
        """
        if size - at < 2:
            return at
        first, second = data[at], data[at + 1]
        if bool(second & _MASKED) is not self._masks:
            raise _Violation(PROTOCOL_ERROR, "an unmasked frame" if self._masks else "a masked frame of a server")
        opcode, length = first & 0x0F, second & 0x7F
        if opcode >= CLOSE:
            return self._control(data, at, size, first, length)
        self._check_data(first, opcode)
        head = at + 2
        if length > _LONGEST_CONTROL:
            wide = 2 if length == 126 else 8
            head += wide
            if size < head:
                return at
            length = _length(data[at + 2 : head])
        announced = self._message + length
        if announced > self._max_message:
            raise _Violation(TOO_BIG, f"a message of more than {self._max_message} bytes")
        head += 4 if self._masks else 0
        if size < head:
            return at
        self._open = not first & _FIN
        self._message = announced if self._open else 0
        self._left = length
        self.saw_data = True
        return head

    def _check_data(self, first: int, opcode: int) -> None:
        if opcode > BINARY:
            raise _Violation(PROTOCOL_ERROR, "an unknown opcode")
        if (opcode == CONTINUATION) is not self._open:
            raise _Violation(PROTOCOL_ERROR, "a message inside another" if self._open else "nothing to continue")
        if first & 0x70 & ~(self._more_bits if self._open else self._start_bits):
            raise _Violation(PROTOCOL_ERROR, "a reserved bit that no extension has asked for")

    def _control(self, data: bytes, at: int, size: int, first: int, length: int) -> int:
        opcode = first & 0x0F
        if opcode > PONG or first & 0x70 or not first & _FIN or length > _LONGEST_CONTROL:
            raise _Violation(
                PROTOCOL_ERROR, "a control frame that is unknown, in parts, too long or has a reserved bit"
            )
        if opcode == CLOSE and length == 1:
            raise _Violation(PROTOCOL_ERROR, "half a close code")
        begin = at + (6 if self._masks else 2)
        end = begin + length
        if size < end:
            return at
        if opcode == PING:
            self.saw_ping = True
        elif opcode == PONG:
            if length and length == len(self._expected) and self._payload(data, begin, end) == self._expected:
                self._expected = b""
                return -end
        else:
            code = int.from_bytes(self._payload(data, begin, begin + 2), "big") if length else NO_CODE
            if code < NORMAL:
                raise _Violation(PROTOCOL_ERROR, "a close code that there cannot be")
            self.over = True
            self.close_code = code
        return end

    def _payload(self, data: bytes, begin: int, end: int) -> bytes:
        return _masked(data[begin:end], data[begin - 4 : begin]) if self._masks else data[begin:end]


def _length(digits: bytes) -> int:
    """A length in its long form: the shortest one, without the highest bit. Raises `_Violation`."""
    length = int.from_bytes(digits, "big")
    if length >> 63:
        raise _Violation(PROTOCOL_ERROR, "a length with its highest bit")
    if length < (126 if len(digits) == 2 else 65536):
        raise _Violation(PROTOCOL_ERROR, "a length that is not in its shortest form")
    return length
