"""Ends operations when the world has caught up with them, and takes the further step that some of them ask for."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from functools import partial

from router.contract.errors import Unavailable
from router.control import changes
from router.control.fleet import Fleet
from router.control.operations import Operation, Progress, Status, progress_of
from router.control.publisher import Publisher
from router.control.store import Store

_log = logging.getLogger(__name__)
RETRY_SECONDS = 0.5


class Settler:
    """Looks at every open operation after each publication and each report of the autoscaler."""

    def __init__(self, publisher: Publisher, fleet: Fleet, due: asyncio.Event) -> None:
        """`due` is set by whoever knows that something operations wait for may have happened."""
        self._publisher = publisher
        self._fleet = fleet
        self._due = due

    async def run(self, store: Store) -> None:
        """Settle until cancelled; what was open at an earlier end is taken up again."""
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                for operation in await store.open_operations():
                    await self._settle(store, operation)
            except Unavailable as error:
                _log.warning("operations wait to be settled: %s", error.message)
                self._due.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def progress(self, store: Store, operation: Operation) -> Progress:
        """Where an open operation is right now."""
        standing = await store.get(operation.endpoint)
        wanted = sorted(standing.content.deployments) if standing else []
        replicas = self._fleet.replicas(operation.endpoint)
        return progress_of(operation, replicas, self._publisher.published.get(operation.endpoint, 0), wanted)

    async def _settle(self, store: Store, operation: Operation) -> None:
        if not self._fleet.caught_up:
            return
        progress = await self.progress(store, operation)
        if progress.status is Status.IN_PROGRESS:
            return
        deployment = operation.deployment
        if progress.status is Status.SUCCEEDED and operation.all_traffic and deployment is not None:
            decide = partial(changes.give_all_traffic, endpoint=operation.endpoint, deployment=deployment)
            await store.change_traffic(operation, uuid.uuid4().hex, decide)
            return
        await store.settle(operation.id, progress)
        _log.info("operation %s on %s: %s", operation.kind, _subject(operation), progress.status)


def shown(operation: Operation, progress: Progress) -> Operation:
    """An open operation with its momentary progress; its end shows only once it is written."""
    if not operation.open or progress.status is not Status.IN_PROGRESS:
        return operation
    return dataclasses.replace(operation, phase=progress.phase, progress=progress.progress, message=progress.message)


def _subject(operation: Operation) -> str:
    return operation.endpoint if operation.deployment is None else f"{operation.endpoint}/{operation.deployment}"
