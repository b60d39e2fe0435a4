"""The log's interface: append without waiting, read in order, resume where you were.

A message is a past fact on a topic, keyed by endpoint. Its id is (writer, sequence): the writer is a boot id, the
sequence counts that writer's messages on that topic from 0 without a hole, so that every reader can find every gap and every duplicate.
Order holds per key. Compacted topics keep at least the newest message of each key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Message(NamedTuple):
    """One message as read."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    writer: str
    sequence: int
    time_ns: int
    """When the writer appended it, Unix nanoseconds."""


class Position(NamedTuple):
    """A place in one partition of one topic: the offset of the next message to read."""

    topic: str
    partition: int
    offset: int


@dataclass(slots=True)
class ReaderStats:
    """What a reader noticed."""

    messages: int = 0
    gaps: int = 0
    """Messages that a writer counted and this reader never saw (stream topics only; compaction is no gap)."""
    duplicates: int = 0
    next_sequences: dict[tuple[str, str], int] = field(default_factory=dict)
    """(topic, writer) → the sequence expected next."""


class Reader(Protocol):
    """A reader of some topics. One task uses it at a time."""

    stats: ReaderStats

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """The next messages, in order per key, waiting for at least one; empty when the time is over."""

    def positions(self) -> Sequence[Position]:
        """Where to resume to read on after everything `next` has returned."""

    async def caught_up(self) -> bool:
        """Whether nothing appended before this call is left to read."""

    async def close(self) -> None:
        """Stop; a pending `next` returns empty."""


class Log(Protocol):
    """A log, open for this process."""

    writer: str
    """This process's boot id: 32 hex digits, new at every start."""

    def append(self, topic: str, key: str, value: bytes) -> int:
        """Accept one message and return its sequence. Never waits and does no I/O on the caller's thread.

        Everything accepted is committed in order by a background writer; when its bounded buffer is full, messages
        of stream topics are dropped and counted in `dropped`, those of compacted topics never.
        """

    async def flush(self) -> None:
        """Return once everything accepted so far is committed; raise `Unavailable` when it cannot be."""

    def reader(self, topics: Sequence[str], start: Sequence[Position] | str = "earliest") -> Reader:
        """A reader of `topics` from `earliest`, `latest` or stored positions."""

    def dropped(self) -> Mapping[str, int]:
        """Topic → messages dropped because the buffer was full."""

    async def close(self) -> None:
        """Commit what was accepted and let go."""
