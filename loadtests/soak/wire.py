"""A caller's connection that believes nothing: it reads answers byte by byte as HTTP frames them and notices every other byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from loadtests.soak.line import Broken, Line, Wrong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@dataclass(frozen=True, slots=True)
class Head:
    """Of one answer."""

    status: int
    fields: dict[str, str]
    """By their names in lower case."""

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this answer."""
        return self.fields.get("connection", "") == "close"


def _parse(raw: bytes) -> Head:
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    version, _, rest = first.partition(" ")
    if version != "HTTP/1.1" or not rest[:3].isdigit():
        raise Wrong(f"not a status line: {first!r}")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or (key in fields and key in ("content-length", "transfer-encoding", "x-soak-id", "x-request-id")):
            raise Wrong(f"field {line!r} in {raw!r}")
        fields[key] = value.strip()
    return Head(int(rest[:3]), fields)


class Answering(Protocol):
    """Whatever answers come on: a connection of HTTP/1.1, a stream of HTTP/2."""

    async def head(self) -> Head:
        """The next answer's."""
        ...

    async def body(self, head: Head) -> bytes:
        """All of it."""
        ...


class Connection(Line):
    """One connection of HTTP/1.1."""

    def __init__(self) -> None:
        super().__init__()
        self.last = False
        """Whether an answer has said that it is the last one."""
        self._buffer = bytearray()
        self._news = asyncio.Event()

    def came(self, data: bytes) -> None:
        """Bytes of answers."""
        self._buffer += data

    def changed(self) -> None:
        """Whoever waits looks again."""
        self._news.set()

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that nobody has asked for, its end included."""
        return not self._buffer and not self.ended

    async def _more(self) -> None:
        if self.ended:
            raise Broken(f"the connection {self.ended}, with {bytes(self._buffer[:200])!r} unread")
        self._news.clear()
        await self._news.wait()

    async def _until(self, mark: bytes) -> bytes:
        start = 0
        while (at := self._buffer.find(mark, start)) < 0:
            start = max(0, len(self._buffer) - len(mark))
            await self._more()
        return self._take(at + len(mark))

    async def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < size:
            await self._more()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def interim(self) -> int:
        """The status of the next head, an interim one included."""
        return _parse(await self._until(b"\r\n\r\n")).status

    async def head(self) -> Head:
        """The next answer's; interim answers are skipped, but for 101, behind which nothing is HTTP any more."""
        while (head := _parse(await self._until(b"\r\n\r\n"))).status < 200 and head.status != 101:
            continue
        self.last = head.closes
        return head

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """The body, as it comes; each chunk whole."""
        if head.status in (204, 304):
            return
        if head.fields.get("transfer-encoding") == "chunked":
            while size := int((await self._until(b"\r\n"))[:-2], 16):
                yield await self.exactly(size)
                if await self.exactly(2) != b"\r\n":
                    raise Wrong("a chunk that is longer than its size")
            if await self.exactly(2) != b"\r\n":
                raise Wrong("trailers that nobody sent")
        elif "content-length" in head.fields:
            left = int(head.fields["content-length"])
            while left:
                if not self._buffer:
                    await self._more()
                piece = self._take(min(left, len(self._buffer)))
                left -= len(piece)
                yield piece
        else:
            async for piece in self._rest(head):
                yield piece

    async def _rest(self, head: Head) -> AsyncIterator[bytes]:
        if not head.closes:
            raise Wrong(f"no end can be known of the body behind {head}")
        while self._buffer or not self.ended:
            if self._buffer:
                yield self._take(len(self._buffer))
            else:
                await self._more()
        if self.ended != "ended":
            raise Broken(f"the connection {self.ended} inside a body that its end ends")

    @property
    def unread(self) -> bytes:
        """Of what has come, its beginning."""
        return bytes(self._buffer[:300])

    async def body(self, head: Head) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces(head)])

    async def end(self) -> None:
        """The gateway must end the connection now, and send nothing more."""
        while not self.ended:
            if self._buffer:
                raise Wrong(f"bytes behind the last answer: {bytes(self._buffer[:200])!r}")
            await self._more()
        if self._buffer:
            raise Wrong(f"bytes behind the last answer: {bytes(self._buffer[:200])!r}")


def request(target: str, *fields: str, method: str = "POST", body: bytes | None = b"", version: str = "1.1") -> bytes:
    """The bytes of a request; `body` None: the caller frames it in `fields` and sends it itself."""
    framing: Sequence[str] = () if body is None else (f"Content-Length: {len(body)}",)
    return "\r\n".join((f"{method} {target} HTTP/{version}", *fields, *framing, "", "")).encode() + (body or b"")


def chunk(data: bytes) -> bytes:
    """One chunk; of nothing, the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
