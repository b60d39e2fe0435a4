"""When a worker says what it has seen: every period, a moment after requests begin to queue, at once where nothing is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from router.gateway.demand import Reporter
from router.gateway.records import Flushing, renew_clock

if TYPE_CHECKING:
    from router.gateway.discovery import Discovery
    from router.gateway.routes import Endpoint
    from router.gateway.state import State

_SHADOWS_EVERY_SECONDS = 1.0
_GATHER_SECONDS = 0.005
"""A queue that has just begun is reported after this long: a burst takes some turns of the loop to arrive."""
_APART_NS = 20_000_000
"""Two reports of one endpoint are this far apart, when it is only for a queue: it may come and go with every request."""


class Reports:
    """Demand, records and what became of shadows, of one worker."""

    def __init__(self, state: State, discovery: Discovery, hand: Callable[[str, int, str, bytes], None]) -> None:
        """`hand`: see `Reporter`."""
        self._state = state
        self._discovery = discovery
        self._reporter = Reporter(state.log, hand, state.awake)
        self._records = Flushing(state.ledgers)
        self._records_due = self._shadows_due = 0.0
        self._due: dict[str, asyncio.TimerHandle] = {}
        """Endpoints that are to be reported before their time."""

    async def keep_on(self) -> None:
        """Hand demand and records to the log, every period, until it is cancelled."""
        while True:
            await asyncio.sleep(self._state.settings.demand_period_seconds)
            for _ in self._parts():
                await asyncio.sleep(0)

    def flush(self) -> None:
        """All there is. Nobody is left who waits meanwhile."""
        for _ in self._parts(everything=True):
            pass

    def _parts(self, *, everything: bool = False) -> Iterator[None]:
        """What is due by now, or all there is, in parts: between two of them requests are answered."""
        renew_clock()
        state, endpoints, leaving = self._state, self._discovery.endpoints, self._discovery.leaving
        state.renew_date()
        state.board.renew()
        for some in self._reporter.due(everything=everything):
            self._reporter.tell(some, endpoints, leaving, time.monotonic_ns())
            yield
        self._reporter.beat(endpoints, leaving, time.monotonic_ns())
        for name in [name for name, one in leaving.items() if not one.leaving and not one.replicas]:
            del leaving[name]
        now = state.loop.time()
        if everything or now >= self._records_due:
            self._records_due = now + state.settings.record_period_seconds
            yield from self._records.turn(everything=everything)
        if now >= self._shadows_due:
            self._shadows_due = now + _SHADOWS_EVERY_SECONDS
            state.tee.report()

    def now(self, endpoint: Endpoint) -> None:
        """Its demand, at once."""
        self._reporter.report(endpoint, time.monotonic_ns())

    def soon(self, endpoint: Endpoint) -> None:
        """The same a moment later, with what comes meanwhile."""
        if endpoint.name not in self._due:
            rest_ns = endpoint.last_report_ns + _APART_NS - time.monotonic_ns()
            delay = max(_GATHER_SECONDS, rest_ns / 1e9)
            self._due[endpoint.name] = self._state.loop.call_later(delay, self._report_due, endpoint)

    def _report_due(self, endpoint: Endpoint) -> None:
        del self._due[endpoint.name]
        self.now(endpoint)

    def close(self) -> None:
        """Nothing more comes before its time."""
        for timer in self._due.values():
            timer.cancel()
