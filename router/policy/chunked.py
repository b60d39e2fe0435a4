"""The chunked transfer coding, strictly: what it lets through has one meaning for everybody.

Hexadecimal sizes of at most 16 digits, CRLF and nothing else as line end. Extensions are checked, bounded and dropped,
trailers too, except that one which would have framed, routed or opened something in a head is refused: whoever merges
trailers into the head would read another request. Payload comes out in slices, so that it can be framed anew.
"""

from __future__ import annotations

from typing import Final

from router.policy.grammar import CHUNK_SIZE, TRAILER

MAX_LINE_BYTES: Final = 256
"""A size with its extensions."""
MAX_EXCESS_BYTES: Final = 16384
"""By which extensions may outweigh the payload before them: they cost work and carry nothing."""
MAX_TRAILER_BYTES: Final = 8192
_PLAIN_DIGITS: Final = 7
"""Of a size that a read can bring whole."""
_CR: Final = 13
_LF: Final = 10
_ZERO: Final = ord("0")
_NINE: Final = ord("9")
_A: Final = ord("a")
_F: Final = ord("f")
_HEADS_OWN: Final = frozenset(
    {b"authorization", b"connection", b"content-encoding", b"content-length", b"content-range", b"content-type", b"cookie",
     b"expect", b"host", b"proxy-authorization", b"set-cookie", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)  # fmt: skip
"""Fields that no trailer section may have (RFC 9110, 6.5.1), also as a server spells them that reads `_` as `-`."""
LAST: Final = b"0\r\n\r\n"
MOST_PIECES: Final = 1_000
"""Of a turn of the event loop, for `feed`: a read may have 40,000 chunks of a byte, and all others wait meanwhile."""
_ANY: Final = (1 << 62) - 1


class BadChunk(ValueError):
    """The peer's framing is not the chunked coding."""


class Decoder:
    """One body. `feed` takes what came; afterwards `done` says whether the body is complete."""

    __slots__ = ("_excess", "_held", "_in_trailers", "_left", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        """Payload bytes left of the current chunk, plus 2 for its CRLF; 0 between chunks."""
        self._excess = 0
        self._in_trailers = False
        self._trailer_bytes = 0
        self.done = False

    def feed(self, data: bytes, most: int = _ANY) -> tuple[list[bytes], bytes]:
        """(payload slices, what follows the body). Raises `BadChunk`.

        After `most` slices it stops: where the body is not `done`, what is left is to be fed later.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.done and len(pieces) < most:
            if self._left:
                at = self._payload(data, at, pieces)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data, at)
                return pieces, b""
            if self._in_trailers:
                self._trailer(data[at:end])
            else:
                self._size(data[at:end])
            at = end + 2
        return pieces, data[at:]

    def whole(self, data: bytes) -> int:
        """How much payload `data` has where it is one whole chunk, spelled as `frame` spells it, and nothing else; otherwise 0.

        It may then be passed on as it is, and need not be fed.
        """
        end = len(data) - 2
        if end <= 0 or data[end] != _CR or data[end + 1] != _LF or self._left or self._held or self._in_trailers:
            return 0
        # By hand, because it is done for every piece of every stream: the digits of `%x`, which never begin with 0.
        size, at, digit = 0, 0, data[0]
        if digit == _ZERO:
            return 0
        while at < _PLAIN_DIGITS:
            if _ZERO <= digit <= _NINE:
                size = size * 16 + digit - _ZERO
            elif _A <= digit <= _F:
                size = size * 16 + digit - _A + 10
            else:
                break
            at += 1
            digit = data[at]
        return size if digit == _CR and data[at + 1] == _LF and at + 2 + size == end else 0

    def _payload(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take payload and then the CRLF behind it; returns where it stopped."""
        payload = self._left - 2
        if payload > 0:
            piece = data[at : at + payload]
            pieces.append(piece)
            self._left -= len(piece)
            at += len(piece)
        while 0 < self._left <= 2 and at < len(data):
            if data[at] != (13 if self._left == 2 else 10):
                raise BadChunk("a chunk is longer than its size says")
            self._left -= 1
            at += 1
        return at

    def _hold(self, data: bytes, at: int) -> None:
        bound = MAX_TRAILER_BYTES if self._in_trailers else MAX_LINE_BYTES
        if len(data) - at > bound:
            raise BadChunk("a chunk size line or a trailer without an end")
        self._held = data[at:]
        if b"\n" in self._held:
            raise BadChunk("a line that does not end in CR LF")

    def _size(self, line: bytes) -> None:
        found = CHUNK_SIZE.fullmatch(line) if len(line) <= MAX_LINE_BYTES else None
        if found is None:
            raise BadChunk("not a chunk size")
        digits, extensions = found.groups()
        size = int(digits, 16)
        if extensions:
            self._excess = max(0, self._excess + len(extensions) - size)
            if self._excess > MAX_EXCESS_BYTES:
                raise BadChunk("more chunk extensions than payload")
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True

    def _trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if not line:
            self.done = True
            return
        if self._trailer_bytes > MAX_TRAILER_BYTES or TRAILER.fullmatch(line) is None:
            raise BadChunk("bad trailers")
        name = line.partition(b":")[0].lower().replace(b"_", b"-")
        if name in _HEADS_OWN:
            raise BadChunk("a trailer that belongs into the head")


def frame(pieces: list[bytes]) -> bytes:
    """`pieces` as one chunk; nothing for no payload."""
    if len(pieces) == 1:
        payload = pieces[0]
        return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
    size = sum(map(len, pieces))
    return b"".join((b"%x\r\n" % size, *pieces, b"\r\n")) if size else b""
