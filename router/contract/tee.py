"""The frames between a gateway worker and the mirror, on one Unix stream socket per worker.

A frame is a header (`HEADER`: payload length, kind, exchange id) and its payload. Exchange ids count up per connection.
The gateway sends OPEN, BODY*, REQUEST_END, RESPONSE, RESPONSE_BODY*, TRAILERS?, END — or DROP at any place, which ends the
exchange. The mirror answers DONE once the shadow's event is on the log; what was not answered when the connection
breaks is lost and counted by the gateway.
"""

from __future__ import annotations

import enum
import json
import re
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<IBQ")
MAX_PAYLOAD_BYTES = 1 << 20
"""A sender splits longer bodies; a receiver treats a longer frame as a broken peer."""


class Kind(enum.IntEnum):
    """What a frame carries."""

    OPEN = 1
    """JSON of `Open`, u16 length first, then the request head as it would go upstream (no credentials)."""
    BODY = 2
    """Request body bytes, unchunked."""
    REQUEST_END = 3
    RESPONSE = 4
    """`RESPONSE_FIELDS`, then the live response's head bytes as the replica sent them."""
    RESPONSE_BODY = 5
    """Response body bytes, unchunked."""
    END = 6
    """`END_FIELDS`: the live side is complete."""
    DROP = 7
    """UTF-8 reason; the live exchange was aborted or the byte budget is spent."""
    DONE = 8
    """Mirror → gateway."""
    TRAILERS = 9
    """Behind the response's body: `name: value` lines, each with its end. Only HTTP/2 has them."""


_KINDS = {int(kind): kind for kind in Kind}
RESPONSE_FIELDS = struct.Struct("<HI")
"""status, first byte in µs after arrival."""
END_FIELDS = struct.Struct("<HIQ")
"""status, total µs, response body bytes."""
_OPEN_LENGTH = struct.Struct("<H")
_ENDING = re.compile(rb',"request_id":"([!#-\[\]-~]*+)","start_ns":([1-9][0-9]{0,18}|0)\}\Z')
"""As the gateway writes it. No string can have it within: its quotation marks would be escaped."""
_MOST_FRONTS = 16_384
"""Endpoints that are mirrored, with their live deployments and candidates."""
_fronts: dict[bytes, Open] = {}


class BrokenPeer(ValueError):
    """The other end sent what no frame can be."""


@dataclass(frozen=True, slots=True)
class Open:
    """What the mirror must know before the first byte."""

    endpoint: str
    live: str
    """Lower-case name of the deployment that answers the caller."""
    candidates: tuple[str, ...]
    request_id: str
    start_ns: int


def frame(kind: Kind, exchange: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return HEADER.pack(len(payload), kind, exchange) + payload


def open_frame(exchange: int, opening: Open, head: bytes) -> bytes:
    """An OPEN frame; `head` is the request line and headers, ending in an empty line."""
    about = json.dumps(asdict(opening), separators=(",", ":")).encode()
    return frame(Kind.OPEN, exchange, _OPEN_LENGTH.pack(len(about)) + about + head)


def parse_open(payload: bytes) -> tuple[Open, bytes]:
    """(`Open`, head bytes) of an OPEN frame's payload."""
    try:
        (length,) = _OPEN_LENGTH.unpack_from(payload)
        return _opening(payload[2 : 2 + length]), payload[2 + length :]
    except (struct.error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BrokenPeer(str(error)) from error


def _opening(about: bytes) -> Open:
    """Its beginning (endpoint, live, candidates) is the same for very many and parsed once; its end is what differs."""
    found = _ENDING.search(about)
    if found is None:
        return _parsed(about)
    front = about[: found.start()]
    known = _fronts.get(front)
    if known is None:
        known = _parsed(about)
        if len(_fronts) >= _MOST_FRONTS:
            _fronts.clear()
        _fronts[front] = known
        return known
    return Open(known.endpoint, known.live, known.candidates, str(found[1], "ascii"), int(found[2]))


def _parsed(about: bytes) -> Open:
    fields = json.loads(str(about, "utf-8"))
    fields["candidates"] = tuple(fields["candidates"])
    return Open(**fields)


class Decoder:
    """Bytes in any slices → whole frames."""

    def __init__(self) -> None:
        self._held = bytearray()
        """The beginning of a frame that is not whole."""
        self._needed = HEADER.size
        """Bytes of it before there is anything new to say."""

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """Every frame that `data` completes, in order; raises `BrokenPeer` on nonsense, and is of no use afterwards."""
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return
            data = bytes(self._held)
            self._held.clear()
        at, size = 0, len(data)
        self._needed = HEADER.size
        while size - at >= HEADER.size:
            length, number, exchange = HEADER.unpack_from(data, at)
            if length > MAX_PAYLOAD_BYTES:
                raise BrokenPeer(f"a frame of {length} bytes")
            end = at + HEADER.size + length
            if end > size:
                self._needed = HEADER.size + length
                break
            kind = _KINDS.get(number)
            if kind is None:
                raise BrokenPeer(f"unknown frame kind {number}")
            yield kind, exchange, data[at + HEADER.size : end]
            at = end
        if at < size:
            self._held += data[at:]
