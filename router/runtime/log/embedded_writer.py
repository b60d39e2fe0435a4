"""The writing half of the embedded log: one thread that commits what is in the buffer, and keeps the file small.

Everything that waits becomes one transaction. A lone message is committed at once; under load the thread gathers for
a moment first. What cannot be committed stays in the buffer and is tried again. Upkeep runs when nothing waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from router.contract.errors import Unavailable
from router.runtime.clock import Clock
from router.runtime.log.buffer import Buffer, Row
from router.runtime.log.embedded_store import Retention, Store
from router.runtime.log.wakeups import Bell
from router.runtime.telemetry import Limited

LEAST_COMMIT_BYTES = 64 << 10
"""Of one transaction, as long as there is more."""


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """How the writer behaves. Unit, default and why under each field."""

    buffer_bytes: int = 16 << 20
    """Accepted and not yet committed; stream messages beyond it are dropped. Minutes of a gateway worker's records,
    and small beside the worker itself."""
    gather_seconds: float = 0.002
    """Under load, wait this long for company: a commit costs about as much for one row as for fifty."""
    commit_rows: int = 5_000
    """Most rows of one transaction: tens of milliseconds, so that other processes' writers get their turn."""
    commit_bytes: int = 4 << 20
    """Most bytes of one transaction, for the same reason."""
    retry_seconds: float = 0.05
    """First pause after a failed commit; each further one doubles it."""
    retry_limit_seconds: float = 2.0
    """Longest pause: a freed disk is noticed soon enough."""
    close_seconds: float = 5.0
    """How long `close` goes on trying when commits fail."""
    upkeep_check_seconds: float = 10.0
    """How often this process asks whether a round of upkeep is due."""
    outgoing: bool = False
    """The file is a spool: what is written waits to be shipped, and is not limited by retention."""
    spool_bytes: int = 1 << 30
    """Outgoing bytes from which stream messages are refused: hours of records; the shipper folds before it is reached."""
    spool_check_seconds: float = 0.2
    """While it refuses, how often it looks whether there is room again."""


class Writer(threading.Thread):
    """Commits for one process: `start`, wait for `opened`, then `stop` and wait for `ended`."""

    def __init__(
        self,
        open_file: Callable[[], tuple[Store, Bell]],
        *,
        boot: bytes,
        buffer: Buffer,
        clock: Clock,
        settings: WriterSettings,
        retention: Retention,
    ) -> None:
        super().__init__(name="log-writer", daemon=True)
        self._open_file = open_file
        self._boot = boot
        self._buffer = buffer
        self._clock = clock
        self._settings = settings
        self._retention = retention
        self._give_up_at = float("inf")
        self._last_commit = 0.0
        self._pause_seconds = settings.retry_seconds
        self._commit_bytes = settings.commit_bytes
        self._next_upkeep = 0.0
        self._upkeep: Iterator[None] = iter(())
        self._reports = Limited(logging.getLogger(__name__))
        self.opened: Future[None] = Future()
        self.ended: Future[None] = Future()

    def stop(self) -> None:
        """Accept nothing more, commit the rest, end. `ended` fails when that was not possible in time."""
        if self._give_up_at == float("inf"):
            self._give_up_at = time.monotonic() + self._settings.close_seconds
        self._buffer.close()

    def run(self) -> None:
        """The thread's body."""
        try:
            self._store, self._bell = self._open_file()
        except BaseException as error:
            self.opened.set_exception(error)
            return
        self.opened.set_result(None)
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._reports.error("log_writer_failed", "the log's writer ended unexpectedly", error=error)
        finally:
            self._end()

    def _end(self) -> None:
        self._bell.close()
        self._store.close()
        self._buffer.close()
        left = self._buffer.left()
        if not left:
            self.ended.set_result(None)
            return
        error = Unavailable(f"the log closed with messages that could not be committed: {left}")
        self._reports.error("log_lost", error.message)
        self._buffer.abandon(error)
        self.ended.set_exception(error)

    def _turn(self) -> bool:
        """Commit something, else do a step of upkeep, else rest. False when all is done."""
        # Cleared before anything is looked at: what changes from here on sets it again, and no rest follows.
        self._buffer.work.clear()
        closing = self._buffer.closed
        if not closing and time.monotonic() - self._last_commit < self._settings.gather_seconds:
            time.sleep(self._settings.gather_seconds)
        rows = self._buffer.take(self._settings.commit_rows, self._commit_bytes)
        if rows:
            return self._commit(rows) or self._back_off()
        if closing:
            return False
        if not self._upkeep_step():
            self._rest()
        return True

    def _rest(self) -> None:
        """Until there is something to do."""
        seconds = max(0.0, self._next_upkeep - time.monotonic())
        if not self._buffer.refusing:
            self._buffer.work.wait(seconds)
        elif not self._buffer.work.wait(min(seconds, self._settings.spool_check_seconds)):
            try:
                self._mind_the_cap(self._store.outgoing_size())
            except Unavailable as error:
                self._reports.warning("log_size_unknown", error.message)

    def _mind_the_cap(self, size: int) -> None:
        """Refuse stream messages while the spool is full. What was accepted before is committed all the same."""
        full = size >= self._settings.spool_bytes
        if full and not self._buffer.refusing:
            message = "the spool is full: messages of stream topics are refused until some of it is shipped or folded"
            self._reports.error("log_spool_full", message, spool_bytes=size)
        self._buffer.refusing = full

    def _commit(self, rows: list[Row]) -> bool:
        try:
            size = self._store.insert(self._boot, rows, self._settings.outgoing)
        except Unavailable as error:
            self._reports.error("log_commit_failed", error.message, waiting=len(rows))
            self._buffer.failed(error)
            # On a disk that is nearly full there may be room for less.
            self._commit_bytes = max(LEAST_COMMIT_BYTES, self._commit_bytes // 2)
            return False
        self._commit_bytes = self._settings.commit_bytes
        self._last_commit = time.monotonic()
        self._pause_seconds = self._settings.retry_seconds
        self._mind_the_cap(size)
        self._buffer.committed(rows)
        try:
            self._bell.ring({row.topic for row in rows})
        except OSError as error:
            self._reports.warning("log_wakeup_failed", f"readers are not woken and will poll: {error}")
        return True

    def _back_off(self) -> bool:
        """Pause after a failed commit. False when `stop` has waited long enough.

        A flush or a close ends the pause early, but never makes it shorter than the first one.
        """
        if time.monotonic() >= self._give_up_at:
            return False
        time.sleep(self._settings.retry_seconds)
        deadline = time.monotonic() + self._pause_seconds - self._settings.retry_seconds
        while not (self._buffer.closed or self._buffer.flushing) and (left := deadline - time.monotonic()) > 0:
            self._buffer.work.wait(left)
            self._buffer.work.clear()
        self._pause_seconds = min(2 * self._pause_seconds, self._settings.retry_limit_seconds)
        return True

    def _upkeep_step(self) -> bool:
        """One small transaction of upkeep; False when there is nothing to do for now."""
        now = time.monotonic()
        try:
            if next(self._upkeep, self) is None:
                return True
            if now < self._next_upkeep:
                return False
            self._next_upkeep = now + self._settings.upkeep_check_seconds
            self._upkeep = self._store.upkeep(self._clock.time_ns(), self._retention)
        except Unavailable as error:
            self._reports.warning("log_upkeep_failed", error.message)
            self._upkeep = iter(())
            return False
        return True
