"""Messages of the log as lines of JSON, for people and their tools."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import heapq
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from router.contract import codec
from router.contract.errors import Unavailable
from router.contract.events import (
    DECISIONS,
    DEMAND,
    NOTICES,
    REPLICAS,
    REQUESTS,
    SHADOWS,
    SNAPSHOTS,
    SPECS,
    EndpointRevision,
    EndpointSnapshot,
)
from router.control.views import time_text
from router.runtime.log.base import Log, Message, Reader

TAIL_SECONDS = 20.0
"""Longest time to read the newest messages; only a broker that goes away meanwhile needs it."""
_SHOWN_CHARACTERS = 100
"""Of a text in a snapshot's state."""


def _requests(value: bytes) -> Sequence[Any]:
    return codec.decode_counts(value) if codec.is_counts(value) else codec.decode_requests(value)


_DECODE: Mapping[str, Callable[[bytes], Any]] = {
    SPECS: codec.decode_specs,
    REPLICAS: codec.decode_replicas,
    DEMAND: codec.decode_demand,
    REQUESTS: _requests,
    SHADOWS: codec.decode_shadow,
    DECISIONS: codec.decode_decision,
    SNAPSHOTS: codec.decode_snapshot,
    NOTICES: codec.decode_notice,
}


def lines_of(message: Message) -> list[bytes]:
    """One line per event in `message`; a message that cannot be read is a line that says so."""
    head = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "key": message.key,
        "writer": message.writer,
        "sequence": message.sequence,
        "at": time_text(message.time_ns),
    }
    if message.replaces:
        head["replaces"] = message.replaces
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
    if isinstance(value, EndpointSnapshot):
        value = dataclasses.replace(value, state={name: _summary(part) for name, part in value.state.items()})
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


def _summary(part: Any) -> Any:
    """A part of a snapshot's state, whose size nobody wants in a line."""
    if isinstance(part, dict | list):
        return {"items": len(part)}
    return part[:_SHOWN_CHARACTERS] if isinstance(part, str) else part


class Lines(Protocol):
    """What becomes of a message."""

    def lines_of(self, message: Message) -> list[bytes]:
        """Its lines; none for one that is not wanted."""

    def count(self, message: Message) -> int:
        """How many they are."""


class _Events:
    """Every event of every message."""

    def lines_of(self, message: Message) -> list[bytes]:
        return lines_of(message)

    def count(self, message: Message) -> int:
        return _lines_in(message)


EVENTS: Lines = _Events()


async def last_lines(
    log: Log, topic: str, count: int, made: Lines = EVENTS, since_ns: int = 0
) -> tuple[list[bytes], Reader]:
    """The newest `count` lines of `topic` over all partitions, by time, and a reader that goes on after them.

    `made` says what the lines are (events, by default); messages from before `since_ns` need not be looked at. How far
    back they reach in each partition is guessed and widened until nothing newer can be left out. Raises `Unavailable`
    when they cannot be read.
    """
    reader = await log.reader((topic,), start="latest")
    if count <= 0:
        return [], reader
    ends = reader.positions()
    distance = {end.partition: -(-count // len(ends)) for end in ends}
    while True:
        await reader.close()
        starts = [end._replace(offset=max(0, end.offset - distance[end.partition])) for end in ends]
        reader = await log.reader((topic,), start=starts)
        tails = await _drain(reader, count, made)
        lines, first_ns = _newest([tail.messages for tail in tails.values()], count, made)
        short = [
            start.partition
            for start, end in zip(starts, ends, strict=True)
            if start.offset
            and not _since(tails.get(start.partition), since_ns)
            and not _enough(tails.get(start.partition), first_ns, end.offset - start.offset, len(ends))
        ]
        if not short:
            return lines, reader
        for partition in short:
            distance[partition] *= 8


@dataclasses.dataclass(slots=True)
class _Tail:
    """The newest messages of one partition; older ones only as far as they are needed for as many lines as are asked for."""

    made: Lines
    messages: deque[Message] = dataclasses.field(default_factory=deque)
    """Those that have lines."""
    counts: deque[int] = dataclasses.field(default_factory=deque)
    """How many each of them has."""
    lines: int = 0
    read: int = 0
    oldest_ns: int = 2**63

    def add(self, message: Message, count: int) -> None:
        self.read += 1
        self.oldest_ns = min(self.oldest_ns, message.time_ns)
        lines = self.made.count(message)
        if not lines:
            return
        self.messages.append(message)
        self.counts.append(lines)
        self.lines += lines
        while self.lines - self.counts[0] >= count:
            self.messages.popleft()
            self.lines -= self.counts.popleft()


def _lines_in(message: Message) -> int:
    """How many lines `lines_of` makes of it, without making them."""
    if message.topic != REQUESTS:
        return 1
    try:
        if codec.is_counts(message.value):
            return len(codec.split_counts(message.value)[1]) // codec.COUNTS_ROW.size
        return len(codec.split_requests(message.value)[1]) // codec.REQUEST_RECORD.size
    except (codec.UnknownSchema, codec.Malformed):
        return 1


async def _drain(reader: Reader, count: int, made: Lines) -> dict[int, _Tail]:
    """Partition → the newest up to now; what is appended meanwhile is left to who reads on."""
    tails: dict[int, _Tail] = {}
    try:
        async with asyncio.timeout(TAIL_SECONDS):
            while not await reader.caught_up():
                for message in await reader.next(1.0):
                    tails.setdefault(message.partition, _Tail(made)).add(message, count)
    except TimeoutError as error:
        await reader.close()
        raise Unavailable(f"the log was not read to its end within {TAIL_SECONDS:.0f} s") from error
    except BaseException:
        await reader.close()
        raise
    return tails


def _newest(partitions: Iterable[Iterable[Message]], count: int, made: Lines) -> tuple[list[bytes], int | None]:
    """The newest `count` lines, oldest first, and the time of the first of them; None when there are fewer."""
    parts: list[list[bytes]] = []
    found = 0
    # Each partition keeps its order, whatever the clocks of its writers say.
    for message in reversed(list(heapq.merge(*partitions, key=lambda one: one.time_ns))):
        lines = made.lines_of(message)
        parts.append(lines)
        found += len(lines)
        if found >= count:
            return [line for part in reversed(parts) for line in part][-count:], message.time_ns
    return [line for part in reversed(parts) for line in part], None


def _since(tail: _Tail | None, since_ns: int) -> bool:
    """Whether what was read of one partition goes back to before `since_ns`."""
    return tail is not None and tail.oldest_ns < since_ns


def _enough(tail: _Tail | None, since_ns: int | None, offsets: int, partitions: int) -> bool:
    """Whether nothing before what was read of one partition can be newer than the first line to show, `since_ns`.

    With several partitions offsets are the topic's own: fewer messages than `offsets` means that older ones are gone.
    """
    if partitions == 1:
        return since_ns is not None
    if tail is None or tail.read < offsets:
        return True
    return since_ns is not None and tail.oldest_ns <= since_ns
