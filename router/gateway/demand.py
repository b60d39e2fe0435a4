"""What each deployment saw, folded into reports: every period while something happens, once per second otherwise."""

from __future__ import annotations

import bisect
import time
from typing import TYPE_CHECKING

from router.contract.codec import encode_demand
from router.contract.events import BUCKETS, DEMAND, DemandReport, DemandRow, Outcome, bucket_seconds
from router.gateway.records import unix_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.gateway.lane import Lane
    from router.gateway.routes import Endpoint
    from router.runtime.log.base import Log

HEARTBEAT_NS = 1_000_000_000
_MODEL_ERROR = int(Outcome.MODEL_ERROR)
_EDGES_NS = [int(bucket_seconds(index) * 1e9) for index in range(BUCKETS - 1)]


def bucket_of_ns(duration: int) -> int:
    """`events.bucket_of` in nanoseconds, by search instead of a logarithm."""
    return bisect.bisect_left(_EDGES_NS, duration)


def account(lane: Lane, outcome: int, waited: int, took: int) -> None:
    """Count one finished request. `waited`, `took`: nanoseconds to its replica (-1 = it never got there) and in all."""
    lane.active = True
    if waited >= 0:
        wait = lane.wait
        if wait is None:
            wait = lane.wait = [0] * BUCKETS
        wait[bucket_of_ns(waited) if waited else 0] += 1
    if outcome <= _MODEL_ERROR:
        latency = lane.latency
        if latency is None:
            latency = lane.latency = [0] * BUCKETS
        latency[bucket_of_ns(took)] += 1
        lane.completions += 1
        lane.errors += outcome
    elif outcome in (Outcome.TIMEOUT, Outcome.UPSTREAM_FAILED):
        lane.completions += 1
        lane.errors += 1
    elif outcome in (Outcome.QUEUE_FULL, Outcome.QUEUE_TIMEOUT, Outcome.NO_REPLICA):
        lane.rejected += 1


class Reporter:
    """Writes the reports of this worker."""

    def __init__(self, log: Log, hand: Callable[[str, int, str, bytes], None]) -> None:
        """`hand` gets (writer, sequence, endpoint, message) of everything that is put on the log."""
        self._log = log
        self._hand = hand

    def turn(self, endpoints: list[Endpoint]) -> None:
        """Report every endpoint where something happens or that has been silent for a second."""
        now = time.monotonic_ns()
        for endpoint in endpoints:
            busy = any(
                lane.active or lane.present or lane.held or lane.in_service for lane in endpoint.lanes.values()
            ) or any(lane.draining() for lane in endpoint.lanes.values())
            if busy or endpoint.leaving or now - endpoint.last_report_ns >= HEARTBEAT_NS:
                self.report(endpoint, now)

    def report(self, endpoint: Endpoint, now: int) -> None:
        """One report of everything since the last one."""
        start = endpoint.last_report_ns or now
        endpoint.last_report_ns = now
        rows = tuple(_row(lane, now) for lane in endpoint.lanes.values())
        draining = tuple(one for lane in (*endpoint.lanes.values(), *endpoint.leaving) for one in lane.draining())
        report = DemandReport(
            endpoint.name,
            unix_ns(start),
            unix_ns(now),
            endpoint.revision,
            endpoint.replicas_version,
            rows=rows,
            draining=draining,
        )
        message = encode_demand(report)
        sequence = self._log.append(DEMAND, endpoint.name, message)
        if sequence >= 0:
            self._hand(self._log.writer, sequence, endpoint.name, message)


def _row(lane: Lane, now: int) -> DemandRow:
    # Those in service have paid their start already and pay up to now; the next window begins with that on credit.
    busy = lane.busy_ns + lane.in_service * now
    lane.busy_ns -= busy
    waiting = len(lane.queue)
    row = DemandRow(
        deployment=lane.name,
        arrivals=lane.arrivals,
        completions=lane.completions,
        errors=lane.errors,
        rejected=lane.rejected,
        in_flight=lane.in_service,
        queued=waiting,
        oldest_wait_seconds=(now - lane.oldest_arrival()) / 1e9 if waiting else 0.0,
        busy_seconds=busy / 1e9,
        latency=tuple(lane.latency) if lane.latency else (),
        wait=tuple(lane.wait) if lane.wait else (),
    )
    lane.clear_counts()
    return row
