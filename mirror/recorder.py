"""What the mirror puts on the log: the end of every shadow, and what shadows ask of the candidates.

Demand is reported every 100 ms while shadows move, at once when one waits and nothing is ready, and every second
otherwise; always marked as shadow demand, so that it may start a candidate and never raises a live deployment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from mirror.discovery import Directory
from mirror.dispatcher import Dispatcher
from router.contract.codec import encode_demand, encode_shadow
from router.contract.events import DEMAND, SHADOWS, DemandReport, ShadowComparison
from router.runtime.log.base import Log

ACTIVE_SECONDS = 0.1
IDLE_SECONDS = 1.0
TOGETHER_SECONDS = 0.002
"""What becomes urgent within this time is told together."""


class Recorder:
    """One per mirror."""

    def __init__(self, log: Log, directory: Directory, hand: Callable[[str, int, str, bytes], None]) -> None:
        """`hand` gets (writer, sequence, endpoint, message) of all demand that is put on the log."""
        self._log = log
        self._directory = directory
        self._hand = hand
        self._urged = asyncio.Event()
        self._urgent: set[str] = set()
        self._starts: dict[str, int] = {}
        """Endpoint → end of its last reported window, Unix ns."""

    def shadows(self, events: Iterable[ShadowComparison]) -> None:
        """Put the events of one exchange on the log."""
        for event in events:
            self._log.append(SHADOWS, event.endpoint, encode_shadow(event))

    def urge(self, endpoint: str) -> None:
        """Something happened at an endpoint that the autoscaler should know at once."""
        self._urgent.add(endpoint)
        self._urged.set()

    async def run(self, dispatcher: Dispatcher) -> None:
        """Report until cancelled."""
        quiet_since = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await self._pause()
            idle = loop.time() - quiet_since >= IDLE_SECONDS
            if idle:
                quiet_since = loop.time()
            self.report(dispatcher, everything=idle)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(ACTIVE_SECONDS):
                await self._urged.wait()
                await asyncio.sleep(TOGETHER_SECONDS)
        except TimeoutError:
            return
        self._urged.clear()

    def report(self, dispatcher: Dispatcher, *, everything: bool) -> None:
        """One report per endpoint that has news; with `everything`, per endpoint that has candidates or drains."""
        now_ns, now = time.time_ns(), asyncio.get_running_loop().time()
        for endpoint in self._endpoints(dispatcher, everything):
            view = self._directory.view(endpoint)
            moving = (name for owner, name in dispatcher.moving() if owner == endpoint)
            names = dict.fromkeys((*view.mirrors, *moving))
            report = DemandReport(
                endpoint,
                self._starts.get(endpoint, now_ns),
                now_ns,
                view.revision,
                view.replicas_version,
                shadow=True,
                rows=tuple(dispatcher.row((endpoint, name), now) for name in names),
                draining=tuple((replica, dispatcher.on_replica(endpoint, replica)) for replica in view.draining()),
            )
            self._starts[endpoint] = now_ns
            message = encode_demand(report)
            sequence = self._log.append(DEMAND, endpoint, message)
            if sequence >= 0:
                self._hand(self._log.writer, sequence, endpoint, message)

    def _endpoints(self, dispatcher: Dispatcher, everything: bool) -> list[str]:
        found = dict.fromkeys((*self._urgent, *(endpoint for endpoint, _ in dispatcher.moving())))
        self._urgent.clear()
        if everything:
            views = self._directory.endpoints.items()
            found.update(dict.fromkeys(name for name, view in views if view.mirrors or view.draining()))
        return list(found)
