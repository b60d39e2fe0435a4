"""A connection of HTTP/2 to a replica, on which many requests are under way at once.

It takes as many as the replica says it takes at once. A replica that says it will go (GOAWAY) gets no more on it; what it had
not begun goes elsewhere, the rest is finished.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from router.gateway.http2.carrying import Asking, Carried
from router.gateway.upstream import KEPT_ALIVE, is_unheard
from router.runtime.http2 import frames
from router.runtime.http2.channel import Field
from router.runtime.http2.frames import MAX_WINDOW, Broken, Code, Setting
from router.runtime.http2.session import Session

if TYPE_CHECKING:
    from router.gateway.http2.target import Http2Target

MAX_HEAD_BYTES = 65536
MOST_STREAMS = 100
"""On one connection, also where the replica would take more: the kernel's buffers are for all of them together."""


class Calling(Session):
    """One connection. `hello` is set once the replica has shown that it speaks HTTP/2, or is gone."""

    __slots__ = ("_next", "hello", "leaving", "target")

    def __init__(self, target: Http2Target) -> None:
        super().__init__(MAX_HEAD_BYTES)
        self.target = target
        self.hello = asyncio.Event()
        self.leaving = False
        """It gets nothing more to do."""
        self._next = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.target.calling.add(self)
        end = transport.get_extra_info("socket")
        for question in KEPT_ALIVE:
            end.setsockopt(*question)
        self.begin(transport, frames.PREFACE, {Setting.ENABLE_PUSH: 0})

    def got_settings(self) -> None:
        """The replica speaks HTTP/2."""
        self.hello.set()

    def has_room(self) -> bool:
        """Whether one more request may be under way."""
        return not self.leaving and not self.over and len(self.streams) < min(self.peer_streams, MOST_STREAMS)

    def open(self) -> Carried:
        """A place for one exchange."""
        return Carried(self.target, self)

    def number(self, asking: Asking) -> int:
        """The next stream is this one's."""
        number, self._next = self._next, self._next + 2
        self.streams[number] = asking
        self.highest = number
        if self._next > MAX_WINDOW - 2:
            self.leave()
        return number

    def is_unheard(self) -> bool:
        """Whether what was sent is sent again and again, and nobody has acknowledged anything for seconds."""
        return is_unheard(self.transport)

    def strike(self) -> None:
        """A replica that ends streams is judged by its answers, not here."""

    def begun(self, stream: int, fields: list[Field], *, ended: bool) -> None:  # noqa: ARG002 -- of whatever it is
        """Fields of a stream that is over are late; a replica begins none of its own."""
        if not stream & 1:
            raise Broken(Code.PROTOCOL_ERROR, "a replica began a stream")
        self._late(stream)

    def told_to_go(self, last: int) -> None:
        """The replica finishes what it has begun, and nothing else."""
        self.leave()
        for number, channel in list(self.streams.items()):
            if number > last:
                channel.leave()
                channel.broken(None, processed=False)

    def leave(self) -> None:
        """Nothing more to do; closed once nothing is left."""
        self.leaving = True
        self.target.sessions.discard(self)
        if not self.streams:
            self.close()

    def quiet(self) -> None:
        """No stream is left."""
        if self.leaving:
            self.close()

    def close(self) -> None:
        """End it now, whatever it was doing."""
        self.target.sessions.discard(self)
        self.leaving = True
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.hello.set()
        self.target.sessions.discard(self)
        self.target.calling.discard(self)
        self.leaving = True
        if isinstance(exc, TimeoutError):  # nobody answered the kernel's questions
            self.target.standing.unreachable()
        super().connection_lost(exc)
