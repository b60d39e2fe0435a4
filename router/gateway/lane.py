"""One deployment as this worker serves it: who may enter, who leaves, and what it has seen.

A lane outlives routing snapshots. It ties together its replicas, its queue, the backlog of those that wait for a first replica, and
the numbers by which all workers act as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from router.contract.specs import DeploymentExtras, DeploymentSpec, RequestSettings
from router.gateway.backlog import Backlog
from router.gateway.choosing import chooser_for
from router.gateway.hedging import Hedges
from router.gateway.queueing import AT_ONCE, Queue
from router.gateway.ranking import Ranking
from router.gateway.replicas import Replicas
from router.gateway.tally import Tally
from router.policy import admission
from router.policy.retrying import Budget

if TYPE_CHECKING:
    from router.contract.events import Replica
    from router.gateway.exchange import Exchange
    from router.gateway.routes import Endpoint
    from router.gateway.state import State
    from router.gateway.target import Target

_ENTER: Final = admission.Admission.ENTER


class Lane:
    """The live state of one deployment in one worker."""

    __slots__ = (
        "_budget", "_closed", "_over", "_state", "active", "after_id", "allowed", "arrivals", "backlog", "busy_ns", "completions",
        "endpoint", "errors", "failed", "hedges", "in_service", "label", "latency", "map_errors", "name", "queue", "rejected",
        "replicas", "tally", "timed", "timeout_ns", "wait", "wait_ns", "weight",
    )  # fmt: skip

    def __init__(self, state: State, endpoint: Endpoint, name: str) -> None:
        self._state = state
        self.endpoint = endpoint
        self.name = name
        self.label = b"azureml-model-deployment: %b\r\n" % name.encode()
        self.after_id = b"\r\n" + self.label
        """What stands behind our request id in an answer's head."""
        on_board = f"{endpoint.name}/{name}"
        self.tally = Tally(state.board, on_board)
        self.replicas = Replicas(state, self, on_board)
        self.backlog = Backlog(state, self.tally)
        self.queue = Queue(state, self.tally, self.replicas, self.backlog)
        self.weight = 0
        self.timed = False
        """Whether answers tell where their time went."""
        self.hedges: Hedges | None = None
        """Where requests may be sent to a second replica too."""
        self.failed = ""
        """Why the deployment cannot serve, when its phase says so."""
        self._closed = False
        self._over = False
        self._configure(RequestSettings(), DeploymentExtras())
        self._budget = Budget()
        self.in_service = 0
        self.busy_ns = 0
        """Sum over requests of (end - start) in service; those under way have only paid their start."""
        self.clear_counts()

    # What it has seen -----------------------------------------------------------------------------------------------

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

    def is_busy(self) -> bool:
        """Whether anybody is inside, waits, or has to leave."""
        return bool(self.tally.present or self.backlog.held or self.in_service or self.draining())

    def draining(self) -> list[tuple[str, int]]:
        """(replica, requests in flight here) of every replica that drains; all do whose deployment is gone."""
        return self.replicas.draining()

    # What the snapshots say -----------------------------------------------------------------------------------------

    def _configure(self, settings: RequestSettings, extras: DeploymentExtras) -> None:
        self.timeout_ns = settings.request_timeout_ms * 1_000_000
        self.wait_ns = settings.max_queue_wait_ms * 1_000_000
        self.map_errors = extras.model_errors == "map"
        self.replicas.configure(settings, extras)
        self._renew_limit()

    def _renew_limit(self) -> None:
        self.allowed = admission.limit(self.replicas.concurrency, len(self.replicas.ready))

    def apply_spec(self, spec: DeploymentSpec) -> None:
        """Take a new revision of the deployment."""
        self._configure(spec.request_settings, spec.extras)
        self.replicas.chooser = chooser_for(self._state, self.replicas, self.tally, spec.extras)
        if self.hedges is None and spec.extras.hedging is not None:
            self.hedges = Hedges(self._state, self)
        if self.hedges is not None:
            self.hedges.follow(spec.extras.hedging)

    def rank(self, *, wanted: bool) -> None:
        """Have classes of requests from now on, or none."""
        ranking = self.queue.ranking
        if wanted and ranking is None:
            self.queue.ranking = Ranking(self._state, self)
        elif not wanted and ranking is not None:
            ranking.close()
            self.queue.ranking = None

    def apply_replicas(self, replicas: Iterable[Replica], failed: str) -> None:
        """Take a new replica set. Whoever is gone finishes what it has in flight."""
        self.failed = failed
        self.replicas.apply(replicas)
        self._renew_limit()
        self.replicas.refresh()

    def replicas_changed(self, *, had: bool) -> None:
        """Let in whoever waits for the replicas that are usable now; `had`: there were some before."""
        has = bool(self.replicas.usable)
        if has and not had:
            self.backlog.begin()
        waiting = self.queue.waiting
        if had and not has:
            for exchange in waiting:
                self._hold(exchange)
        if waiting:
            self._fail_some()
            self.queue.pump()
            self.queue.watch()

    def _fail_some(self) -> None:
        """Tell those that wait for a deployment that has failed, so many in a turn of the loop."""
        for _ in range(AT_ONCE):
            if not self.queue.waiting or self.replicas.usable or not self.failed:
                return
            self.queue.waiting[0].fail_deployment()
        self._state.loop.call_soon(self._fail_some)

    # Entering, waiting, leaving -------------------------------------------------------------------------------------

    def admit(self, exchange: Exchange) -> admission.Admission:
        """Let a new request in: it is sent, queued or held, or refused."""
        self.arrivals += 1
        if not self.active:
            self.wake()
        tally, replicas, backlog = self.tally, self.replicas, self.backlog
        present = tally.present_everywhere()
        decision = _ENTER
        if backlog.joining_until or not replicas.usable or present >= self.allowed:
            joining = backlog.is_joined(exchange.arrival)
            max_held = self._state.settings.max_waiting
            decision = admission.decide(bool(replicas.usable), joining, present, self.allowed, backlog.held, max_held)
        if decision is _ENTER:
            exchange.counted = True
            tally.enter()
            if not self.queue.waiting and not tally.waits_elsewhere():
                target = replicas.claim_for(exchange)
                if target is not None:
                    exchange.dispatch(target)
                    return decision
            self._queue(exchange)
        elif decision is admission.Admission.HOLD:
            first = not self.queue.waiting
            self._hold(exchange)
            self._wait(exchange, exchange.deadline)
            if first and not replicas.usable:
                self._state.report_now(self.endpoint)
            if replicas.usable:
                self.queue.pump()
        return decision

    def enter_queue(self, exchange: Exchange) -> None:
        """Let a request wait that found everything full: another makes room for it."""
        exchange.counted = True
        self.tally.enter()
        self._queue(exchange)

    def make_room(self, exchange: Exchange) -> bool:
        """Let in `exchange`, which was refused, instead of one of a lower class; whether there was one."""
        ranking = self.queue.ranking
        return ranking is not None and ranking.make_room(exchange)

    def _queue(self, exchange: Exchange) -> None:
        self._wait(exchange, exchange.arrival + self.wait_ns)
        if len(self.queue.waiting) == 1:
            self._state.report_soon(self.endpoint)
        if self.tally.steps:
            self.queue.pump()

    def _wait(self, exchange: Exchange, deadline: int) -> None:
        self.queue.enter(exchange, deadline)
        self.queue.watch()

    def _hold(self, exchange: Exchange) -> None:
        if not exchange.held:
            self.leave(exchange)
            self.backlog.enter(exchange)

    def again(self, exchange: Exchange) -> None:
        """Let a request that its replica failed wait at the front."""
        if self._closed:
            exchange.choose_again()
            return
        self._hold(exchange)
        self.queue.enter(exchange, exchange.deadline, front=True)
        if self.replicas.usable:
            self.queue.pump()
        else:
            self._state.report_now(self.endpoint)
        self.queue.watch()

    def may_repeat(self) -> bool:
        """Whether one more request may be sent to another replica after one has had it, which is counted if so."""
        return self._budget.spend(self.replicas.good, self.allowed)

    def release(self, target: Target) -> None:
        """Give a place back and let the oldest waiter have it, in whichever worker it waits."""
        target.release()
        if self.queue.waiting:
            self.queue.pump()
        elif self.tally.steps:
            self.queue.ring_first()

    def leave(self, exchange: Exchange) -> None:
        """The request is over, wherever it was."""
        if exchange.counted:
            exchange.counted = False
            self.tally.leave()
            if self._closed:
                self.end_if_over()

    # Its end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The deployment is gone: its replicas' connections too, once they carry nothing."""
        if not self._closed:
            self._closed = True
            self.endpoint.leaving.append(self)
        self.queue.close()
        self.replicas.close()
        self.end_if_over()

    def dismiss(self) -> None:
        """The endpoint has been deleted, and the lane is closed: tell those that wait, so many in a turn of the loop."""
        for _ in range(AT_ONCE):
            if not self.queue.waiting:
                self.end_if_over()
                return
            self.queue.waiting[0].endpoint_deleted()
        self._state.loop.call_soon(self.dismiss)

    def abort(self) -> None:
        """Close every connection now."""
        self.close()
        self.replicas.abort()

    def end_if_over(self) -> None:
        """Give the board's columns back once the deployment is gone and its last request has ended."""
        if not self._closed or self._over or not self.replicas.are_gone() or self.queue.waiting or self.tally.present:
            return
        self._over = True
        self.tally.let_go()
        self.rank(wanted=False)
        self.endpoint.lane_over(self)
