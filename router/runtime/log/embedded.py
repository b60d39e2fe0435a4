"""The log of one machine: a folder with one SQLite file that all processes share, and their wake-up sockets.

`append` only fills a buffer; a thread commits it and wakes the readers, in this process and in all others.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from router.contract.errors import Unavailable
from router.contract.events import COMPACTED
from router.runtime.clock import Clock, SystemClock
from router.runtime.log.base import Health, Position, Share
from router.runtime.log.buffer import Buffer
from router.runtime.log.embedded_reader import EmbeddedReader
from router.runtime.log.embedded_store import Retention, Store
from router.runtime.log.embedded_writer import Writer, WriterSettings
from router.runtime.log.wakeups import Bell

FILE = "log.db"
WAKE = "wake"


class SoleMember:
    """Implements `Member` where there is nobody to share with."""

    def __init__(self) -> None:
        self.share = Share(frozenset({0}), 0)
        self.reachable = True
        self._told = False

    async def changed(self) -> Share:
        """See `Member.changed`: once, then never again."""
        if self._told:
            await asyncio.get_running_loop().create_future()
        self._told = True
        return self.share

    async def close(self) -> None:
        """See `Member.close`."""
        self.share = Share(frozenset(), 0)


class EmbeddedLog:
    """Implements `Log`. Any number of processes may open the same folder."""

    partitions = 1

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
        self.buffer = Buffer(settings.buffer_bytes)
        self._readers: list[EmbeddedReader] = []
        try:
            (self.folder / WAKE).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"embedded log {self.folder} cannot be made: {error}; name a folder you may write"
            ) from error
        self._is_spool = settings.outgoing
        self._thread = Writer(
            self._open_file,
            boot=bytes.fromhex(self.writer),
            buffer=self.buffer,
            clock=self._clock,
            settings=settings,
            retention=retention or Retention(),
        )
        self._thread.start()
        self._thread.opened.result()

    def _open_file(self) -> tuple[Store, Bell]:
        if self._is_spool:
            from router.runtime.log.spool_rescue import mend

            mend(self.folder / FILE)
        store = Store(self.folder / FILE, busy_seconds=self._busy_seconds)
        try:
            if self._is_spool:
                store.leave_checkpoints()
            return store, Bell(self.folder / WAKE)
        except OSError as error:
            store.close()
            raise Unavailable(f"embedded log {self.folder / WAKE} cannot be used: {error}") from error

    def append(self, topic: str, key: str, value: bytes, partition: int = 0) -> int:
        """See `Log.append`. Returns -1 for a message that was dropped, which takes no sequence.

        `partition`: only for a spool, where a broker spreads the keys over several.
        """
        return self.buffer.put(topic, key, value, self._clock.time_ns(), partition)

    async def flush(self) -> None:
        """See `Log.flush`."""
        await asyncio.wrap_future(self.buffer.flush())

    def partition_of(self, key: str) -> int:  # noqa: ARG002 -- the interface's
        """See `Log.partition_of`: there is one."""
        return 0

    async def reader(
        self,
        topics: Sequence[str],
        start: Sequence[Position] | str = "earliest",
        partitions: Collection[int] | None = None,
    ) -> EmbeddedReader:
        """See `Log.reader`. A topic without a stored position is read from its beginning. Raises `Unavailable`."""
        wanted = [one for one in topics if partitions is None or 0 in partitions or one in COMPACTED]
        return await self.opened(EmbeddedReader(self.folder / FILE, self.folder / WAKE, wanted, self.buffer), start)

    async def opened(self, reader: EmbeddedReader, start: Sequence[Position] | str) -> EmbeddedReader:
        """`reader`, open and closed with this log at the latest. Raises `Unavailable`."""
        self._readers = [*(old for old in self._readers if not old.closed), reader]
        try:
            await reader.open(start)
        except BaseException:
            await reader.close()
            raise
        return reader

    async def member(self, group: str) -> SoleMember:  # noqa: ARG002 -- the interface's
        """See `Log.member`: a folder belongs to one machine, and who owns it there is settled by its locks."""
        return SoleMember()

    async def health(self) -> Health:
        """See `Log.health`."""
        return Health(counters={("log_dropped_messages", topic): n for topic, n in self.buffer.dropped.items()})

    def dropped(self) -> Mapping[str, int]:
        """See `Log.dropped`."""
        return dict(self.buffer.dropped)

    async def close(self) -> None:
        """See `Log.close`; closes its readers too. Raises `Unavailable` when accepted messages could not be committed.

        May be repeated.
        """
        for reader in self._readers:
            await reader.close()
        self._readers.clear()
        self._thread.stop()
        await asyncio.shield(asyncio.wrap_future(self._thread.ended))
