"""The near side: one caller's connection of HTTP/1.1, from its arrival to its end; requests take their turns on it.

What comes is cut by `intake`, which makes exchanges of it; here is when the next one's turn comes, when nothing is read, and how
it ends. A caller that shuts its sending side still gets what it has asked for in full; one that has left is found out
(`leaving`), and what runs for it is cancelled.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, cast

from router.gateway.ends import address_of
from router.gateway.http2.serving import Serving
from router.gateway.intake import DISCARD, HANDED_OVER, HEAD, UNWELCOME, WAIT, Intake
from router.gateway.keeping_up import Caller
from router.gateway.leaving import Watch
from router.gateway.responses import Refusal
from router.gateway.timers import NEVER
from router.gateway.turns import LARGE_PIECE

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.state import State

_LINGER_NS: Final = 2_000_000_000
"""After an answer to a request that had not wholly come: time for the caller to read it before the connection ends."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: what is not sent yet is dropped, and the other end is told that the connection broke."""


class Downstream(Caller):
    """One caller's connection; a protocol by its methods alone, so that it can be compiled."""

    __slots__ = ("_read_paused", "_resting", "_watch", "has_ended", "intake", "quiet_since", "unwelcome")

    def __init__(self, state: State, peer: bytes = b"") -> None:
        """`peer`: the caller's address where it has been let in already, in front of us."""
        self._state = state
        self.intake = Intake(state)
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.exchange: Exchange | None = None
        self.peer = peer
        self.deadline = NEVER
        self.slot = NEVER
        self.paused = False
        self.paused_since = 0
        self._unsent = 0
        self._read_paused = False
        self._resting = False
        """Nothing is read before its next turn."""
        self.quiet_since = 0
        """Since when it is between two requests."""
        self.has_ended = False
        """The caller sends nothing more."""
        self._watch: Watch | None = None
        self._pace = None
        self.unwelcome: Refusal | None = None
        """Why it may not stay."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)
        self._state.counters.connections += 1
        self.quiet_since = time.monotonic_ns()
        self._state.wheel.arm(self, self.quiet_since + self._state.head_ns)
        if not self.peer:
            self.peer = address_of(transport)
            self.unwelcome = self._state.doors.enter(self.peer)
            if self.unwelcome is not None:
                self._turn_away()

    def _turn_away(self) -> None:
        """There are too many: it is told so once it asks for something, which it has to do soon."""
        self.intake.mode = UNWELCOME
        if self._state.doors.may_be_told():
            self._state.wheel.arm(self, time.monotonic_ns() + _LINGER_NS)
        else:
            self._state.refusals.cut("connections", "more connections than can be told that there are too many")
            self.transport.abort()

    # Turn by turn ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""
        self.intake.take(self, data)
        if len(data) >= LARGE_PIECE and self.intake.takes_body():
            self._rest()

    def _rest(self) -> None:
        """Large pieces of a body are read one in each turn: the rest stays in the kernel until then."""
        if not self._resting and not self.transport.is_closing():
            self._resting = True
            if not self._read_paused:
                self.transport.pause_reading()
            self._state.turns.add(self._rested)

    def _rested(self) -> None:
        self._resting = False
        if not self._read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def become_http2(self, data: bytes) -> None:
        """The caller speaks HTTP/2 without having asked (RFC 9113, 3.3): from here on somebody else reads its bytes."""
        self.connection_lost(None)
        self._state.counters.connections -= 1
        successor = Serving(self._state)
        self.transport.set_protocol(cast("asyncio.Protocol", successor))
        successor.connection_made(self.transport)
        successor.data_received(data)

    def exchange_over(self, *, close: bool, cut: bool, now: int) -> None:
        """The exchange has ended; on to the next request, or to the end."""
        intake = self.intake
        self.exchange = None
        intake.request_over()
        if self.transport.is_closing():
            return
        if cut:
            self.transport.abort()
        elif close or (self.has_ended and not intake.backlog):
            self._end(now)
        elif intake.backlog or self.paused:
            # Still waiting, so that bytes that come before its turn go behind the backlog.
            intake.mode = WAIT
            if self.paused:
                self._wait_for_reader()
            else:
                self._state.loop.call_soon(self.next_request)
        else:
            intake.mode = HEAD
            self.quiet_since = now
            self._state.wheel.arm(self, now + self._state.idle_ns)
            if self._read_paused:
                self.resume_reading()

    def ends(self) -> None:
        """What is written next is the last: under TLS our close_notify goes with it."""
        tls = self.transport.get_extra_info("tls")
        if tls is not None:
            tls.hold()

    def _wait_for_reader(self) -> None:
        """Nothing new is begun for a caller that has not read its answers."""
        self.pause_reading()
        self._state.wheel.arm(self, self.paused_since + self._state.send_ns)

    def next_request(self) -> None:
        """The turn of what waits in the backlog has come, unless somebody else has been there already."""
        if self.intake.mode != WAIT or self.exchange is not None:
            return
        if self.paused:
            self._wait_for_reader()
            return
        data = self.intake.take_backlog()
        if not self.transport.is_closing():
            self.intake.mode = HEAD
            self.quiet_since = time.monotonic_ns()
            self._state.wheel.arm(self, self.quiet_since + self._state.idle_ns)
            self.resume_reading()
            if data:
                self.data_received(data)
            if self.has_ended:
                self.no_more()

    def _end(self, now: int) -> None:
        """Close so that the last answer arrives, also where the caller still sends."""
        intake = self.intake
        if intake.mode == HANDED_OVER:
            return  # whoever has it ends it
        if self.has_ended or (intake.mode == WAIT and not intake.backlog):
            self._state.wheel.arm(self, now + self._state.send_ns)
            self.transport.close()
            return
        intake.mode = DISCARD
        intake.backlog = b""
        self._state.wheel.arm(self, now + _LINGER_NS)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.resume_reading()

    def hand_over(self, protocol: asyncio.Protocol) -> bytes:
        """It speaks HTTP no longer: from now on `protocol` hears of everything. Returns what has come already.

        `protocol` has to pass `connection_lost` on.
        """
        early = self.intake.take_backlog()
        self.intake.mode = HANDED_OVER
        self._state.wheel.disarm(self)
        if self._watch is not None:
            self._watch.cancel()
        self.transport.set_protocol(protocol)
        self.resume_reading()
        return early

    def leave_if_idle(self, since: int) -> None:
        """The worker stops: end now if nothing has come since the monotonic time `since`.

        Any other connection ends with its next answer: a caller that is just about to send must not lose its request.
        """
        if self.exchange is None and self.intake.is_idle() and self.quiet_since < since:
            self.transport.close()

    # How fast -------------------------------------------------------------------------------------------------------

    def pause_for_replica(self) -> None:
        """Stop reading: there is no room for more of the body."""
        if self.intake.takes_body():
            self.pause_reading()

    def resume_for_replica(self) -> None:
        """There is room again."""
        if self.intake.takes_body() and not self.intake.rest:
            self.resume_reading()

    def pause_reading(self) -> None:
        """Let what the caller sends wait in the kernel."""
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            if not self._resting:
                self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The opposite."""
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            if not self._resting:
                self.transport.resume_reading()
            if self._pace is not None and self.exchange is not None:
                self._pace.restart(time.monotonic_ns(), self.exchange.received)

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self.paused = True
        self.paused_since = time.monotonic_ns()
        self._unsent = self.unsent_bytes()
        if self.exchange is None:
            if self.intake.mode == HEAD:
                self.intake.wait()
                self._wait_for_reader()
        elif self.exchange.up is not None:
            self.exchange.up.pause_reading()

    def resume_writing(self) -> None:
        """The other end has caught up."""
        self.paused = False
        if self.exchange is None:
            if self.intake.mode == WAIT:
                self._state.loop.call_soon(self.next_request)
        elif self.exchange.up is not None:
            self.exchange.up.resume_reading()

    def unsent_bytes(self) -> int:
        """What waits for the caller now."""
        return self.transport.get_write_buffer_size()

    @property
    def is_read(self) -> bool:
        """Whether it could send more."""
        return not self._read_paused

    # The end --------------------------------------------------------------------------------------------------------

    def on_deadline(self, now: int) -> None:
        """Of whatever it was waiting for."""
        if self.exchange is not None:
            if self.intake.takes_body() and self.dawdles(now):
                self.refuse_slow_body()
            else:
                self.exchange.on_deadline(now)
        elif self.intake.head_since:
            self.intake.refuse(self, Refusal.SLOW_HEAD, "the request's head took too long", self.intake.held)
        elif not (self.paused and self.reads_on(now)):
            self.transport.abort()

    def eof_received(self) -> bool:
        """The caller sends nothing more; it may still read (RFC 9112, 9.6)."""
        self.has_ended = True
        self.no_more()
        return True

    def no_more(self) -> None:
        """Behind the caller's last byte: what is whole is answered, what is not never will be."""
        exchange, intake = self.exchange, self.intake
        if self.transport.is_closing():
            return
        if exchange is None:
            if intake.mode == WAIT:
                return  # the backlog's turn comes
            if intake.mode == HEAD and intake.held.strip(b"\r\n"):
                intake.refuse(self, Refusal.BAD_REQUEST, "the connection ended inside a head", intake.held)
            else:
                self.transport.close()
        elif intake.mode == WAIT:
            self._watch = self._watch or Watch(self._state.loop, self.transport, self._probe)
        elif not intake.rest:
            exchange.cut_short()

    def _probe(self) -> None:
        if self.exchange is not None:
            self.exchange.probe()

    def end_by_reset(self) -> None:
        """Let the end that comes be a break: where the end of the connection is the end of the answer."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None and not self.transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            tls = self.transport.get_extra_info("tls")
            if tls is not None:
                tls.truncate()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """The connection is gone."""
        self._state.connections.discard(self)
        self._state.doors.leave(self.peer, refused=self.unwelcome is not None)
        self._state.wheel.disarm(self)
        self.intake.backlog = b""
        if self._watch is not None:
            self._watch.cancel()
        if self.exchange is not None:
            self.exchange.abandon()
