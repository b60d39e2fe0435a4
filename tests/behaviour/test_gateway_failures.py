"""What happens when a replica dies, is silent or gone, and when a caller leaves: nothing leaks, nothing hangs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from loadtests.waiting import free_port
from router.contract.events import DeploymentReplicas, Flag, Outcome, Phase, ReplicaState
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import (
    Request,
    ScriptedReplica,
    answer,
    ask,
    caller,
    echo,
    gone,
    post,
    scripted,
    trickle,
)


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


async def serve(rig: Rig, *servers: ScriptedReplica, **settings: int) -> None:
    await rig.publish(
        "demo", {"blue": deployment(**settings)}, {"blue": 100}, {"blue": [replica(s.port) for s in servers]}
    )


def code(body: bytes) -> str:
    found: str = json.loads(body)["error"]["code"]
    return found


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_an_answer_that_breaks_off_is_never_taken_for_whole(
    rig: Rig, upstream: ScriptedReplica, framing: str
) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n3\r\nabc\r\n".encode())
        await writer.drain()
        writer.close()

    upstream.script = script
    await serve(rig, upstream)
    got = await ask(rig.port)
    assert (got.status, got.whole) == (200, False)
    record = await until(lambda: rig.records, "its record")
    assert record[0].outcome == Outcome.UPSTREAM_FAILED


async def test_a_replica_that_dies_unanswered_is_retried_once_elsewhere(rig: Rig, upstream: ScriptedReplica) -> None:
    async def die(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.transport.abort()

    async with scripted(die) as dead:
        await serve(rig, dead, upstream)
        for number in range(20):
            got = await ask(rig.port, post(b"%d" % number))
            assert (got.status, got.body) == (200, b"%d" % number)
        assert 1 <= len(dead.requests) < 20
        for body in (b"a" * 40_000, b"b" * 60_000):  # as long as a whole body is kept, however it was sent
            assert (await ask(rig.port, post(body))).body == body
    await until(lambda: any(one.flags & Flag.RETRIED for one in rig.records), "a record of a retry")


async def test_two_deaths_are_the_callers_502(rig: Rig) -> None:
    async def die(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.transport.abort()

    async with scripted(die) as one, scripted(die) as two:
        await serve(rig, one, two)
        got = await ask(rig.port)
        assert (got.status, code(got.body)) == (502, "ReplicaFailed")
        assert len(one.requests) + len(two.requests) == 2


async def test_a_large_body_that_has_passed_is_not_sent_twice(rig: Rig, upstream: ScriptedReplica) -> None:
    async def die(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.transport.abort()

    upstream.script = die
    await serve(rig, upstream)
    got = await ask(rig.port, post(b"x" * 200_000))
    assert (got.status, code(got.body)) == (502, "ReplicaFailed")
    assert len(upstream.requests) == 1


async def test_a_replica_that_refuses_costs_nobody_an_answer(rig: Rig, upstream: ScriptedReplica) -> None:
    version = free_port()
    await rig.publish(
        "demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(version), replica(upstream.port)]}
    )
    answers = await asyncio.gather(*(ask(rig.port) for _ in range(40)))
    assert {one.status for one in answers} == {200}


async def test_a_replica_that_comes_back_at_its_address_is_found_again(rig: Rig, upstream: ScriptedReplica) -> None:
    await serve(rig, upstream)
    assert (await ask(rig.port)).status == 200
    await upstream.stop()
    waiting = asyncio.create_task(ask(rig.port))
    await until(lambda: any(row.queued for report in rig.demand for row in report.rows), "the request waits")
    await upstream.start()
    assert (await waiting).status == 200


async def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure(rig: Rig, upstream: ScriptedReplica) -> None:
    async def close_unasked(request: Request, writer: asyncio.StreamWriter) -> None:
        await echo(request, writer)
        await writer.drain()
        # The next request on this connection is read and met with the end, as of a server whose idle time is over.
        await request.reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    upstream.script = close_unasked
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        for number in range(4):
            connection.send(post(b"%d" % number))
            assert (await connection.answer()).body == b"%d" % number
    records = await until(lambda: rig.records if len(rig.records) == 4 else None, "four records")
    assert not any(one.flags & Flag.RETRIED for one in records)


async def test_no_answer_in_time_is_408_and_ends_the_replicas_work(rig: Rig, upstream: ScriptedReplica) -> None:
    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await gone(request.reader)

    upstream.script = never
    await serve(rig, upstream, timeout_ms=50)
    got = await ask(rig.port)
    assert (got.status, code(got.body)) == (408, "RequestTimeout")
    await asyncio.wait_for(upstream.aborted.wait(), 30)
    record = await until(lambda: rig.records, "its record")
    assert record[0].outcome == Outcome.TIMEOUT


async def test_silence_in_the_middle_of_an_answer_cuts_it(rig: Rig, upstream: ScriptedReplica) -> None:
    async def stall(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await gone(request.reader)

    upstream.script = stall
    await serve(rig, upstream, timeout_ms=100)
    got = await ask(rig.port)
    assert (got.status, got.whole) == (200, False)
    record = await until(lambda: rig.records, "its record")
    assert record[0].outcome == Outcome.TIMEOUT


async def test_a_slow_but_steady_stream_outlives_the_timeout(rig: Rig, upstream: ScriptedReplica) -> None:
    async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)
        writer.write(b"0\r\n\r\n")

    upstream.script = drip
    await serve(rig, upstream, timeout_ms=500)
    got = await ask(rig.port)
    assert (got.status, got.body, got.whole) == (200, b"x" * 20, True)


async def test_a_caller_that_leaves_ends_the_replicas_work(rig: Rig, upstream: ScriptedReplica) -> None:
    begun = asyncio.Event()

    async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        begun.set()
        await trickle(writer, b"1\r\nx\r\n")

    upstream.script = stream
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        connection.send(post())
        await begun.wait()
        await connection.head()
        connection.abort()
        await asyncio.wait_for(upstream.aborted.wait(), 30)
    record = await until(lambda: rig.records, "its record")
    assert record[0].outcome == Outcome.CLIENT_ABORTED


async def test_an_upload_streams_while_it_arrives_in_bounded_memory(rig: Rig, upstream: ScriptedReplica) -> None:
    size, piece = 50 << 20, b"x" * (1 << 20)
    arrived = asyncio.Event()
    let_read = asyncio.Event()
    got = 0

    async def take(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        got += len(await request.reader.readexactly(1000))
        arrived.set()
        await let_read.wait()
        while got < size:
            got += len(await request.reader.read(1 << 18))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = take
    await serve(rig, upstream)
    before = psutil.Process().memory_info().rss
    async with caller(rig.port) as connection:
        connection.send(post(b"").replace(b"Content-Length: 0", b"Content-Length: %d" % size) + piece)
        await asyncio.wait_for(arrived.wait(), 30)
        sent = 1
        # The replica does not read: the gateway must stop reading from the caller, so the caller cannot get rid of it.
        connection.writer.transport.set_write_buffer_limits(high=0)
        try:
            for _ in range(sent, size >> 20):
                connection.send(piece)
                sent += 1
                await asyncio.wait_for(connection.writer.drain(), 0.5)
        except TimeoutError:
            pass
        assert sent < 40, "the gateway took everything although the replica read nothing"
        assert psutil.Process().memory_info().rss - before < 40 << 20
        let_read.set()
        for _ in range(sent, size >> 20):
            connection.send(piece)
            await connection.writer.drain()
        assert (await connection.answer()).body == b"ok"
    assert got == size


async def test_a_caller_that_reads_slowly_holds_back_the_replica(rig: Rig, upstream: ScriptedReplica) -> None:
    size = 64 << 20
    written = 0

    async def pour(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 18):
            writer.write(b"y" * (1 << 18))
            await writer.drain()
            written += 1 << 18

    upstream.script = pour
    await serve(rig, upstream)
    async with caller(rig.port, limit=1 << 16) as connection:
        connection.send(post())
        await connection.head()
        seen = -1
        while seen != written:
            seen = written
            await asyncio.sleep(0.3)
        assert written < size // 2, "the gateway took everything although the caller read nothing"
        assert len(await connection.reader.readexactly(size)) == size
        connection.send(post())
        assert (await connection.head()).status == 200


async def test_an_early_answer_to_an_upload_reaches_the_caller(rig: Rig, upstream: ScriptedReplica) -> None:
    async def refuse_early(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.reader.readexactly(10)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    upstream.script = refuse_early
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        connection.send(post(b"x" * 1000)[:-500])
        got = await connection.answer()
        assert (got.headers["ms-azureml-model-error-statuscode"], got.headers["connection"]) == ("413", "close")
        assert await connection.ended()


async def test_a_draining_replica_gets_nothing_new_and_finishes_what_it_has(
    rig: Rig, upstream: ScriptedReplica
) -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    async with scripted(slow) as victim:
        await serve(rig, victim)
        first = asyncio.create_task(ask(rig.port, post(b"first")))
        await until(lambda: victim.requests, "the victim works")
        sets = {"blue": [replica(victim.port, ReplicaState.DRAINING), replica(upstream.port)]}
        version = rig.publisher.replicas("demo", sets)
        await rig.applied("demo", version=version)
        report = next(one for one in rig.demand if one.replicas_version == version)
        assert report.draining == ((f"r{victim.port}", 1),)
        for _ in range(5):
            assert (await ask(rig.port)).status == 200
        assert len(victim.requests) == 1
        release.set()
        assert (await first).body == b"first"
        await until(lambda: rig.demand[-1].draining == ((f"r{victim.port}", 0),), "nothing in flight any more")
        version = rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await rig.applied("demo", version=version)
        await until(lambda: victim.open == 0, "its connections are closed")


async def test_a_failed_deployment_says_why(rig: Rig) -> None:
    failed = DeploymentReplicas(1, 1, Phase.FAILED, reason="UserScriptInitFailed", message="no module named model")
    await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": failed})
    got = await ask(rig.port)
    assert (got.status, code(got.body)) == (503, "DeploymentFailed")
    assert b"UserScriptInitFailed: no module named model" in got.body


async def test_stopping_drains(rig: Rig, upstream: ScriptedReplica) -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    upstream.script = slow
    await serve(rig, upstream)
    async with caller(rig.port) as idle, caller(rig.port) as busy:
        busy.send(post(b"last"))
        await until(lambda: upstream.requests, "it is under way")
        rig.stop.set()
        assert await idle.ended()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", rig.port)
        release.set()
        got = await busy.answer()
        assert (got.status, got.body, got.headers["connection"]) == (200, b"last", "close")
    assert rig.served is not None
    await asyncio.wait_for(asyncio.shield(rig.served), 30)
    await until(lambda: any(one.status == 200 for one in rig.records), "its record is on the log")


async def test_a_stop_amid_an_answer_leaves_its_caller_time_to_ask_again(rig: Rig, upstream: ScriptedReplica) -> None:
    release = asyncio.Event()

    async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.header("content-length") != "4":
            await echo(request, writer)
            return
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbeg")
        await release.wait()
        writer.write(b"end")

    upstream.script = stream
    await serve(rig, upstream)
    async with caller(rig.port) as idle, caller(rig.port) as busy:
        busy.send(post(b"long"))
        head = await busy.reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" not in head
        rig.stop.set()
        assert await idle.ended()
        release.set()
        assert await busy.reader.readexactly(6) == b"begend"
        busy.send(post(b"again"))
        got = await busy.answer()
        assert (got.status, got.body, got.headers["connection"]) == (200, b"again", "close")
        assert await busy.ended()


async def test_a_deleted_endpoint_is_gone(rig: Rig, upstream: ScriptedReplica) -> None:
    await serve(rig, upstream)
    assert (await ask(rig.port)).status == 200
    rig.publisher.delete("demo")

    async def is_gone() -> bool:
        return (await ask(rig.port)).status == 404

    while not await is_gone():
        await asyncio.sleep(0.01)
    upstream.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await serve(rig, upstream)
    assert (await ask(rig.port)).status == 200
