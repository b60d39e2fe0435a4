"""Reading a log to a known end, with a deadline."""

from __future__ import annotations

import asyncio

from router.runtime.log.base import Message, Reader

DEADLINE_SECONDS = 90.0


async def read(reader: Reader, count: int) -> list[Message]:
    """Exactly `count` messages, or a failure; more in the last batch is a failure too."""
    messages: list[Message] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(messages) < count:
            messages.extend(await reader.next())
    assert len(messages) == count
    return messages


async def read_all(reader: Reader) -> list[Message]:
    """Everything up to the moment nothing is left."""
    messages: list[Message] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await reader.caught_up():
            messages.extend(await reader.next(0.1))
    return messages
