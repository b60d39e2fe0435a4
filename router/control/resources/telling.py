"""Events on objects, which `kubectl describe` shows: what happened and why. Never a flood.

The same event again counts up the one that is there. One object gets a few at once and then one now and then; what is
over that, or cannot be written, is dropped and counted. Nothing waits for an event.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from router.control.resources.kinds import API_VERSION
from router.control.resources.objects import Found
from router.runtime.clock import Clock
from router.runtime.kubernetes import EVENTS, Absent, Cluster, Denied, KubernetesError

NORMAL = "Normal"
WARNING = "Warning"
MESSAGE_CHARACTERS = 1000
"""Of an event; the API server takes 1024 bytes."""
BURST = 20
SECONDS_EACH = 15.0
"""After the burst, one event for each so many seconds per object."""
GAP_SECONDS = 0.1
"""Between two events of all objects: what else is written must not wait for them."""
SAME_SECONDS = 3600.0
"""An event that is younger is counted up instead of written again."""
_WAITING = 5000
_REMEMBERED = 4096
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Event:
    found: Found
    kind: str
    reason: str
    message: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.found.uid, self.reason, self.message


@dataclass(slots=True)
class _Written:
    name: str
    count: int
    at: float


class Teller:
    """Writes events, one after the other."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self.dropped = 0
        """Events that were not written."""
        self._cluster = cluster
        self._clock = clock
        self._waiting: deque[_Event] = deque()
        self._something = asyncio.Event()
        self._written: OrderedDict[tuple[str, str, str], _Written] = OrderedDict()
        self._spent: OrderedDict[str, float] = OrderedDict()
        self._denied = False

    def tell(self, found: Found, kind: str, reason: str, message: str) -> None:
        """Note one event about `found`; it is written soon."""
        if len(self._waiting) >= _WAITING or not self._allowed(found.uid):
            self.dropped += 1
            return
        shown = message if len(message) <= MESSAGE_CHARACTERS else message[: MESSAGE_CHARACTERS - 1] + "…"
        self._waiting.append(_Event(found, kind, reason, shown))
        self._something.set()

    @property
    def waiting(self) -> int:
        """Events that are still to be written."""
        return len(self._waiting)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                event = self._waiting.popleft()
                try:
                    await self._write(event)
                except KubernetesError as error:
                    self._not_written(event, error)
                await self._clock.sleep(GAP_SECONDS)

    def _allowed(self, uid: str) -> bool:
        """A bucket of `BURST` that fills by one each `SECONDS_EACH`, kept as the time when it will be full."""
        now = self._clock.monotonic()
        full = max(now, self._spent.pop(uid, now)) + SECONDS_EACH
        allowed = full - now <= BURST * SECONDS_EACH
        self._spent[uid] = full if allowed else full - SECONDS_EACH
        while len(self._spent) > _REMEMBERED:
            self._spent.popitem(last=False)
        return allowed

    async def _write(self, event: _Event) -> None:
        now, text = self._clock.monotonic(), rfc3339(self._clock.time_ns())
        known = self._written.pop(event.key, None)
        if known is not None and now - known.at < SAME_SECONDS and await self._again(event, known, text):
            known.at, known.count = now, known.count + 1
        else:
            known = _Written(f"{event.found.name[:200]}.{uuid.uuid4().hex[:16]}", 1, now)
            await self._cluster.create(EVENTS, _manifest(event, known.name, text))
        self._written[event.key] = known
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)

    async def _again(self, event: _Event, known: _Written, now: str) -> bool:
        """Whether the event that is there could be counted up."""
        part = {"count": known.count + 1, "lastTimestamp": now}
        try:
            await self._cluster.merge(EVENTS, event.found.namespace, known.name, part)
        except Absent:
            return False
        return True

    def _not_written(self, event: _Event, error: KubernetesError) -> None:
        self.dropped += 1
        if isinstance(error, Denied) and not self._denied:
            self._denied = True
            _LOG.warning("events are not written: %s", error.message)
        _LOG.debug("event %s of %s dropped: %s", event.reason, event.found.name, error.message)


def _manifest(event: _Event, name: str, now: str) -> dict[str, Any]:
    found = event.found
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": found.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": found.kind.kind,
            "name": found.name,
            "namespace": found.namespace,
            "uid": found.uid,
            "resourceVersion": found.version,
        },
        "type": event.kind,
        "reason": event.reason,
        "message": event.message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": "tidegate"},
        "reportingComponent": "tidegate.dev/control",
        "reportingInstance": "tidegate-control",
    }


def rfc3339(at_ns: int) -> str:
    """Unix nanoseconds as Kubernetes writes times: UTC, whole seconds."""
    return datetime.fromtimestamp(at_ns // 10**9, UTC).isoformat().replace("+00:00", "Z")
