"""Sends shadows: each waits for its place, goes to a replica, and comes back as an `Answer` or a reason, always once.

A candidate's failure (refused, reset, nonsense, no answer in time) is an answer with an error, because it is news about
the candidate. Never having been sent is a drop, because it is news about the mirror.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mirror.candidate import Address, CandidateClient, Outgoing
from mirror.candidate_http2 import Http2Client
from mirror.capture import Refused, ResponseCapture
from mirror.demand import Meter
from mirror.discovery import Directory, EndpointView
from mirror.exchange import Answer, Exchange, Outcome
from mirror.marker import sign
from mirror.reading import Reply
from mirror.scheduling import LaneKey, Scheduler
from router.contract.events import DemandRow, Replica, Side
from router.runtime.replica_tls import Trust
from router.runtime.settings import MirrorSettings

_log = logging.getLogger("tidegate.mirror")
_SERVERS_FAULT = ("2", "13", "14", "15")
"""UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS of gRPC."""
Settled = Callable[[Exchange, str, Outcome], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """A shadow's place in the queue."""

    key: LaneKey
    arrived: float
    """Loop time."""
    place: asyncio.Future[Replica] = field(repr=False)


class Dispatcher:
    """Runs inside a task group; `changed` tells it of new replicas, `wanted` gets the endpoint
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
        self._timeout = settings.timeout_seconds
        self._key = key
        self._directory = directory
        self._group = group
        self._wanted = wanted
        trust = Trust(settings.replica_ca, settings.replica_cert, settings.replica_key)
        trust.check()
        self._client = CandidateClient(trust)
        self._http2 = Http2Client(trust)
        self.scheduler: Scheduler[Ticket] = Scheduler(settings.max_concurrent, settings.max_waiting)
        self.meters: dict[LaneKey, Meter] = {}
        self._addresses: dict[str, set[Address]] = {}
        """Endpoint → those of its replicas."""
        self._used: Counter[Address] = Counter()
        """By how many endpoints: what a change of one costs does not grow with their number."""

    def submit(self, exchange: Exchange, candidate: str, settled: Settled) -> asyncio.Task[None]:
        """Start one shadow; `settled` gets its outcome, unless the task is cancelled before."""
        name = f"shadow {exchange.opening.request_id} to {candidate}"
        return self._group.create_task(self._run(exchange, candidate, settled), name=name)

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
        """What one candidate's shadows ask for, since its last row. `now` is loop time."""
        oldest = self.scheduler.oldest(key)
        waited = 0.0 if oldest is None else now - oldest.arrived
        return self._meter(key).row(now, self.scheduler.queued(key), waited)

    def on_replica(self, endpoint: str, replica: str) -> int:
        """Shadows in flight on one replica."""
        keys = (key for key in self.meters if key[0] == endpoint)
        return sum(self.scheduler.in_flight(key).get(replica, 0) for key in keys)

    def close(self) -> None:
        """Close kept connections."""
        self._client.forget(())
        self._http2.forget(())

    def _gone(self, key: LaneKey) -> None:
        for ticket in self.scheduler.remove(key):
            if not ticket.place.done():
                ticket.place.set_exception(Refused("no_replica"))
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

    async def _run(self, exchange: Exchange, candidate: str, settled: Settled) -> None:
        try:
            outcome: Outcome = await self._shadow(exchange, candidate)
        except Refused as refused:
            outcome = refused.reason
        except Exception:
            _log.exception("shadow %s to %s failed inside the mirror", exchange.opening.request_id, candidate)
            outcome = "internal"
        settled(exchange, candidate, outcome)

    async def _shadow(self, exchange: Exchange, candidate: str) -> Outcome:
        key = (exchange.opening.endpoint, candidate)
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        deadline = arrived + self._timeout
        meter = self._meter(key)
        meter.arrived()
        try:
            replica = await self._place(key, arrived, deadline)
        except BaseException:
            meter.rejected_one()
            raise
        failed, completed = True, False
        try:
            meter.started(loop.time(), loop.time() - arrived)
            answer = await self._send(exchange, candidate, replica, deadline)
            wrong = answer.side.status >= 500 or answer.grpc_status in _SERVERS_FAULT
            failed, completed = wrong or bool(answer.side.error), True
            return answer
        finally:
            meter.ended(loop.time(), loop.time() - arrived, failed=failed, completed=completed)
            self.scheduler.finish(key, replica.id)
            self._pump()

    def _meter(self, key: LaneKey) -> Meter:
        return self.meters.setdefault(key, Meter(key[1]))

    async def _place(self, key: LaneKey, arrived: float, deadline: float) -> Replica:
        """A replica with room, in turn; raises `Refused` when the queue is full or the deadline passes first."""
        ticket = Ticket(key, arrived, asyncio.get_running_loop().create_future())
        refusal = self.scheduler.submit(key, ticket)
        if refusal:
            raise Refused(refusal)
        if not self.scheduler.ready(key) and self.scheduler.queued(key) == 1:
            self._wanted(key[0])
        self._pump()
        try:
            async with asyncio.timeout_at(deadline):
                return await ticket.place
        except BaseException as error:
            self._give_back(key, ticket)
            if isinstance(error, TimeoutError):
                raise Refused("timeout" if self.scheduler.ready(key) else "no_replica") from error
            raise

    def _give_back(self, key: LaneKey, ticket: Ticket) -> None:
        """The place may have come in the very moment in which its owner gave up."""
        if ticket.place.done() and not ticket.place.cancelled() and ticket.place.exception() is None:
            self.scheduler.finish(key, ticket.place.result().id)
            self._pump()
        else:
            self.scheduler.withdraw(key, ticket)

    def _pump(self) -> None:
        while started := self.scheduler.start():
            for ticket, replica in started:
                if ticket.place.done():  # given up in this very turn of the loop; who waits has yet to hear of it
                    self.scheduler.finish(ticket.key, replica.id)
                else:
                    ticket.place.set_result(replica)

    async def _send(self, exchange: Exchange, candidate: str, replica: Replica, deadline: float) -> Answer:
        head = exchange.head
        assert head is not None
        marker = sign(self._key, exchange.opening.request_id, candidate)
        body = exchange.request
        outgoing = Outgoing(head.for_candidate(marker, body.length), body, head.chunked, head.method)
        capture = ResponseCapture(exchange.grant)
        reply = Reply(capture.feed)
        view = self._directory.view(exchange.opening.endpoint)
        client = self._http2 if candidate in view.http2 else self._client
        loop = asyncio.get_running_loop()
        sent = loop.time()
        try:
            async with asyncio.timeout_at(deadline):
                await client.exchange((replica.host, replica.port), outgoing, reply, view.server_names.get(candidate))
        except TimeoutError:
            reply.error = f"no complete answer within {self._timeout:g} s"
        first_ms = (reply.first_byte_at - sent) * 1000 if reply.first_byte_at else 0.0
        side = Side(reply.status, (loop.time() - sent) * 1000, first_ms, capture.length, reply.error)
        return Answer(side, capture.body(reply.content_type, reply.content_encoding), reply.grpc_status)
