"""Demand handed to the autoscaler directly, past the log: the bodies of `POST /v1/demand`, both ways.

A body is one version byte, then frames, each behind its own length: a whole body or none. A request carries demand
messages with the ids they have on the log, so that the autoscaler counts each once; the answer carries the `replicas`
messages that the reporter does not route by yet. `GET` of the same path, on the same machine, brings what was handed over to
the control plane.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from router.contract.codec import Malformed, UnknownSchema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PATH = "/v1/demand"
VERSION = 1
"""The version this code writes and reads."""
REQUEST_BYTES = 4 << 20
"""Largest body of a request."""
ANSWER_BYTES = 4 << 20
"""Largest body of an answer; what does not fit comes with a later one."""

_LENGTH = struct.Struct("<I")
_HANDED = struct.Struct("<qqBH")
"""Sequence, time, bytes of the writer, bytes of the key; writer, key and value follow."""
_PLACE = struct.Struct("<q")
_TOLD = struct.Struct("<H")
"""Bytes of the key; key and value follow."""


class Handed(NamedTuple):
    """One demand message on its direct way."""

    writer: str
    sequence: int
    """Of the writer on the topic `demand`, as the log gave it."""
    time_ns: int
    key: str
    """The endpoint."""
    value: bytes
    """`codec.encode_demand` of the report."""


def handed_bytes(one: Handed) -> int:
    """Bytes that `one` takes in a body, writer and key in ASCII."""
    return _LENGTH.size + _HANDED.size + len(one.writer) + len(one.key) + len(one.value)


def encode_handed(messages: Iterable[Handed]) -> bytes:
    """The body of a request. Raises `ValueError` for an id that no log gives."""
    parts = [bytes((VERSION,))]
    for one in messages:
        writer, key = one.writer.encode(), one.key.encode()
        try:
            head = _HANDED.pack(one.sequence, one.time_ns, len(writer), len(key))
        except struct.error as error:
            raise ValueError(f"message {one.sequence} of {one.writer!r:.40} cannot be handed: {error}") from error
        parts += (_LENGTH.pack(len(head) + len(writer) + len(key) + len(one.value)), head, writer, key, one.value)
    return b"".join(parts)


def decode_handed(body: bytes) -> list[Handed]:
    """Inverse of `encode_handed`. Raises `UnknownSchema` or `Malformed`, having taken nothing."""
    return [_handed(frame) for frame in _frames(body)]


def encode_passed(place: int, messages: Iterable[Handed]) -> bytes:
    """The body of an answer to who wants to see what was handed over: where to go on, and messages."""
    return _PLACE.pack(place) + encode_handed(messages)


def decode_passed(body: bytes) -> tuple[int, list[Handed]]:
    """Inverse of `encode_passed`. Raises `UnknownSchema` or `Malformed`."""
    if len(body) < _PLACE.size:
        raise Malformed("there is no place")
    return _PLACE.unpack_from(body)[0], decode_handed(body[_PLACE.size :])


def _handed(frame: bytes) -> Handed:
    if len(frame) < _HANDED.size:
        raise Malformed("a message is shorter than its head")
    sequence, time_ns, writer_bytes, key_bytes = _HANDED.unpack_from(frame)
    key_at = _HANDED.size + writer_bytes
    value_at = key_at + key_bytes
    if value_at > len(frame) or sequence < 0:
        raise Malformed("a message is shorter than its head says, or has no sequence")
    writer, key = _text(frame[_HANDED.size : key_at]), _text(frame[key_at:value_at])
    return Handed(writer, sequence, time_ns, key, frame[value_at:])


def encode_told(messages: Iterable[tuple[str, bytes]], most_bytes: int = ANSWER_BYTES) -> bytes:
    """The body of an answer: (endpoint, `codec.encode_replicas`), those that fit into `most_bytes` together."""
    parts, size = [bytes((VERSION,))], 1
    for key, value in messages:
        name = key.encode()
        length = _TOLD.size + len(name) + len(value)
        if size + _LENGTH.size + length <= most_bytes:
            size += _LENGTH.size + length
            parts += (_LENGTH.pack(length), _TOLD.pack(len(name)), name, value)
    return b"".join(parts)


def decode_told(body: bytes) -> list[tuple[str, bytes]]:
    """Inverse of `encode_told`. Raises `UnknownSchema` or `Malformed`."""
    return [_told(frame) for frame in _frames(body)]


def _told(frame: bytes) -> tuple[str, bytes]:
    if len(frame) < _TOLD.size:
        raise Malformed("a message is shorter than its head")
    value_at = _TOLD.size + _TOLD.unpack_from(frame)[0]
    if value_at > len(frame):
        raise Malformed("a message is shorter than its head says")
    return _text(frame[_TOLD.size : value_at]), frame[value_at:]


def _frames(body: bytes) -> Iterator[bytes]:
    if not body:
        raise Malformed("there is no version byte")
    if body[0] != VERSION:
        raise UnknownSchema(f"only version {VERSION} is known")
    at, end = 1, len(body)
    while at < end:
        if end - at < _LENGTH.size:
            raise Malformed("the body ends inside a length")
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        if length > end - at:
            raise Malformed("the body ends inside a message")
        yield body[at : at + length]
        at += length


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"no UTF-8: {error}") from error
