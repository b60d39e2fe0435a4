"""A message of the log ↔ a record of Kafka: CloudEvents 1.0, Kafka protocol binding, binary mode.

The value is the message's value untouched; everything else travels in headers, and the key is the endpoint. Writing
is exact, reading is strict: a record that lacks something or contradicts itself is somebody else's (`ForeignMessage`).
Attributes that this reader does not know are ignored, so that newer writers may add some.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from router.contract.codec import SCHEMA
from router.contract.events import DEMAND, REQUESTS
from router.runtime.log.base import Message

PACKED = frozenset({DEMAND, REQUESTS})
"""Topics whose values are packed bytes; those of all others are JSON."""
PACKED_TYPE = b"application/vnd.tidegate.packed"
JSON_TYPE = b"application/json"
SOURCE = "/tidegate/writers/"
"""`ce_source` is this and the writer's boot id: a URI reference, unique over all installations."""
HIGHEST: Final = 2**63 - 1
"""Of sequences and offsets."""

_TIME_SHAPE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z")
_WRITER = re.compile(r"[0-9a-f]{32}")
_REPLACES = re.compile(rb"\d{1,19}(-\d{1,19})?(,\d{1,19}(-\d{1,19})?)*")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_NS = 1_000_000_000


class ForeignMessage(ValueError):
    """A record that no writer of this project made: skip it and count it."""


class Outgoing(NamedTuple):
    """One row of the spool on its way to Kafka."""

    offset: int
    """Its place in the spool."""
    topic: str
    key: str
    writer: str
    """32 hex digits."""
    sequence: int
    time_ns: int
    value: bytes
    replaces: str
    partition: int = 0
    """The key's; sequences are counted in it."""


class _Constants(NamedTuple):
    """What is the same in every record of one topic."""

    content_type: bytes
    type: bytes
    any_type: re.Pattern[bytes]
    schema: bytes
    id_prefix: bytes


@lru_cache(maxsize=64)
def _constants(topic: str) -> _Constants:
    name = topic.encode()
    return _Constants(
        content_type=PACKED_TYPE if topic in PACKED else JSON_TYPE,
        type=b"tidegate.%b.v%d" % (name, SCHEMA),
        any_type=re.compile(rb"tidegate\.%b\.v[1-9]\d{0,8}" % re.escape(name)),
        schema=b"urn:tidegate:%b:v%d" % (name, SCHEMA),
        id_prefix=b"%b/" % name,
    )


def headers_of(row: Outgoing) -> list[tuple[str, bytes]]:
    """The headers of the record that carries `row`; its key is `row.key` in UTF-8, its value `row.value`."""
    same = _constants(row.topic)
    # Padded, because the sequence extension compares as text.
    sequence = b"%020d" % row.sequence
    headers = [
        ("content-type", same.content_type),
        ("ce_specversion", b"1.0"),
        ("ce_type", same.type),
        ("ce_dataschema", same.schema),
        ("ce_source", (SOURCE + row.writer).encode()),
        ("ce_id", b"%b%d/%b" % (same.id_prefix, row.partition, sequence)),
        ("ce_sequence", sequence),
        ("ce_time", _time_of(row.time_ns)),
        ("ce_subject", row.key.encode()),
    ]
    if row.replaces:
        headers.append(("ce_replaces", row.replaces.encode()))
    return headers


def message_of(  # noqa: PLR0917 -- a record of Kafka has these six parts, and keywords cost time per message
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
) -> Message:
    """The message in one record of `topic` (named without the prefix). Raises `ForeignMessage`.

    A schema version that is not known yet passes: whether the value can be read is its decoder's to say, and the
    sequence counts all the same.
    """
    same = _constants(topic)
    found = dict(headers)
    try:
        sequence_text = found["ce_sequence"]
        event_type = found["ce_type"]
        right = (
            found["ce_specversion"] == b"1.0"
            and (event_type == same.type or same.any_type.fullmatch(event_type) is not None)
            and found["content-type"] == same.content_type
            and found["ce_id"] == b"%b%d/%b" % (same.id_prefix, partition, sequence_text)
            and found["ce_subject"] == key
            and len(found) == len(headers)
            and len(sequence_text) == 20
            and sequence_text.isdigit()
            and value is not None
        )
        if not right:
            raise ForeignMessage(_first_fault(topic, partition, key, value, headers))
        sequence = int(sequence_text)
        if sequence > HIGHEST:
            raise ForeignMessage(f"sequence {sequence} is out of range")
        replaces = found.get("ce_replaces")
        return Message(
            topic,
            partition,
            offset,
            key.decode(),  # type: ignore[union-attr]  # equals the subject, which is text
            value,  # type: ignore[arg-type]  # checked above
            _writer_of(found["ce_source"]),
            sequence,
            _ns_of(found["ce_time"]),
            "" if replaces is None else _replaces_of(replaces),
        )
    except ForeignMessage:
        raise
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ForeignMessage(_first_fault(topic, partition, key, value, headers)) from error


def _first_fault(
    topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> str:
    """What is wrong with a record, in words; only for records that are known to be wrong."""
    same = _constants(topic)
    found = dict(headers)
    sequence = found.get("ce_sequence") or b""
    wanted = {
        "ce_specversion": b"1.0",
        "content-type": same.content_type,
        "ce_type": same.type,
        "ce_sequence": sequence if re.fullmatch(rb"\d{20}", sequence) else b"20 digits",
        "ce_id": b"%b%d/%b" % (same.id_prefix, partition, sequence),
        "ce_subject": b"the key" if key is None else key,
        "ce_source": b"",
        "ce_time": b"",
    }
    for name, right in wanted.items():
        is_newer = name == "ce_type" and same.any_type.fullmatch(found.get(name) or b"")
        if found.get(name) is None:
            return f"header {name} is missing"
        if right and found[name] != right and not is_newer:
            return f"header {name} is {found[name]!r:.80}, not {right!r:.80}"
    if value is None:
        return "it has no value"
    if len(found) != len(headers):
        return "a header stands twice"
    return "ce_source, ce_time, ce_replaces or the key is malformed"


def _time_of(time_ns: int) -> bytes:
    """RFC 3339 in UTC, to the nanosecond."""
    seconds, nanoseconds = divmod(time_ns, _NS)
    return b"%b.%09dZ" % (_date_of(seconds), nanoseconds)


@lru_cache(maxsize=256)
def _date_of(seconds: int) -> bytes:
    return (_EPOCH + seconds * _SECOND).strftime("%Y-%m-%dT%H:%M:%S").encode()


def _ns_of(time: bytes) -> int:
    """Inverse of `_time_of`, exactly; no other form of RFC 3339 is ours."""
    match = _TIME_SHAPE.fullmatch(time)
    if match is None:
        raise ForeignMessage(f"header ce_time is {time!r:.80}, not like 2026-01-31T12:00:00.000000000Z")
    return _seconds_of(match[1]) * _NS + int(match[2])


@lru_cache(maxsize=256)
def _seconds_of(date: bytes) -> int:
    return (datetime.fromisoformat(date.decode() + "+00:00") - _EPOCH) // _SECOND


@lru_cache(maxsize=1024)
def _writer_of(source: bytes) -> str:
    writer = source.decode().removeprefix(SOURCE)
    if len(source) != len(SOURCE) + 32 or not _WRITER.fullmatch(writer):
        raise ForeignMessage(f"header ce_source is {source!r:.80}, not {SOURCE}<32 hex digits>")
    return writer


def _replaces_of(text: bytes) -> str:
    if not _REPLACES.fullmatch(text):
        raise ForeignMessage(f"header ce_replaces is {text!r:.80}, not like 3-9,12")
    return text.decode()


_WORD = struct.Struct("<I")
_MIX = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=4096)
def partition_of(key: str, partitions: int) -> int:
    """The partition of `key`: murmur2, as Kafka's own default partitioner, so that every producer agrees."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """MurmurHash2 (32 bits, A. Appleby, public domain) with Kafka's seed."""
    whole = len(data) & ~3
    mixed = 0x9747B28C ^ len(data)
    for (word,) in _WORD.iter_unpack(data[:whole]):
        scrambled = word * _MIX & _MASK
        scrambled = (scrambled ^ scrambled >> 24) * _MIX & _MASK
        mixed = (mixed * _MIX & _MASK) ^ scrambled
    if whole != len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * _MIX & _MASK
    mixed = (mixed ^ mixed >> 13) * _MIX & _MASK
    return mixed ^ mixed >> 15
