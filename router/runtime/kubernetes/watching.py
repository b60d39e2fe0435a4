"""A collection kept as the server has it: listed once, then watched for ever.

A watch that ends goes on from where it was; one that is too old (410) is listed anew; one that fails waits longer each
time. Of every object only what `keep` makes of it stays in memory. While the server is away the last known stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from router.runtime.clock import Clock, SystemClock
from router.runtime.kubernetes.client import Cluster
from router.runtime.kubernetes.failures import Expired, KubernetesError
from router.runtime.kubernetes.pacing import Backoff, Chance
from router.runtime.kubernetes.resources import Resource

T = TypeVar("T")
Keep = Callable[[Mapping[str, Any], T | None, bool], T]
"""(object, what was kept of it before, whether the change was seen as it happened) → what to keep."""
Changed = Callable[[str, T | None, T | None], None]
"""(name, what was kept before, what is kept now); None = not there."""

FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 30.0
WATCH_SECONDS = 300.0
"""Least time a watch is asked to last; up to twice that, so that not all end together."""
SHORT_SECONDS = 1.0
"""A watch that ended so soon without a word counts as a failure."""
_GONE = 4096
"""Deletions remembered, so that a late answer to one of our own writes does not bring an object back."""

_LOG = logging.getLogger(__name__)


class Watched(Generic[T]):
    """One resource in one namespace (or all: the names are `namespace/name` then)."""

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        namespace: str,
        keep: Keep[T],
        changed: Changed[T],
        *,
        labels: str = "",
        clock: Clock | None = None,
        chance: Chance = random.random,
    ) -> None:
        self.items: dict[str, T] = {}
        self.synced = asyncio.Event()
        """Set once everything was listed; stays set."""
        self.trouble: KubernetesError | None = None
        """Why the collection may be out of date; None while it is watched."""
        self.trouble_since = 0.0
        """Monotonic seconds."""
        self.lists = 0
        """How often everything was listed."""
        self._cluster = cluster
        self._resource = resource
        self._namespace = namespace
        self._keep = keep
        self._changed = changed
        self._labels = labels
        self._clock = clock or SystemClock()
        self._chance = chance
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS, chance)
        self._versions: dict[str, int] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._heard = 0
        """Newest version that the server has told, by list or watch."""
        self._news = asyncio.Event()

    @property
    def current(self) -> bool:
        """Whether everything was listed and is watched now."""
        return self.synced.is_set() and self.trouble is None

    async def run(self) -> None:
        """Until cancelled."""
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                version = await self._follow(version)
            except Expired:
                version = None
            except _Broken as broken:
                version = broken.version
                await self._wait(broken.error)
            except KubernetesError as error:
                await self._wait(error)

    def put(self, found: Mapping[str, Any]) -> None:
        """An object as one of our own requests was answered: the watch will tell the same, or something newer."""
        name, version = self._name(found), _number(found)
        if name in self._gone and version <= self._gone[name]:
            return
        self._take(name, version, found, live=True)

    async def told(self, found: Mapping[str, Any], seconds: float) -> None:
        """Return when the watch has told this version of an object or a newer one, or after `seconds`.

        Other watchers of the same server have most likely heard of it then too.
        """
        name, version = self._name(found), _number(found)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._heard < version and name in self.items:
                    news = self._news
                    await news.wait()

    # inside --------------------------------------------------------------------------------------------------------

    async def _list(self) -> str:
        seen: dict[str, int] = {}
        version = ""
        async with aclosing(self._cluster.pages(self._resource, self._namespace, labels=self._labels)) as pages:
            async for page in pages:
                version = str(page["metadata"]["resourceVersion"])
                for found in page.get("items") or ():
                    name = self._name(found)
                    seen[name] = _number(found)
                    self._take(name, seen[name], found, live=False)
        moment = int(version) if version.isdecimal() else 0
        for name in [name for name in self.items if name not in seen and self._versions.get(name, 0) <= moment]:
            self._drop(name, moment)
        self.lists += 1
        self._hear(moment)
        self._healthy()
        self.synced.set()
        return version

    async def _follow(self, version: str) -> str:
        started, spoken = self._clock.monotonic(), False
        seconds = WATCH_SECONDS * (1 + self._chance())
        stream = self._cluster.watch(self._resource, self._namespace, version, labels=self._labels, seconds=seconds)
        try:
            async with aclosing(stream) as events:
                async for kind, found in events:
                    if kind:
                        version, spoken = str(found["metadata"]["resourceVersion"]), True
                        self._event(kind, found)
                        self._hear(_number(found))
                    else:
                        self._healthy(keep_backoff=True)
        except Expired:
            raise
        except KubernetesError as error:
            if self._clock.monotonic() - started > SHORT_SECONDS:
                self._backoff.reset()
            raise _Broken(version, error) from error
        if spoken or self._clock.monotonic() - started > SHORT_SECONDS:
            self._backoff.reset()
        else:
            await self._clock.sleep(self._backoff.next())
        return version

    def _event(self, kind: str, found: Mapping[str, Any]) -> None:
        if kind == "BOOKMARK":
            return
        name, version = self._name(found), _number(found)
        if kind == "DELETED":
            if self._versions.get(name, 0) <= version:
                self._drop(name, version)
            return
        self._take(name, version, found, live=True)

    def _hear(self, version: int) -> None:
        self._heard = max(self._heard, version)
        self._news.set()
        self._news = asyncio.Event()

    def _take(self, name: str, version: int, found: Mapping[str, Any], *, live: bool) -> None:
        if version < self._versions.get(name, 0):
            return
        before = self.items.get(name)
        now = self._keep(found, before, live)
        self._versions[name] = version
        self.items[name] = now
        if before != now:
            self._changed(name, before, now)

    def _drop(self, name: str, version: int) -> None:
        self._versions.pop(name, None)
        self._gone[name] = version
        while len(self._gone) > _GONE:
            self._gone.popitem(last=False)
        before = self.items.pop(name, None)
        if before is not None:
            self._changed(name, before, None)

    def _healthy(self, *, keep_backoff: bool = False) -> None:
        if not keep_backoff:
            self._backoff.reset()
        if self.trouble is not None:
            _LOG.info("%s are watched again", self._resource.plural)
            self.trouble = None

    async def _wait(self, error: KubernetesError) -> None:
        pause = max(self._backoff.next(), error.wait_seconds)
        if self.trouble is None:
            self.trouble_since = self._clock.monotonic()
            _LOG.warning("%s are not watched: %s", self._resource.plural, error.message, extra={"pause_seconds": pause})
        self.trouble = error
        await self._clock.sleep(pause)

    def _name(self, found: Mapping[str, Any]) -> str:
        metadata = found["metadata"]
        return str(metadata["name"] if self._namespace else f"{metadata.get('namespace', '')}/{metadata['name']}")


class _Broken(Exception):
    """A watch failed; it can go on from `version`."""

    def __init__(self, version: str, error: KubernetesError) -> None:
        super().__init__(version)
        self.version = version
        self.error = error


def _number(found: Mapping[str, Any]) -> int:
    """The object's version; versions of one resource can be compared as numbers."""
    text = str(found["metadata"].get("resourceVersion") or "")
    return int(text) if text.isdecimal() else 0
