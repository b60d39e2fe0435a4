"""WebSockets: every message must come back as it went, and whoever is sent away must be told so by a close frame."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from typing import TYPE_CHECKING

from loadtests.soak.causes import LEAVES
from loadtests.soak.line import Broken, Wrong
from loadtests.soak.model.serve import CLOSE, MAGIC, PING, PONG
from loadtests.soak.road import Unasked, target
from loadtests.soak.wire import request

if TYPE_CHECKING:
    from loadtests.soak.account import Request
    from loadtests.soak.road import Road
    from loadtests.soak.wire import Connection

ENDPOINT = "chat"
PING_SECONDS = 3
"""After so long without a word the gateway asks."""
_FINAL = 0x80
_TEXT, _BINARY, _CONTINUED = 1, 2, 0
_NORMAL, _GOING_AWAY, _FAILED = 1000, 1001, 1011


class Closed(Exception):
    """The other end has closed it, with a code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason}")
        self.code = code


class Socket:
    """One WebSocket, from its handshake on."""

    def __init__(self, road: Road, connection: Connection) -> None:
        self._road = road
        self._connection = connection
        self._hearing: asyncio.Task[tuple[int, bytes]] | None = None
        """A look for the next message that has been begun and not finished."""

    async def begin(self, asked: Request) -> None:
        """Ask for it."""
        nonce = base64.b64encode(self._road.chance.randbytes(16))
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        fields = self._road.fields(asked, *upgrade, f"Sec-WebSocket-Key: {nonce.decode()}")
        await self._connection.send(request(target(asked), *fields, method="GET", body=None))
        head = await self._road.mine(self._connection, asked, status=101)
        accept = base64.b64encode(hashlib.sha1(nonce + MAGIC, usedforsecurity=False).digest()).decode()
        if head.fields.get("sec-websocket-accept") != accept:
            raise Wrong(f"not the answer to {nonce!r}: {head}")

    async def say(self, data: bytes, opcode: int, *, pieces: int = 1) -> None:
        """A message, in so many frames."""
        step = max(1, -(-len(data) // pieces))
        starts = range(0, max(1, len(data)), step)
        for start in starts:
            last = start == starts[-1]
            first = (opcode if start == 0 else _CONTINUED) | (_FINAL if last else 0)
            await self._connection.send(self._masked(first, data[start : start + step]))

    def _masked(self, first: int, data: bytes) -> bytes:
        size, mask = len(data), self._road.chance.randbytes(4)
        length = (
            size.to_bytes(1)
            if size < 126
            else b"\x7e" + size.to_bytes(2)
            if size < 1 << 16
            else b"\x7f" + size.to_bytes(8)
        )
        key = int.from_bytes((mask * (size // 4 + 1))[:size])
        hidden = (int.from_bytes(data) ^ key).to_bytes(size)
        return bytes([first, length[0] | 0x80]) + length[1:] + mask + hidden

    async def hear(self) -> tuple[int, bytes]:
        """The next message, with its opcode; the gateway's pings are answered. Raises `Closed`."""
        hearing, self._hearing = self._hearing or asyncio.ensure_future(self._next()), None
        return await hearing

    async def silence(self, seconds: float) -> None:
        """Nobody says anything, but pings are answered, and a close frame is heard at once. Raises `Closed`."""
        self._hearing = self._hearing or asyncio.ensure_future(self._next())
        done, _ = await asyncio.wait((self._hearing,), timeout=max(0.0, seconds))
        if done:
            await self.hear()
            raise Wrong("a message that nobody sent")

    def end(self) -> None:
        """Nobody listens any more."""
        if self._hearing is not None:
            self._hearing.cancel()

    async def _next(self) -> tuple[int, bytes]:
        whole, kind = b"", -1
        while True:
            first, data = await self._frame()
            opcode = first & 15
            if opcode == PING:
                await self._connection.send(self._masked(_FINAL | PONG, data))
            elif opcode == CLOSE:
                raise Closed(int.from_bytes(data[:2]), data[2:].decode())
            elif opcode in (_TEXT, _BINARY, _CONTINUED) and (opcode == _CONTINUED) == (kind >= 0):
                kind = max(kind, opcode)
                whole += data
                if first & _FINAL:
                    return kind, whole
            else:
                raise Wrong(f"opcode {opcode}, which nobody sent, after {kind}")

    async def _frame(self) -> tuple[int, bytes]:
        first, size = await self._connection.exactly(2)
        if first & 0x70 or size & 0x80:
            raise Wrong(f"a frame that begins with {first:02x}{size:02x}")
        if size > 125:
            size = int.from_bytes(await self._connection.exactly(2 if size == 126 else 8))
        return first, await self._connection.exactly(size)

    async def close(self) -> None:
        """Say so, and hear the same; then the connection must end."""
        await self._connection.send(self._masked(_FINAL | CLOSE, _NORMAL.to_bytes(2) + b"done"))
        try:
            await self.hear()
        except Closed as closed:
            if closed.code != _NORMAL:
                raise
            await self._connection.end()
        else:
            raise Wrong("a message behind all messages")

    async def answer_close(self, code: int) -> None:
        """The other end has closed it: say that it was heard."""
        await self._connection.send(self._masked(_FINAL | CLOSE, code.to_bytes(2)))


async def echoes(road: Road) -> None:
    """A short one: some messages, of every size and in every number of frames, come back; then it is closed."""
    await _talks(road, "WebSocket", 0.0, road.chance.randrange(1, 12))


async def stays(road: Road, seconds: float) -> None:
    """A long one that is silent now and then, for longer than until the gateway asks whether anybody is there."""
    await _talks(road, "WebSocket, long", road.chance.uniform(0.3, 1.0) * seconds, 2)


async def _talks(road: Road, kind: str, seconds: float, messages: int) -> None:
    fresh = road.chance.random() < 0.5
    async with (
        road.asking(kind, ENDPOINT, repeatable=False) as asked,
        road.connection(asked, fresh=fresh) as connection,
    ):
        over = Socket(road, connection)
        await over.begin(asked)
        connection.last = True  # no other request may follow on it
        until = time.monotonic() + seconds
        try:
            while messages > 0 or time.monotonic() < until:
                messages -= 1
                await _one(road, over)
                if seconds:
                    await over.silence(road.chance.choice((0.1, 1.0, 1.0, 2 * PING_SECONDS)))
            await over.close()
        except Closed as closed:
            await over.answer_close(closed.code)
            if closed.code == _FAILED:
                raise Broken(str(closed)) from None
            asked.code = LEAVES if closed.code == _GOING_AWAY else f"WebSocket {closed.code}"
            raise Unasked(str(closed)) from None
        finally:
            over.end()


async def _one(road: Road, over: Socket) -> None:
    data = road.chance.randbytes(road.chance.choice((0, 1, 125, 126, 1000, 8000, 70_000)))
    opcode = road.chance.choice((_TEXT, _BINARY))
    if opcode == _TEXT:
        data = data.hex().encode()
    await over.say(data, opcode, pieces=road.chance.randrange(1, 4))
    if (back := await over.hear()) != (opcode, data):
        raise Wrong(f"{len(data)} bytes went as {opcode}, {len(back[1])} came as {back[0]}, or others")
