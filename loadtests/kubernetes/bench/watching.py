"""An independent pair of eyes: when pods of a namespace appeared and went, by a watch of our own that nobody else's work
passes through. Only metadata is asked for, so that looking costs the server little."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from autoscaler.backends.kubernetes import names
from loadtests.kubernetes.cluster.api import ApiFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from loadtests.kubernetes.cluster.api import Api

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
LONG = str(24 * 3600)
"""Seconds that a watch may last: left alone, a server ends it after half an hour."""
_PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class PodWatch:
    """Pods by endpoint. Times are Unix nanoseconds at which we heard."""

    created: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Pod → (its endpoint, when it appeared); deleted ones stay."""
    alive: Counter[str] = field(default_factory=Counter)
    """Endpoint → pods that are not ending."""
    deleted: int = 0
    version: str = ""
    """Of the newest event: where a watch that was cut off goes on."""
    over: str = ""
    """Why this watch has ended for good, if it has: what was seen is not whole then."""
    _ending: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: dict[str, Any]) -> None:
        """One event of the watch."""
        metadata, now = event["object"]["metadata"], time.time_ns()
        self.version = metadata["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        name = metadata["name"]
        if name not in self.created:
            self.created[name] = (str(metadata.get("labels", {}).get(names.ENDPOINT)), now)
            self.alive[self.created[name][0]] += 1
        gone = event["type"] == "DELETED"
        if (gone or "deletionTimestamp" in metadata) and name not in self._ending:
            self._ending.add(name)
            self.alive[self.created[name][0]] -= 1
        self.deleted += gone
        self._news.set()

    def since(self, at_ns: int) -> dict[str, int]:
        """Endpoint → when its first pod after `at_ns` appeared."""
        found: dict[str, int] = {}
        for endpoint, seen_ns in self.created.values():
            if seen_ns >= at_ns:
                found[endpoint] = min(seen_ns, found.get(endpoint, seen_ns))
        return found

    async def news(self) -> None:
        """Return after the next event. Raises RuntimeError when there will be none."""
        self._news.clear()
        if not self.over:
            await self._news.wait()
        if self.over:
            raise RuntimeError(f"the bench's own watch has ended: {self.over}")

    def end(self, reason: str) -> None:
        """No event comes any more."""
        self.over = reason
        self._news.set()


@contextlib.asynccontextmanager
async def watching(api: Api, namespace: str) -> AsyncIterator[PodWatch]:
    """A watch over all pods of `namespace`, what is there included, for as long as this is open."""
    seen = PodWatch()
    looking = asyncio.create_task(_look(api, f"/api/v1/namespaces/{namespace}/pods", seen), name="watch pods")
    try:
        yield seen
    finally:
        looking.cancel()
        await asyncio.wait({looking})


async def _look(api: Api, path: str, seen: PodWatch) -> None:
    """Until cancelled: a server cuts off whoever is slow for a moment, which this process may be on a busy machine."""
    while True:
        query = {"timeoutSeconds": LONG, "allowWatchBookmarks": "true"}
        query |= {"resourceVersion": seen.version} if seen.version else {}
        try:
            async for event in api.watch(path, accept=METADATA, **query):
                if event["type"] == "ERROR":
                    seen.end(str(event["object"].get("message")))
                    return
                seen.take(event)
        except ApiFailed as error:
            seen.end(str(error))
            return
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(_PAUSE_SECONDS)
