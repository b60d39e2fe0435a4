"""Gaps and duplicates, from nothing but (topic, writer, sequence). Pure: the same for every implementation of the log.

A reader may start in the middle, so what lies before the first message it sees of a writer is unknown, not missing.
A message that comes late (another partition was faster) closes the gap it had left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.contract.events import COMPACTED

if TYPE_CHECKING:
    from router.runtime.log.base import ReaderStats

GAPS_REMEMBERED = 1024
"""Open gaps kept per topic and writer. A message that closes a forgotten one counts as a duplicate; so many gaps
at once mean lost messages, not late ones."""


class Continuity:
    """Keeps the books of one reader in its `ReaderStats`."""

    def __init__(self, stats: ReaderStats) -> None:
        self._stats = stats
        self._first: dict[tuple[str, str], int] = {}
        self._open: dict[tuple[str, str], list[tuple[int, int]]] = {}

    def saw(self, topic: str, writer: str, sequence: int) -> bool:
        """Account for one message; False when it is a duplicate."""
        stats, source = self._stats, (topic, writer)
        stats.messages += 1
        expected = stats.next_sequences.get(source)
        if expected is None:
            self._first[source] = sequence
        elif sequence < expected:
            return self._late(source, sequence)
        elif sequence > expected:
            self._gap(source, expected, sequence)
        stats.next_sequences[source] = sequence + 1
        return True

    def _gap(self, source: tuple[str, str], start: int, end: int) -> None:
        if source[0] not in COMPACTED:
            self._stats.gaps += end - start
        gaps = self._open.setdefault(source, [])
        gaps.append((start, end))
        if len(gaps) > GAPS_REMEMBERED:
            del gaps[0]

    def _late(self, source: tuple[str, str], sequence: int) -> bool:
        if sequence < self._first[source]:
            return True
        gaps = self._open.get(source, [])
        for index, (start, end) in enumerate(gaps):
            if start <= sequence < end:
                rest = [(start, sequence), (sequence + 1, end)]
                gaps[index : index + 1] = [(a, b) for a, b in rest if a < b]
                if source[0] not in COMPACTED:
                    self._stats.gaps -= 1
                return True
        self._stats.duplicates += 1
        return False
