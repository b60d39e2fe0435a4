"""What each deployment saw, folded into reports: every period while something happens, now and then otherwise.

Endpoints where something happens come into a list by themselves; those where nothing does cost no look. They are gone
through in rounds, spread evenly: all within a second where they are few, else at a rate that has a bound, so that many
take longer, and those without a replica only every so many rounds. The autoscaler needs no word of an endpoint where
nothing is; when a replica is to end it wants a last word that is younger than its `drain_acknowledge_seconds`, 10 s.
"""

from __future__ import annotations

import bisect
import struct
from itertools import islice
from typing import TYPE_CHECKING, Final

from router.contract.codec import pack_demand, pack_demand_row
from router.contract.events import BUCKETS, DEMAND, Outcome, bucket_seconds
from router.gateway.records import unix_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from router.gateway.lane import Lane
    from router.gateway.routes import Endpoint
    from router.runtime.log.base import Log

ROUND_NS = 1_000_000_000
"""Shortest time of a round through the endpoints where nothing happens."""
BEATS_PER_SECOND = 1_250
"""Most reports of such endpoints: 10,000 have had their word after 8 s."""
MOST_AT_ONCE = 250
"""Reports of a turn, where something happens at more endpoints: the others come with the next turns, in their order; of 10,000
each within four seconds. Where somebody waits it is reported at once all the same.
"""
_PART: Final = 50
_EMPTY_NS = 60_000_000_000
"""Between two words about an endpoint without replicas: there is nothing to drain."""
_CATCH_UP_NS = 200_000_000
"""Of time that was lost, by a late turn, what is made up for."""
_TIMES = struct.Struct("<qq")
_TIMES_AT = struct.calcsize("<BBHHH")
"""Where start and end stand in a report."""
_MODEL_ERROR: Final = int(Outcome.MODEL_ERROR)
_SILENT: Final[dict[str, bytes]] = {}
_MOST_SILENT: Final = 1024
_EDGES_NS: Final = [int(bucket_seconds(index) * 1e9) for index in range(BUCKETS - 1)]


def bucket_of_ns(duration: int) -> int:
    """`events.bucket_of` in nanoseconds, by search instead of a logarithm."""
    return bisect.bisect_left(_EDGES_NS, duration)


def account(lane: Lane, outcome: int, waited: int, took: int) -> None:
    """Count one finished request. `waited`, `took`: nanoseconds to its replica (-1 = it never got there) and in all."""
    if not lane.active:
        lane.wake()
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

    def __init__(self, log: Log, hand: Callable[[str, int, str, bytes], None], awake: dict[Endpoint, None]) -> None:
        """`hand` gets (writer, sequence, endpoint, message) of everything that is put on the log; `awake`: of the state."""
        self._log = log
        self._hand = hand
        self._awake = awake
        self._round: list[Endpoint] = []
        self._next = 0
        self._began_ns = self._until_ns = 0
        """Of the round; until when its reports have been made."""

    def due(self, *, everything: bool = False) -> list[list[Endpoint]]:
        """Where something happens (`everything` of it): whose turn it is, in parts for `tell` that take about a millisecond."""
        names = list(self._awake) if everything else list(islice(self._awake, MOST_AT_ONCE))
        return [names[at : at + _PART] for at in range(0, len(names), _PART)]

    def tell(
        self, some: list[Endpoint], endpoints: Mapping[str, Endpoint], leaving: Mapping[str, Endpoint], now: int
    ) -> None:
        """Report these of `due`.

        By name: those that are routed to, and those that are gone but for whoever is inside. `now`: monotonic nanoseconds.
        """
        awake = self._awake
        for endpoint in some:
            awake.pop(endpoint, None)
            endpoint.awake = False
            if _is_one_of(endpoint, endpoints, leaving):
                self.report(endpoint, now)
                if endpoint.is_busy():
                    endpoint.wake()  # behind those that have had no turn

    def beat(self, endpoints: Mapping[str, Endpoint], leaving: Mapping[str, Endpoint], now: int) -> None:
        """Go on with the round through those that have been silent, or begin the next one."""
        if self._next >= len(self._round):
            if now - self._began_ns < ROUND_NS:
                return
            self._round = [*endpoints.values(), *leaving.values()]
            self._next, self._began_ns = 0, now
            self._until_ns = now - _CATCH_UP_NS // 2
        rate = min(BEATS_PER_SECOND, max(1, len(self._round)))
        gone_by = min(now - self._until_ns, _CATCH_UP_NS)
        count = -(-gone_by * rate // 1_000_000_000)
        self._until_ns = now
        while count > 0 and self._next < len(self._round):
            endpoint = self._round[self._next]
            self._next += 1
            least = ROUND_NS // 2 if endpoint.has_replicas else _EMPTY_NS
            if endpoint.awake or now - endpoint.last_report_ns < least:
                continue
            if _is_one_of(endpoint, endpoints, leaving):
                self._say_again(endpoint, now)
                count -= 1

    def report(self, endpoint: Endpoint, now: int) -> bytes:
        """One report of everything since the last one; what it is, packed."""
        start = endpoint.last_report_ns or now
        endpoint.last_report_ns = now
        rows: list[bytes] = []
        draining: list[tuple[str, int]] = []
        for lane in endpoint.lanes.values():
            rows.append(_row(lane, now))
            draining += lane.draining()
        for lane in endpoint.leaving:
            draining += lane.draining()
        message = pack_demand(
            endpoint.name, unix_ns(start), unix_ns(now), endpoint.revision, endpoint.replicas_version, rows, draining
        )
        self._put(endpoint, message)
        return message

    def _say_again(self, endpoint: Endpoint, now: int) -> None:
        """Report an endpoint where nothing happens: the same as before but for the times."""
        if not endpoint.quiet:
            endpoint.quiet = self.report(endpoint, now)
            return
        times = _TIMES.pack(unix_ns(endpoint.last_report_ns), unix_ns(now))
        endpoint.last_report_ns = now
        said = endpoint.quiet
        self._put(endpoint, b"".join((said[:_TIMES_AT], times, said[_TIMES_AT + _TIMES.size :])))

    def _put(self, endpoint: Endpoint, message: bytes) -> None:
        sequence = self._log.append(DEMAND, endpoint.name, message)
        if sequence >= 0:
            self._hand(self._log.writer, sequence, endpoint.name, message)


def _is_one_of(endpoint: Endpoint, endpoints: Mapping[str, Endpoint], leaving: Mapping[str, Endpoint]) -> bool:
    """Whether it is still there: not made anew under the same name, and not gone altogether."""
    return endpoints.get(endpoint.name) is endpoint or leaving.get(endpoint.name) is endpoint


def _row(lane: Lane, now: int) -> bytes:
    """What the lane has seen since its last report, packed."""
    waiting = len(lane.queue.waiting)
    if not (lane.active or lane.in_service or waiting or lane.busy_ns):
        return _silent(lane.name)
    # Those in service have paid their start already and pay up to now; the next window begins with that on credit.
    busy = lane.busy_ns + lane.in_service * now
    lane.busy_ns -= busy
    row = pack_demand_row(
        lane.name,
        (lane.arrivals, lane.completions, lane.errors, lane.rejected, lane.in_service, waiting),
        ((now - lane.queue.oldest_arrival()) / 1e9 if waiting else 0.0, busy / 1e9),
        lane.latency or (),
        lane.wait or (),
    )
    lane.clear_counts()
    return row


def _silent(name: str) -> bytes:
    """The row of a deployment where nothing is: most of those of an endpoint with candidates and a standby."""
    row = _SILENT.get(name)
    if row is None:
        if len(_SILENT) >= _MOST_SILENT:
            _SILENT.clear()
        row = _SILENT[name] = pack_demand_row(name, (0, 0, 0, 0, 0, 0), (0.0, 0.0), (), ())
    return row
