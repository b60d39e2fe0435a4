"""What gRPC calls the things that HTTP has status codes for, and how it is told of them: an answer of nothing but fields.

A call's HTTP status is always 200; a client that meets another one guesses (most take 404 for UNIMPLEMENTED and 429 for
UNAVAILABLE), so what the gateway says itself is said in gRPC's own numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from router.runtime.http2 import packing

if TYPE_CHECKING:
    from router.gateway.responses import Refusal

_OTHER = 13
_CODES = {
    400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 417: 3, 429: 8, 431: 8, 501: 12, 502: 14, 503: 14, 504: 4,
}  # fmt: skip
"""HTTP status of a refusal → INVALID_ARGUMENT, UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND, DEADLINE_EXCEEDED,
RESOURCE_EXHAUSTED, …, UNIMPLEMENTED, UNAVAILABLE."""
UNAVAILABLE = 14
SERVERS_FAULT = {2: 500, 13: 500, 14: 503, 15: 500}
"""UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS, as HTTP statuses of a model that failed. The others say what a caller asked for, or
how long it waited."""
_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)


def ending(code: int, message: str) -> bytes:
    """The fields that end a call, packed."""
    return packing.field(b"grpc-status", b"%d" % code) + packing.field(
        b"grpc-message", quote(message, safe=_SAFE).encode()
    )


def refused(refusal: Refusal, message: str, lines: bytes) -> bytes:
    """The whole answer to a call that the gateway refuses, packed. `lines` are further ones of a head, each with its end."""
    block = [packing.status(200), packing.field(b"content-type", b"application/grpc")]
    block += [packing.line(line) for line in lines.split(b"\r\n") if line]
    block.append(ending(_CODES.get(refusal.status, _OTHER), message))
    return b"".join(block)


def failed_status(value: bytes) -> int:
    """A `grpc-status` as the HTTP status of a model's failure; 0 where it is none, or is the caller's fault."""
    return SERVERS_FAULT.get(int(value), 0) if value.isdigit() and len(value) <= 2 else SERVERS_FAULT[2]
