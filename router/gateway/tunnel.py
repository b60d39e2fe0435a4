"""One WebSocket: two connections whose bytes pass both ways, and a close handshake however it ends.

Frames are walked over (`policy.websocket`), not rebuilt. A side that is silent is sent a ping of the gateway's own; one that
stays silent is dead. Whatever ends it, each side that is still there is told so by a close frame, unless it is in the middle
of another frame that will never be whole, and its connection ends once it has answered or its time is up; never by a reset
before. The exchange, and with it the replica's place, ends with the replica's side; the caller may take longer.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from router.contract.events import Outcome
from router.gateway.sides import Side
from router.gateway.timers import NEVER
from router.policy.websocket import GOING_AWAY, INTERNAL_ERROR, PING, Scanner, closing, frame

if TYPE_CHECKING:
    import asyncio

    from router.gateway.downstream import Downstream
    from router.gateway.exchange import Exchange
    from router.gateway.state import State
    from router.gateway.target import Target
    from router.gateway.upstream import Upstream
    from router.policy.upgrading import Agreement

_CLOSE_NS = 5_000_000_000
"""From the first close frame to the end of both connections."""
_STUCK_NS = 60_000_000_000
"""A side that takes nothing for this long is dead."""
_DRAIN_SHARE = 0.9
"""Of a replica's time to drain that its WebSockets have: the rest is for saying so."""
_OK, _MODEL_ERROR = int(Outcome.OK), int(Outcome.MODEL_ERROR)
_UPSTREAM_FAILED, _CLIENT_ABORTED, _REFUSED = (
    int(Outcome.UPSTREAM_FAILED),
    int(Outcome.CLIENT_ABORTED),
    int(Outcome.REFUSED),
)


class Tunnel:
    """Both ends, the clock and the end."""

    __slots__ = (
        "_closing", "_die_at", "_down", "_exchange", "_far", "_idle_ns", "_last_words", "_near", "_outcome", "_ping_ns", "_state", "_up",
        "active", "deadline", "slot", "target",
    )  # fmt: skip

    def __init__(self, state: State, exchange: Exchange, up: Upstream, agreement: Agreement) -> None:
        endpoint, target, now = exchange.endpoint, exchange.target, time.monotonic_ns()
        assert endpoint is not None
        assert target is not None
        limits = endpoint.websocket
        self._state = state
        self._exchange: Exchange | None = exchange
        self._down: Downstream | None = cast("Downstream", exchange.down)
        """Of all callers' ends only connections of HTTP/1.1 can come here."""
        self._up = up
        self.target: Target = target
        self._idle_ns = int(limits.idle_seconds * 1e9)
        self._ping_ns = int(limits.ping_seconds * 1e9)
        self._die_at = now + int(limits.max_seconds * 1e9) if limits.max_seconds else NEVER
        """When it is told to go, whatever it does."""
        self._last_words = "the connection has reached the end of its time"
        self._closing = False
        self._outcome = _OK
        self.active = now
        """When the last message, or part of one, has come."""
        self.deadline = self.slot = NEVER
        size, (first, more) = limits.max_message_bytes, agreement
        scanners = [
            Scanner(masks=masks, max_message_bytes=size, start_bits=first, more_bits=more) for masks in (True, False)
        ]
        self._near = Side(self, exchange.down.transport, scanners[0], now, is_near=True)
        self._far = Side(self, up.transport, scanners[1], now, is_near=False)
        self._near.other, self._far.other = self._far, self._near

    def begin(self, early: bytes) -> None:
        """Carry; `early` is what the replica has sent behind its 101."""
        self._state.tunnels.add(self)
        down = self._down
        assert down is not None
        self._up.hand_over(cast("asyncio.Protocol", self._far))
        ahead = down.hand_over(cast("asyncio.Protocol", self._near))
        if self.target.draining:
            self.drain()
        self._look(time.monotonic_ns())
        if early:
            self._far.data_received(early)
        if ahead:
            self._near.data_received(ahead)
        if down.has_ended:
            self.gone(self._near)

    # Its clock ------------------------------------------------------------------------------------------------------

    def on_deadline(self, now: int) -> None:
        """Time to look."""
        if self._closing:
            for side in (self._near, self._far):
                side.transport.abort()
        else:
            self._look(now)

    def _look(self, now: int) -> None:
        """Find out whether anything is due, and when to look again."""
        due = self._die_at
        if now >= due:
            self.leave(self._last_words)
            return
        if self._idle_ns:
            until = self.active + self._idle_ns
            if now >= until:
                self.leave("no message for too long")
                return
            due = min(due, until)
        for side in (self._near, self._far):
            until = self._look_at(side, now)
            if now >= until:
                self._dead(side)
                return
            due = min(due, until)
        if due < NEVER:
            self._state.wheel.arm(self, due)

    def _look_at(self, side: Side, now: int) -> int:
        """Ask it for a sign of life if it is time; returns when to look at it again. A past moment: it is dead."""
        due = side.paused_since + _STUCK_NS if side.paused_since else NEVER
        if not self._ping_ns:
            return due
        if side.other.paused_since:
            side.heard = now  # it is not read, so it cannot be heard
        if side.asked > side.heard:
            if side.other.scanner.waits:
                side.asked = now  # the question has not gone yet
            return min(due, side.asked + self._ping_ns)
        if now >= side.heard + self._ping_ns:
            self._ask(side)
            side.asked = now
            return min(due, now + self._ping_ns)
        return min(due, side.heard + self._ping_ns)

    def _ask(self, side: Side) -> None:
        payload = secrets.token_bytes(8)
        side.scanner.expect(payload)
        ping = side.other.scanner.insert(frame(PING, payload, self._mask(side)))
        if ping:
            side.write([ping])

    @staticmethod
    def _mask(side: Side) -> bytes:
        return b"" if side.is_near else secrets.token_bytes(4)

    # Its end --------------------------------------------------------------------------------------------------------

    def leave(self, reason: str) -> None:
        """End it from here: both ends are told to go away."""
        if not self._closing:
            self._close(time.monotonic_ns(), _OK)
            self._tell(self._near, GOING_AWAY, reason)
            self._tell(self._far, GOING_AWAY, reason)
            self._settle()

    def drain(self) -> None:
        """The replica is to go: end before that."""
        until = time.monotonic_ns() + int(self.target.replicas.drain_ns * _DRAIN_SHARE)
        if until < self._die_at:
            self._die_at = until
            self._last_words = "the replica is about to end: connect again"
        if self._die_at < self.deadline and not self._closing:
            self._state.wheel.arm(self, self._die_at)

    def ends(self, side: Side, now: int) -> None:
        """A close frame has come from `side`, or a violation, or ours has gone behind the frame that it was in."""
        scanner, other = side.scanner, side.other
        if scanner.muted:
            other.told = True
        if scanner.violation is not None:
            if self._closing:
                side.said = True
            self._close(now, _REFUSED if side.is_near else _UPSTREAM_FAILED)
            self._tell(side, *scanner.violation)
            side.cut_off = True
            self._tell(other, *_without(side, "broke the protocol"))
        elif scanner.over:
            erred = not side.is_near and scanner.close_code == INTERNAL_ERROR
            self._close(now, _MODEL_ERROR if erred else _OK)
            side.said = other.told = True
        self._settle()

    def gone(self, side: Side) -> None:
        """Nothing more comes from it, and it takes nothing more. Without a close frame before, that is a failure."""
        side.said = side.told = True
        self._close(time.monotonic_ns(), _CLIENT_ABORTED if side.is_near else _UPSTREAM_FAILED)
        if not side.is_near:
            self._tell(self._near, *_without(side, "is gone"))
        elif not self._far.told:  # it sees what it would see without us: a connection that ends
            self._far.said = self._far.told = True
        self._settle()

    def lost(self, side: Side, exc: Exception | None) -> None:
        """Its connection is gone."""
        if not side.is_near:
            self._up.connection_lost(exc)
        self.gone(side)

    def _dead(self, side: Side) -> None:
        """It does not answer, or takes nothing."""
        if not side.is_near:
            self.target.standing.erred()
        self.gone(side)
        side.transport.abort()

    def _close(self, now: int, outcome: int) -> None:
        """Begin the end, unless it has begun; `outcome` is that of what began it."""
        if not self._closing:
            self._closing = True
            self._outcome = outcome
            self._state.wheel.arm(self, now + _CLOSE_NS)

    def _tell(self, side: Side, code: int, reason: str) -> None:
        """Send a close frame to `side`, at once or behind the frame that it is being sent."""
        if side.told:
            return
        other = side.other
        ours = other.scanner.insert(closing(code, reason, self._mask(side)), last=True)
        if ours:
            side.write([ours])
            side.told = True
        elif other.said:  # in the middle of a frame that will never be whole
            side.told = side.cut_off = True

    def _settle(self) -> None:
        """Do what is due by now."""
        near, far = self._near, self._far
        for side in (far, near):
            if side.lost:
                continue
            if side.over:
                side.transport.close()
            elif side.told and side.cut_off and side.transport.can_write_eof():
                side.cut_off = False
                side.transport.write_eof()
        if far.over and self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            exchange.tunnel_over(self._outcome, near.count, far.count)
        if near.lost and self._exchange is None and self._down is not None:
            down, self._down = self._down, None
            down.connection_lost(None)
        if near.lost and far.lost:
            self._state.wheel.disarm(self)
            self._state.tunnels.discard(self)


def _without(side: Side, what: str) -> tuple[int, str]:
    """(code, reason) for the end that is left when something is wrong with `side`."""
    return (GOING_AWAY, f"the caller {what}") if side.is_near else (INTERNAL_ERROR, f"the replica {what}")


def leave_all(tunnels: Iterable[Tunnel]) -> None:
    """The worker stops."""
    for tunnel in list(tunnels):
        tunnel.leave("the gateway is being restarted: connect again")


def leave_draining(tunnels: Iterable[Tunnel], target: Target) -> None:
    """A replica has begun to drain."""
    for tunnel in list(tunnels):
        if tunnel.target is target:
            tunnel.drain()
