"""Starting and stopping Kafka's clients whole: one that is interrupted while it connects leaves its sockets behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

STOP_SECONDS = 3.0
"""Longest wait for a client that does not want to end."""
_LOG = logging.getLogger(__name__)


class Client(Protocol):
    """A consumer or a producer."""

    async def stop(self) -> None:
        """Let go of everything."""


C = TypeVar("C", bound=Client)


async def started(starting: Coroutine[Any, Any, C]) -> C:
    """The client that `starting` makes. When the caller is cancelled meanwhile, it is stopped as soon as it is there."""
    task = asyncio.create_task(starting, name="start of a Kafka client")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=STOP_SECONDS)
        task.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await stopped(await task)
        raise


async def stopped(client: Client) -> None:
    """Let go of a client, also of one that hangs."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await client.stop()
    except Exception as error:
        _LOG.debug("a Kafka client did not stop in order: %r", error)
