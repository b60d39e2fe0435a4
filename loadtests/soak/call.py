"""A request over HTTP/2 and its answer: one stream. What the gateway says it has not begun with is told by `NotBegun`: such a
request may be sent again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hyperframe.frame import DataFrame

from loadtests.soak.line import Broken, Wrong
from loadtests.soak.wire import Head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from loadtests.soak.http2 import Multiplexed

FRAME_BYTES = 16_384
"""The largest frame, either way."""
_REFUSED_STREAM = 7


class NotBegun(Exception):
    """The gateway goes away and has done nothing about this request: it may be sent again."""


class Call:
    """One stream: a request and its answer."""

    def __init__(self, line: Multiplexed, number: int) -> None:
        self.number = number
        self.room = line.first_room
        """Bytes that may be sent."""
        self.trailers: dict[str, str] | None = None
        self.reset: int | None = None
        self.ended = False
        """Whether the answer is whole."""
        self.owed = 0
        """Bytes read for which no room has been given back."""
        self.news = asyncio.Event()
        self.got = bytearray()
        self._line = line
        self._head: Head | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more may come."""
        return self.ended or self.reset is not None

    async def more(self) -> None:
        """Until something has changed. Raises for an end that is none of an answer."""
        line = self._line
        if line.wrong:
            raise Wrong(line.wrong)
        gone = line.last_begun is not None and self.number > line.last_begun
        if gone or (self.reset == _REFUSED_STREAM and line.last_begun is not None):
            raise NotBegun
        if self.reset is not None:
            raise Broken(f"stream {self.number} was reset with {self.reset}, {len(self.got)} bytes unread")
        if line.ended:
            raise Broken(f"the connection {line.ended}; GOAWAY said {line.last_begun}, this is stream {self.number}")
        self.news.clear()
        await self.news.wait()

    async def send(self, data: bytes, *, ended: bool = False) -> None:
        """Of the request's body, as there is room for it."""
        at = 0
        while at < len(data) or (ended and not data):
            size = min(FRAME_BYTES, self.room, self._line.room, len(data) - at)
            if size <= 0 and data:
                if self.over:
                    return  # what has come of an answer says why
                await self.more()
                continue
            last = ended and at + size == len(data)
            self._line.say(DataFrame(self.number, data[at : at + size], flags=["END_STREAM"] if last else []))
            self.room -= size
            self._line.room -= size
            at += size
            if last:
                return
            await self._line.send(b"")

    async def head(self) -> Head:
        """Of the answer; interim ones are skipped."""
        while self._head is None:
            if self.ended:
                raise Wrong("a stream that ends without a head")
            await self.more()
        return self._head

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        size = 0
        while True:
            if self.got:
                piece = bytes(self.got)
                self.got.clear()
                size += len(piece)
                self._line.give(self, len(piece))
                yield piece
            elif self.ended:
                break
            else:
                await self.more()
        announced = head.fields.get("content-length")
        if announced is not None and int(announced) != size:
            raise Wrong(f"{size} bytes of {announced}")

    async def body(self, head: Head) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces(head)])

    def close(self) -> None:
        """Nobody wants more of it."""
        self._line.let_go(self)

    def take_fields(self, fields: dict[str, str], *, ended: bool) -> None:
        """A head, an interim one, or what stands behind the body."""
        if self._head is not None:
            if not ended or self.trailers is not None:
                raise Wrong(f"fields inside a body: {fields}")
            self.trailers = fields
        elif not (100 <= int(status := fields.pop(":status", "0")) < 200):
            self._head = Head(int(status), fields)
