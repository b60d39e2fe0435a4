"""Publishes committed revisions to the `specs` topic, in order, and clears the outbox once the log has them.

A revision may be published twice (after a crash between the two steps), never not at all. While the log refuses, the
outbox keeps growing in the store and the publisher tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from router.contract import codec
from router.contract.errors import Unavailable
from router.contract.events import SPECS, EndpointRevision
from router.control.store import Store
from router.runtime.log.base import Log

_log = logging.getLogger(__name__)
BATCH = 100
RETRY_SECONDS = 0.5


class Publisher:
    """The one task that writes `specs`."""

    def __init__(self, log: Log, on_published: Callable[[], None]) -> None:
        self.published: dict[str, int] = {}
        """Endpoint → the newest revision that the log has committed."""
        self._log = log
        self._on_published = on_published
        self._due = asyncio.Event()
        self._progress = asyncio.Condition()

    def wake(self) -> None:
        """There may be something in the outbox."""
        self._due.set()

    async def catch_up(self, store: Store) -> None:
        """At the start: find what the log lacks (everything, when its folder is new) and what only it knows."""
        adopted = await store.reconcile(await newest_in(self._log))
        for endpoint in adopted:
            _log.warning("endpoint %s: the log was ahead of the store; its newest revision was adopted", endpoint)
        self.published = dict(await store.published())

    async def run(self, store: Store) -> None:
        """Publish until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                while await self._publish(store):
                    pass
            except Unavailable as error:
                _log.warning("revisions wait to be published: %s", error.message)
                self._due.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def wait_for(self, endpoint: str, revision: int, timeout_seconds: float) -> bool:
        """Whether the log has committed `revision` within the time."""
        try:
            async with asyncio.timeout(timeout_seconds), self._progress:
                await self._progress.wait_for(lambda: self.published.get(endpoint, 0) >= revision)
        except TimeoutError:
            return False
        return True

    async def _publish(self, store: Store) -> bool:
        batch = await store.unpublished(BATCH)
        if not batch:
            return False
        for _, event in batch:
            self._log.append(SPECS, event.endpoint, codec.encode_specs(event))
        await self._log.flush()
        await store.mark_published(batch[-1][0])
        for _, event in batch:
            self.published[event.endpoint] = max(event.revision, self.published.get(event.endpoint, 0))
        async with self._progress:
            self._progress.notify_all()
        self._on_published()
        return True


async def newest_in(log: Log) -> dict[str, EndpointRevision]:
    """Endpoint → the newest revision that `log` holds."""
    newest: dict[str, EndpointRevision] = {}
    reader = await log.reader((SPECS,))
    try:
        while not await reader.caught_up():
            for message in await reader.next(1.0):
                try:
                    event = codec.decode_specs(message.value)
                except (codec.UnknownSchema, codec.Malformed) as error:
                    _log.warning("specs %d: skipped: %s", message.offset, error)
                    continue
                if event.endpoint not in newest or newest[event.endpoint].revision <= event.revision:
                    newest[event.endpoint] = event
    finally:
        await reader.close()
    return newest
