"""One deployment as this worker serves it: its replicas, who waits for one, and what it has seen.

A lane outlives routing snapshots. Whoever waits stands in one queue in order of arrival; over all workers the oldest
goes first. Requests that came while nothing was ready, or while those were being worked off, are `held`: they wait for
the first replica, not for a turn, so Azure's limit does not count them and their deadline is the activator's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from router.contract.events import Replica, ReplicaState
from router.contract.specs import DeploymentExtras, DeploymentSpec, RequestSettings
from router.gateway.board import Quantity
from router.gateway.choosing import Chooser, chooser_for
from router.gateway.comparing import Comparison
from router.gateway.hedging import Hedges
from router.gateway.http2.target import Http2Target
from router.gateway.ranking import Ranking
from router.gateway.standing import Out
from router.gateway.target import Target
from router.gateway.timers import NEVER
from router.gateway.tunnel import leave_draining
from router.policy import admission
from router.policy.balancing import least_loaded, two_of
from router.policy.priority import arrival_of, place
from router.policy.retrying import Budget

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.routes import Endpoint
    from router.gateway.state import State

_ENTER: Final = admission.Admission.ENTER
_POLL_SECONDS = 0.004
_PATIENCE = 3
"""Polls for which a worker leaves free capacity to an older waiter elsewhere that does not take it."""


class Lane:
    """The live state of one deployment in one worker."""

    __slots__ = (
        "_closed", "_held_cell", "_joining_until", "_over", "_polls", "_present_cell",
        "_state", "_steps", "_targets", "_timer", "_waiting_cell", "active", "after_id",
        "allowed", "arrivals", "balance", "budget", "busy_ns", "chooser", "comparison", "completions", "concurrency", "drain_ns", "endpoint", "errors", "failed", "good_of_gone", "hedges", "held",
        "http2", "in_service", "label", "latency", "map_errors", "name", "present", "queue", "ranking", "ready", "rejected", "secure", "server_name", "timed", "timeout_ns",
        "usable", "wait", "wait_ns", "weight",
    )  # fmt: skip

    def __init__(self, state: State, endpoint: Endpoint, name: str) -> None:
        self._state = state
        self.endpoint = endpoint
        self.name = name
        self.label = b"azureml-model-deployment: %b\r\n" % name.encode()
        self.after_id = b"\r\n" + self.label
        """What stands behind our request id in an answer's head."""
        self._targets: dict[str, Target] = {}
        self.ready: list[Target] = []
        self.usable: list[Target] = []
        """Ready and not ejected."""
        self._joining_until = 0
        """Until then (monotonic nanoseconds) arrivals join the backlog from zero, unless it is empty before."""
        self._closed = False
        self._over = False
        self.queue: deque[Exchange] = deque()
        self.ranking: Ranking | None = None
        """Where requests have classes."""
        self.held = 0
        self.present = 0
        """In flight plus queued in this worker, without those that are or were held."""
        self.weight = 0
        self.timed = False
        """Whether answers tell where their time went."""
        self.chooser: Chooser | None = None
        """Where the deployment wishes for more than the less loaded of two replicas."""
        self.secure = False
        """Its replicas speak TLS."""
        self.server_name: str | None = None
        """The name in their certificates; None: their addresses."""
        self.http2 = False
        """Its replicas speak HTTP/2, from the first they send."""
        self.hedges: Hedges | None = None
        """Where requests may be sent to a second replica too."""
        self.failed = ""
        """Why the deployment cannot serve, when its phase says so."""
        self._timer: asyncio.TimerHandle | None = None
        self._polls = 0
        self._take_columns()
        self.configure(RequestSettings(), map_errors=True)
        self.drain_ns = int(DeploymentExtras().drain_seconds * 1e9)
        """Longest time that a replica is left to finish what it has."""
        self.budget = Budget()
        self.good_of_gone = 0
        """Good answers of replicas that are gone."""
        self.comparison = Comparison(self)
        self.in_service = 0
        self.busy_ns = 0
        """Sum over requests of (end - start) in service; those under way have only paid their start."""
        self.clear_counts()

    def _take_columns(self) -> None:
        board, name = self._state.board, f"{self.endpoint.name}/{self.name}"
        present = board.column(f"{name}#present", Quantity.GAUGE)
        waiting = board.column(f"{name}#waiting", Quantity.GAUGE)
        held = board.column(f"{name}#held", Quantity.GAUGE)
        self.balance = board.column(f"{name}#balance", Quantity.BALANCE)
        self._present_cell, self._waiting_cell = board.row + present, board.row + waiting
        self._held_cell = board.row + held
        self._steps = board.steps

    def is_busy(self) -> bool:
        """Whether anybody is inside, waits, or has to leave."""
        return bool(self.present or self.held or self.in_service) or bool(self.draining())

    def clear_counts(self) -> None:
        """Begin a new window of demand."""
        self.arrivals = self.completions = self.errors = self.rejected = 0
        self.latency: list[int] | None = None
        self.wait: list[int] | None = None
        self.active = False

    def wake(self) -> None:
        """Something happens here that is to be reported."""
        self.active = True
        self.endpoint.wake()

    # What the snapshots say -----------------------------------------------------------------------------------------

    def configure(self, settings: RequestSettings, *, map_errors: bool) -> None:
        """Take the deployment's request settings."""
        self.concurrency = settings.max_concurrent_requests_per_instance
        self.timeout_ns = settings.request_timeout_ms * 1_000_000
        self.wait_ns = settings.max_queue_wait_ms * 1_000_000
        self.map_errors = map_errors
        self.allowed = admission.limit(self.concurrency, len(self.ready))

    def apply_spec(self, spec: DeploymentSpec) -> None:
        """Take a new revision of the deployment."""
        self.configure(spec.request_settings, map_errors=spec.extras.model_errors == "map")
        self.http2 = spec.extras.protocol == "http2"
        self.secure = spec.extras.scheme == "https"
        self.server_name = spec.extras.server_name
        self.chooser = chooser_for(self._state, self, spec.extras)
        if self.hedges is None and spec.extras.hedging is not None:
            self.hedges = Hedges(self._state, self)
        if self.hedges is not None:
            self.hedges.follow(spec.extras.hedging)
        self.drain_ns = int(spec.extras.drain_seconds * 1e9)

    def apply_replicas(self, replicas: Iterable[Replica], failed: str) -> None:
        """Take a new replica set. Whoever is gone finishes what it has in flight."""
        self.failed = failed
        wanted = {replica.id: replica for replica in replicas}
        for replica_id in [one for one in self._targets if one not in wanted]:
            target = self._targets[replica_id]
            target.present = False
            target.drop_idle()
            if not target.in_flight:
                self.retire(target)
        self.ready = [self._apply_one(one) for one in wanted.values() if self._routable(one)]
        self.allowed = admission.limit(self.concurrency, len(self.ready))
        if self.chooser is not None:
            self.chooser.renew(self.chooser)
        self.refresh()

    def _routable(self, replica: Replica) -> bool:
        """Whether it may get requests; one that drains is told so."""
        if replica.state is ReplicaState.READY:
            return True
        target = self._targets.get(replica.id)
        if target is None and replica.state is ReplicaState.DRAINING:
            target = self._apply_one(replica)
        if target is not None:
            draining = replica.state is ReplicaState.DRAINING
            if draining and not target.draining:
                leave_draining(self._state.tunnels, target)
            target.draining = draining
            target.drop_idle()
            target.standing.trust_again()
        return False

    def _apply_one(self, replica: Replica) -> Target:
        address = (replica.host, replica.port)
        target = self._targets.get(replica.id)
        if target is None:
            column = self._state.board.column(self._column_name(replica.id), Quantity.GAUGE)
            kind = Http2Target if self.http2 else Target
            target = kind(self._state, self, replica.id, address, column)
            self._targets[replica.id] = target
        elif target.address != address:
            target.address = address
            target.drop_idle()
            target.standing.trust_again()
        elif target not in self.ready:
            target.standing.trust_again()
        target.present, target.draining, target.ready_ns = True, False, replica.ready_ns
        target.zone = replica.zone
        return target

    def _column_name(self, replica_id: str) -> str:
        return f"{self.endpoint.name}/{self.name}/{replica_id}"

    def retire(self, target: Target) -> None:
        """Forget a replica that is gone and has nothing in flight any more."""
        if self._targets.get(target.id) is target and not target.present:
            del self._targets[target.id]
            self.good_of_gone += target.good
            self.comparison.gone(target)
            target.close()
            self._state.board.let_go(self._column_name(target.id), Quantity.GAUGE)
            self._end_if_over()

    @property
    def good(self) -> int:
        """Good answers since the start; asked for when something has gone wrong."""
        return self.good_of_gone + sum([target.good for target in self._targets.values()])

    def left_alone(self, why: Out) -> None:
        """Count that a replica gets no requests for a while."""
        counters = self._state.counters
        if why is Out.UNREACHABLE:
            counters.unreachable += 1
        elif why is Out.ERRING:
            counters.erring += 1
        else:
            counters.lagging += 1

    def draining(self) -> list[tuple[str, int]]:
        """(replica, requests in flight here) of every replica that drains; all do whose deployment is gone."""
        targets = self._targets.values()
        return [(one.id, one.in_flight) for one in targets if self._closed or (one.draining and one.present)]

    def refresh(self) -> None:
        """Recompute who may get requests, and let in whoever waits for that."""
        before = bool(self.usable)
        self.usable = [target for target in self.ready if target.standing.out is None]
        if not self.usable:
            for target in self.ready:
                target.standing.pardon()
            self.usable = [target for target in self.ready if target.standing.out is None]
        if self.usable and not before:
            self._begin_joining()
        if before and not self.usable:
            for exchange in self.queue:
                self._hold(exchange)
        if self.queue:
            if self.failed and not self.usable:
                for exchange in list(self.queue):
                    exchange.fail_deployment()
            self.pump()
            self._watch()

    def _begin_joining(self) -> None:
        """The first replica is ready: what waits by now, here or in another worker, is the backlog."""
        now, cells = time.monotonic_ns(), self._state.board.cells
        oldest = [arrival_of(cells[at]) for at in (self._waiting_cell, *self._waiting_elsewhere()) if cells[at]]
        self._joining_until = admission.joining_ends(min(oldest, default=now), now)

    def _joining(self, arrival: int) -> bool:
        """Whether a request that arrived then joins the backlog from zero; an empty backlog ends that."""
        if arrival < self._joining_until:
            cells = self._state.board.cells
            if self.held or any(cells[self._held_cell + step] for step in self._steps):
                return True
        self._joining_until = 0
        return False

    def close(self) -> None:
        """The deployment is gone: its replicas' connections too, once they carry nothing."""
        if not self._closed:
            self._closed = True
            self.endpoint.leaving.append(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for target in list(self._targets.values()):
            target.present = False
            target.drop_idle()
            if not target.in_flight:
                self.retire(target)
        self._end_if_over()

    def drop_idle(self) -> int:
        """Close the connections that carry nothing; how many there were."""
        count = 0
        for target in self._targets.values():
            if target.idle:
                count += len(target.idle)
                target.drop_idle()
        return count

    def abort(self) -> None:
        """Close every connection now."""
        self.close()
        for target in list(self._targets.values()):
            target.close()

    def _end_if_over(self) -> None:
        """Give the board's columns back once the deployment is gone and its last request has ended."""
        if not self._closed or self._over or self._targets or self.queue or self.present:
            return
        self._over = True
        name, board = f"{self.endpoint.name}/{self.name}", self._state.board
        for what in ("present", "waiting", "held"):
            board.let_go(f"{name}#{what}", Quantity.GAUGE)
        board.let_go(f"{name}#balance", Quantity.BALANCE)
        self.rank(wanted=False)
        self.endpoint.lane_over(self)

    # Entering, waiting, leaving -------------------------------------------------------------------------------------

    def admit(self, exchange: Exchange) -> admission.Admission:
        """Let a new request in: it is sent, queued or held, or refused."""
        self.arrivals += 1
        if not self.active:
            self.wake()
        present = self.present
        if self._steps:
            cells, own = self._state.board.cells, self._present_cell
            for step in self._steps:
                present += cells[own + step]
        decision = _ENTER
        if self._joining_until or not self.usable or present >= self.allowed:
            joining = self._joining(exchange.arrival)
            max_held = self._state.settings.max_waiting
            decision = admission.decide(bool(self.usable), joining, present, self.allowed, self.held, max_held)
        if decision is _ENTER:
            self._count(exchange)
            if not self.queue and not self._waits_elsewhere():
                target = self.claim() if self.chooser is None else self.chooser.claim(exchange)
                if target is not None:
                    exchange.dispatch(target)
                    return decision
            self._queue(exchange)
        elif decision is admission.Admission.HOLD:
            first = not self.queue
            self._hold(exchange)
            self._enqueue(exchange, exchange.deadline)
            if first and not self.usable:
                self._state.report_now(self.endpoint)
            if self.usable:
                self.pump()
        return decision

    def _queue(self, exchange: Exchange) -> None:
        self._enqueue(exchange, exchange.arrival + self.wait_ns)
        if len(self.queue) == 1:
            self._state.report_soon(self.endpoint)
        if self._steps:
            self.pump()

    def enter_queue(self, exchange: Exchange) -> None:
        """Let a request wait that found everything full: another makes room for it."""
        self._count(exchange)
        self._queue(exchange)

    def rank(self, *, wanted: bool) -> None:
        """Have classes of requests from now on, or none."""
        if wanted and self.ranking is None:
            self.ranking = Ranking(self._state, self)
        elif not wanted and self.ranking is not None:
            self.ranking.close()
            self.ranking = None

    def oldest_arrival(self) -> int:
        """Of those that wait here; there are some."""
        if self.ranking is None:
            return self.queue[0].arrival
        return min([exchange.arrival for exchange in self.queue])

    def present_everywhere(self) -> int:
        """In flight plus queued in all workers, without those that are or were held."""
        cells, own = self._state.board.cells, self._present_cell
        return self.present + sum([cells[own + step] for step in self._steps])

    def full(self) -> bool:
        """Whether nobody more may be held."""
        return self.held >= self._state.settings.max_waiting

    def _count(self, exchange: Exchange) -> None:
        exchange.counted = True
        self.present += 1
        # Added, not stored: a deployment deleted and made again has two lanes for a while, and one cell.
        self._state.board.cells[self._present_cell] += 1

    def _hold(self, exchange: Exchange) -> None:
        if exchange.held:
            return
        self.leave(exchange)
        exchange.held = True
        self.held += 1
        self._state.board.cells[self._held_cell] += 1
        deadline = min(exchange.expires, exchange.arrival + int(self._state.settings.activation_seconds * 1e9))
        exchange.deadline = deadline
        self._state.wheel.arm(exchange.down, deadline)

    def _enqueue(self, exchange: Exchange, deadline: int) -> None:
        exchange.wait(deadline)
        if self.ranking is None:
            self.queue.append(exchange)
        else:
            self.ranking.enter(exchange)
        self._show_oldest()
        self._watch()

    def again(self, exchange: Exchange) -> None:
        """Let a request that its replica failed wait at the front."""
        if self._closed:
            exchange.choose_again()
            return
        self._hold(exchange)
        exchange.wait(exchange.deadline)
        if self.ranking is None:
            self.queue.appendleft(exchange)
        else:
            self.ranking.enter(exchange)
        self._show_oldest()
        if self.usable:
            self.pump()
        else:
            self._state.report_now(self.endpoint)
        self._watch()

    def leave_queue(self, exchange: Exchange) -> None:
        """It no longer waits: it goes to a replica, gives up, or its caller is gone."""
        if self.queue and self.queue[0] is exchange:
            self.queue.popleft()
        else:
            self.queue.remove(exchange)
        if exchange.held:
            exchange.held = False
            self.held -= 1
            self._state.board.cells[self._held_cell] -= 1
        self._show_oldest()

    def leave(self, exchange: Exchange) -> None:
        """The request is over, wherever it was."""
        if exchange.counted:
            exchange.counted = False
            self.present -= 1
            self._state.board.cells[self._present_cell] -= 1
            if self._closed:
                self._end_if_over()

    def claim(self) -> Target | None:
        """A place at the less loaded of two replicas, or at any that has one."""
        usable, concurrency = self.usable, self.concurrency
        count = len(usable)
        if count == 1:
            target = usable[0]
            return target if target.claim(concurrency) else None
        if not count:
            return None
        chance = self._state.chance
        one, other = two_of(count, chance(), chance())
        first, second = usable[one], usable[other]
        if second.load() < first.load():
            first, second = second, first
        if first.claim(concurrency):
            return first
        if second.claim(concurrency):
            return second
        best = least_loaded([target.load() for target in usable], concurrency) if count > 2 else None
        return usable[best] if best is not None and usable[best].claim(concurrency) else None

    def release(self, target: Target) -> None:
        """Give a place back and let the oldest waiter have it, in whichever worker it waits."""
        target.release()
        if self.queue:
            self.pump()
        elif self._steps:
            self._ring_oldest()

    def pump(self, *, patient: bool = True) -> None:
        """Send whoever waits, oldest first, as long as there are places."""
        while self.queue and self.usable:
            if patient and self._steps and self._older_elsewhere():
                self._ring_oldest()
                return
            exchange = self.queue[0]
            if exchange.expires < NEVER and exchange.is_late():
                continue
            target = self.claim() if self.chooser is None else self.chooser.claim(exchange)
            if target is None:
                return
            self.leave_queue(exchange)
            exchange.dispatch(target)

    def _show_oldest(self) -> None:
        self._state.board.cells[self._waiting_cell] = self._first() if self.queue else 0
        if self.ranking is not None:
            self.ranking.show()

    def _first(self) -> int:
        """Who goes next here, as a number to compare with those of other workers."""
        first = self.queue[0]
        return place(first.rank, first.arrival) if first.rank else first.arrival

    def _waits_elsewhere(self) -> bool:
        cells, own = self._state.board.cells, self._waiting_cell
        return any(cells[own + step] for step in self._steps) if self._steps else False

    def _waiting_elsewhere(self) -> list[int]:
        """The cells of other workers that say who waits longest there."""
        return [self._waiting_cell + step for step in self._steps]

    def _older_elsewhere(self) -> bool:
        cells, mine = self._state.board.cells, self._first()
        return any(0 < cells[other] < mine for other in self._waiting_elsewhere())

    def _ring_oldest(self) -> None:
        cells = self._state.board.cells
        waiting = [(cells[other], other) for other in self._waiting_elsewhere() if cells[other]]
        if waiting:
            self._state.doorbell.ring(self._state.board.row_at(min(waiting)[1]))

    def _watch(self) -> None:
        """While something waits beside other workers, look again soon: they may free places or be dead."""
        if self._timer is None and self._steps and self.queue and self.usable:
            self._timer = self._state.loop.call_later(_POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        self._timer = None
        if not self.queue:
            self._polls = 0
            return
        self._state.board.reap()
        self._polls += 1
        self.pump(patient=self._polls % _PATIENCE != 0)
        self._watch()
