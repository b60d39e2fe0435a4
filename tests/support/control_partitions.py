"""A log of one topic in several partitions, in memory, of which the oldest messages may be gone: enough to read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from router.runtime.log.base import Message, Position, ReaderStats


class PartitionedReader:
    """Implements `Reader`: hands out a few messages at a time, taking turns between partitions."""

    def __init__(self, log: PartitionedLog, cursors: dict[int, int]) -> None:
        self.stats = ReaderStats()
        self.closed = False
        self._log = log
        self._cursors = cursors

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """One message of each partition."""
        found = []
        for partition, cursor in self._cursors.items():
            message = next((one for one in self._log.partition(partition) if one.offset >= cursor), None)
            if message is not None:
                self._cursors[partition] = message.offset + 1
                found.append(message)
        return found

    def positions(self) -> Sequence[Position]:
        """See `Reader.positions`."""
        return [Position(self._log.topic, partition, offset) for partition, offset in self._cursors.items()]

    async def caught_up(self) -> bool:
        """See `Reader.caught_up`; never when the log is stuck."""
        ends = self._log.ends()
        return not self._log.stuck and all(cursor >= ends[partition] for partition, cursor in self._cursors.items())

    async def close(self) -> None:
        """See `Reader.close`."""
        self.closed = True


class PartitionedLog:
    """The part of `Log` that reads. `messages`: any order; offsets dense per partition from the first that is kept."""

    def __init__(self, topic: str, messages: Sequence[Message], partitions: int) -> None:
        self.topic = topic
        self.partitions = partitions
        self.stuck = False
        self.messages = sorted(messages, key=lambda one: (one.partition, one.offset))
        self.readers: list[PartitionedReader] = []

    def partition(self, partition: int) -> list[Message]:
        """Its messages in order."""
        return [one for one in self.messages if one.partition == partition]

    def ends(self) -> dict[int, int]:
        """Partition → the next offset."""
        ends = dict.fromkeys(range(self.partitions), 0)
        for one in self.messages:
            ends[one.partition] = one.offset + 1
        return ends

    async def reader(
        self,
        topics: Sequence[str],
        start: Sequence[Position] | str = "earliest",
        partitions: Collection[int] | None = None,
    ) -> PartitionedReader:
        """See `Log.reader`."""
        assert (tuple(topics), partitions) == ((self.topic,), None)
        cursors = self.ends() if start == "latest" else dict.fromkeys(range(self.partitions), 0)
        if not isinstance(start, str):
            cursors |= {one.partition: one.offset for one in start}
        self.readers.append(PartitionedReader(self, cursors))
        return self.readers[-1]
