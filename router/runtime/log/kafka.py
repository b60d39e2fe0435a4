"""The log on Apache Kafka: what this machine appends goes into its spool, from which the shipper sends it on.

`specs`, `replicas` and `snapshots` are read from the copy of them that the shipper keeps in the spool, so that every
process starts and works while the broker is away and sees what its neighbours publish at once; the streams are read from
the broker. Only readers of streams and members of a group ever load the Kafka client: a gateway does neither.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from router.contract.errors import Unavailable
from router.contract.events import COMPACTED
from router.runtime.clock import Clock
from router.runtime.log.base import Health, Member, Position, Reader, ReaderStats
from router.runtime.log.embedded import FILE, WAKE, EmbeddedLog
from router.runtime.log.embedded_reader import EmbeddedReader
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.kafka_messages import partition_of
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.merging import MergedReader
from router.runtime.log.spool import Spool

if TYPE_CHECKING:
    from router.runtime.log.kafka_reader import KafkaReader

_T = TypeVar("_T")


class KafkaLog:
    """Implements `Log`. Any number of processes may share the same spool; one shipper serves them all."""

    def __init__(
        self,
        url: KafkaUrl,
        spool: Path,
        *,
        role: str = "log",
        instance: str | None = None,
        environ: Mapping[str, str] = os.environ,
        clock: Clock | None = None,
        settings: WriterSettings | None = None,
    ) -> None:
        """Open the spool, made if absent; needs no broker. Raises `Unavailable`, `InvalidSpec` for a wrong setting.

        `instance` names this process over its restarts among those that share the endpoints.
        """
        from router.runtime.log.kafka_connection import client_options

        self.partitions = url.partitions
        self._url = url
        self._options: Mapping[str, Any] = client_options(url, role, environ)
        self._instance = instance
        self._near = EmbeddedLog(spool, clock=clock, settings=settings or WriterSettings(outgoing=True))
        self.writer = self._near.writer
        self._far: list[KafkaReader] = []
        self._members: list[Member] = []
        self._desk = _Desk(spool / FILE)

    def partition_of(self, key: str) -> int:
        """See `Log.partition_of`: as Kafka's own clients choose it."""
        return partition_of(key, self.partitions)

    def append(self, topic: str, key: str, value: bytes) -> int:
        """See `Log.append`. Accepted means: in the spool within milliseconds, on Kafka as soon as that is there."""
        return self._near.append(topic, key, value, self.partition_of(key))

    async def flush(self) -> None:
        """See `Log.flush`: committed is what the spool has, and Kafka gets it from there whatever happens to us."""
        await self._near.flush()

    async def reader(
        self,
        topics: Sequence[str],
        start: Sequence[Position] | str = "earliest",
        partitions: Collection[int] | None = None,
    ) -> Reader:
        """See `Log.reader`. Raises `Unavailable` when the end of a stream is asked for and no broker can name it."""
        near = [topic for topic in topics if topic in COMPACTED]
        far = [topic for topic in topics if topic not in COMPACTED]
        if not far:
            return await self._copy_reader(near, start, ReaderStats())
        stats = ReaderStats()
        streams = await self._stream_reader(far, start, partitions, stats)
        if not near:
            return streams
        try:
            copy = await self._copy_reader(near, start, stats)
        except BaseException:
            await streams.close()
            raise
        return MergedReader((copy, streams), stats)

    async def _copy_reader(
        self, topics: Sequence[str], start: Sequence[Position] | str, stats: ReaderStats
    ) -> EmbeddedReader:
        reader = CopyReader(self._near.folder / FILE, self._near.folder / WAKE, topics, self._near.buffer, stats)
        return await self._near.opened(reader, start)

    async def _stream_reader(
        self,
        topics: Sequence[str],
        start: Sequence[Position] | str,
        partitions: Collection[int] | None,
        stats: ReaderStats,
    ) -> KafkaReader:
        from router.runtime.log.kafka_reader import KafkaReader

        chosen = range(self.partitions) if partitions is None else partitions
        reader = KafkaReader(self._url, self._options, topics, chosen, stats, shipped=self._new_mark)
        self._far = [*(old for old in self._far if not old.closed), reader]
        try:
            await reader.open(start)
        except BaseException:
            await reader.close()
            raise
        return reader

    def _new_mark(self) -> Callable[[Collection[str]], Any]:
        """See `kafka_reader.Shipped`: what waits in the spool now has to have left it."""
        mark: list[int] = []

        async def shipped(topics: Collection[str]) -> bool:
            try:
                if not mark:
                    await self._near.flush()
                    mark.append(await self._desk.ask(lambda spool: spool.last_outgoing(topics)))
                return not await self._desk.ask(lambda spool: spool.has_outgoing(topics, mark[0]))
            except Unavailable:
                return False

        return shipped

    async def member(self, group: str) -> Member:
        """See `Log.member`. Needs no broker: the share comes when there is one."""
        from router.runtime.log.kafka_member import KafkaMember

        member = KafkaMember(self._url, self._options, group, self._instance)
        self._members.append(member)
        return member

    def dropped(self) -> Mapping[str, int]:
        """See `Log.dropped`."""
        return self._near.dropped()

    async def health(self) -> Health:
        """See `Log.health`."""
        lag: dict[str, float] = {}
        for reader in self._far:
            for topic, count in ({} if reader.closed else reader.lag()).items():
                lag[topic] = max(lag.get(topic, 0), count)
        near, status = await self._near.health(), await self._status()
        return Health(
            {**near.counters, **status.counters},
            {**status.gauges, **{("log_lag_messages", topic): count for topic, count in lag.items()}},
            status.state,
            status.message,
        )

    async def _status(self) -> Health:
        try:
            return await self._desk.ask(Spool.health)
        except Unavailable as error:
            return Health(message=error.message)

    async def close(self) -> None:
        """See `Log.close`; closes its readers and leaves its groups too. What the spool holds, the shipper sends on."""
        for member in self._members:
            await member.close()
        for reader in self._far:
            await reader.close()
        self._members.clear()
        self._far.clear()
        await self._desk.close()
        await self._near.close()


class CopyReader(EmbeddedReader):
    """A reader of the machine's copy of compacted topics, which is only whole when the shipper says so."""

    async def caught_up(self) -> bool:
        """See `Reader.caught_up`.

        Also: the copy has reached what Kafka held when the shipper connected. With no broker to be had, an older copy
        that was whole once is better than nothing; a machine that never had one waits.
        """
        return await self._run(lambda: Spool(self._file).copy_is_current()) and await super().caught_up()


class _Desk:
    """Questions about the spool, answered on a thread of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spool: Spool | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    async def ask(self, question: Callable[[Spool], _T]) -> _T:
        """`question`'s answer. Raises `Unavailable`."""
        if self._closed:
            raise Unavailable("the log is closed")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log-desk")
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(self._answer, question))

    def _answer(self, question: Callable[[Spool], _T]) -> _T:
        if self._spool is None:
            self._spool = Spool.open(self._path)
        return question(self._spool)

    async def close(self) -> None:
        """Let go. May be repeated."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.wrap_future(thread.submit(self._let_go))
            thread.shutdown()

    def _let_go(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
