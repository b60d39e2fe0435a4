"""Bodies that never stand still: both ways at once, uploads that reach the model as they arrive, very many open streams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadtests.gateway.ground import Ground
from loadtests.gateway.load.descriptors import raise_limit
from loadtests.gateway.rows import open_streams
from loadtests.gateway.sizes import Sizes
from loadtests.gateway.subject import workers
from loadtests.measure import resident_bytes
from loadtests.waiting import free_port
from router.contract.events import Outcome
from router.runtime.settings import DataLayout
from tests.support.gateway_rig import KEY, PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, Script, ScriptedReplica, caller, post, scripted

CHUNKED = (
    f"POST /endpoints/demo/score HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
).encode()
BEGIN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


async def publish(rig: Rig, upstream: ScriptedReplica, **settings: int) -> None:
    await rig.publish("demo", {"blue": deployment(**settings)}, {"blue": 100}, {"blue": [replica(upstream.port)]})


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """One chunk as it was framed."""
    size = int(await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE), 16)
    payload = await asyncio.wait_for(reader.readexactly(size), PATIENCE)
    assert await reader.readexactly(2) == b"\r\n"
    return payload


async def speak(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer each chunk of the request when it comes, and end with its end."""
    writer.write(BEGIN)
    while payload := await read_chunk(request.reader):
        writer.write(chunk(b"got " + payload))
    writer.write(LAST)


async def test_an_answer_streams_while_its_request_still_does(rig: Rig) -> None:
    async with scripted(speak) as upstream:
        await publish(rig, upstream, timeout_ms=5000)
        async with caller(rig.port) as connection:
            for _ in range(2):
                connection.send(CHUNKED)
                head = await connection.head()
                assert (head.status, head.headers["transfer-encoding"]) == (200, "chunked")
                for number in range(200):
                    connection.send(chunk(b"%d" % number))
                    assert await read_chunk(connection.reader) == b"got %d" % number
                connection.send(LAST)
                assert await read_chunk(connection.reader) == b""
        assert (len(upstream.requests), upstream.connections) == (2, 1), "both connections are used again"
    await until(lambda: len(rig.records) == 2, "two records")
    assert {one.outcome for one in rig.records} == {Outcome.OK}


async def listen(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer at once, and say nothing until the request is over."""
    writer.write(BEGIN)
    while await read_chunk(request.reader):
        pass
    writer.write(LAST)


@pytest.mark.parametrize("script", [speak, listen])
async def test_both_ways_at_once_outlive_the_models_time_as_long_as_either_moves(rig: Rig, script: Script) -> None:
    async with scripted(script) as upstream:
        await publish(rig, upstream, timeout_ms=1500)
        async with caller(rig.port) as connection:
            connection.send(CHUNKED)
            await connection.head()
            for _ in range(10):
                await asyncio.sleep(0.2)
                connection.send(chunk(b"x"))
                if script is speak:
                    assert await read_chunk(connection.reader) == b"got x"
            connection.send(LAST)
            assert await read_chunk(connection.reader) == b""


async def test_an_answer_that_is_complete_before_its_request_ends_the_connection(rig: Rig) -> None:
    async def enough(request: Request, writer: asyncio.StreamWriter) -> None:
        await read_chunk(request.reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nenough")
        await request.reader.read()
        raise ConnectionResetError

    async with scripted(enough) as upstream:
        await publish(rig, upstream)
        async with caller(rig.port) as connection:
            connection.send(CHUNKED + chunk(b"first"))
            got = await connection.answer()
            assert (got.body, got.headers["connection"]) == (b"enough", "close")
            connection.send(chunk(b"more"))
            assert await connection.ended()
        await asyncio.wait_for(upstream.aborted.wait(), PATIENCE)


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_upload_reaches_the_model_while_it_arrives(rig: Rig, chunked: bool) -> None:
    size, half = 5 << 20, asyncio.Event()

    async def receive(request: Request, writer: asyncio.StreamWriter) -> None:
        got = 0
        if chunked:
            while payload := await read_chunk(request.reader):
                got += len(payload)
                if got >= size // 2:
                    half.set()
        while not chunked and got < size:
            got += len(await request.reader.read(1 << 16))
            if got >= size // 2:
                half.set()
        body = b"%d" % got
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with scripted(receive) as upstream:
        await publish(rig, upstream)
        async with caller(rig.port) as connection:
            part = bytes(size // 2)
            connection.send(
                CHUNKED + chunk(part) if chunked else post().replace(b"ength: 0", b"ength: %d" % size) + part
            )
            await asyncio.wait_for(half.wait(), PATIENCE)
            connection.send(chunk(part) + LAST if chunked else part)
            assert (await connection.answer()).body == b"%d" % size


def trailing(raw: bytes) -> Script:
    """Answer the request, once it is whole, with this behind the last chunk's size."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(BEGIN + chunk(request.body) + b"0\r\n" + raw + b"\r\n")

    return script


async def test_trailers_end_at_the_gateway_in_both_directions(rig: Rig) -> None:
    async with scripted(trailing(b"x-checksum: 1\r\nserver-timing: a\r\n")) as upstream:
        await publish(rig, upstream)
        async with caller(rig.port) as connection:
            for _ in range(2):
                connection.send(CHUNKED + chunk(b"hello") + b"0\r\nX-Sum: 5\r\n\r\n")
                got = await connection.answer()  # fails if anything stands behind the last chunk, on either side
                assert (got.status, got.body, got.whole) == (200, b"hello", True)


def test_each_of_thousands_of_open_streams_gets_its_events_and_takes_a_few_kilobytes(tmp_path: Path) -> None:
    sizes = Sizes(open_streams=2000, period_seconds=1.0)
    (row,) = open_streams.rows(Ground(tmp_path, sizes, (), lambda _: None))
    assert row.met, row


def kept_alive(port: int) -> socket.socket:
    """A connection that has had one answer."""
    made = socket.create_connection(("127.0.0.1", port), PATIENCE)
    made.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    got = b""
    while not got.endswith(b"ok\n"):
        got += made.recv(1000)
        assert got
    return made


def test_each_of_thousands_of_idle_connections_takes_a_few_kilobytes(tmp_path: Path) -> None:
    raise_limit()
    count, port, data = 2000, free_port(), DataLayout(tmp_path)
    data.create()
    with workers(data, port, [None], mirror=None) as (pid,), contextlib.ExitStack() as held:
        for _ in range(100):
            kept_alive(port).close()
        before = resident_bytes(pid)
        for _ in range(count):
            held.enter_context(kept_alive(port))
        assert (resident_bytes(pid) - before) / count < 10_000
