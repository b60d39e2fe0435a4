"""What a process has accepted for the log and not yet committed: bounded, in order, shared by two threads.

A row stays here until it is committed, so a failed commit loses nothing. Compacted topics are never refused: there is
little of them and each message matters; everything else is dropped and counted once the bound is reached.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from router.contract.errors import Unavailable
from router.contract.events import COMPACTED

ROW_BYTES = 256
"""What a waiting message costs besides its value: the tuple, its strings and numbers."""


class Row(NamedTuple):
    """One accepted message on its way into the file."""

    topic: str
    key: str
    value: bytes
    sequence: int
    time_ns: int
    partition: int = 0


class Buffer:
    """Everything may be called from any thread; only `take`, `committed` and `failed` belong to the committing one."""

    def __init__(self, bound_bytes: int) -> None:
        self._bound_bytes = bound_bytes
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._held_bytes = 0
        self._accepted = self._committed = 0
        self._sequences: Counter[tuple[str, int]] = Counter()
        self._waiting: Counter[str] = Counter()
        self._flushes: list[tuple[int, Future[None]]] = []
        self.dropped: Counter[str] = Counter()
        self._abandoned: Exception | None = None
        self.closed = False
        self.refusing = False
        """Whether messages of stream topics are dropped for want of room behind this buffer; set by the committing thread."""
        self.work = threading.Event()
        """Set when there may be something to do."""

    def put(self, topic: str, key: str, value: bytes, time_ns: int, partition: int = 0) -> int:
        """Accept one message: its sequence in its partition, or -1 when it was dropped.

        Raises `Unavailable` only after `close`.
        """
        cost = len(value) + ROW_BYTES
        with self._lock:
            if topic not in COMPACTED:
                if self.closed or self.refusing or self._held_bytes + cost > self._bound_bytes:
                    self.dropped[topic] += 1
                    return -1
            elif self.closed:
                raise Unavailable(f"the log is closed; the message on {topic!r} about {key!r} was not accepted")
            sequence = self._sequences[topic, partition]
            self._sequences[topic, partition] = sequence + 1
            self._rows.append(Row(topic, key, value, sequence, time_ns, partition))
            self._waiting[topic] += 1
            self._held_bytes += cost
            self._accepted += 1
        if not self.work.is_set():
            self.work.set()
        return sequence

    def waits(self, topics: Iterable[str]) -> bool:
        """Whether a message on one of `topics` is accepted and not yet committed."""
        with self._lock:
            return any(self._waiting[topic] for topic in topics)

    def flush(self) -> Future[None]:
        """Done once everything accepted so far is committed; `Unavailable` as soon as a commit of it fails."""
        done: Future[None] = Future()
        with self._lock:
            if self._abandoned is not None:
                done.set_exception(self._abandoned)
            elif self._committed < self._accepted:
                self._flushes.append((self._accepted, done))
            else:
                done.set_result(None)
        self.work.set()
        return done

    @property
    def flushing(self) -> bool:
        """Whether somebody waits for a commit."""
        return bool(self._flushes)

    def close(self) -> None:
        """Accept nothing more; what is here can still be committed."""
        with self._lock:
            self.closed = True
        self.work.set()

    def take(self, max_rows: int, max_bytes: int) -> list[Row]:
        """The oldest rows; they stay until `committed`. At least one if there is any."""
        with self._lock:
            rows = self._rows[:max_rows]
        size = 0
        for count, row in enumerate(rows):
            size += len(row.value)
            if size > max_bytes and count:
                return rows[:count]
        return rows

    def committed(self, rows: Sequence[Row]) -> None:
        """The oldest rows, as taken, are safe: forget them, and answer who waited for them."""
        with self._lock:
            del self._rows[: len(rows)]
            self._committed += len(rows)
            for row in rows:
                self._waiting[row.topic] -= 1
                self._held_bytes -= len(row.value) + ROW_BYTES
            done = [future for target, future in self._flushes if target <= self._committed]
            self._flushes = [pair for pair in self._flushes if pair[0] > self._committed]
        for future in done:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def failed(self, error: Exception) -> None:
        """A commit failed: tell everybody who waits for one."""
        with self._lock:
            flushes, self._flushes = self._flushes, []
        for _, future in flushes:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def abandon(self, error: Exception) -> None:
        """Nothing more will be committed: tell everybody who waits, now or later."""
        with self._lock:
            self._abandoned = error
        self.failed(error)

    def left(self) -> dict[str, int]:
        """Topic → messages accepted and not committed."""
        with self._lock:
            return {topic: count for topic, count in self._waiting.items() if count}
