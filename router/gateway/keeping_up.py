"""What a caller has to keep up with, whatever protocol it speaks: how large its body may get, how fast it comes, how fast it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.gateway.calls import too_large
from router.gateway.ends import Near
from router.gateway.exchange import ANSWERING
from router.gateway.responses import Refusal
from router.policy.pacing import Pace

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.state import State


class Caller(Near):
    """A caller's side that is held to the limits of bodies and of readers."""

    __slots__ = ("_pace", "_state", "_unsent")

    _state: State
    _pace: Pace | None
    """Of the body that is arriving."""
    _unsent: int
    """Bytes that waited for the caller when it was last looked at."""

    def unsent_bytes(self) -> int:
        """What waits for the caller now."""
        raise NotImplementedError

    def expect_body(self, now: int, received: int) -> None:
        """More of a body is to come; so many bytes of it are here."""
        settings = self._state.settings
        least = int(settings.min_rate_bytes * settings.body_seconds)
        self._pace = Pace(least, int(settings.body_seconds * 1e9), now, received) if least else None

    def outgrows(self, exchange: Exchange) -> bool:
        """Whether a body has become larger than its endpoint lets it; then the request has ended."""
        endpoint = exchange.endpoint
        if endpoint is None or exchange.received <= endpoint.max_body:
            return False
        exchange.keep_alive = False
        if exchange.first_byte:
            self._state.refusals.cut("large_body", "a body outgrew its endpoint's limit while its answer streamed")
            exchange.abandon()
        else:
            exchange.refuse(Refusal.BODY_TOO_LARGE, too_large(endpoint))
        return True

    def dawdles(self, now: int) -> bool:
        """Whether the body comes too slowly. What is not read cannot come, and an answer that has begun has its own bound."""
        exchange, pace = self.exchange, self._pace
        if exchange is None or pace is None or exchange.stage >= ANSWERING:
            return False
        if not self.is_read:
            pace.restart(now, exchange.received)
            return False
        return pace.is_slow(now, exchange.received)

    def refuse_slow_body(self) -> None:
        """End the request for that."""
        assert self.exchange is not None
        rate = self._state.settings.min_rate_bytes
        self.exchange.refuse(Refusal.SLOW_BODY, f"the request's body comes with less than {rate} bytes per second")

    def reads_on(self, now: int) -> bool:
        """Whether a caller that is behind still may take its time, or has taken enough meanwhile; then its deadline is set."""
        state = self._state
        if now - self.paused_since >= state.send_ns:
            unsent = self.unsent_bytes()
            if self._unsent - unsent < max(1, int(state.settings.min_rate_bytes * state.settings.send_seconds)):
                state.refusals.cut("slow_reader", "a caller did not take its answer")
                return False
            self.paused_since, self._unsent = now, unsent
        state.wheel.arm(self, self.paused_since + state.send_ns)
        return True
