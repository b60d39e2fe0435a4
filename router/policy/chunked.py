"""The chunked transfer coding, strictly: what it lets through has one meaning for everybody.

Hexadecimal sizes of at most 16 digits, CRLF and nothing else as line end, short extensions that are dropped, trailers
that are bounded and dropped. Payload comes out in slices, so that it can be framed anew.
"""

from __future__ import annotations

import re

_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
MAX_LINE_BYTES = 256
"""A size with its extensions."""
MAX_TRAILER_BYTES = 8192
LAST = b"0\r\n\r\n"


class BadChunk(ValueError):
    """The peer's framing is not the chunked coding."""


class Decoder:
    """One body. `feed` takes what came; afterwards `done` says whether the body is complete."""

    __slots__ = ("_held", "_in_trailers", "_left", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        """Payload bytes left of the current chunk, plus 2 for its CRLF; 0 between chunks."""
        self._in_trailers = False
        self._trailer_bytes = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """(payload slices, what follows the body). Raises `BadChunk`."""
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
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
        found = _SIZE.fullmatch(line) if len(line) <= MAX_LINE_BYTES else None
        if found is None:
            raise BadChunk("not a chunk size")
        size = int(found.group(1), 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True

    def _trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if not line:
            self.done = True
        elif self._trailer_bytes > MAX_TRAILER_BYTES or _TRAILER.fullmatch(line) is None:
            raise BadChunk("bad trailers")


def frame(pieces: list[bytes]) -> bytes:
    """`pieces` as one chunk; nothing for no payload."""
    if len(pieces) == 1:
        payload = pieces[0]
        return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
    size = sum(map(len, pieces))
    return b"".join((b"%x\r\n" % size, *pieces, b"\r\n")) if size else b""
