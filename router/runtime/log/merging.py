"""Two readers as one: what is near comes from the machine's own copy, what is far from the broker.

Neither half is ever cancelled in the middle of its `next`: what one of them is still waiting for is kept for the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.runtime.log.base import Message, Position, Reader, ReaderStats


class MergedReader:
    """Implements `Reader` over others that keep their books in the same `stats`."""

    def __init__(self, readers: Sequence[Reader], stats: ReaderStats) -> None:
        self.stats = stats
        self._readers = tuple(readers)
        self._pending: dict[Reader, asyncio.Task[Sequence[Message]]] = {}
        self._closed = False

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """See `Reader.next`. Raises what a half raises."""
        if self._closed:
            return ()
        for reader in self._readers:
            if reader not in self._pending:
                self._pending[reader] = asyncio.create_task(_read(reader), name="log reader")
        done, _ = await asyncio.wait(
            self._pending.values(), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        found: list[Message] = []
        for reader, task in list(self._pending.items()):
            if task in done:
                del self._pending[reader]
                found.extend(task.result())
        return found

    def positions(self) -> Sequence[Position]:
        """See `Reader.positions`. What a half has read and this has not handed out yet is not counted as read."""
        return [position for reader in self._readers for position in self._before(reader)]

    def _before(self, reader: Reader) -> Sequence[Position]:
        task = self._pending.get(reader)
        positions = reader.positions()
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return positions
        first: dict[tuple[str, int], int] = {}
        for message in task.result():
            first.setdefault((message.topic, message.partition), message.offset)
            first.setdefault((message.topic, -1), message.offset)
        # The machine's copy counts offsets over all partitions, so one cursor stands for them (partition 0).
        whole = len({position.topic for position in positions}) == len(positions)
        return [
            position._replace(offset=first.get((position.topic, -1 if whole else position.partition), position.offset))
            for position in positions
        ]

    async def caught_up(self) -> bool:
        """See `Reader.caught_up`."""
        if any(task.done() for task in self._pending.values()):
            return False
        for reader in self._readers:
            if not await reader.caught_up():
                return False
        # What a half read while the other was asked has not been handed out.
        return not any(task.done() for task in self._pending.values())

    async def close(self) -> None:
        """See `Reader.close`. May be repeated."""
        self._closed = True
        for reader in self._readers:
            await reader.close()
        pending = list(self._pending.values())
        self._pending.clear()
        await asyncio.gather(*pending, return_exceptions=True)


async def _read(reader: Reader) -> Sequence[Message]:
    return await reader.next()
