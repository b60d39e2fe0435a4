"""A caller's connection of HTTP/2: each of its streams is a request like any other.

A request's fields are held against what HTTP/1.1 can say and made into one head, which is judged as if it had come as such:
address, key, limits and what passes to a replica are the same for both. At the stop the caller is told in two steps: first that
the connection will go, then, once it has surely heard that, which of its requests were taken; those are finished.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from router.gateway.calls import refused
from router.gateway.ends import address_of
from router.gateway.exchange import Exchange
from router.gateway.http2.stream import Stream
from router.gateway.responses import Refusal
from router.gateway.timers import NEVER
from router.gateway.tracing import TracedExchange
from router.policy.fields import Request, list_bytes
from router.policy.headers import BadHead
from router.runtime.http2 import frames
from router.runtime.http2.frames import MAX_WINDOW, Broken, Code, Field, Setting
from router.runtime.http2.session import Session

if TYPE_CHECKING:
    from router.gateway.calls import Call
    from router.gateway.state import State

_LINGER_NS = 2_000_000_000
"""For the caller to read why the connection ends."""
_TOLD_NS = 1_000_000_000
"""A caller that has not answered for so long has heard that the connection will go, or never will."""
_NAME = b"tidegate"
_REQUEST_LINE = 3
"""Pseudo-fields that stand for what HTTP/1.1 does not count among its fields."""


class Serving(Session):
    """One caller's connection."""

    __slots__ = (
        "_asked", "_asked_ended", "_asked_fields", "_last_word", "_preface", "_state", "_told_ns", "_unwelcome", "deadline", "peer", "slot",
    )  # fmt: skip

    def __init__(self, state: State, peer: bytes = b"") -> None:
        """`peer`: the caller's address where it has been let in already, in front of us."""
        super().__init__(state.settings.max_head_bytes)
        self._state = state
        self._preface = b""
        """What of it has come."""
        self.peer = peer
        self.deadline = NEVER
        self.slot = NEVER
        self._told_ns = 0
        """When it was told that the connection will go; 0: it was not."""
        self._asked: Request | None = None
        """Made of these fields, which come again as the same list where the same block comes again."""
        self._asked_fields: list[Field] | None = None
        self._asked_ended = False
        self._unwelcome: Refusal | None = None
        """Why it may not stay."""
        self._last_word = False
        """It knows which streams were taken; nothing above is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        state = self._state
        state.connections.add(self)
        state.counters.connections += 1
        state.wheel.arm(self, time.monotonic_ns() + state.head_ns)
        self.begin(transport, b"", {Setting.MAX_CONCURRENT_STREAMS: state.settings.http2_streams})
        if not self.peer:
            self.peer = address_of(transport)
            self._unwelcome = state.doors.enter(self.peer)
        if self._unwelcome is not None:
            state.refusals.note(self._unwelcome, None, "there are too many connections")
            self.end(Code.ENHANCE_YOUR_CALM, "there are too many connections")

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""
        if self.over:
            return
        if len(self._preface) < len(frames.PREFACE):
            missing = len(frames.PREFACE) - len(self._preface)
            self._preface += data[:missing]
            data = data[missing:]
            if not frames.PREFACE.startswith(self._preface):
                self.end(Code.PROTOCOL_ERROR, "not the preface of HTTP/2")
                return
        if data:
            super().data_received(data)

    # Requests -------------------------------------------------------------------------------------------------------

    def begun(self, stream: int, fields: list[Field], *, ended: bool) -> None:
        """A request, or the end of one that is over."""
        if not stream & 1:
            raise Broken(Code.PROTOCOL_ERROR, "a stream with an even number")
        if stream <= self.highest:
            self.strike()
            self.write(frames.reset(stream, Code.STREAM_CLOSED))
            return
        self.highest = stream
        if self._last_word:
            self.write(frames.reset(stream, Code.REFUSED_STREAM))
            return
        if len(self.streams) >= self._state.settings.http2_streams:
            self.strike()
            self.write(frames.reset(stream, Code.REFUSED_STREAM))
            return
        self.taken = stream
        near = Stream(self._state, self, stream)
        near.answering.heard_end = ended
        self.streams[stream] = near.answering
        self._request(near, fields, ended=ended)

    def _request(self, near: Stream, fields: list[Field], *, ended: bool) -> None:
        if fields is self._asked_fields and ended == self._asked_ended and self._asked is not None:
            self._begin(near, self._asked, ended=ended)
            return
        state = self._state
        if list_bytes(fields) > state.settings.max_head_bytes:
            self._refuse(near, Refusal.HEAD_TOO_LARGE, "the header fields are too large")
            return
        if len(fields) - _REQUEST_LINE > state.settings.max_header_fields:
            self._refuse(near, Refusal.TOO_MANY_FIELDS, f"more than {state.settings.max_header_fields} header fields")
            return
        try:
            request = Request(fields, ended=ended)
        except BadHead as error:
            self._refuse(near, Refusal.BAD_REQUEST, f"malformed request: {error}")
            self.strike()
            return
        self._asked, self._asked_fields, self._asked_ended = request, fields, ended
        self._begin(near, request, ended=ended)

    def _begin(self, near: Stream, request: Request, *, ended: bool) -> None:
        state = self._state
        near.answering.is_head = request.is_head
        near.grpc = request.grpc
        call = state.http2_calls.whole.get(request.head)
        after_peer = b""
        if call is None:
            call, _, after_peer = state.http2_calls.find(request.head, state.table)
        else:
            after_peer = call.after_peer
        exchange = self._exchange(near, call, after_peer)
        if request.timeout_ns:
            exchange.expires = exchange.arrival + request.timeout_ns
        if call.refusal is Refusal.BAD_REQUEST:
            exchange.refuse(call.refusal, call.message)
        else:
            if not ended:
                near.expect(-1 if request.length is None else request.length, exchange.arrival)
            exchange.first_body([], 0, complete=ended)
            exchange.start()

    def _exchange(self, near: Stream, call: Call, after_peer: bytes) -> Exchange:
        tracer = self._state.tracer
        if tracer is None:
            exchange = Exchange(self._state, near, call, after_peer)
        else:
            exchange = TracedExchange(self._state, near, call, after_peer, tracer)
        near.exchange = exchange
        exchange.http2()
        self._state.counters.requests += 1
        return exchange

    def _refuse(self, near: Stream, refusal: Refusal, message: str) -> None:
        """Answer a request that never became one."""
        self._exchange(near, refused(refusal, message, b""), b"").refuse(refusal, message)

    # The end --------------------------------------------------------------------------------------------------------

    def quiet(self) -> None:
        """No stream is left."""
        if not self.over:
            self._state.wheel.arm(self, time.monotonic_ns() + self._state.idle_ns)

    def block_begun(self) -> None:
        """A header block has begun whose end has not come."""
        self._state.wheel.arm(self, time.monotonic_ns() + self._state.head_ns)

    def block_complete(self) -> None:
        """It has."""
        self.quiet()

    def got_settings(self) -> None:
        """Its settings have come, or changed."""
        self.quiet()

    def on_deadline(self, now: int) -> None:
        """It has done nothing for too long."""
        if self.over:
            self.transport.abort()
        elif self.blocks.open:
            self.end(Code.ENHANCE_YOUR_CALM, "the header block took too long")
        elif not self.settled:
            self.end(Code.SETTINGS_TIMEOUT, "no SETTINGS")
        elif self.streams:
            self._state.wheel.arm(self, now + self._state.idle_ns)
        else:
            self.end(Code.NO_ERROR, "nothing to do")

    def end(self, code: Code, why: str) -> None:
        """Say why, and let nothing more come of it."""
        if not self.over:
            super().end(code, why)
            self._state.wheel.arm(self, time.monotonic_ns() + _LINGER_NS)

    def hang_up(self, code: Code) -> None:
        """A caller that still sends would lose what it was told to a reset: it is read, in vain, until it has heard."""
        if code is Code.NO_ERROR or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()

    def leave_if_idle(self, since: int) -> None:  # noqa: ARG002 -- as of a connection of HTTP/1.1; here the caller is told
        """The worker stops; called again and again until the connection has ended."""
        now = time.monotonic_ns()
        if self.over:
            return
        if not self._told_ns:
            self._told_ns = now
            self.write(frames.goaway(MAX_WINDOW, Code.NO_ERROR) + frames.frame(frames.PING, 0, 0, _NAME))
        elif not self._last_word and now - self._told_ns > _TOLD_NS:
            self._say_last()
        if self._last_word and not self.streams:
            self.end(Code.NO_ERROR, "the gateway stops")

    def pinged(self) -> None:
        """What was sent before our PING has been heard."""
        if self._told_ns and not self._last_word:
            self._say_last()

    def _say_last(self) -> None:
        self._last_word = True
        self.write(frames.goaway(self.taken, Code.NO_ERROR))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._state.connections.discard(self)
        self._state.doors.leave(self.peer, refused=self._unwelcome is not None)
        self._state.wheel.disarm(self)
        self._asked = self._asked_fields = None
        super().connection_lost(exc)
