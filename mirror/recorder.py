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
MOST_IDLE = 50
"""Endpoints where nothing happens that are reported at once: 10,000 have had their word after 20 s. That is no loss: what
the autoscaler asks a mirror for, while a replica drains, is urged or moving."""
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
        self._round: list[str] = []
        """Endpoints where nothing happens that have yet to be reported."""
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
        """One report per endpoint that has news; with `everything`, per endpoint that has candidates or drains.

        Of many such endpoints, each call reports some, until all have had their turn.
        """
        now_ns, now = time.time_ns(), time.monotonic()
        moving: dict[str, list[str]] = {}
        for owner, name in dispatcher.moving():
            moving.setdefault(owner, []).append(name)
        for endpoint in self._endpoints(moving, everything):
            view = self._directory.view(endpoint)
            names = dict.fromkeys((*view.mirrors, *moving.get(endpoint, ())))
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

    def _endpoints(self, moving: Iterable[str], everything: bool) -> list[str]:
        found = dict.fromkeys((*self._urgent, *moving))
        self._urgent.clear()
        if everything and not self._round:
            views = self._directory.endpoints.items()
            self._round = [name for name, view in views if view.mirrors or view.draining()]
        found.update(dict.fromkeys(self._round[-MOST_IDLE:]))
        del self._round[-MOST_IDLE:]
        return list(found)
