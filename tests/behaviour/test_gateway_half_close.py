"""A caller that shuts its sending side still gets its answer; one that has hung up ends the model's work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from router.contract.events import Outcome
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import (
    Request,
    ScriptedReplica,
    ask,
    caller,
    gone,
    post,
    read_chunked,
    scripted,
    trickle,
)

OLD = post(b"hello").replace(b"HTTP/1.1", b"HTTP/1.0")


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: ScriptedReplica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        documents = {"blue": deployment(concurrency=2)}
        await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(upstream.port)]})
        yield rig


def held(release: asyncio.Event) -> ScriptedReplica:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    return ScriptedReplica(script)


async def test_what_was_asked_in_full_is_answered_and_the_connection_ends(rig: Rig) -> None:
    for raw in (post(b"hello"), OLD):
        async with caller(rig.port) as connection:
            connection.send(raw)
            connection.shut()
            got = await connection.answer()
            assert (got.status, got.body) == (200, b"hello")
            assert await connection.ended()


async def test_all_of_several_are_answered(rig: Rig, upstream: ScriptedReplica) -> None:
    async with caller(rig.port) as connection:
        connection.send(post(b"1") + post(b"2", key=None) + post(b"3") + b"\r\n")
        connection.shut()
        answers = [await connection.answer() for _ in range(3)]
        assert [one.status for one in answers] == [200, 401, 200]
        assert await connection.ended()
    assert [one.body for one in upstream.requests] == [b"1", b"3"]


async def test_a_slow_answer_is_waited_for(rig: Rig, upstream: ScriptedReplica) -> None:
    release = asyncio.Event()
    upstream.script = held(release).script
    async with caller(rig.port) as connection, caller(rig.port) as old, caller(rig.port) as queued:
        connection.send(post(b"hello"))
        connection.shut()
        # The gateway has to send something to learn whether anybody reads; this is what every client skips.
        assert (await connection.head()).status == 100
        old.send(OLD)
        old.shut()
        await until(lambda: len(upstream.requests) == 2, "both places are taken")
        queued.send(post(b"hello"))
        queued.shut()
        assert (await queued.head()).status == 100
        release.set()
        for one in (connection, queued, old):
            got = await one.answer()
            assert (got.status, got.body) == (200, b"late")
            assert await one.ended()


async def test_a_stream_goes_on(rig: Rig, upstream: ScriptedReplica) -> None:
    shut = asyncio.Event()

    async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await shut.wait()
        for _ in range(20):
            writer.write(b"1\r\nb\r\n")
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    upstream.script = stream
    async with caller(rig.port) as connection:
        connection.send(post())
        assert (await connection.head()).status == 200
        connection.shut()
        shut.set()
        assert await read_chunked(connection.reader) == b"a" + b"b" * 20
        assert await connection.ended()


@pytest.mark.parametrize("raw", [post(b"hello")[:-1], post()[:-3], b"GET / HT"])
async def test_half_a_request_is_400(rig: Rig, upstream: ScriptedReplica, raw: bytes) -> None:
    async with caller(rig.port) as connection:
        connection.send(raw)
        connection.shut()
        assert (await connection.answer()).status == 400
        assert await connection.ended()
    assert (await ask(rig.port)).status == 200


async def test_half_a_body_is_not_taken_for_a_whole_one_by_the_replica(rig: Rig, upstream: ScriptedReplica) -> None:
    async with caller(rig.port) as connection:
        connection.send(post(b"x" * 1000)[:-1])
        await until(lambda: upstream.requests, "the replica has begun to read")
        connection.shut()
        assert (await connection.answer()).status == 400
    await asyncio.wait_for(upstream.aborted.wait(), 30)
    assert upstream.requests[0].body == b""


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"\r\n\r\n"])
async def test_nothing_asked_is_nothing_answered(rig: Rig, raw: bytes) -> None:
    async with caller(rig.port) as connection:
        connection.send(raw)
        connection.shut()
        assert await connection.ended()


async def test_whoever_hangs_up_ends_the_replicas_work(rig: Rig, upstream: ScriptedReplica) -> None:
    async def work(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await gone(request.reader)

    upstream.script = work
    async with caller(rig.port) as connection:
        connection.send(post(b"hello"))
        await until(lambda: upstream.requests, "it works")
        connection.writer.close()
        await asyncio.wait_for(upstream.aborted.wait(), 30)
    records = await until(lambda: rig.records, "its record")
    assert records[0].outcome == Outcome.CLIENT_ABORTED


async def test_an_old_caller_cannot_take_a_broken_answer_for_a_whole_one(rig: Rig, upstream: ScriptedReplica) -> None:
    reached = asyncio.Event()

    async def breaks(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reached.wait()
        writer.write(b"nonsense\r\n")

    upstream.script = breaks
    async with caller(rig.port) as connection:
        connection.send(OLD)
        assert (await connection.head()).status == 200
        assert await connection.reader.readexactly(5) == b"hello"
        reached.set()
        with pytest.raises(ConnectionResetError):
            await connection.reader.read()


async def test_an_old_caller_that_shuts_inside_its_body_neither(rig: Rig, upstream: ScriptedReplica) -> None:
    async def early(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await gone(request.reader)

    upstream.script = early
    async with caller(rig.port) as connection:
        connection.send(OLD[:-1])
        assert (await connection.head()).status == 200
        assert await connection.reader.readexactly(5) == b"hello"
        connection.shut()
        with pytest.raises(ConnectionResetError):
            await connection.reader.read()


async def test_whoever_hangs_up_in_a_stream_ends_it_with_its_next_piece(rig: Rig, upstream: ScriptedReplica) -> None:
    async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await trickle(writer, b"1\r\nx\r\n")

    upstream.script = stream
    async with caller(rig.port) as connection:
        connection.send(post())
        await connection.head()
        connection.abort()
        await asyncio.wait_for(upstream.aborted.wait(), 30)
