"""The reading half of the embedded log: queries in a thread of its own, wake-ups on the event loop.

The cursors move only when `next` hands messages out, so a cancelled `next` loses nothing. After a wake-up, and at
least every `POLL_SECONDS`, it looks again; in between it does nothing at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from router.contract.errors import Unavailable
from router.runtime.log.base import Message, Position, ReaderStats
from router.runtime.log.buffer import Buffer
from router.runtime.log.continuity import Continuity
from router.runtime.log.embedded_store import Store
from router.runtime.log.wakeups import Listener

POLL_SECONDS = 1.0
"""The safety net under lost wake-ups."""
BATCH_ROWS = 512
"""Most messages of one topic per query: a few milliseconds of the reading thread."""
BATCH_BYTES = 2 << 20
"""Most bytes of one topic per query: bounds the memory of a process that reads a long history."""

_T = TypeVar("_T")


class EmbeddedReader:
    """Implements `Reader`. Made on any thread, then used by one task of one event loop at a time."""

    def __init__(
        self, path: Path, wake: Path, topics: Sequence[str], buffer: Buffer, stats: ReaderStats | None = None
    ) -> None:
        """A reader that reads nothing yet: `open` it. It is called from now on for what is appended."""
        self.stats = stats or ReaderStats()
        self._continuity = Continuity(self.stats)
        self._buffer = buffer
        self._path = path
        self._topics = tuple(topics)
        self._store: Store | None = None
        self._look = True
        self._closed = False
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cursors: dict[str, int] = {}
        self._listener = Listener(wake, topics)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log-reader")

    async def open(self, start: Sequence[Position] | str) -> None:
        """Find the start; whatever is appended from now on will be seen. Raises `Unavailable`, `ValueError`."""

        def begin() -> dict[str, int]:
            self._store = Store(self._path)
            return _start(self._store, self._topics, start)

        self._cursors = await self._run(begin)

    @property
    def _file(self) -> Store:
        assert self._store is not None
        return self._store

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """See `Reader.next`. Raises `Unavailable` when the file cannot be read."""
        loop = self._listen()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        while not self._closed:
            # Not left to the loop alone: a short timeout must not end before a wake-up that is there already is seen.
            self._look = self._listener.drain() or self._look
            if self._look:
                self._look = False
                messages = await self._fetch()
                if messages or self._closed:
                    return messages
                continue
            left = POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - loop.time())
            if left <= 0:
                break
            await self._wait(left)
        return ()

    async def _fetch(self) -> Sequence[Message]:
        try:
            cursors = dict(self._cursors)
            messages, more = await self._run(lambda: self._file.read(cursors, BATCH_ROWS, BATCH_BYTES))
        except BaseException:
            self._look = True
            raise
        if self._closed:
            return ()
        self._look = self._look or more
        for message in messages:
            self._cursors[message.topic] = message.offset + 1
            self._continuity.saw(message)
        return messages

    async def _wait(self, seconds: float) -> None:
        self._woken.clear()
        if self._look or self._closed:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            # The net under lost wake-ups: also looks once more at the end of a shorter deadline.
            self._look = True

    def _listen(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None and not self._closed:
            self._loop = loop
            loop.add_reader(self._listener.socket, self._on_wakeup)
        return loop

    def _on_wakeup(self) -> None:
        self._listener.drain()
        self._look = True
        self._woken.set()

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._closed:
            raise Unavailable("the reader is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def positions(self) -> Sequence[Position]:
        """See `Reader.positions`."""
        return tuple(Position(topic, 0, offset) for topic, offset in self._cursors.items())

    async def caught_up(self) -> bool:
        """See `Reader.caught_up`; what this process has accepted counts, even while it is not committed yet."""
        cursors = dict(self._cursors)
        return not self._buffer.waits(cursors) and not await self._run(lambda: self._file.unread(cursors))

    async def close(self) -> None:
        """See `Reader.close`. May be repeated."""
        if self._closed:
            return
        self._closed = True
        self._woken.set()
        if self._loop is not None:
            self._loop.remove_reader(self._listener.socket)
        self._listener.close()
        await asyncio.wrap_future(self._thread.submit(self._let_go))
        self._thread.shutdown()

    def _let_go(self) -> None:
        if self._store is not None:
            self._store.close()


def _start(store: Store, topics: Sequence[str], start: Sequence[Position] | str) -> dict[str, int]:
    """Topic → first offset to read."""
    if start == "earliest":
        return dict.fromkeys(topics, 0)
    end = store.next_offset()
    if start == "latest":
        return dict.fromkeys(topics, end)
    if isinstance(start, str):
        raise ValueError(  # noqa: TRY004 -- a word outside the known ones is a wrong value
            f"start is 'earliest', 'latest' or positions, not {start!r}"
        )
    cursors = dict.fromkeys(topics, 0)
    for topic, _, offset, _ in start:
        if topic not in cursors:
            continue
        cursors[topic] = offset
        if offset > end:
            # The file is younger than the position: it was replaced. Waiting for that offset would miss everything.
            cursors[topic] = 0
            logging.getLogger(__name__).warning(
                "position is beyond the end of the log; reading from the start",
                extra={"topic": topic, "offset": offset, "end": end},
            )
    return cursors
