"""One request and its answer: matched, let in, sent, answered, recorded. Every way out passes `_end`, once.

    NEW → WAITING → CONNECTING → SENT → ANSWERING → DONE      (any stage may go to DONE; a retry goes back to WAITING)

The exchange decides; the caller's connection (`down`) and the replica's (`up`) carry bytes and tell it what happened. `request` is
what has come of the body, `reply` what goes back; where a request belongs is `belonging`'s to say, what a refusal says `wording`'s.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from router.contract.events import Flag, Outcome
from router.gateway import belonging, wording
from router.gateway.affinity import WAIT_NS
from router.gateway.body import RequestBody
from router.gateway.mirroring import shadow_of
from router.gateway.recording import judge, record
from router.gateway.records import unix_ns
from router.gateway.reply import Reply
from router.gateway.responses import CONTINUE, Refusal
from router.gateway.timers import NEVER
from router.gateway.timing import server_timing
from router.gateway.tunnel import Tunnel
from router.gateway.upstream import LOOK_NS
from router.policy.deadlines import FIELD as DEADLINE
from router.policy.deadlines import written_in
from router.policy.retrying import Failure, Next, after

if TYPE_CHECKING:
    from router.gateway.calls import Answer, Call, Switching
    from router.gateway.ends import Far, Near
    from router.gateway.lane import Lane
    from router.gateway.routes import Endpoint
    from router.gateway.state import State
    from router.gateway.sticking import Telling
    from router.gateway.target import Target
    from router.gateway.upstream import Upstream
    from router.policy.upgrading import Agreement

NEW: Final = 0
WAITING: Final = 1
CONNECTING: Final = 2
SENT: Final = 3
ANSWERING: Final = 4
DONE: Final = 5
_MIRRORED: Final = int(Flag.MIRRORED)
_NAMED: Final = int(Flag.NAMED_DEPLOYMENT)
_WAITED: Final = int(Flag.WAITED)
_HTTP2: Final = int(Flag.HTTP2)
_FROM_ZERO: Final = int(Flag.FROM_ZERO)
_RETRIED: Final = int(Flag.RETRIED)
_WEBSOCKET: Final = int(Flag.WEBSOCKET)
_TIMEOUT: Final = int(Outcome.TIMEOUT)
_UPSTREAM_FAILED: Final = int(Outcome.UPSTREAM_FAILED)
_CLIENT_ABORTED: Final = int(Outcome.CLIENT_ABORTED)


class Exchange:
    """One request of one caller."""

    __slots__ = (
        "_refreshed", "_sampled", "_state", "after_peer", "arrival", "call", "connecting", "connecting_ns",
        "counted", "deadline", "dispatched", "down", "endpoint", "expires", "first_byte", "flags", "held", "keep_alive", "lane", "named",
        "rank", "reply", "request", "request_id", "sequence", "stage", "target", "up",
    )  # fmt: skip

    def __init__(self, state: State, down: Near, call: Call, after_peer: bytes) -> None:
        self._state = state
        self.after_peer = after_peer
        """The end of the head for the replica, with what only this request has."""
        self.down = down
        self.call = call
        self.keep_alive = call.keep_alive
        self.sequence = sequence = state.sequence
        state.sequence = sequence + 1
        self.request_id = state.request_id(sequence)
        """Our own: the worker's boot id and the sequence."""
        self.stage = NEW
        self.arrival = time.monotonic_ns()
        self.deadline = 0
        self.expires = NEVER
        """The caller's own deadline (monotonic nanoseconds)."""
        self.dispatched = 0
        self.first_byte = 0
        self.endpoint = call.endpoint
        self.lane: Lane | None = None
        self.target: Target | None = None
        self.up: Far | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.named = False
        self.rank = 0
        """Its class, 0 is the highest."""
        self.held = False
        self.counted = False
        self.request = RequestBody(chunked=call.chunked)
        self.reply = Reply(state, down, call, self.request_id)
        self.flags = 0
        self._sampled = False
        self._refreshed = False
        self.connecting_ns = 0
        """How long a new connection to the replica took."""

    # What others ask it ---------------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Bytes of the request's body that have come."""
        return self.request.received

    def told_by(self, telling: Telling) -> bytes:
        """What tells its caller from others; empty where nothing does."""
        return telling.caller(self.call, self.after_peer, self.down.peer)

    def is_late(self) -> bool:
        """Whether the caller's deadline has passed before it was sent to a replica; then it is refused."""
        late = time.monotonic_ns() >= self.expires
        if late:
            assert self.lane is not None
            self._refuse(wording.late(self.lane))
        return late

    # From the caller to a deployment --------------------------------------------------------------------------------

    def http2(self) -> None:
        """The caller speaks HTTP/2."""
        self.flags |= _HTTP2

    def first_body(self, pieces: list[bytes], size: int, *, complete: bool) -> None:
        """The part of the body that came with the head."""
        self.request.begin(pieces, size, complete=complete)

    def start(self) -> None:
        """Let it in: the head has been judged, of the body there is whatever came with it."""
        call = self.call
        if call.refusal is not None:
            self.refuse(call.refusal, call.message)
        elif call.endpoint is None:
            self._own(call.own)
        elif self._state.shedding:
            self._refuse(wording.SHEDDING)
        else:
            dated = call.deadline or (self.after_peer is not call.after_peer and DEADLINE in self.after_peer)
            if dated and not self._begins_in_time(call.deadline or written_in(self.after_peer)):
                return
            limiter = call.endpoint.limiter
            if limiter is None or limiter.admit(self):
                self._choose(call.endpoint)

    def _own(self, path: bytes) -> None:
        """The gateway's own two routes."""
        ready = self._state.ready and not self._state.stopping and not self._state.shedding
        status, text = (200, "ok\n") if ready or path == b"/healthz" else (503, "not ready\n")
        close = self._closes()
        self.reply.probe_answer(status, text, close=close)
        self._end(close=close)

    def _begins_in_time(self, deadline: int) -> bool:
        """Take the caller's deadline (Unix nanoseconds; 0: it was something else that looked like one); refuse if it has passed."""
        if deadline:
            self.expires = min(self.expires, deadline - unix_ns(0))
        if self.expires > self.arrival:
            return True
        self._refuse(wording.DEADLINE_PAST)
        return False

    def _choose(self, endpoint: Endpoint) -> None:
        """Find its deployment and knock there."""
        found = belonging.find(self, endpoint)
        if isinstance(found, tuple):
            self._refuse(found)
            return
        if self.call.deployment is not None:
            self.named = True
            self.flags |= _NAMED
        self._enter(found)

    def _enter(self, lane: Lane, *, enough: bool = False) -> None:
        """`enough`: of the body has come, or it has been waited for long enough, to say where the request belongs."""
        self.lane = lane
        chooser = lane.replicas.chooser
        if chooser is not None and not enough and chooser.lacks(self):
            self._state.wheel.arm(self.down, self.arrival + WAIT_NS)
            return
        told = belonging.enter(self, lane)
        if told is not None:
            self._refuse(told)

    def _told_more(self, *, enough: bool) -> None:
        """More of the body has come, or time has passed, while it was unclear where the request belongs."""
        lane, endpoint = self.lane, self.endpoint
        assert lane is not None
        assert endpoint is not None
        chooser = lane.replicas.chooser
        if endpoint.lanes.get(lane.name) is not lane:
            self.lane = None
            self._choose(endpoint)
        elif self.expires < NEVER and self.is_late():
            pass
        elif enough or chooser is None or not chooser.lacks(self):
            self._enter(lane, enough=True)

    def wait(self, deadline: int) -> None:
        """Stand in the lane's queue until `deadline` (monotonic nanoseconds)."""
        self.stage = WAITING
        deadline = min(deadline, self.expires)
        self.deadline = deadline
        self.flags |= _FROM_ZERO | _WAITED if self.held else _WAITED
        self._state.wheel.arm(self.down, deadline)
        if not self._has_room():
            self._state.loop.call_soon(self._refuse_body)  # it is just about to enter the queue
        if self.request.is_large():
            self.down.pause_for_replica()

    def _has_room(self) -> bool:
        """Count what has come of the body as that of a waiting request; whether there is room for it."""
        assert self.endpoint is not None
        return self.request.hold(self._state, self.endpoint)

    def _refuse_body(self) -> None:
        if self.stage == WAITING and not self._has_room():
            self._refuse(wording.BODIES_FULL)

    def _waits_no_longer(self) -> None:
        assert self.endpoint is not None
        self.request.let_go(self._state, self.endpoint)

    def choose_again(self) -> None:
        """The deployment it waited for has lost its traffic."""
        lane, endpoint = self.lane, self.endpoint
        assert lane is not None
        assert endpoint is not None
        if self.stage == WAITING:
            self._waits_no_longer()
            lane.queue.leave(self)
        lane.leave(self)
        self.lane = None
        self.stage = NEW
        self.reply.tell(b"")
        self._choose(endpoint)

    def endpoint_deleted(self) -> None:
        """While it waited."""
        self._refuse(wording.ENDPOINT_DELETED)

    def fail_deployment(self) -> None:
        """The deployment says that it cannot serve."""
        assert self.lane is not None
        self._refuse(wording.deployment_failed(self.lane))

    # To a replica ---------------------------------------------------------------------------------------------------

    def dispatch(self, target: Target) -> None:
        """A place at `target` is this exchange's."""
        lane = self.lane
        assert lane is not None
        if self.stage == WAITING:
            self._waits_no_longer()
        now = time.monotonic_ns() if self.flags & _WAITED else self.arrival
        self.dispatched = now
        self.target = target
        lane.in_service += 1
        lane.busy_ns -= now
        self._await_head(now + lane.timeout_ns, now)
        connection = target.take() if self.call.websocket is None else None  # one of its own, which ends with it
        if connection is not None:
            self._send(connection)
        else:
            self.stage = CONNECTING
            target.connect(self)

    def _await_head(self, deadline: int, now: int) -> None:
        """The model has until `deadline`; whether its machine is still there is looked at before."""
        if deadline > self.expires:  # noqa: PLR1730 -- for every request, and a call costs more
            deadline = self.expires
        self.deadline = deadline
        look = now + LOOK_NS
        self._state.wheel.arm(self.down, min(deadline, look))

    def connected(self, connection: Far) -> None:
        """The connection it asked for is there."""
        self.connecting_ns = time.monotonic_ns() - self.dispatched
        if self.expires < NEVER and self.is_late():
            connection.target.give_back(connection)
        else:
            self._send(connection)

    def _send(self, up: Far) -> None:
        body = self.request
        self.stage = SENT
        self.up = up
        head = self._hand_to(up)
        if not self._sampled:
            self._sample(head)
        body.send(up.transport, head)
        if not body.complete:
            if self.call.expects_continue and not body.received:
                self.down.transport.write(CONTINUE)
            if not up.paused:
                self.down.resume_for_replica()
        if self.lane is not None and self.lane.hedges is not None and self.stage == SENT:
            self.lane.hedges.look(self, time.monotonic_ns())

    def _hand_to(self, up: Far) -> bytes:
        """Let `up` expect the answer; returns the head for it."""
        up.carry(self)
        if self.down.paused:
            up.pause_reading()
        return self.call.for_replica(self.request_id, self.down.peer, self.after_peer)

    def _sample(self, head: bytes) -> None:
        """Begin the shadow, if this request is one of the mirrored ones."""
        self._sampled = True
        shadow = shadow_of(self, self._state, head)
        if shadow is not None:
            self.flags |= _MIRRORED
            self.reply.shadow = shadow
            self.request.copy_to(shadow)

    def body(self, pieces: list[bytes]) -> None:
        """More of the body."""
        size = sum(map(len, pieces))
        if self.stage >= SENT:
            self._pass_on(pieces, size)
            return
        self.request.add(pieces, size)
        if self.stage == WAITING and not self._has_room():
            self._refuse_body()
        elif self.stage == NEW:
            self._told_more(enough=False)
        elif self.request.is_large():
            self.down.pause_for_replica()

    def _pass_on(self, pieces: list[bytes], size: int) -> None:
        up, lane = self.up, self.lane
        assert up is not None
        assert lane is not None
        now = time.monotonic_ns()
        if self.stage == SENT:
            # The model's time runs from the last byte it was given.
            self._await_head(now + lane.timeout_ns, now)
        else:
            # Both ways at once: as long as either moves, neither is silent.
            self._state.wheel.arm(self.down, now + lane.timeout_ns)
        self.request.pass_on(up.transport, pieces, size)

    def body_complete(self) -> None:
        """The body's last byte has come."""
        body, up = self.request, self.up
        body.complete = True
        body.whole = time.monotonic_ns()
        if self.stage == NEW:
            self._told_more(enough=True)
        elif self.stage >= SENT:
            body.end(up.transport if up is not None else None)
            if self.lane is not None and self.lane.hedges is not None and self.stage == SENT:
                self.lane.hedges.look(self, body.whole)

    def repeat(self, up: Far) -> None:
        """Send the whole request, which is at hand, to a second replica too."""
        head = self._hand_to(up)
        self.request.repeat(up.transport, head)

    def move_to(self, target: Target, up: Far) -> Target:
        """Have the answer of the second replica; returns the first, whose place is to be given back."""
        first, before = self.target, self.up
        assert first is not None
        self.target, self.up = target, up
        if before is not None and before.exchange is self:
            before.exchange = None
            before.close()
        return first

    # Back to the caller: what is not decided here goes from the replica's connection to `reply` -----------------------

    def answer(self, answer: Answer, raw: bytes, up: Far) -> None:
        """The replica's head is here; it is written together with the first of the body."""
        lane = self.lane
        assert lane is not None
        now = time.monotonic_ns()
        self.first_byte = now
        self.stage = ANSWERING
        if lane.hedges is not None:
            lane.hedges.settle(self, up, now)
        self.down.deadline = now + lane.timeout_ns
        reply = self.reply
        if reply.shadow is not None:
            reply.shadow.response(answer.status, (now - self.arrival) // 1000, raw)
        timing = b""
        if lane.timed:
            timing = server_timing(self.arrival, self.dispatched, self.connecting_ns, now, answered=True)
        reply.begin(answer, lane, timing, close=self._closes())

    def answered(self) -> None:
        """The answer's last byte is on its way to the caller."""
        self.up = None
        reply = self.reply
        reply.end()
        now = time.monotonic_ns()
        if reply.shadow is not None:
            reply.end_shadow(now - self.arrival, asked_in_full=self.request.complete)
        # A worker that has begun to end behind this head, which does not say so, leaves the caller a moment to ask again.
        self._end(close=not self._ends_for_itself() or (self._state.closing and reply.says_close), now=now)

    def switch(self, up: Upstream, switching: Switching, agreement: Agreement, early: bytes) -> None:
        """The replica speaks WebSocket from here on: a tunnel carries both ways, until it says `tunnel_over`."""
        assert self.lane is not None
        self.first_byte = time.monotonic_ns()
        self.stage = ANSWERING
        self.flags |= _WEBSOCKET
        self.reply.switch(switching, self.lane)
        Tunnel(self._state, self, up, agreement).begin(early)

    def tunnel_over(self, outcome: int, received: int, sent: int) -> None:
        """The replica's side of the tunnel has ended."""
        self.up = None
        self.reply.outcome, self.reply.sent = outcome, sent
        self.request.received = received
        if outcome == _CLIENT_ABORTED:
            self._state.counters.client_aborts += 1
        self._end(close=True)

    def _closes(self) -> bool:
        """Whether the caller's connection ends with this answer."""
        return self._state.closing or not self._ends_for_itself()

    def _ends_for_itself(self) -> bool:
        """Whether the answer's end is one for the caller too, who can ask again behind it."""
        return self.keep_alive and self.request.complete and not self.reply.ends_with_connection

    # What goes wrong ------------------------------------------------------------------------------------------------

    def upstream_failed(self, failure: Failure) -> None:
        """The replica's connection is gone, or was none."""
        lane = self.lane
        if lane is not None and lane.hedges is not None and lane.hedges.outlives(self, failure):
            return
        self.up = None
        self.connecting_ns = 0
        target = self.target
        assert target is not None
        assert lane is not None
        if self.stage == ANSWERING:
            self._answer_failed(failure, lane)
            return
        step = self._next_step(failure, lane)
        if failure is Failure.DIED:
            target.standing.erred()
            target.standing.unreachable()
        if step is Next.SAME_AGAIN:
            self._refreshed = True
            self.stage = CONNECTING
            target.connect(self)
        elif step is Next.ELSEWHERE:
            if failure is not Failure.REFUSED:
                self.flags |= _RETRIED
                self._state.counters.retried += 1
            self._leave_target(time.monotonic_ns())
            lane.again(self)
        else:
            self._refuse(wording.failed(lane, failure))

    def _next_step(self, failure: Failure, lane: Lane) -> Next:
        replayable, repeated = self.request.is_replayable(), bool(self.flags & _RETRIED)
        step = after(failure, replayable=replayable, repeated=repeated, refreshed=self._refreshed)
        if step is Next.ELSEWHERE and failure is not Failure.REFUSED and not lane.may_repeat():
            return Next.GIVE_UP
        return step

    def _answer_failed(self, failure: Failure, lane: Lane) -> None:
        """Behind its head. As long as the caller has nothing of it, there can be a proper answer."""
        if self.reply.take_back():
            self._refuse(wording.failed(lane, failure))
        else:
            self._cut(_UPSTREAM_FAILED)

    def on_deadline(self, now: int) -> None:
        """Waited, or been silent, for too long."""
        lane, stage = self.lane, self.stage
        assert lane is not None
        if stage == NEW:
            self._told_more(enough=True)
        elif stage == WAITING:
            if not self.is_late():
                self._refuse(wording.waited(lane, now - self.arrival, held=self.held))
        elif stage == ANSWERING:
            if not (self.down.paused and self.down.reads_on(now)):
                self._cut(_CLIENT_ABORTED if self.down.paused else _TIMEOUT)
        elif now < self.deadline:
            self._look(lane, now)
        else:
            body_missing = not self.request.complete and self.down.is_read
            self._refuse(wording.unanswered(lane, late=now >= self.expires, body_missing=body_missing))

    def _look(self, lane: Lane, now: int) -> None:
        """Whether the replica's machine is still there, and whether it is time for a second replica."""
        up = self.up
        if up is not None and up.is_unheard():
            up.target.standing.unreachable()
            up.transport.abort()  # and so it fails us
        self._await_head(self.deadline, now)
        if lane.hedges is not None and self.stage == SENT:
            lane.hedges.look(self, now)

    def refuse(self, refusal: Refusal, message: str, fields: bytes = b"") -> None:
        """Answer in the gateway's own name, with `fields` in the head. Nothing has been sent to the caller before."""
        self._drop_upstream()
        self.reply.refuse(refusal)
        self._state.refusals.note(refusal, self.endpoint, message)
        close = self._closes()
        self._say(refusal, message, fields, close=close)
        self._end(close=close)

    def _refuse(self, told: wording.Told) -> None:
        self.refuse(told[0], told[1])

    def _say(self, refusal: Refusal, message: str, fields: bytes = b"", *, close: bool) -> None:
        lane, timing = self.lane, b""
        if lane is not None and lane.timed:
            now = time.monotonic_ns()
            timing = server_timing(self.arrival, self.dispatched, self.connecting_ns, now, answered=False)
        self.reply.say(refusal, message, fields, lane, timing, close=close)

    def probe(self) -> None:
        """Send what a caller that is still there skips, where nothing better is on its way."""
        if self.stage < ANSWERING and not self.call.http10:
            self.down.transport.write(CONTINUE)

    def cut_short(self) -> None:
        """The caller's bytes have ended inside the body: it left, or it counted wrongly and may still read."""
        if self.stage != ANSWERING:
            refusal, message = wording.CUT_SHORT
            self._say(refusal, message, close=True)
        self.reply.break_off()
        self.abandon()

    def abandon(self) -> None:
        """The caller is gone."""
        if self.stage == DONE:
            return
        self._drop_upstream()
        reply = self.reply
        reply.drop_shadow("client_aborted")
        reply.status = reply.status if self.stage == ANSWERING else 0
        reply.outcome = _CLIENT_ABORTED
        self._state.counters.client_aborts += 1
        self._end(close=True)

    def _cut(self, outcome: int) -> None:
        """Break the answer off where the caller cannot take it for a whole one."""
        self.reply.outcome = outcome
        self._drop_upstream()
        self.reply.break_off()
        self._end(close=True, cut=True)

    def _drop_upstream(self) -> None:
        up, self.up = self.up, None
        if up is not None:
            up.exchange = None
            up.close()
        if self.lane is not None and self.lane.hedges is not None:
            self.lane.hedges.cancel(self)
        # A connection under way is not wasted: it goes to the replica's idle ones.
        self.connecting = None

    # The end --------------------------------------------------------------------------------------------------------

    def _leave_target(self, now: int) -> None:
        target, lane = self.target, self.lane
        if target is None:
            return
        assert lane is not None
        self.target = None
        lane.in_service -= 1
        lane.busy_ns += now
        lane.release(target)

    def _end(self, *, close: bool, cut: bool = False, now: int = 0) -> None:
        """Give everything back and write the record."""
        stage, self.stage = self.stage, DONE
        now = now or time.monotonic_ns()
        endpoint, lane, target = self.endpoint, self.lane, self.target
        self.reply.drop_shadow("live_failed")
        if lane is not None:
            if stage == WAITING:
                self._waits_no_longer()
                lane.queue.leave(self)
            if self.counted:
                lane.leave(self)
        if endpoint is not None and endpoint.limiter is not None:
            endpoint.limiter.leave(self)
        record(self, now)
        self.down.exchange_over(close=close, cut=cut, now=now)
        if target is not None:
            self._leave_target(now)
            judge(self, target, now)
        self.request.forget()
        self.reply.shadow = None
