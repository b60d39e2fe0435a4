"""One gateway worker's connection: many exchanges on it, each ended by its events and then a DONE.

A connection that breaks takes its unfinished exchanges with it, without an event: the gateway counts whatever was not
answered DONE, and one loss must not be written twice. For the same reason what ended is put on the log and answered in one go, for all
exchanges that end within a moment: events that are written together cost one commit, and answers one write here and one read there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, cast

from mirror.budget import Budget
from mirror.capture import Refused, Spill
from mirror.dispatcher import Dispatcher
from mirror.exchange import OVERHEAD_BYTES, Exchange, Outcome
from router.contract.events import ShadowComparison
from router.contract.tee import BrokenPeer, Decoder, Kind, frame, parse_open

if TYPE_CHECKING:
    from mirror.receiver import Receiver

_log = logging.getLogger("tidegate.mirror")
_UNREAD_BYTES = 1 << 20
"""A gateway that leaves this much of DONE frames unread is broken."""
_MOST_TOGETHER = 256
"""Exchanges that have ended and wait to be answered, at most."""
_OPEN: Final = Kind.OPEN
_REQUEST_END: Final = Kind.REQUEST_END
_DROP: Final = Kind.DROP
_END: Final = Kind.END


class Link:
    """A protocol by its methods alone, so that it can be compiled."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._memory: Budget = receiver.memory
        self._spill: Spill = receiver.spill
        self._dispatcher: Dispatcher = receiver.dispatcher
        self._decoder = Decoder()
        self._early: set[int] = set()
        """Exchanges that ended here before the gateway had sent their last frame: the rest is ignored."""
        self.exchanges: dict[int, Exchange] = {}
        self._ended: list[int] = []
        """Exchanges that have yet to be answered."""
        self._events: list[ShadowComparison] = []
        """Theirs, which have yet to be put on the log."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A gateway worker came."""
        self._transport = cast("asyncio.Transport", transport)
        self._receiver.links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It left: its exchanges end without an event (see the module)."""
        self._transport = None
        self._receiver.lost(self)
        self._ended.clear()
        self._events.clear()
        if self.exchanges:
            _log.warning("a gateway left %d exchanges unfinished: %s", len(self.exchanges), exc or "closed")
        exchanges, self.exchanges = self.exchanges, {}
        for exchange in exchanges.values():
            exchange.close()

    def data_received(self, data: bytes) -> None:
        """Frames, in any slices."""
        try:
            for kind, number, payload in self._decoder.feed(data):
                self._frame(kind, number, payload)
        except BrokenPeer as error:
            _log.warning("closed a gateway's connection: %s", error)
            self.abort()

    def eof_received(self) -> bool:
        """It will send nothing more, so it has left."""
        return False

    def pause_writing(self) -> None:
        """Nothing: `settle` looks at how much is unread."""

    def resume_writing(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def end(self, exchange: Exchange, reason: str = "") -> None:
        """Let everything of the exchange go; its events and DONE follow in a moment. An ended exchange is left alone."""
        if self.exchanges.pop(exchange.number, None) is None:
            return
        if exchange.live is None:
            self._early.add(exchange.number)
        self._over(exchange.number, exchange.events(time.time_ns(), reason))
        exchange.close()
        self._receiver.less()

    def _over(self, number: int, events: list[ShadowComparison]) -> None:
        if not self._ended:
            self._receiver.owes(self)
        self._ended.append(number)
        self._events += events
        if len(self._ended) >= _MOST_TOGETHER:
            self.settle()

    def settle(self) -> None:
        """Write the events of what has ended, and answer DONE."""
        ended, self._ended = self._ended, []
        events, self._events = self._events, []
        if not ended:
            return
        self._receiver.recorder.shadows(events)
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(b"".join([frame(Kind.DONE, number) for number in ended]))
        if transport.get_write_buffer_size() > _UNREAD_BYTES:
            _log.warning("closed a gateway's connection: it reads no answers")
            self.abort()

    def _frame(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is _OPEN:
            self._open(number, payload)
            return
        exchange = self.exchanges.get(number)
        if exchange is None:
            if number not in self._early:
                raise BrokenPeer(f"{kind.name} for exchange {number}, which is not open")
            if kind is _DROP or kind is _END:
                self._early.discard(number)
            return
        if kind is _DROP:
            self.end(exchange, payload.decode("utf-8", "replace")[:64] or "dropped")
            self._early.discard(number)
            return
        try:
            exchange.take(kind, payload)
        except Refused as refused:
            self.end(exchange, refused.reason)
            return
        if kind is _REQUEST_END:
            for candidate in exchange.candidates:
                exchange.calls.append(self._dispatcher.submit(exchange, candidate, self._settled))
        if exchange.finished:
            self.end(exchange)

    def _open(self, number: int, payload: bytes) -> None:
        if number in self.exchanges or number in self._early:
            raise BrokenPeer(f"exchange {number} is open already")
        opening, head = parse_open(payload)
        grant = self._memory.admit(OVERHEAD_BYTES + len(head))
        if self._receiver.closing or isinstance(grant, str):
            reason = "shutdown" if self._receiver.closing else str(grant)
            if not isinstance(grant, str):
                grant.release()
            at, about = time.time_ns(), (opening.endpoint, opening.request_id)
            names = dict.fromkeys(opening.candidates)
            self._early.add(number)
            self._over(number, [ShadowComparison(*about, at, opening.live, name, 0, dropped=reason) for name in names])
            return
        exchange = self.exchanges[number] = Exchange(number, opening, grant, self._spill)
        try:
            exchange.read_head(head)
        except Refused as refused:
            self.end(exchange, refused.reason)

    def _settled(self, exchange: Exchange, candidate: str, outcome: Outcome) -> None:
        if exchange.closed:
            return
        exchange.settle(candidate, outcome)
        if exchange.finished:
            self.end(exchange)
