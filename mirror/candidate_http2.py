"""The far side where a candidate speaks HTTP/2: shadows are streams of one connection per replica.

What comes back is turned into what a candidate of HTTP/1.1 would have sent, and read by the same reader: the same bounds, the same
strictness, the same words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import cast

from mirror.call import Address, Call, Outgoing, Start
from mirror.candidate import around, unreached
from mirror.capture import Refused
from mirror.reading import Lost, Reader, Reply
from router.policy.chunked import LAST, frame
from router.policy.fields import answer_head, trailers
from router.policy.headers import BadHead
from router.runtime.http2 import packing
from router.runtime.http2.channel import Channel
from router.runtime.http2.client import Client
from router.runtime.http2.frames import Code, Field
from router.runtime.replica_tls import Trust

_UNSENT_BYTES = 256 << 10
"""Of a request's body that finds no room; more is not read from where it is held."""


class Http2Client:
    """Sends shadows and keeps a connection per replica, or a few where it takes few at once."""

    def __init__(self, start: Start, trust: Trust | None = None) -> None:
        """`trust`: how candidates that speak TLS are known; None: by the system's authorities."""
        self._start = start
        self._trust = trust or Trust()
        self._sessions: dict[Address, list[Client]] = {}

    def begin(self, call: Call) -> None:
        """Send one request and fill its reply. `over` never comes before this returns.

        A request that the candidate had not begun when its connection went is sent once more.
        """
        call.task = self._start(self._carry(call), "shadow stream")

    async def _carry(self, call: Call) -> None:
        wrong: Exception | None = None
        try:
            await self._exchange(call)
        except Exception as error:
            wrong = error
        call.task = None
        call.over(wrong)

    async def _exchange(self, call: Call) -> None:
        outgoing = call.outgoing
        assert outgoing is not None
        for last in (False, True):
            try:
                shadow = _Shadow(await self._session(call.address, call.server_name), outgoing, call.reply)
                await shadow.run()
            except _Untouched:
                if last:
                    raise
                continue
            return

    def forget(self, keep: Iterable[Address]) -> None:
        """End the connections to replicas that are not among `keep`, behind what is under way on them."""
        known = set(keep)
        for address in [address for address in self._sessions if address not in known]:
            for session in self._sessions.pop(address):
                session.leave()

    async def _session(self, address: Address, server_name: str | None) -> Client:
        """One that has room."""
        sessions = [one for one in self._sessions.get(address, ()) if not one.leaving]
        self._sessions[address] = sessions
        for session in sessions:
            if session.has_room():
                return session
        session = Client()
        loop = asyncio.get_running_loop()
        try:
            way = around(self._trust, "h2", address, server_name)
            await loop.create_connection(lambda: cast("asyncio.Protocol", session), *address, **way)
            await session.hello.wait()
        except OSError as error:
            raise unreached(error) from error
        except BaseException:
            session.close()
            raise
        if not session.speaks:
            session.close()
            raise Lost("it does not speak HTTP/2")
        self._sessions.setdefault(address, []).append(session)
        return session


class _Untouched(Lost):
    """The candidate had not begun with it."""


class _Shadow(Channel):
    """One shadow's stream."""

    def __init__(self, session: Client, outgoing: Outgoing, reply: Reply) -> None:
        super().__init__(session, 0)
        self._client = session
        self._outgoing = outgoing
        self._reply = reply
        self._reader = Reader(reply, outgoing.method)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waited = asyncio.Event()
        self._chunked = False

    async def run(self) -> None:
        """Until the answer is whole. Raises `Lost`, and what `Reply.take` raises."""
        try:
            self._client.number(self)
            await self._send()
            await self._over
        finally:
            self._over.cancel()
            self.reset(Code.CANCEL)

    async def _send(self) -> None:
        block, length = packing.request(self._outgoing.head)
        self.send_head(block, last=not length)
        if not length:
            return
        for piece in self._outgoing.body.pieces():
            if self.gone:
                return
            self.send(piece)
            while self.unsent > _UNSENT_BYTES and not self.gone:
                self._waited.clear()
                await self._waited.wait()
        if not self.gone:
            self.send(b"", b"")

    def unstuck(self) -> None:
        """There is room again."""
        self._waited.set()

    def fields(self, fields: list[Field], *, ended: bool) -> None:
        """The answer's head, or what stands behind its body."""
        if self._reply.status:
            self._try(lambda: self._trailers(fields, ended=ended))
        else:
            self._try(lambda: self._head(fields, ended=ended))

    def _head(self, fields: list[Field], *, ended: bool) -> None:
        self._first()
        head = answer_head(fields, ended=ended, head_only=self._outgoing.method == "HEAD")
        self._chunked = head.endswith(b"\r\ntransfer-encoding: chunked\r\n\r\n")
        self._reader.feed(head)
        if ended:
            self._whole()

    def _trailers(self, fields: list[Field], *, ended: bool) -> None:
        for name, value in trailers(fields):
            if name == b"grpc-status":
                self._reply.grpc_status = value.decode("latin-1")
        if not ended:
            raise Lost("not HTTP/2: fields in the middle of a body")
        self._whole()

    def data(self, body: bytes, *, ended: bool) -> None:
        """Of its body."""
        self._try(lambda: self._data(body, ended=ended))

    def _data(self, body: bytes, *, ended: bool) -> None:
        if not self._reply.status:
            raise Lost("not HTTP/2: a body without a head")
        if body:
            self._reader.feed(frame([body]) if self._chunked else body)
        if ended:
            self._whole()

    def _first(self) -> None:
        self._reply.first_byte_at = self._reply.first_byte_at or time.monotonic()

    def _whole(self) -> None:
        if self._chunked:
            self._reader.feed(LAST)
        if not self._reply.complete:
            self._reader.eof()
        if not self._over.done():
            self._over.set_result(None)

    def _try(self, take: Callable[[], None]) -> None:
        """Whatever is wrong with the answer is the shadow's affair, not the connection's."""
        if self._over.done():
            return
        try:
            take()
        except BadHead as malformed:
            self._lost(Lost(f"not HTTP/2: {malformed}"))
        except (Lost, Refused) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)
        self._waited.set()
        self.reset(Code.CANCEL)

    def broken(self, code: Code | None, *, processed: bool) -> None:
        """It is over, in the middle."""
        if self._reply.complete:
            return
        why = "the connection was lost" if code is None else f"the stream was reset: {code.name}"
        self._lost(Lost(why) if processed else _Untouched(why))
