"""What one connection may ask for: sizes, rates and times, each with its own refusal; nothing is held past its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.gateway_figures import code, figures, refusals
from tests.support.gateway_rig import KEY, PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Caller, Request, ScriptedReplica, answer, ask, caller, post, scripted

CHUNKED = (
    f"POST /endpoints/demo/score HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode()


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@contextlib.asynccontextmanager
async def serving(
    folder: Path, upstream: ScriptedReplica, *, settings: Any = None, limits: Any = None, **options: Any
) -> AsyncIterator[Rig]:
    """A gateway with one endpoint of one replica that does one request at a time."""
    async with gateway(folder, **(settings or {})) as rig:
        documents = {"blue": deployment(**{"concurrency": 1, **options})}
        extras = {"tidegate": {"limits": limits}} if limits else {}
        await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(upstream.port)]}, **extras)
        yield rig


async def drip(connection: Caller, piece: bytes, seconds: float = 0.02) -> None:
    """Send this again and again, until the gateway has had enough."""
    with contextlib.suppress(ConnectionError):
        while not connection.writer.is_closing():
            connection.send(piece)
            await connection.writer.drain()
            await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def dripping(connection: Caller, piece: bytes) -> AsyncIterator[None]:
    task = asyncio.create_task(drip(connection, piece))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Heads ----------------------------------------------------------------------------------------------------------------


async def test_more_fields_than_allowed_are_refused_and_as_many_pass(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with serving(tmp_path, upstream, settings={"max_header_fields": 10}) as rig:
        fits = "".join(f"X-{number}: 1\r\n" for number in range(7))  # besides Host, Authorization and Content-Length
        assert (await ask(rig.port, post(b"x", extra=fits))).status == 200
        async with caller(rig.port) as connection:
            connection.send(post(b"x", extra=f"{fits}X-Y: 1\r\n"))
            got = await connection.answer()
            assert (got.status, code(got), got.headers["connection"]) == (431, "TooManyHeaderFields", "close")
            assert await connection.ended()
        assert await refusals(rig) == {"TooManyHeaderFields": 1}
    assert len(upstream.requests) == 1


async def test_a_head_that_drips_is_refused_at_its_deadline(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with serving(tmp_path, upstream, settings={"header_seconds": 0.3}) as rig, caller(rig.port) as connection:
        connection.send(b"GET / HTTP/1.1\r\n")
        async with dripping(connection, b"X-A: b\r\n"):
            got = await connection.answer()
        assert (got.status, code(got)) == (408, "RequestHeadTimeout")


async def test_who_sends_nothing_at_all_is_let_go(tmp_path: Path, upstream: ScriptedReplica) -> None:
    settings = {"header_seconds": 0.2, "idle_seconds": 0.2}
    async with serving(tmp_path, upstream, settings=settings) as rig:
        async with caller(rig.port) as silent:
            assert await silent.ended()
        async with caller(rig.port) as idle:
            idle.send(post(b"x"))
            assert (await idle.answer()).status == 200
            assert await idle.ended()


# Bodies ---------------------------------------------------------------------------------------------------------------


async def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    async with serving(tmp_path, upstream, limits={"max_body_bytes": 1000}) as rig:
        assert (await ask(rig.port, post(b"x" * 1000))).status == 200
        for length in (1001, 1 << 40, 1001):  # heads that are new, known in part, and known
            async with caller(rig.port) as connection:
                connection.send(post().replace(b"Content-Length: 0", b"Content-Length: %d" % length))
                got = await connection.answer()
                assert (got.status, code(got), got.headers["connection"]) == (413, "RequestBodyTooLarge", "close")
        assert await refusals(rig) == {"RequestBodyTooLarge": 3}
    assert len(upstream.requests) == 1


async def test_the_gateways_own_limit_holds_where_the_endpoint_says_nothing(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    async with serving(tmp_path, upstream, settings={"max_body_bytes": 10}) as rig:
        assert (await ask(rig.port, post(b"x" * 11))).status == 413
        revision = rig.publisher.endpoint(
            "demo", {"blue": deployment()}, {"blue": 100}, tidegate={"limits": {"max_body_bytes": 11}}
        )
        await rig.applied("demo", revision=revision)
        assert (await ask(rig.port, post(b"x" * 11))).status == 200


async def test_a_body_without_a_length_is_refused_where_it_outgrows_the_limit(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    async with serving(tmp_path, upstream, limits={"max_body_bytes": 1000}) as rig:
        async with caller(rig.port) as connection:
            connection.send(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")
            assert (await connection.answer()).status == 200
        async with caller(rig.port) as connection:
            connection.send(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            await until(lambda: len(upstream.requests) == 2, "the replica reads it")
            connection.send(b"1\r\nx\r\n")
            got = await connection.answer()
            assert (got.status, code(got)) == (413, "RequestBodyTooLarge")
        await asyncio.wait_for(upstream.aborted.wait(), PATIENCE)
        async with caller(rig.port) as connection:
            connection.send(CHUNKED + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n")
            assert (await connection.answer()).status == 413
        assert (await ask(rig.port)).status == 200, "the replica's place has come back"
    assert len(upstream.requests) == 3


@pytest.mark.parametrize("head", [CHUNKED, post(b"x" * 10_000)[:-10_000]], ids=["chunked", "length"])
async def test_a_body_that_drips_gives_its_place_back(tmp_path: Path, upstream: ScriptedReplica, head: bytes) -> None:
    async with serving(tmp_path, upstream, settings={"body_seconds": 0.5, "min_rate_bytes": 2000}) as rig:
        async with caller(rig.port) as slow:
            slow.send(head)
            async with dripping(slow, b"1\r\nx\r\n"):
                got = await slow.answer()
            assert (got.status, code(got)) == (408, "RequestBodyTimeout")
        assert (await ask(rig.port)).status == 200
        assert await refusals(rig) == {"RequestBodyTimeout": 1}


async def test_a_body_that_stops_is_the_callers_fault_and_not_the_models(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    async with serving(tmp_path, upstream, timeout_ms=300) as rig:
        async with caller(rig.port) as silent:
            silent.send(post(b"x" * 100)[:-1])
            got = await silent.answer()
            assert (got.status, code(got)) == (408, "RequestBodyTimeout")
        assert (await ask(rig.port)).status == 200


async def test_a_body_that_waits_for_the_replica_is_not_called_slow(tmp_path: Path, upstream: ScriptedReplica) -> None:
    passes = asyncio.Event()

    async def late(request: Request, writer: asyncio.StreamWriter) -> None:
        await passes.wait()
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = late
    settings = {"body_seconds": 0.2, "min_rate_bytes": 100_000}
    async with serving(tmp_path, upstream, settings=settings) as rig, caller(rig.port) as connection:
        connection.send(post(b"x" * (32 << 20)))
        await until(lambda: upstream.requests, "it has begun")
        await asyncio.sleep(1.0)  # several windows in which the replica reads nothing
        passes.set()
        assert (await connection.answer()).status == 200


# Reading --------------------------------------------------------------------------------------------------------------

LARGE = answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (32 << 20) + b"x" * (32 << 20))


async def test_who_does_not_read_is_cut_off_and_the_place_comes_back(tmp_path: Path, upstream: ScriptedReplica) -> None:
    upstream.script = LARGE
    async with serving(tmp_path, upstream, settings={"send_seconds": 0.5}, timeout_ms=500) as rig:
        async with caller(rig.port, limit=1024) as deaf:
            deaf.send(post())
            await until(lambda: upstream.requests, "it is answered")
            await asyncio.wait_for(upstream.aborted.wait(), PATIENCE)
        upstream.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await ask(rig.port)).status == 200
        assert (await figures(rig, "tidegate_gateway_connections_cut_total")) == {'why="slow_reader"': 1}


async def test_who_reads_slowly_but_steadily_gets_everything(tmp_path: Path, upstream: ScriptedReplica) -> None:
    upstream.script = LARGE
    settings = {"send_seconds": 0.5, "min_rate_bytes": 1000}
    async with serving(tmp_path, upstream, settings=settings, timeout_ms=500) as rig:
        async with caller(rig.port, limit=65536) as slow:
            slow.send(post())
            assert (await slow.head()).status == 200
            left = 32 << 20
            while left:
                left -= len(await slow.reader.readexactly(min(left, 1 << 20)))
                await asyncio.sleep(0.05)
        assert await figures(rig, "tidegate_gateway_connections_cut_total") == {}


async def test_answers_that_nobody_reads_do_not_pile_up(tmp_path: Path, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
    async with serving(tmp_path, upstream, settings={"send_seconds": 0.5, "max_pipelined": 1000}) as rig:
        async with caller(rig.port, limit=1024) as deaf:
            deaf.send(post() * 400)  # 80 MB of answers
            assert await asyncio.wait_for(_cut(deaf), PATIENCE)
        assert len(upstream.requests) < 200, "requests were begun for a caller that read none of its answers"
        assert (await ask(rig.port)).status == 200


async def _cut(connection: Caller) -> bool:
    """Whether the other end breaks off, seen without reading."""
    while not connection.writer.is_closing():
        with contextlib.suppress(ConnectionError):
            connection.send(b" ")
            await connection.writer.drain()
        await asyncio.sleep(0.02)
    return True


async def test_a_pipeline_longer_than_the_limit_is_answered_in_order(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with serving(tmp_path, upstream, settings={"max_pipelined": 3}) as rig, caller(rig.port) as connection:
        for number in range(300):
            connection.send(post(b"%d" % number))
        for number in range(300):
            assert (await connection.answer()).body == b"%d" % number


# Connections ----------------------------------------------------------------------------------------------------------

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_one_connection_too_many_is_told_so_when_it_asks(tmp_path: Path) -> None:
    async with gateway(tmp_path, max_connections=2) as rig, contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(caller(rig.port))
        second = await stack.enter_async_context(caller(rig.port))
        second.send(HEALTH)
        assert (await second.answer()).status == 200
        async with caller(rig.port) as third:
            third.send(HEALTH)
            got = await third.answer()
            assert (got.status, code(got), got.headers["retry-after"]) == (503, "TooManyConnections", "1")
            assert got.headers["connection"] == "close"
        first.send(HEALTH)
        assert (await first.answer()).status == 200
        second.abort()
        assert await _let_in(rig.port)
        assert (await refusals(rig))["TooManyConnections"] >= 1


async def _let_in(port: int) -> bool:
    while (await ask(port, HEALTH)).status != 200:
        await asyncio.sleep(0.01)
    return True


async def test_beyond_those_that_can_be_told_connections_are_reset(tmp_path: Path) -> None:
    async with gateway(tmp_path, max_connections=1) as rig, contextlib.AsyncExitStack() as stack:
        many = [await stack.enter_async_context(caller(rig.port)) for _ in range(30)]
        ended = await asyncio.gather(*(one.ended() for one in many[1:]))
        assert all(ended)
        many[0].send(HEALTH)
        assert (await many[0].answer()).status == 200
        # One was let in, sixteen waited to be told, and were let go without having asked.
        assert await figures(rig, "tidegate_gateway_connections_cut_total") == {'why="connections"': 13}
        await stack.aclose()
        assert await _let_in(rig.port)


async def test_one_client_cannot_have_all_connections(tmp_path: Path) -> None:
    async with gateway(tmp_path, host="127.0.0.1", max_connections_per_client=2) as rig:
        async with caller(rig.port) as first, caller(rig.port) as second:
            for connection in (first, second):
                connection.send(HEALTH)
                assert (await connection.answer()).status == 200
            got = await ask(rig.port, HEALTH)
            assert (got.status, code(got)) == (429, "TooManyConnectionsOfClient")
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, local_addr=("127.0.0.2", 0))
            other = Caller(reader, writer)
            other.send(HEALTH)
            assert (await other.answer()).status == 200
            writer.close()
            await writer.wait_closed()
        assert await _let_in(rig.port)


async def test_refusals_are_counted_by_endpoint_and_code(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with serving(tmp_path, upstream, limits={"max_body_bytes": 1}) as rig:
        for request in (post(b"too long"), post(b"too long"), post(key="wrong"), post(path="/nowhere")):
            await ask(rig.port, request)
        assert await refusals(rig) == {"RequestBodyTooLarge": 2, "Unauthorized": 1, "EndpointNotFound": 1}
        assert await figures(rig, "tidegate_gateway_endpoint_refusals_total") == {
            'endpoint="demo",code="RequestBodyTooLarge"': 2, 'endpoint="demo",code="Unauthorized"': 1
        }  # fmt: skip


async def test_the_log_says_each_refusal_once_a_second_and_how_many_it_kept_back(
    tmp_path: Path, upstream: ScriptedReplica, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "router.gateway.refusals")
    async with serving(tmp_path, upstream, limits={"max_body_bytes": 1}) as rig, caller(rig.port) as connection:
        begun = time.monotonic()
        for _ in range(300):
            connection.send(post(key="wrong"))
            assert (await connection.answer()).status == 401
        assert (await ask(rig.port, post(b"xx"))).status == 413
        took = time.monotonic() - begun
        lines = [one for one in caplog.records if one.name == "router.gateway.refusals"]
        said = [vars(one)["code"] for one in lines]
        assert 1 <= said.count("Unauthorized") <= took + 1
        assert said.count("RequestBodyTooLarge") == 1
        assert await refusals(rig) == {"Unauthorized": 300, "RequestBodyTooLarge": 1}
        assert vars(lines[-1])["endpoint"] == "demo"
