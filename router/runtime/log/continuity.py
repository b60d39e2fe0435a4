"""Gaps and duplicates, from nothing but (topic, partition, writer, sequence). Pure: the same for every kind of log.

Both are counted in sequences. A reader may start in the middle, so what lies before the first message it sees of a
writer is unknown, not missing; that holds for the holes in a first message that was folded too. A message that comes
late (folding moves them) closes the gap it had left.

A folded message stands for several sequences (`Message.replaces`), and none of them is a gap. When all were seen
before, it is a duplicate. When only some were (sent, not acknowledged, folded with others, sent again), it is taken,
because what is new in it is nowhere else, and those seen before are counted: that many messages are then in twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from router.contract.events import COMPACTED
from router.runtime.log.folding import sequences_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.runtime.log.base import Message, ReaderStats

GAPS_REMEMBERED = 1024
"""Open gaps kept per source. A message that closes a forgotten one counts as a duplicate; so many gaps at once mean
lost messages, not late ones."""
SOURCES_REMEMBERED = 16_384
"""Beyond it the source known longest is forgotten. Most likely its process is dead; if not, its next message is a first."""

Source = tuple[str, int, str]
"""(topic, partition, writer)."""


class _Gap(NamedTuple):
    """Sequences from `start` to before `stop` that were never seen."""

    start: int
    stop: int
    missing: bool
    """Whether they are counted: neither on a compacted topic nor in the first message seen."""


class Continuity:
    """Keeps the books of one reader in its `ReaderStats`."""

    def __init__(self, stats: ReaderStats) -> None:
        self._stats = stats
        self._next = stats.next_sequences
        self._first: dict[Source, int] = {}
        self._open: dict[Source, list[_Gap]] = {}

    def saw(self, message: Message) -> bool:
        """Account for one message; False when it is a duplicate. A `replaces` that makes no sense counts as none."""
        source, sequence = (message.topic, message.partition, message.writer), message.sequence
        self._stats.messages += 1
        expected = self._next.get(source)
        if expected == sequence and not message.replaces:
            self._next[source] = sequence + 1
            return True
        ranges = _ranges(sequence, message.replaces)
        if expected is None:
            self._begin(source, ranges)
            return True
        return sum([self._take(source, one, missing=True) for one in ranges]) > 0

    def _begin(self, source: Source, ranges: Sequence[range]) -> None:
        if len(self._first) >= SOURCES_REMEMBERED:
            oldest = next(iter(self._first))
            del self._first[oldest], self._next[oldest]
            self._open.pop(oldest, None)
        self._first[source] = self._next[source] = ranges[0].start
        for one in ranges:
            self._take(source, one, missing=False)

    def _take(self, source: Source, seen: range, *, missing: bool) -> int:
        """Account for sequences that came together; how many of them are new."""
        expected = self._next[source]
        before, past, ahead = _parts(seen, self._first[source], expected)
        new = len(before) + len(ahead)
        if past:
            filled = self._fill(source, past)
            new += filled
            self._duplicates(source, len(past) - filled)
        if ahead:
            if ahead.start > expected:
                self._gap(source, _Gap(expected, ahead.start, missing and source[0] not in COMPACTED))
            self._next[source] = ahead.stop
        return new

    def _gap(self, source: Source, gap: _Gap) -> None:
        if gap.missing:
            self._gaps(source, gap.stop - gap.start)
        self._keep(source, [*self._open.get(source, ()), gap])

    def _fill(self, source: Source, seen: range) -> int:
        """Take `seen` out of the open gaps; how much of it was in them."""
        left: list[_Gap] = []
        filled = 0
        for gap in self._open.get(source, ()):
            start, stop = max(gap.start, seen.start), min(gap.stop, seen.stop)
            if start >= stop:
                left.append(gap)
                continue
            filled += stop - start
            if gap.missing:
                self._late(source, stop - start)
            rest = (gap._replace(stop=start), gap._replace(start=stop))
            left.extend(one for one in rest if one.start < one.stop)
        if filled:
            self._keep(source, left)
        return filled

    def _keep(self, source: Source, gaps: list[_Gap]) -> None:
        if gaps:
            self._open[source] = gaps[-GAPS_REMEMBERED:]
        else:
            del self._open[source]

    def _gaps(self, source: Source, count: int) -> None:
        self._stats.gaps += count
        _count(self._stats.gaps_by_topic, source[0], count)
        if count > 0:
            self._stats.of(source[0], source[2]).gaps += count

    def _late(self, source: Source, count: int) -> None:
        self._gaps(source, -count)
        _count(self._stats.late_by_topic, source[0], count)
        self._stats.of(source[0], source[2]).late += count

    def _duplicates(self, source: Source, count: int) -> None:
        self._stats.duplicates += count
        _count(self._stats.duplicates_by_topic, source[0], count)
        if count:
            self._stats.of(source[0], source[2]).duplicates += count


def _count(by_topic: dict[str, int], topic: str, count: int) -> None:
    by_topic[topic] = by_topic.get(topic, 0) + count


def _ranges(sequence: int, replaces: str) -> Sequence[range]:
    """Everything that one message stands for, ascending and apart."""
    own = range(sequence, sequence + 1)
    if not replaces:
        return (own,)
    try:
        further = sequences_in(replaces)
    except ValueError:
        return (own,)
    if any(sequence in one for one in further):
        return further
    return sorted([*further, own], key=lambda one: one.start)


def _parts(seen: range, first: int, expected: int) -> tuple[range, range, range]:
    """`seen` before the first, up to the expected, and from there on."""
    start, stop = seen.start, seen.stop
    a = min(max(first, start), stop)
    b = min(max(expected, a), stop)
    return range(start, a), range(a, b), range(b, stop)
