"""Starting and stopping Kafka's clients whole: one that is interrupted on its way leaves its sockets and tasks behind.

aiokafka's consumer cancels its fetches when it stops, and trips over them: its `stop` ends as if whoever called it had
been cancelled, before it has closed anything. So it is not trusted, and what it left open is closed after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from router.runtime.log.containing import contained

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


async def stopped(client: Client, seconds: float = STOP_SECONDS) -> None:
    """Let go of a client, also of one that hangs, or trips over itself: at most twice `seconds`."""
    await _done("stop", client.stop(), seconds)
    await _done("closing", _close(client), seconds)


async def _done(what: str, work: Coroutine[Any, Any, None], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await contained(f"{what} of a Kafka client", work)
    except Exception as error:
        _LOG.debug("the %s of a Kafka client did not go in order: %r", what, error)


async def _close(client: Any) -> None:
    """Whatever `stop` did not come to; nothing when it came to its end."""
    fetcher = getattr(client, "_fetcher", None)
    fetches = () if fetcher is None else tuple(fetcher._pending_tasks)
    for fetch in fetches:
        fetch.cancel()
    await asyncio.gather(*fetches, return_exceptions=True)
    connections = client._client if hasattr(client, "_client") else client.client
    await connections.close()
