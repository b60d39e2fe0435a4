"""The asking end of a connection: who begins streams, as many at once as the other end takes.

An end that says it will go (GOAWAY) gets no more on this connection; what it had not begun is told so, the rest is finished.
"""

from __future__ import annotations

import asyncio

from router.runtime.http2 import frames
from router.runtime.http2.channel import Channel
from router.runtime.http2.frames import MAX_WINDOW, Broken, Code, Field, Setting
from router.runtime.http2.session import Session

MAX_HEAD_BYTES = 65536
MOST_STREAMS = 100
"""On one connection, also where the other end would take more: the kernel's buffers are for all of them together."""


class Client(Session):
    """One connection. `hello` is set once the other end has shown that it speaks HTTP/2, or is gone."""

    __slots__ = ("_next", "hello", "leaving")

    def __init__(self) -> None:
        super().__init__(MAX_HEAD_BYTES)
        self.hello = asyncio.Event()
        self.leaving = False
        """It gets nothing more to do."""
        self._next = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.begin(transport, frames.PREFACE, {Setting.ENABLE_PUSH: 0})

    def got_settings(self) -> None:
        """The other end speaks HTTP/2."""
        self.hello.set()

    @property
    def speaks(self) -> bool:
        """Whether it does, and takes anything at all."""
        return self.settled and not self.over and self.peer_streams > 0

    def has_room(self) -> bool:
        """Whether one more stream may be under way."""
        return not self.leaving and not self.over and len(self.streams) < min(self.peer_streams, MOST_STREAMS)

    def number(self, channel: Channel) -> None:
        """The next stream is this one's."""
        channel.id, self._next = self._next, self._next + 2
        channel.window = self.flow.stream_window
        self.streams[channel.id] = channel
        self.highest = channel.id
        if self._next > MAX_WINDOW - 2:
            self.leave()

    def strike(self) -> None:
        """A server that ends streams is judged by its answers, not here."""

    def begun(self, stream: int, fields: list[Field], *, ended: bool) -> None:  # noqa: ARG002 -- of whatever it is
        """Fields of a stream that is over are late; a server begins none of its own."""
        if not stream & 1:
            raise Broken(Code.PROTOCOL_ERROR, "a server began a stream")
        self._late(stream)

    def told_to_go(self, last: int) -> None:
        """The other end finishes what it has begun, and nothing else."""
        self.leave()
        for number, channel in list(self.streams.items()):
            if number > last:
                channel.leave()
                channel.broken(None, processed=False)

    def leave(self) -> None:
        """Nothing more to do; closed once nothing is left."""
        self.leaving = True
        if not self.streams:
            self.close()

    def quiet(self) -> None:
        """No stream is left."""
        if self.leaving:
            self.close()

    def close(self) -> None:
        """End it now, whatever it was doing."""
        self.leaving = True
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.hello.set()
        self.leaving = True
        super().connection_lost(exc)
