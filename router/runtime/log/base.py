"""The log's interface: append without waiting, read in order, resume where you were.

A message is a past fact on a topic, keyed by endpoint. Its id is (topic, partition, writer, sequence): the writer is a
boot id, the sequence counts that writer's messages in that partition of that topic from 0 without a hole, so that every
reader, also one of some partitions only, can find every gap and every duplicate.
Order holds per key. Compacted topics keep at least the newest message of each key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


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
    replaces: str = ""
    """Further sequences of this writer and topic that this message stands for, as `3-9,12`: a full spool folds many
    messages into one (`folding.py`)."""


class Position(NamedTuple):
    """A place in one partition of one topic: the offset of the next message to read."""

    topic: str
    partition: int
    offset: int
    incarnation: str = ""
    """Which topic of that name it is a place in; empty where nobody can tell. A topic that was deleted and made anew is
    another one, and is read from its beginning."""


@dataclass(slots=True)
class Noticed:
    """What a reader noticed of one writer on one topic. All three only grow."""

    gaps: int = 0
    """Messages that were missing when their followers came."""
    late: int = 0
    """Of those, the ones that came after all."""
    duplicates: int = 0


WRITERS_NOTICED = 256
"""Pairs of topic and writer of which `ReaderStats` keeps figures apart."""
OTHER_WRITERS = ""
"""Under this name the figures of writers noticed longest ago are added up: dead processes, most likely."""


@dataclass(slots=True)
class ReaderStats:
    """What a reader noticed."""

    messages: int = 0
    gaps: int = 0
    """Messages that a writer counted and this reader never saw (stream topics only; compaction is no gap)."""
    duplicates: int = 0
    """Messages of which everything had been seen before, and the part of folded ones that had."""
    gaps_by_topic: dict[str, int] = field(default_factory=dict)
    late_by_topic: dict[str, int] = field(default_factory=dict)
    """Messages that were a gap once and came after all; with the open gaps it makes what only grows."""
    duplicates_by_topic: dict[str, int] = field(default_factory=dict)
    by_writer: dict[tuple[str, str], Noticed] = field(default_factory=dict)
    """(topic, writer) → the same of one writer, those alone of which something was noticed."""
    skipped: int = 0
    """Messages that are none of ours, or of a form that this version does not know."""
    next_sequences: dict[tuple[str, int, str], int] = field(default_factory=dict)
    """(topic, partition, writer) → the sequence expected next."""

    def of(self, topic: str, writer: str) -> Noticed:
        """The figures of `writer` on `topic`, to be changed."""
        found = self.by_writer.get((topic, writer))
        if found is not None:
            return found
        if len(self.by_writer) >= WRITERS_NOTICED:
            oldest = next((one for one in self.by_writer if one[1] != OTHER_WRITERS), None)
            if oldest is not None:
                self._fold(oldest[0], self.by_writer.pop(oldest))
        return self.by_writer.setdefault((topic, writer), Noticed())

    def _fold(self, topic: str, gone: Noticed) -> None:
        others = self.by_writer.setdefault((topic, OTHER_WRITERS), Noticed())
        others.gaps += gone.gaps
        others.late += gone.late
        others.duplicates += gone.duplicates

    def add(self, part: ReaderStats) -> None:
        """Add the counts of another reader; what it expects next is left out."""
        for name in ("messages", "gaps", "duplicates", "skipped"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        for name in ("gaps_by_topic", "late_by_topic", "duplicates_by_topic"):
            by_topic: dict[str, int] = getattr(self, name)
            for topic, count in getattr(part, name).items():
                by_topic[topic] = by_topic.get(topic, 0) + count
        for (topic, writer), noticed in part.by_writer.items():
            whole = self.of(topic, writer)
            whole.gaps += noticed.gaps
            whole.late += noticed.late
            whole.duplicates += noticed.duplicates


class Reader(Protocol):
    """A reader of some topics. One task uses it at a time."""

    stats: ReaderStats

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """The next messages, in order per key, waiting for at least one; empty when the time is over.

        One that this reader has handed out before is left out, and counted in `stats.duplicates`.
        """

    def positions(self) -> Sequence[Position]:
        """Where to resume to read on after everything `next` has returned."""

    async def caught_up(self) -> bool:
        """Whether nothing appended before this call is left to read.

        While others go on appending that may never be so at any one moment: after a call that said no, it is what had
        been appended before that one.
        """

    async def close(self) -> None:
        """Stop; a pending `next` returns empty."""


class Share(NamedTuple):
    """The part of the endpoints that one of several processes answers for: those of some partitions."""

    partitions: frozenset[int]
    generation: int
    """Counts up whenever the shares are dealt anew: the higher one knows better. 0 where there is nobody to share with."""


class Member(Protocol):
    """One process among those that share the endpoints by partition."""

    share: Share
    """What is ours now; empty from the very moment in which it is lost."""
    reachable: bool
    """False while nobody can say whose the partitions are; what was ours before stays ours until somebody can."""

    async def changed(self) -> Share:
        """The share, as soon as it is another one than this returned last; at once at the first call that has one."""

    async def close(self) -> None:
        """Leave: the others take over without waiting."""


@dataclass(frozen=True, slots=True)
class Health:
    """How one process, or the machine's way to the broker, is doing: numbers for metrics. Empty where they do not apply."""

    counters: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """What only grows: (Prometheus name without the `tidegate_` in front and the `_total` behind, topic or '') → value."""
    gauges: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """The same for what goes up and down."""
    state: str = ""
    """`current`, `connecting`, `unreachable`, `refused`; empty for a log without a broker."""
    message: str = ""
    """What is wrong, in words, when something is."""


class Log(Protocol):
    """A log, open for this process."""

    writer: str
    """This process's boot id: 32 hex digits, new at every start."""
    partitions: int
    """Over how many partitions the keys of every topic are spread."""

    def partition_of(self, key: str) -> int:
        """The partition of `key`, the same on every topic and for ever: 0 ≤ it < `partitions`."""

    def append(self, topic: str, key: str, value: bytes) -> int:
        """Accept one message and return its sequence, -1 when it was dropped. Never waits and does no I/O on the caller's thread.

        Everything accepted is committed in order by a background writer; when its bounded buffer is full, messages
        of stream topics are dropped and counted in `dropped`, those of compacted topics never.
        """

    async def flush(self) -> None:
        """Return once everything accepted so far is committed; raise `Unavailable` when it cannot be."""

    async def reader(
        self,
        topics: Sequence[str],
        start: Sequence[Position] | str = "earliest",
        partitions: Collection[int] | None = None,
    ) -> Reader:
        """A reader of `topics` from `earliest`, `latest` or stored positions; whatever is appended later will be seen.

        `partitions` narrows stream topics to the keys of those; compacted topics are always read whole.
        """

    async def member(self, group: str) -> Member:
        """Join those that share the endpoints by partition under the name `group`."""

    async def health(self) -> Health:
        """How this process and this machine's way into the log are doing, some seconds ago at most."""

    def dropped(self) -> Mapping[str, int]:
        """Topic → messages dropped because the buffer was full."""

    async def close(self) -> None:
        """Commit what was accepted and let go."""
