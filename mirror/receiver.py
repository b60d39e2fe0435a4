"""Takes what gateway workers tee: one connection per worker, many exchanges on it, each ended by events and a DONE.

A connection that breaks takes its unfinished exchanges with it, without an event: the gateway counts whatever was not
answered DONE, and one loss must not be written twice. For the same reason all events of an exchange are written
together, right before its DONE.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from mirror.budget import Budget
from mirror.capture import Refused, Spill
from mirror.dispatcher import Dispatcher
from mirror.exchange import OVERHEAD_BYTES, Exchange, Outcome
from mirror.recorder import Recorder
from router.contract.errors import Conflict
from router.contract.events import ShadowComparison
from router.contract.tee import BrokenPeer, Decoder, Kind, frame, parse_open

_log = logging.getLogger("tidegate.mirror")
CLOSE_SECONDS = 1.0
"""How long a gateway may take to read its last answers."""
_UNREAD_BYTES = 1 << 20
"""A gateway that leaves this much of DONE frames unread is broken."""


class Receiver:
    """Every connection and exchange of the mirror."""

    def __init__(self, memory: Budget, spill: Spill, dispatcher: Dispatcher, recorder: Recorder) -> None:
        self.memory = memory
        self.spill = spill
        self.dispatcher = dispatcher
        self.recorder = recorder
        self.links: set[Link] = set()
        self.closing = False
        """New exchanges end at once with the reason `shutdown`."""
        self._less = asyncio.Event()

    async def listen(self, path: Path) -> asyncio.Server:
        """Listen on `path`, for the owner alone. A dead mirror's socket is replaced, a living one's raises `Conflict`."""
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: Link(self), sock=_bind(path))

    async def drain(self, grace_seconds: float) -> None:
        """Take no new exchanges; wait for those under way, then end the rest as `shutdown` and close every connection."""
        self.closing = True
        await self._until(lambda: not any(link.exchanges for link in self.links), grace_seconds)
        self.drop_all("shutdown")
        for link in list(self.links):
            link.close()
        await self._until(lambda: not self.links, CLOSE_SECONDS)
        self.abort()

    def less(self) -> None:
        """An exchange or a connection ended."""
        self._less.set()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._less.clear()
                    await self._less.wait()
        except TimeoutError:
            return

    def drop_all(self, reason: str) -> None:
        """End every exchange that is under way."""
        for link in list(self.links):
            for exchange in list(link.exchanges.values()):
                link.end(exchange, reason)

    def abort(self) -> None:
        """Close every connection now."""
        for link in list(self.links):
            link.abort()


class Link(asyncio.Protocol):
    """One gateway worker's connection."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._decoder = Decoder()
        self._early: set[int] = set()
        """Exchanges that ended here before the gateway had sent their last frame: the rest is ignored."""
        self.exchanges: dict[int, Exchange] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A gateway worker came."""
        self._transport = cast("asyncio.Transport", transport)
        self._receiver.links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It left: its exchanges end without an event (see the module)."""
        self._receiver.links.discard(self)
        self._receiver.less()
        self._transport = None
        if self.exchanges:
            _log.warning("a gateway left %d exchanges unfinished: %s", len(self.exchanges), exc or "closed")
        for exchange in self.exchanges.values():
            exchange.close()
        self.exchanges.clear()

    def data_received(self, data: bytes) -> None:
        """Frames, in any slices."""
        try:
            for kind, number, payload in self._decoder.feed(data):
                self._frame(kind, number, payload)
        except BrokenPeer as error:
            _log.warning("closed a gateway's connection: %s", error)
            self.abort()

    def close(self) -> None:
        """Close after what was written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def end(self, exchange: Exchange, reason: str = "") -> None:
        """Write the exchange's events, answer DONE, and let everything of it go. An ended exchange is left alone."""
        if self.exchanges.pop(exchange.number, None) is None:
            return
        if exchange.live is None:
            self._early.add(exchange.number)
        self._receiver.recorder.shadows(exchange.events(time.time_ns(), reason))
        exchange.close()
        self._done(exchange.number)
        self._receiver.less()

    def _frame(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.OPEN:
            self._open(number, payload)
            return
        exchange = self.exchanges.get(number)
        if exchange is None:
            if number not in self._early:
                raise BrokenPeer(f"{kind.name} for exchange {number}, which is not open")
            if kind in (Kind.DROP, Kind.END):
                self._early.discard(number)
            return
        if kind is Kind.DROP:
            self.end(exchange, payload.decode("utf-8", "replace")[:64] or "dropped")
            self._early.discard(number)
            return
        try:
            exchange.take(kind, payload)
        except Refused as refused:
            self.end(exchange, refused.reason)
            return
        if kind is Kind.REQUEST_END:
            submit = self._receiver.dispatcher.submit
            exchange.tasks = [submit(exchange, candidate, self._settled) for candidate in exchange.candidates]
        if exchange.finished:
            self.end(exchange)

    def _open(self, number: int, payload: bytes) -> None:
        if number in self.exchanges or number in self._early:
            raise BrokenPeer(f"exchange {number} is open already")
        opening, head = parse_open(payload)
        grant = self._receiver.memory.admit(OVERHEAD_BYTES + len(head))
        if self._receiver.closing or isinstance(grant, str):
            reason = "shutdown" if self._receiver.closing else str(grant)
            if not isinstance(grant, str):
                grant.release()
            at, about = time.time_ns(), (opening.endpoint, opening.request_id)
            names = dict.fromkeys(opening.candidates)
            self._receiver.recorder.shadows(
                ShadowComparison(*about, at, opening.live, name, 0, dropped=reason) for name in names
            )
            self._early.add(number)
            self._done(number)
            return
        exchange = self.exchanges[number] = Exchange(number, opening, grant, self._receiver.spill)
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

    def _done(self, number: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(frame(Kind.DONE, number))
        if self._transport.get_write_buffer_size() > _UNREAD_BYTES:
            _log.warning("closed a gateway's connection: it reads no answers")
            self.abort()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()


def _bind(path: Path) -> socket.socket:
    """A bound socket that appears at `path` in one step and never with another mode than 0600."""
    if _answers(path):
        raise Conflict(f"another mirror listens on {path}")
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(fresh))
        os.chmod(fresh, stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(128)
        os.rename(fresh, path)
    except BaseException:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def unbinder(path: Path) -> Callable[[], None]:
    """Remembers the socket at `path` and gives what removes it once, unless another mirror has replaced it by then."""
    ours = [path.stat().st_ino]

    def unbind() -> None:
        try:
            if ours and path.stat().st_ino == ours.pop():  # once: a successor may get the same inode number
                path.unlink()
        except FileNotFoundError:
            return

    return unbind
