"""Callers that leave at every stage, and bytes that are no request: nothing of it may touch anybody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loadtests.soak.kinds import MIX
from loadtests.soak.line import Wrong
from loadtests.soak.road import Unasked, target
from loadtests.soak.wire import chunk, request

if TYPE_CHECKING:
    from loadtests.soak.road import Road
    from loadtests.soak.wire import Connection

_GARBAGE: tuple[tuple[bytes, int], ...] = (
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello of another protocol\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"get / http/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nHost: a\r\nx-much: " + b"m" * 70_000, 431),
)


async def garbage(road: Road) -> None:
    """One refusal, then the end of the connection."""
    data, status = road.chance.choice(_GARBAGE)
    async with road.asking("garbage", "") as asked, road.connection(asked, fresh=True) as connection:
        await connection.send(data)
        head = await road.answered(connection, asked, status=status)
        await connection.body(head)
        if not head.closes:
            raise Wrong(f"{data[:60]!r} was answered with {head}")
        await connection.end()


async def bad_chunk(road: Road) -> None:
    """A good head, and a body that turns out to be none: 400, or an end without an answer to anybody."""
    name = "garbage inside a body"
    async with road.asking(name, MIX, repeatable=False) as asked, road.connection(asked, fresh=True) as connection:
        head = request(target(asked), *road.fields(asked, "Transfer-Encoding: chunked"), body=None)
        await connection.send(head + chunk(b"good") + b"zz\r\nbad\r\n")
        got = await road.answered(connection, asked, status=400)
        await connection.body(got)
        await connection.end()


async def leaves(road: Road) -> None:
    """Somewhere on the way."""
    chosen = road.chance.choice((_in_head, _in_body, _in_chunks, _waiting, _in_stream, _in_large, _in_pipeline))
    name = f"leaves {chosen.__name__.strip('_').replace('_', ' ')}"
    async with road.asking(name, MIX) as asked, road.connection(asked, fresh=True) as connection:
        one = road.post(asked, b"x" * 500, *_fields(road, chosen.__name__))
        await chosen(road, connection, one)
        if road.chance.random() < 0.5:
            connection.close()  # in order: what had come is still on its way
            await asyncio.sleep(0)


def _fields(road: Road, name: str) -> tuple[str, ...]:
    if name == "_in_stream":
        return "X-Soak-Do: events", "X-Soak-Count: 50", "X-Soak-Gap-Ms: 30"
    if name == "_in_large":
        return "X-Soak-Do: large", "X-Soak-Bytes: 3000000"
    return (f"X-Soak-Wait-Ms: {road.chance.randrange(300, 2000)}",) if name == "_waiting" else ()


async def _in_head(road: Road, connection: Connection, one: bytes) -> None:
    await connection.send(one[: road.chance.randrange(1, one.index(b"\r\n\r\n"))])
    await _moment(road)


async def _in_body(road: Road, connection: Connection, one: bytes) -> None:
    await connection.send(one[: -road.chance.randrange(1, 500)])
    await _moment(road)


async def _in_chunks(road: Road, connection: Connection, one: bytes) -> None:
    head = one.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    await connection.send(head + chunk(b"q" * road.chance.randrange(1, 100_000)))
    await _moment(road)


async def _waiting(road: Road, connection: Connection, one: bytes) -> None:
    await connection.send(one)
    await _moment(road)


async def _in_stream(road: Road, connection: Connection, one: bytes) -> None:
    await _reads_some(connection, one, road.chance.randrange(1, 6))


async def _in_large(road: Road, connection: Connection, one: bytes) -> None:
    await _reads_some(connection, one, road.chance.randrange(1, 6))
    if road.chance.random() < 0.5:
        connection.transport.pause_reading()
        await _moment(road)


async def _reads_some(connection: Connection, one: bytes, pieces: int) -> None:
    await connection.send(one)
    head = await connection.head()
    if head.status != 200:
        raise Unasked(str(head))
    async for _ in connection.pieces(head):
        pieces -= 1
        if not pieces:
            return


async def _in_pipeline(road: Road, connection: Connection, one: bytes) -> None:
    await connection.send(one * 3 + one[:50])
    await _moment(road)


async def _moment(road: Road) -> None:
    await asyncio.sleep(road.chance.uniform(0, 0.4))
