"""The log of one machine: a folder with one SQLite file that all processes share, and their wake-up sockets.

`append` only fills a buffer; a thread commits it and wakes the readers, in this process and in all others.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from router.contract.errors import Unavailable
from router.runtime.clock import Clock, SystemClock
from router.runtime.log.base import Position
from router.runtime.log.buffer import Buffer
from router.runtime.log.embedded_reader import EmbeddedReader
from router.runtime.log.embedded_store import Retention, Store
from router.runtime.log.embedded_writer import Writer, WriterSettings
from router.runtime.log.wakeups import Bell

FILE = "log.db"
WAKE = "wake"


class EmbeddedLog:
    """Implements `Log`. Any number of processes may open the same folder."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        settings: WriterSettings | None = None,
        retention: Retention | None = None,
        busy_seconds: float = 5.0,
    ) -> None:
        """Open `folder`, made if absent; some milliseconds, meant for a process's start.

        `busy_seconds`: how long one transaction waits for other processes'. Raises `Unavailable`.
        """
        self.folder = folder.absolute()
        self.writer = uuid.uuid4().hex
        self._clock = clock or SystemClock()
        self._busy_seconds = busy_seconds
        settings = settings or WriterSettings()
        self._buffer = Buffer(settings.buffer_bytes)
        self._readers: list[EmbeddedReader] = []
        try:
            (self.folder / WAKE).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"embedded log {self.folder} cannot be made: {error}; name a folder you may write"
            ) from error
        self._thread = Writer(
            self._open_file,
            boot=bytes.fromhex(self.writer),
            buffer=self._buffer,
            clock=self._clock,
            settings=settings,
            retention=retention or Retention(),
        )
        self._thread.start()
        self._thread.opened.result()

    def _open_file(self) -> tuple[Store, Bell]:
        store = Store(self.folder / FILE, busy_seconds=self._busy_seconds)
        try:
            return store, Bell(self.folder / WAKE)
        except OSError as error:
            store.close()
            raise Unavailable(f"embedded log {self.folder / WAKE} cannot be used: {error}") from error

    def append(self, topic: str, key: str, value: bytes) -> int:
        """See `Log.append`. Returns -1 for a message that was dropped, which takes no sequence."""
        return self._buffer.put(topic, key, value, self._clock.time_ns())

    async def flush(self) -> None:
        """See `Log.flush`."""
        await asyncio.wrap_future(self._buffer.flush())

    def reader(self, topics: Sequence[str], start: Sequence[Position] | str = "earliest") -> EmbeddedReader:
        """See `Log.reader`. A topic without a stored position is read from its beginning. Raises `Unavailable`.

        Waits some milliseconds for the reading thread: whatever is appended after this call will be seen.
        """
        reader = EmbeddedReader(self.folder / FILE, self.folder / WAKE, topics, start, self._buffer)
        self._readers = [*(old for old in self._readers if not old.closed), reader]
        return reader

    def dropped(self) -> Mapping[str, int]:
        """See `Log.dropped`."""
        return dict(self._buffer.dropped)

    async def close(self) -> None:
        """See `Log.close`; closes its readers too. Raises `Unavailable` when accepted messages could not be committed.

        May be repeated.
        """
        for reader in self._readers:
            await reader.close()
        self._readers.clear()
        self._thread.stop()
        await asyncio.shield(asyncio.wrap_future(self._thread.ended))
