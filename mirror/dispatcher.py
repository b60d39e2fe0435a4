"""Sends shadows: each waits for its place, goes to a replica, and comes back as an `Answer` or a reason, always once.

A candidate's failure (refused, reset, nonsense, no answer in time) is an answer with an error, because it is news about
the candidate. Never having been sent is a drop, because it is news about the mirror.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from mirror.call import Address, Call, Outgoing
from mirror.candidate import CandidateClient
from mirror.candidate_http2 import Http2Client
from mirror.capture import Refused, ResponseCapture
from mirror.demand import Meter
from mirror.discovery import Directory, EndpointView
from mirror.exchange import Answer, Exchange, Outcome
from mirror.marker import sign
from mirror.reading import Lost, Reply
from mirror.scheduling import LaneKey, Scheduler
from router.contract.events import DemandRow, Replica, Side
from router.runtime.replica_tls import Trust
from router.runtime.settings import MirrorSettings

_log = logging.getLogger("tidegate.mirror")
_SERVERS_FAULT = ("2", "13", "14", "15")
"""UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS of gRPC."""
_LEAST_SECONDS = 0.001
"""The loop's clock is no finer."""
Settled = Callable[[Exchange, str, Outcome], None]


class Shadow(Call):
    """One shadow, from its place in the queue to its end."""

    def __init__(self, owner: Dispatcher, exchange: Exchange, candidate: str, settled: Settled) -> None:
        super().__init__()
        self._owner = owner
        self.exchange = exchange
        self.candidate = candidate
        self.settled = settled
        self.key: LaneKey = (exchange.opening.endpoint, candidate)
        self.meter = owner.meter(self.key)
        self.capture = ResponseCapture(exchange.grant)
        self.arrived = time.monotonic()
        self.sent = 0.0
        self.replica: Replica | None = None
        """Where it was sent; None while it waits."""

    def over(self, error: Exception | None) -> None:
        """See `Call`."""
        self._owner.over(self, error)

    def cancel(self) -> None:
        """See `Call`."""
        self._owner.cancel(self)


class Dispatcher:
    """Its connections are opened inside a task group; `changed` tells it of new replicas, `wanted` gets the endpoint
    whose candidate begins to have shadows waiting and nothing ready.
    """

    def __init__(
        self,
        settings: MirrorSettings,
        key: bytes,
        directory: Directory,
        group: asyncio.TaskGroup,
        wanted: Callable[[str], None],
    ) -> None:
        self._timeout: float = settings.timeout_seconds
        self._key = key
        self._directory = directory
        self._group = group
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        trust = Trust(settings.replica_ca, settings.replica_cert, settings.replica_key)
        trust.check()
        self._client = CandidateClient(self._start, trust)
        self._http2 = Http2Client(self._start, trust)
        self.scheduler: Scheduler[Shadow] = Scheduler(settings.max_concurrent, settings.max_waiting)
        self.meters: dict[LaneKey, Meter] = {}
        self._under_way: dict[Shadow, None] = {}
        """Waiting or sent, in order of arrival; since all may take as long, also of their deadlines."""
        self._timer: asyncio.TimerHandle | None = None
        """Of the oldest, or of one that was the oldest: later ones are no more urgent."""
        self._pumping = False
        self._addresses: dict[str, set[Address]] = {}
        """Endpoint → those of its replicas."""
        self._used: Counter[Address] = Counter()
        """By how many endpoints: what a change of one costs does not grow with their number."""

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._group.create_task(work, name=name)

    def submit(self, exchange: Exchange, candidate: str, settled: Settled) -> Shadow:
        """Start one shadow; `settled` gets its outcome, perhaps at once, unless it is cancelled before."""
        shadow = Shadow(self, exchange, candidate, settled)
        shadow.meter.arrived()
        self._under_way[shadow] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._expire)
        key = shadow.key
        refusal = self.scheduler.submit(key, shadow)
        if refusal:
            self._end(shadow, refusal)
            return shadow
        if self.scheduler.queued(key) == 1 and not self.scheduler.ready(key):
            self._wanted(key[0])
        self._pump()
        return shadow

    def changed(self, endpoint: str) -> None:
        """Follow the directory: replicas came, went, or may take another number of shadows."""
        view = self._directory.view(endpoint)
        for name in {*view.per_replica, *view.replicas}:
            key = (endpoint, name)
            self.scheduler.update(key, view.replicas.get(name, ()), view.per_replica.get(name, 1))
        for key in self.scheduler.lanes_of(endpoint):
            if key[1] not in view.per_replica and key[1] not in view.replicas:
                self._gone(key)
        if self._moved(endpoint, view):
            self._client.forget(self._used)
            self._http2.forget(self._used)
        self._pump()

    def moving(self) -> list[LaneKey]:
        """Candidates for which something happened since their last row, or is under way."""
        return [key for key, meter in self.meters.items() if meter.active() or self.scheduler.queued(key)]

    def row(self, key: LaneKey, now: float) -> DemandRow:
        """What one candidate's shadows ask for, since its last row. `now` is monotonic time."""
        oldest = self.scheduler.oldest(key)
        waited = 0.0 if oldest is None else max(0.0, now - oldest.arrived)
        return self.meter(key).row(now, self.scheduler.queued(key), waited)

    def on_replica(self, endpoint: str, replica: str) -> int:
        """Shadows in flight on one replica."""
        keys = (key for key in self.meters if key[0] == endpoint)
        return sum(self.scheduler.in_flight(key).get(replica, 0) for key in keys)

    def meter(self, key: LaneKey) -> Meter:
        """Of one candidate."""
        meter = self.meters.get(key)
        if meter is None:
            meter = self.meters[key] = Meter(key[1])
        return meter

    def close(self) -> None:
        """Close kept connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._client.forget(())
        self._http2.forget(())

    def _gone(self, key: LaneKey) -> None:
        for shadow in self.scheduler.remove(key):
            self._end(shadow, "no_replica")
        meter = self.meters.get(key)
        if meter is not None and not meter.in_flight:
            del self.meters[key]

    def _moved(self, endpoint: str, view: EndpointView) -> bool:
        """Count who uses which address, by the endpoint's replicas now; whether nobody uses one any more."""
        now = {(one.host, one.port) for group in view.replicas.values() for one in group}
        before = self._addresses.pop(endpoint, set())
        if now:
            self._addresses[endpoint] = now
        self._used.update(now - before)
        left = before - now
        for address in left:
            self._used[address] -= 1
            if not self._used[address]:
                del self._used[address]
        return not left <= self._used.keys()

    # one shadow: it waits, is sent, and is over

    def _pump(self) -> None:
        """Send all that may go now."""
        if self._pumping:  # by what a shadow's end sets off; the loop below sees to it
            return
        self._pumping = True
        try:
            while started := self.scheduler.start():
                for shadow, replica in started:
                    shadow.replica = replica
                    shadow.sent = time.monotonic()
                    shadow.meter.started(shadow.sent, shadow.sent - shadow.arrived)
                    self._try(shadow, replica)
        finally:
            self._pumping = False

    def _try(self, shadow: Shadow, replica: Replica) -> None:
        if shadow not in self._under_way:  # the end of one that was started with it has ended it
            self._leave(shadow, failed=True, completed=False)
            return
        try:
            self._send(shadow, replica)
        except Exception as error:
            shadow.abandon()
            self.over(shadow, error)

    def _send(self, shadow: Shadow, replica: Replica) -> None:
        exchange, candidate = shadow.exchange, shadow.candidate
        head, body = exchange.head, exchange.request
        assert head is not None
        marker = sign(self._key, exchange.opening.request_id, candidate)
        outgoing = Outgoing(head.for_candidate(marker, body.length), body, chunked=head.chunked, method=head.method)
        view = self._directory.view(exchange.opening.endpoint)
        server_name: str | None = view.server_names.get(candidate)
        shadow.begun((replica.host, replica.port), server_name, outgoing, Reply(shadow.capture.feed))
        if candidate in view.http2:
            self._http2.begin(shadow)
        else:
            self._client.begin(shadow)

    def over(self, shadow: Shadow, error: Exception | None) -> None:
        """A shadow that was sent is whole, or what went wrong with it."""
        if shadow not in self._under_way:
            return
        if isinstance(error, Lost):
            shadow.reply.error = str(error)
        elif isinstance(error, Refused):
            self._end(shadow, error.reason)
            return
        elif error is not None:
            about = (shadow.exchange.opening.request_id, shadow.candidate)
            _log.error("shadow %s to %s failed inside the mirror", *about, exc_info=error)
            self._end(shadow, "internal")
            return
        self._answered(shadow)

    def _answered(self, shadow: Shadow) -> None:
        reply, capture = shadow.reply, shadow.capture
        took = time.monotonic() - shadow.sent
        first = (reply.first_byte_at - shadow.sent) * 1000 if reply.first_byte_at else 0.0
        side = Side(reply.status, took * 1000, first, capture.length, reply.error)
        body = capture.body(reply.content_type, reply.content_encoding)
        self._end(shadow, Answer(side, body, reply.grpc_status))

    def _end(self, shadow: Shadow, outcome: Outcome) -> None:
        """Of one that is under way."""
        del self._under_way[shadow]
        if isinstance(outcome, Answer):
            wrong = outcome.side.status >= 500 or outcome.grpc_status in _SERVERS_FAULT
            self._leave(shadow, failed=wrong or bool(outcome.side.error), completed=True)
        else:
            self._leave(shadow, failed=True, completed=False)
        shadow.settled(shadow.exchange, shadow.candidate, outcome)
        self._pump()

    def _leave(self, shadow: Shadow, *, failed: bool, completed: bool) -> None:
        """Give its place back."""
        replica = shadow.replica
        if replica is None:
            self.scheduler.withdraw(shadow.key, shadow)
            shadow.meter.rejected_one()
            return
        now = time.monotonic()
        shadow.replica = None
        shadow.meter.ended(now, now - shadow.arrived, failed=failed, completed=completed)
        self.scheduler.finish(shadow.key, replica.id)

    def cancel(self, shadow: Shadow) -> None:
        """Its exchange has ended: nobody hears of it any more. One that is over is left alone."""
        if shadow not in self._under_way:
            return
        del self._under_way[shadow]
        shadow.abandon()
        self._leave(shadow, failed=True, completed=False)
        self._pump()

    def _expire(self) -> None:
        """The time of the oldest is up, or it has ended since."""
        self._timer = None
        now = time.monotonic()
        due = []
        for shadow in self._under_way:
            left = shadow.arrived + self._timeout - now
            if left > 0:
                self._timer = self._loop.call_later(max(left, _LEAST_SECONDS), self._expire)
                break
            due.append(shadow)
        for shadow in due:
            if shadow not in self._under_way:  # the end of another has ended it
                continue
            if shadow.replica is None:
                self._end(shadow, "timeout" if self.scheduler.ready(shadow.key) else "no_replica")
            else:
                shadow.abandon()
                shadow.reply.error = f"no complete answer within {self._timeout:g} s"
                self._answered(shadow)
