"""What is asked and must be answered, one function per kind; each checks the whole answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

from loadtests.soak.line import Wrong
from loadtests.soak.model.serve import pattern
from loadtests.soak.road import Unasked, is_told, target
from loadtests.soak.wire import chunk, request

if TYPE_CHECKING:
    from loadtests.soak.account import Request
    from loadtests.soak.road import Road
    from loadtests.soak.wire import Connection

MIX = "mix"
UPLOAD = pattern(5 << 20)
_PIPELINED = 4


async def json_kept(road: Road, endpoint: str = MIX, kind: str = "json, kept connection") -> Request:
    """Small JSON over a connection that others use before and after."""
    async with road.asking(kind, endpoint) as asked, road.connection(asked) as connection:
        await small(road, connection, asked)
    return asked


async def json_fresh(road: Road) -> None:
    """Small JSON over a connection of its own that ends with it."""
    async with road.asking("json, connection: close", MIX) as asked, road.connection(asked, fresh=True) as connection:
        await small(road, connection, asked, "Connection: close")
        await connection.end()


async def small(road: Road, connection: Connection, asked: Request, *more: str) -> None:
    """One small JSON request and its answer."""
    body = json.dumps({"id": asked.id, "filling": "x" * road.chance.randrange(2000)}).encode()
    await connection.send(road.post(asked, body, *more))
    head = await road.mine(connection, asked)
    is_told(await connection.body(head), asked, body, head)


async def named(road: Road, deployment: str) -> None:
    """To a deployment by its name."""
    async with road.asking("to a deployment by name", MIX) as asked, road.connection(asked) as connection:
        await small(road, connection, asked, f"azureml-model-deployment: {deployment}")
        if asked.deployment != deployment:
            raise Wrong(f"{asked.deployment!r} answered for {deployment!r}")


async def head_only(road: Road) -> None:
    """HEAD: the length of a body that does not come."""
    async with road.asking("HEAD", MIX) as asked, road.connection(asked) as connection:
        await connection.send(request(target(asked), *road.fields(asked), method="HEAD", body=None))
        head = await road.mine(connection, asked)
        if not int(head.fields.get("content-length", 0)):
            raise Wrong(f"HEAD without the length: {head}")


async def model_error(road: Road) -> None:
    """The model's own error, told as 424 with the real status in a field."""
    status = road.chance.choices((404, 422, 429, 500), (4, 10, 4, 1))[0]
    async with road.asking("the model's 4xx and 500", MIX) as asked, road.connection(asked) as connection:
        body = b'{"wrong": true}'
        await connection.send(road.post(asked, body, f"X-Soak-Status: {status}"))
        head = await road.mine(connection, asked, status=424)
        if head.fields.get("ms-azureml-model-error-statuscode") != str(status):
            raise Wrong(f"{status} became {head}")
        is_told(await connection.body(head), asked, body, head)


async def turned_away(road: Road) -> None:
    """A wrong key, an endpoint or a deployment that is none: the gateway's own answers."""
    status, name, fields = road.chance.choice(
        ((401, MIX, ("Authorization: Bearer wrong",)), (404, "nowhere", ()), (404, MIX, ("azureml-model-deployment: none",)))
    )  # fmt: skip
    async with road.asking("401 and 404", name) as asked, road.connection(asked) as connection:
        own = road.fields(asked)
        own = (*(one for one in own if status != 401 or not one.startswith("Auth")), *fields)
        await connection.send(request(target(asked), *own, body=b"{}"))
        head = await road.answered(connection, asked, status=status)
        json.loads(await connection.body(head))["error"]["code"]


async def http10(road: Road) -> None:
    """HTTP/1.0, kept alive for a second request."""
    async with road.asking("HTTP/1.0", MIX) as asked, road.connection(asked, fresh=True) as connection:
        for turn in range(2):
            body = b"x" * road.chance.randrange(1, 500)
            keep = () if turn else ("Connection: keep-alive",)
            more = road.fields(asked, f"X-Soak-Turn: {turn}", *keep)
            one = (*(field for field in more if not field.startswith("X-Soak-Id")), f"X-Soak-Id: {asked.id}.{turn}")
            await connection.send(request(target(asked), *one, body=body, version="1.0"))
            head = await road.answered(connection, asked)
            told = json.loads(await connection.body(head))
            if told["id"] != f"{asked.id}.{turn}" or told["sha256"] != hashlib.sha256(body).hexdigest():
                raise Wrong(f"turn {turn} was answered with {told}")
            if not turn and head.closes:
                return  # the worker ends
        await connection.end()


async def half_close(road: Road) -> None:
    """Shut the sending side behind a whole request; the answer comes all the same."""
    async with road.asking("half-closed", MIX) as asked, road.connection(asked, fresh=True) as connection:
        body = b"y" * road.chance.randrange(1, 3000)
        await connection.send(road.post(asked, body, f"X-Soak-Wait-Ms: {road.chance.randrange(150)}"))
        connection.transport.write_eof()
        head = await road.mine(connection, asked)
        is_told(await connection.body(head), asked, body, head)
        await connection.end()


async def pipelined(road: Road) -> None:
    """Several requests in one write; answers in their order. What is behind a `connection: close` is sent again."""
    async with road.asking("pipelined x 4", MIX) as asked, road.connection(asked) as connection:
        bodies = [b"%d" % number * road.chance.randrange(1, 800) for number in range(_PIPELINED)]
        await connection.send(b"".join(_numbered(road, asked, number, body) for number, body in enumerate(bodies)))
        for number, body in enumerate(bodies):
            head = await road.answered(connection, asked)
            told = json.loads(await connection.body(head))
            if told["id"] != f"{asked.id}.{number}" or told["sha256"] != hashlib.sha256(body).hexdigest():
                raise Wrong(f"request {number} was answered with {told}")
            if head.closes:
                await connection.end()
                await _again(road, bodies[number + 1 :])
                return


def _numbered(road: Road, asked: Request, number: int, body: bytes) -> bytes:
    """One of several requests that are one to the account."""
    fields = [one for one in road.fields(asked) if not one.startswith("X-Soak-Id")]
    return request(target(asked), *fields, f"X-Soak-Id: {asked.id}.{number}", body=body)


async def _again(road: Road, bodies: list[bytes]) -> None:
    for body in bodies:
        road.account.resent += 1
        async with road.asking("pipelined, sent again", MIX) as asked, road.connection(asked) as connection:
            await connection.send(road.post(asked, body))
            head = await road.mine(connection, asked)
            is_told(await connection.body(head), asked, body, head)


async def stream(road: Road) -> None:
    """Server-sent events: all of them, in order, with their end."""
    count, gap = road.chance.randrange(5, 60), road.chance.randrange(5, 80)
    async with road.asking("event stream", MIX, repeatable=False) as asked, road.connection(asked) as connection:
        fields = ("X-Soak-Do: events", f"X-Soak-Count: {count}", f"X-Soak-Gap-Ms: {gap}")
        await connection.send(road.post(asked, b'{"stream": true}', *fields))
        head = await road.mine(connection, asked)
        data = await connection.body(head)
        expected = "".join(f"data: {asked.id} {number}\n\n" for number in range(count)) + "data: [DONE]\n\n"
        if data.decode() != expected:
            raise Wrong(f"{len(data)} bytes of events, {len(expected)} expected; the end is {data[-200:]!r}")


async def upload(road: Road) -> None:
    """5 MB, hashed by the model."""
    size = len(UPLOAD) - road.chance.randrange(1000)
    async with road.asking("5 MB upload", MIX, repeatable=False) as asked, road.connection(asked) as connection:
        body = memoryview(UPLOAD)[:size]
        await connection.send(request(target(asked), *road.fields(asked, f"Content-Length: {size}"), body=None))
        await _in_pieces(connection, body, 1 << 18)
        head = await road.mine(connection, asked)
        is_told(await connection.body(head), asked, bytes(body), head)


async def _in_pieces(connection: Connection, body: memoryview, size: int) -> None:
    for start in range(0, len(body), size):
        await connection.send(bytes(body[start : start + size]))


async def upload_chunked(road: Road) -> None:
    """A chunked body in pieces of any size, hashed by the model."""
    async with road.asking("chunked upload", MIX, repeatable=False) as asked, road.connection(asked) as connection:
        digest = hashlib.sha256()
        await connection.send(request(target(asked), *road.fields(asked, "Transfer-Encoding: chunked"), body=None))
        for _ in range(road.chance.randrange(1, 40)):
            piece = UPLOAD[: road.chance.randrange(1, 12_000)]
            digest.update(piece)
            await connection.send(chunk(piece))
        await connection.send(chunk(b""))
        head = await road.mine(connection, asked)
        is_told(await connection.body(head), asked, digest, head)


async def both_ways(road: Road) -> None:
    """Chunks go and come at once, one by one: each must come back before the next one goes."""
    async with road.asking("chunked both ways", MIX, repeatable=False) as asked, road.connection(asked) as connection:
        fields = road.fields(asked, "Transfer-Encoding: chunked", "X-Soak-Do: pass")
        first = chunk(b"the first")
        await connection.send(request(target(asked), *fields, body=None) + first)
        head = await road.mine(connection, asked)
        answers = connection.pieces(head)
        sent, got = b"the first", await anext(answers, b"")
        for number in range(road.chance.randrange(1, 15)):
            piece = b"%d " % number * road.chance.randrange(1, 3000)
            sent += piece
            await connection.send(chunk(piece))
            while len(got) < len(sent):
                more = await anext(answers, b"")
                if not more:
                    raise Wrong(f"the answer ended after {len(got)} of {len(sent)} bytes")
                got += more
        await connection.send(chunk(b""))
        got += b"".join([piece async for piece in answers])
        if got != sent:
            raise Wrong(f"{len(got)} bytes came back of {len(sent)}")


async def expecting(road: Road) -> None:
    """The body goes only once 100 Continue has come."""
    async with (
        road.asking("Expect: 100-continue", MIX, repeatable=False) as asked,
        road.connection(asked) as connection,
    ):
        body = b"z" * road.chance.randrange(1, 200_000)
        fields = road.fields(asked, "Expect: 100-continue", f"Content-Length: {len(body)}")
        await connection.send(request(target(asked), *fields, body=None))
        status = await connection.interim()
        if status != 100:
            raise Unasked(f"{status} instead of 100")
        await connection.send(body)
        head = await road.mine(connection, asked)
        is_told(await connection.body(head), asked, body, head)


async def slow_sender(road: Road) -> None:
    """A head and a body in small pieces with pauses, well inside every limit."""
    async with road.asking("slow sender", MIX) as asked, road.connection(asked, fresh=True) as connection:
        body = b"slow" * 100
        data = road.post(asked, body)
        step = max(1, len(data) // 12)
        for start in range(0, len(data), step):
            await connection.send(data[start : start + step])
            await asyncio.sleep(road.chance.uniform(0.02, 0.25))
        head = await road.mine(connection, asked)
        is_told(await connection.body(head), asked, body, head)


async def slow_reader(road: Road) -> None:
    """A large answer, read a little at a time."""
    size = road.chance.randrange(200_000, 900_000)
    async with (
        road.asking("slow reader", MIX, repeatable=False) as asked,
        road.connection(asked, fresh=True) as connection,
    ):
        await connection.send(road.post(asked, b"{}", "X-Soak-Do: large", f"X-Soak-Bytes: {size}"))
        head = await road.mine(connection, asked)
        got = bytearray()
        async for piece in connection.pieces(head):
            got += piece
            connection.transport.pause_reading()
            await asyncio.sleep(road.chance.uniform(0.02, 0.2))
            connection.transport.resume_reading()
        if bytes(got) != pattern(size):
            raise Wrong(f"{len(got)} bytes instead of {size}, or others")


async def unframed(road: Road) -> None:
    """An answer that the model ends with its connection, to HTTP/1.1 and to HTTP/1.0."""
    size, old = road.chance.randrange(1, 100_000), road.chance.random() < 0.5
    async with (
        road.asking("unframed answer", MIX, repeatable=False) as asked,
        road.connection(asked, fresh=old) as connection,
    ):
        fields = road.fields(asked, "X-Soak-Do: unframed", f"X-Soak-Bytes: {size}")
        await connection.send(request(target(asked), *fields, body=b"{}", version="1.0" if old else "1.1"))
        head = await road.mine(connection, asked)
        got = await connection.body(head)
        if got != pattern(size):
            raise Wrong(f"{len(got)} bytes instead of {size}, or others")
