"""What folds the streams of a machine, at work in the test's own process: an autoscaler and the control plane's view."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from autoscaler.backends.memory import MemoryBackend, MemoryWorld
from autoscaler.control import service
from autoscaler.policy.demand import ARRIVALS as ARRIVED
from autoscaler.policy.demand import LIVE
from router.contract.codec import encode_specs
from router.contract.events import DECISIONS, DEMAND, REQUESTS, SHADOWS, SPECS
from router.control.fleet import Fleet
from router.runtime.log.base import ReaderStats
from router.runtime.log.opening import open_log
from router.runtime.settings import AutoscalerSettings, DataLayout
from tests.support.autoscaler_fleet import scaling
from tests.support.autoscaler_group import specs
from tests.support.log_faults import Machine, until
from tests.support.log_faults_account import Written
from tests.support.log_faults_writer import DEPLOYMENTS, ENDPOINTS

STREAMS = (DEMAND, REQUESTS, SHADOWS, DECISIONS)
POLLING_SECONDS = 600
"""So long that everything a test sends is in the window that the autoscaler looks at."""


class Folding:
    """Both, and what they have counted."""

    def __init__(self) -> None:
        self.fleet = Fleet(lambda: None)
        self.made: list[service.Autoscaler] = []

    @property
    def autoscaler(self) -> service.Autoscaler:
        return self.made[-1]

    @property
    def heard(self) -> ReaderStats:
        """What the autoscaler's reader of demand noticed."""
        assert self.autoscaler.intake._demand is not None
        return self.autoscaler.intake._demand.stats

    def scaled_by(self) -> dict[str, int]:
        """Endpoint → arrivals that the autoscaler decides from."""
        state = self.autoscaler.reconciler.demand
        rows = {endpoint: state.rows.get((endpoint, "blue")) for endpoint in ENDPOINTS}
        return {
            endpoint: 0 if row is None else round(state.ring.values[ARRIVED, row, LIVE].sum())
            for endpoint, row in rows.items()
        }

    def shown(self) -> dict[str, int]:
        """Endpoint → arrivals that the control plane shows."""
        views = {endpoint: self.fleet.live.get((endpoint, "blue")) for endpoint in ENDPOINTS}
        return {endpoint: 0 if view is None else view.totals.arrivals for endpoint, view in views.items()}

    def finished(self) -> int:
        """Requests in the control plane's counts."""
        found = [self.fleet.traffic.of((endpoint, name)) for endpoint in ENDPOINTS for name in DEPLOYMENTS]
        return sum(one.requests for one in found if one is not None)

    async def level(self, *written: Written) -> None:
        """Wait until everything that was written is folded; that it counts once is for the test to say, afterwards."""
        arrivals = {one: sum(told.arrivals.get(one, 0) for told in written) for one in ENDPOINTS}
        records = sum(told.records() for told in written)

        async def look() -> bool:
            return (
                all(self.scaled_by()[one] >= count and self.shown()[one] >= count for one, count in arrivals.items())
                and self.finished() >= records
            )

        await until("everything folded", look)
        assert (self.scaled_by(), self.shown(), self.finished()) == (arrivals, arrivals, records)

    async def _ready(self) -> bool:
        if not self.made or STREAMS not in self.fleet._noticed:
            return False
        reconciler = self.autoscaler.reconciler
        known = all((endpoint, "blue") in reconciler.demand.rows for endpoint in ENDPOINTS)
        return known and all(map(reconciler.territory.acts_for, ENDPOINTS))


@contextlib.asynccontextmanager
async def folding(here: Machine, folder: Path) -> AsyncIterator[Folding]:
    """At work on the machine's log, from now on. A shipper has to run; `folder` is the autoscaler's own."""
    data = DataLayout(folder)
    data.create()
    log = open_log(here.url, spool=here.spool, role="autoscaler", instance="folding")
    for endpoint in ENDPOINTS:
        scale = scaling(1, 1, polling_interval=POLLING_SECONDS)
        log.append(SPECS, endpoint, encode_specs(specs(endpoint, **scale)))
    made, stop = Folding(), asyncio.Event()
    backend = MemoryBackend(world=MemoryWorld(), name="memory")
    running = service.run(
        AutoscalerSettings(data, folder / "cache", tick_seconds=0.2), {"memory": backend}, log, stop, lambda: None,
        default_backend="memory", on_made=made.made.append,
    )  # fmt: skip
    tasks = [asyncio.create_task(running), asyncio.create_task(made.fleet.follow_streams(log))]
    try:
        await until("an autoscaler and a view at work", made._ready)
        yield made
        assert not any(task.done() for task in tasks), "one of them has ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await backend.close(end_replicas=False)
        await log.close()
