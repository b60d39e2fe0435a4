"""OpenTelemetry of one exchange: a server span for the request, a client span for every try at a replica.

Only where the worker has a tracer (`--otlp`); elsewhere exchanges are plain ones and this file is not in their way. Whether
a request is recorded is its caller's choice where it says, else chance's. The replica always learns of the trace: its parent is
the span of the try. What a caller writes that makes no sense is not passed on.
"""

from __future__ import annotations

import random
import time
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING

from router.contract.codec import decode_profile
from router.contract.events import Flag, Outcome
from router.gateway.exchange import ANSWERING, SENT, WAITING, Exchange
from router.gateway.records import unix_ns
from router.gateway.spans import CLIENT, MOST_KEPT, SERVER, event, fraction, span_bytes, text, whole
from router.policy.trace_context import SAMPLED, Parent, fields_of, taken_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.gateway.calls import Call
    from router.gateway.ends import Far, Near
    from router.gateway.state import State
    from router.gateway.target import Target
    from router.policy.retrying import Failure

_RANDOM = 2
"""Flag: the trace id is random."""
_WAITED, _HTTP2 = int(Flag.WAITED), int(Flag.HTTP2)
_SERVER_ERROR, _CLIENT_ERROR = 500, 400
_LOST = text("tidegate.hedge", "lost")
_OUTCOMES = {int(outcome): outcome.name.lower() for outcome in Outcome}


class Tracer:
    """Where spans of a worker go, and what share of those that nobody has decided about."""

    __slots__ = ("_calls", "_scheme", "_targets", "chance", "offer", "share")

    def __init__(self, offer: Callable[[bytes], None], share: float, chance: Callable[[], float], scheme: str) -> None:
        """`share`: 0 to 1 of the requests without a parent. `chance`: a number from 0 to below 1. `scheme`: what callers speak."""
        self._scheme = scheme
        self.offer = offer
        self.share = share
        self.chance = chance
        self._calls: dict[tuple[str, str], str] = {}
        self._targets: dict[tuple[str, tuple[str, int]], str] = {}

    def of_call(self, endpoint: str, profile: str) -> str:
        """What server spans of the same profile have in common."""
        key = (endpoint, profile)
        found = self._calls.get(key)
        if found is None:
            whole_profile = decode_profile(profile)
            parts = [
                text("http.request.method", whole_profile.method),
                text("url.path", whole_profile.path),
                text("url.scheme", self._scheme),
                text("tidegate.endpoint", endpoint),
            ]
            if whole_profile.user_agent:
                parts.append(text("user_agent.original", whole_profile.user_agent))
            if whole_profile.auth_type:
                parts.append(text("tidegate.auth_type", whole_profile.auth_type))
            if len(self._calls) >= MOST_KEPT:
                self._calls.clear()
            found = self._calls[key] = ",".join(parts)
        return found

    def of_target(self, target: Target) -> str:
        """What client spans of one replica have in common."""
        key = (target.id, target.address)
        found = self._targets.get(key)
        if found is None:
            host, port = target.address
            parts = [
                text("server.address", host),
                whole("server.port", port),
                text("network.protocol.version", "2" if target.replicas.http2 else "1.1"),
                text("tidegate.replica", target.id),
            ]
            if len(self._targets) >= MOST_KEPT:
                self._targets.clear()
            found = self._targets[key] = ",".join(parts)
        return found


class TracedExchange(Exchange):
    """An exchange that notes what its spans will say."""

    __slots__ = (
        "_attempt",
        "_attempt_target",
        "_attempts",
        "_began",
        "_events",
        "_failed_at",
        "_failure",
        "_fields",
        "_hedge",
        "_hedge_began",
        "_hedge_target",
        "_parent",
        "_span",
        "_trace",
        "_trace_flags",
        "_trace_state",
        "_tracer",
    )  # fmt: skip

    def __init__(self, state: State, down: Near, call: Call, after_peer: bytes, tracer: Tracer) -> None:
        super().__init__(state, down, call, after_peer)
        self._tracer = tracer
        self._fields = after_peer
        """The end of the head without any trace."""
        self._parent = 0
        self._trace = 0
        self._trace_flags = 0
        self._trace_state = b""
        self._span = 0
        self._attempt = 0
        """Span of the try that is under way."""
        self._attempts = 0
        self._attempt_target: Target | None = None
        self._began = 0
        self._hedge = 0
        """Span of the same request at a second replica, as long as it is not known which of the two answers."""
        self._hedge_target: Target | None = None
        self._hedge_began = 0
        self._failure = ""
        self._failed_at = 0
        self._events: list[str] = []

    def start(self) -> None:
        """Decide whether it is recorded, then let it in."""
        if self.call.endpoint is not None:
            self._fields, parent = taken_out(self.after_peer)
            self.after_peer = self._fields
            self._belong(parent)
        super().start()

    def _belong(self, parent: Parent | None) -> None:
        if parent is None:
            self._trace = random.getrandbits(128) or 1
            tracer = self._tracer
            self._trace_flags = _RANDOM | SAMPLED if tracer.chance() < tracer.share else _RANDOM
        else:
            self._trace, self._parent, self._trace_state = parent.trace, parent.span, parent.state
            self._trace_flags = parent.flags
        self._span = random.getrandbits(64) or 1

    def dispatch(self, target: Target) -> None:
        """A try at a replica begins; one before it has failed."""
        before = self._attempt_target
        if before is not None:
            if self._trace_flags & SAMPLED:
                what = text("tidegate.replica", before.id) + "," + text("error.type", self._failure)
                self._events.append(event(unix_ns(self._failed_at), "tidegate.retry", what))
            self._close_attempt(self._failed_at)
        elif self.stage == WAITING and self._trace_flags & SAMPLED:
            self._note_wait(time.monotonic_ns())
        self._attempt = random.getrandbits(64) or 1
        self._attempts += 1
        self._attempt_target = target
        self._began = time.monotonic_ns()
        self.after_peer = self._context(self._attempt) + self._fields
        super().dispatch(target)

    def _context(self, span: int) -> bytes:
        return fields_of(self._trace, span, self._trace_flags, self._trace_state)

    def repeat(self, up: Far) -> None:
        """The second replica's parent is a span of its own."""
        self._hedge = random.getrandbits(64) or 1
        self._hedge_target = up.target
        self._hedge_began = time.monotonic_ns()
        first = self.after_peer
        self.after_peer = self._context(self._hedge) + self._fields
        super().repeat(up)
        self.after_peer = first

    def move_to(self, target: Target, up: Far) -> Target:
        """The second replica's is the try that counts; the first one's has failed or was too slow."""
        self._close_attempt(self._failed_at or time.monotonic_ns(), lost=not self._failed_at)
        self._attempt, self._attempt_target, self._began = self._hedge, self._hedge_target, self._hedge_began
        self._attempts += 1
        self._hedge_target = None
        return super().move_to(target, up)

    def _note_wait(self, now: int) -> None:
        waited = fraction("tidegate.queue_ms", (now - self.arrival) / 1e6)
        self._events.append(event(unix_ns(now), "tidegate.queued", waited))

    def connected(self, connection: Far) -> None:
        """A kept connection that turned out to be gone is no failure of the try."""
        self._failed_at = 0
        super().connected(connection)

    def upstream_failed(self, failure: Failure) -> None:
        """Note why, whatever comes of it."""
        self._failure = failure.name.lower()
        self._failed_at = time.monotonic_ns()
        super().upstream_failed(failure)
        if self._hedge_target is not None and self._failed_at and self.up is not None and self.stage == SENT:
            self._close_hedge(self._failed_at, self._failure)  # the first goes on alone
            self._failure, self._failed_at = "", 0

    def _end(self, *, close: bool, cut: bool = False, now: int = 0) -> None:
        now = now or time.monotonic_ns()
        answering = self.stage == ANSWERING
        super()._end(close=close, cut=cut, now=now)
        if self._trace_flags & SAMPLED:
            # Where it broke off is the try's end; after that the gateway has only said so.
            self._close_hedge(self.first_byte or now, "")
            self._close_attempt(self._failed_at or now, answered=answering)
            self._offer_server_span(now)

    def _close_hedge(self, end: int, error: str) -> None:
        """Make the span of the try at a second replica that came to nothing."""
        target, self._hedge_target = self._hedge_target, None
        if target is not None and self._trace_flags & SAMPLED:
            more = "" if error else "," + _LOST
            attributes = self._attempt_attributes(target, 0, error, self._attempts) + more
            self._offer_attempt(self._hedge, self._hedge_began, end, attributes, events="", error=error)

    def _close_attempt(self, end: int, *, answered: bool = False, lost: bool = False) -> None:
        """Make the span of the try that is under way. `answered`: it was, at least in part; `lost`: another one was sooner."""
        target, attempt = self._attempt_target, self._attempt
        self._attempt_target, self._attempt = None, 0
        failure, self._failure, failed_at, self._failed_at = self._failure, "", self._failed_at, 0
        if target is None or not self._trace_flags & SAMPLED:
            return
        error = failure if failed_at else ""
        status = self.reply.model_status if answered else 0
        if not error and status >= _CLIENT_ERROR:
            error = str(status)
        elif not error and not status and not lost:
            error = _OUTCOMES[self.reply.outcome]
        events = event(unix_ns(self.first_byte), "tidegate.first_byte", "") if answered and self.first_byte else ""
        attributes = self._attempt_attributes(target, status, error, self._attempts - 1)
        self._offer_attempt(
            attempt, self._began, end, attributes + ("," + _LOST if lost else ""), events=events, error=error
        )

    def _offer_attempt(self, span: int, began: int, end: int, attributes: str, *, events: str, error: str) -> None:
        lane = self.lane
        name = f"{self.call.method.decode('latin-1')} {lane.name if lane is not None else ''}".rstrip()
        self._tracer.offer(
            span_bytes(
                self._trace, span, self._span, self._trace_state, self._trace_flags, name=quoted(name), kind=CLIENT,
                start_ns=unix_ns(began), end_ns=unix_ns(end or began), attributes=attributes, events=events, error=error,
            )
        )  # fmt: skip

    def _attempt_attributes(self, target: Target, status: int, error: str, before: int) -> str:
        host, port = target.address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        attributes = self._tracer.of_target(target)
        attributes += "," + text("http.request.method", self.call.method.decode("latin-1"))
        attributes += "," + text("url.full", f"http://{where}{_path(self.call)}")
        if status:
            attributes += "," + whole("http.response.status_code", status)
        if before > 0:
            attributes += "," + whole("http.request.resend_count", before)
        if self.connecting_ns:
            attributes += "," + fraction("tidegate.connect_ms", self.connecting_ns / 1e6)
        if error:
            attributes += "," + text("error.type", error)
        return attributes

    def _offer_server_span(self, now: int) -> None:
        call, lane, endpoint = self.call, self.lane, self.endpoint
        assert endpoint is not None
        failed = self.reply.status >= _SERVER_ERROR
        error = self.reply.refusal or (str(self.reply.status) if failed else "")
        attributes = self._tracer.of_call(endpoint.name, call.profile)
        version = "2" if self.flags & _HTTP2 else "1.0" if call.http10 else "1.1"
        attributes += "," + text("network.protocol.version", version)
        attributes += "," + text("client.address", self.down.peer.decode("latin-1"))
        attributes += "," + whole("http.request.body.size", self.request.received)
        attributes += "," + whole("http.response.body.size", self.reply.sent)
        attributes += "," + text("tidegate.deployment", lane.name if lane is not None else "")
        attributes += "," + text("tidegate.request_id", self.request_id.decode())
        attributes += "," + text("tidegate.outcome", _OUTCOMES[self.reply.outcome])
        if self.reply.status:
            attributes += "," + whole("http.response.status_code", self.reply.status)
        if error:
            attributes += "," + text("error.type", error)
        if self.flags & _WAITED and not self._attempts:
            self._note_wait(now)
        name = quoted(f"{call.method.decode('latin-1')} {endpoint.name}")
        self._tracer.offer(
            span_bytes(
                self._trace, self._span, self._parent, self._trace_state, self._trace_flags, name=name, kind=SERVER,
                start_ns=unix_ns(self.arrival), end_ns=unix_ns(now), attributes=attributes,
                events=",".join(self._events), error=error if failed else "",
            )
        )  # fmt: skip


def _path(call: Call) -> str:
    return call.path.partition(b"?")[0].decode("latin-1")
