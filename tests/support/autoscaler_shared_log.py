"""An embedded log with several partitions and shares that a test deals by hand, whose streams can be out of reach."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

from autoscaler.backends.memory import MemoryBackend, MemoryWorld
from autoscaler.control import service
from router.contract.events import COMPACTED
from router.runtime.log.base import Message, Position, Reader, Share
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import AutoscalerSettings, DataLayout
from tests.support.autoscaler_group import PARTITIONS, partition_of

DEADLINE = 60.0
NOTHING = Share(frozenset(), 0)


class DealtMember:
    """Implements `Member`: the test says what it is dealt."""

    def __init__(self) -> None:
        self.share = NOTHING
        self.reachable = False
        self.closed = False
        self._told = NOTHING
        self._news = asyncio.Event()

    def deal(self, partitions: Collection[int], generation: int) -> None:
        """A new share."""
        self.share, self.reachable = Share(frozenset(partitions), generation), True
        self._news.set()

    async def changed(self) -> Share:
        """See `Member`."""
        while self.share == self._told:
            self._news.clear()
            await self._news.wait()
        self._told = self.share
        return self.share

    async def close(self) -> None:
        """See `Member`."""
        self.closed = True


class PartitionedReader:
    """Streams of some partitions, as a log with partitions hands them out."""

    def __init__(self, reader: Reader, log: SharedLog, topics: Sequence[str], partitions: Collection[int]) -> None:
        self.stats = reader.stats
        self._reader = reader
        self._log = log
        self._partitions = frozenset(partitions)
        self._stream = not set(topics) <= COMPACTED

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """See `Reader`."""
        if self._stream and not self._log.in_reach.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._log.in_reach.wait()
            return ()
        found = await self._reader.next(timeout_seconds)
        if not self._stream:
            return found
        placed = [one._replace(partition=partition_of(one.key)) for one in found]
        return [one for one in placed if one.partition in self._partitions]

    def positions(self) -> Sequence[Position]:
        """See `Reader`."""
        return self._reader.positions()

    async def caught_up(self) -> bool:
        """See `Reader`."""
        return (not self._stream or self._log.in_reach.is_set()) and await self._reader.caught_up()

    async def close(self) -> None:
        """See `Reader`."""
        await self._reader.close()


class SharedLog(EmbeddedLog):
    """One process's way into the log of all."""

    partitions = PARTITIONS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.in_reach = asyncio.Event()
        self.in_reach.set()
        self.members: list[DealtMember] = []

    def partition_of(self, key: str) -> int:
        """See `Log`."""
        return partition_of(key) if key[-1:].isdigit() else 0

    async def reader(  # type: ignore[override]  # it wraps what the embedded log gives
        self,
        topics: Sequence[str],
        start: Sequence[Position] | str = "earliest",
        partitions: Collection[int] | None = None,
    ) -> PartitionedReader:
        """See `Log`: there is one offset for all partitions, so the lowest is where to begin."""
        if not isinstance(start, str):
            lowest: dict[str, Position] = {}
            for one in start:
                known = lowest.get(one.topic)
                lowest[one.topic] = one if known is None or one.offset < known.offset else known
            start = [one._replace(partition=0) for one in lowest.values()]
        reader = await super().reader(topics, start)
        return PartitionedReader(reader, self, topics, range(PARTITIONS) if partitions is None else partitions)

    async def member(self, group: str) -> DealtMember:  # type: ignore[override]  # dealt by hand
        """See `Log`."""
        assert group == service.GROUP
        self.members.append(DealtMember())
        return self.members[-1]


class Scaler:
    """One autoscaler process of several: its data folder, its way into the log, its backend."""

    def __init__(self, root: Path, folder: Path, name: str, world: MemoryWorld | None = None) -> None:
        self.data = DataLayout(root / name)
        self.data.create()
        self.data.instance.write_text(name)
        self.settings = AutoscalerSettings(self.data, root / "cache", tick_seconds=0.2, drain_acknowledge_seconds=2)
        # Ids are unique over all machines.
        self.world = world or MemoryWorld(numbers=itertools.count(sum(name.encode()) * 1000))
        self.made: list[service.Autoscaler] = []
        self._folder = folder

    @property
    def autoscaler(self) -> service.Autoscaler:
        """The parts of the newest process."""
        return self.made[-1]

    @property
    def member(self) -> DealtMember:
        """Its membership."""
        return self.log.members[-1]

    def acts_for(self, endpoint: str) -> bool:
        """Whether it thinks so."""
        return bool(self.made) and self.autoscaler.reconciler.territory.acts_for(endpoint)

    @contextlib.asynccontextmanager
    async def running(self, *, ready: bool = True, kill: bool = False) -> AsyncIterator[Scaler]:
        """The service over this folder. `kill`: it ends without a last word."""
        self.log = SharedLog(self._folder)
        backend = MemoryBackend(world=self.world, name="memory")
        stop, is_ready = asyncio.Event(), asyncio.Event()

        async def main() -> None:
            await service.run(
                self.settings,
                {"memory": backend},
                self.log,
                stop,
                is_ready.set,
                default_backend="memory",
                assume_seconds=0.5,
                on_made=self.made.append,
            )

        task = asyncio.create_task(main())
        try:
            if ready:
                await until("ready", lambda: is_ready.is_set() or task.done())
            else:
                await until("joined", lambda: self.log.members or task.done())
            yield self
            if kill:
                task.cancel()
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=kill)
            await backend.close(end_replicas=False)
            await self.log.close()


async def until(what: str, condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Wait until `condition()`."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None
