"""Messages of the log as lines of JSON, for people and their tools."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from router.contract import codec
from router.contract.events import DECISIONS, DEMAND, REPLICAS, REQUESTS, SHADOWS, SPECS, EndpointRevision
from router.control.views import time_text
from router.runtime.log.base import Log, Message, Position, Reader

_DECODE: Mapping[str, Callable[[bytes], Any]] = {
    SPECS: codec.decode_specs,
    REPLICAS: codec.decode_replicas,
    DEMAND: codec.decode_demand,
    REQUESTS: codec.decode_requests,
    SHADOWS: codec.decode_shadow,
    DECISIONS: codec.decode_decision,
}


def lines_of(message: Message) -> list[bytes]:
    """One line per event in `message`; a message that cannot be read is a line that says so."""
    head = {
        "topic": message.topic,
        "offset": message.offset,
        "key": message.key,
        "writer": message.writer,
        "sequence": message.sequence,
        "at": time_text(message.time_ns),
    }
    try:
        event = _DECODE[message.topic](message.value)
    except (codec.UnknownSchema, codec.Malformed) as error:
        return [_line({**head, "event": {"unreadable": str(error)}})]
    events = event if isinstance(event, list) else [event]
    return [_line({**head, "event": _plain(one)}) for one in events]


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, EndpointRevision):
        value = dataclasses.replace(value, key_hashes=())
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Flag):
        return [flag.name.lower() for flag in value if flag.name]
    if isinstance(value, enum.IntEnum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def last_lines(log: Log, topic: str, count: int) -> tuple[list[bytes], Reader]:
    """The newest `count` lines of `topic`, oldest first, and a reader that goes on after them.

    Offsets may be shared between topics, so the distance to go back is guessed and widened until enough is found.
    """
    reader = log.reader((topic,), start="latest")
    if count <= 0:
        return [], reader
    ends = reader.positions()
    distance = count
    while True:
        await reader.close()
        starts = [Position(end.topic, end.partition, max(0, end.offset - distance)) for end in ends]
        reader = log.reader((topic,), start=starts)
        lines = await _drain(reader, count)
        if len(lines) >= count or all(start.offset == 0 for start in starts):
            return list(lines), reader
        distance *= 8


async def _drain(reader: Reader, count: int) -> deque[bytes]:
    """The last `count` lines up to now; what is appended meanwhile is left to who reads on."""
    lines: deque[bytes] = deque(maxlen=count)
    try:
        while not await reader.caught_up():
            for message in await reader.next(1.0):
                lines.extend(lines_of(message))
    except BaseException:
        await reader.close()
        raise
    return lines
