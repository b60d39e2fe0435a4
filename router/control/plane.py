"""The parts of the control plane that its routes share, and the way every change takes: decide, commit, publish."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from router.contract.errors import NotFound
from router.control import changes, settling
from router.control.assets import Assets
from router.control.content import KeyPair, OperationKind, Standing
from router.control.fleet import Fleet
from router.control.log_reading import LogReading
from router.control.operations import Operation
from router.control.publisher import Publisher
from router.control.settling import Settler
from router.control.store import Committed, Decide, Store
from router.runtime.log.base import Log
from router.runtime.settings import ControlSettings

PUBLICATION_SECONDS = 2.0
"""How long an answer waits for its revision to be effective; later it answers with the operation under way."""


@dataclass(slots=True)
class Plane:
    """What a handler works with."""

    settings: ControlSettings
    log: Log
    store: Store
    assets: Assets
    publisher: Publisher
    fleet: Fleet
    settler: Settler
    logs: LogReading
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when streams must end."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a revision has come into force or the fleet has changed."""
    exposed: list[Callable[[], bytes]] = field(default_factory=list)
    """Whoever has metrics of its own to show, in Prometheus' text form."""
    followers: int = 0
    """Event streams that are open."""

    async def commit(self, endpoint: str, decide: Decide) -> Committed:
        """Make one change and wait a moment until it is effective."""
        committed = await self.store.change(endpoint, uuid.uuid4().hex, decide)
        await self.publisher.wait_for(endpoint, committed.standing.revision, PUBLICATION_SECONDS)
        return committed

    async def standing(self, name: str) -> Standing:
        """The newest revision of an endpoint that exists; raises `NotFound`."""
        return changes.existing(await self.store.get(name.lower()), name)

    async def shown_endpoint(self, name: str) -> tuple[Standing, Operation | None]:
        """As `standing`, with its newest operation; an endpoint that is still being deleted is shown too."""
        found = await self.store.get(name.lower())
        newest = (await self.store.newest_operations(name.lower())).get(None)
        if found is not None and found.deleted and newest is not None and newest.open:
            return found, newest
        return changes.existing(found, name), newest

    async def leaving(self, standing: Standing) -> dict[str, Operation]:
        """Deployments that are gone from the revision and still being deleted → that operation."""
        newest = await self.store.newest_operations(standing.endpoint)
        return {
            name: operation
            for name, operation in newest.items()
            if name is not None and operation.open and operation.kind is OperationKind.DELETE
        }

    async def operation(self, ident: str) -> Operation:
        """An operation with its momentary progress; raises `NotFound`."""
        found = await self.store.operation(ident)
        if not found.open:
            return found
        return settling.shown(found, await self.settler.progress(self.store, found))

    async def document_before(self, operation: Operation) -> dict[str, object]:
        """The document that a deletion removed, or just its name when that revision is no longer kept."""
        name = operation.deployment or ""
        try:
            recorded = await self.store.recorded(operation.endpoint, operation.revision - 1)
        except NotFound:
            return {"name": name}
        return dict(recorded.standing.content.deployments.get(name, {"name": name}))

    @property
    def gateway_url(self) -> str:
        """Base of scoring URIs."""
        return self.settings.gateway_url


PLANE = web.AppKey("plane", Plane)


def fresh_keys() -> KeyPair:
    """Two new keys of 256 random bits each, in hex."""
    return KeyPair(secrets.token_hex(32), secrets.token_hex(32))


def now_ns() -> int:
    """Unix nanoseconds."""
    return time.time_ns()
