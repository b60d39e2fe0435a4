"""What would hold up all others is done in portions, a turn of the loop each; nothing of it gets lost or out of order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop
from websockets.asyncio.server import ServerConnection

from router.contract.events import DeploymentReplicas, Phase
from router.gateway.downstream import Downstream
from router.gateway.turns import LARGE_PIECE
from router.gateway.upstream import Upstream
from router.policy.chunked import LAST
from router.policy.websocket import BINARY, closing, frame
from tests.support.gateway_figures import code
from tests.support.gateway_gate import Gate
from tests.support.gateway_rig import KEY, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Answer, Caller, Request, Script, answer, caller, echo, post, scripted
from tests.support.http2_caller import DataFrame, http2, request
from tests.support.websocket_ends import raw_socket, socket_replica

HEAD = f"POST /endpoints/demo/score HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
BYTES = bytes(range(256)) * 400
TINY = b"".join(b"1\r\n%c\r\n" % one for one in BYTES)
WAITING = 300


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


async def slowly(request: Request, writer: asyncio.StreamWriter) -> None:
    """Reads when the buffers between are full, and not before."""
    await asyncio.sleep(0.2)
    await echo(request, writer)


@pytest.mark.parametrize("script", [echo, slowly])
@pytest.mark.parametrize("shut", [False, True])
async def test_a_body_of_a_hundred_thousand_chunks(rig: Rig, script: Script, *, shut: bool) -> None:
    async with scripted(script) as upstream, caller(rig.port) as connection:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        connection.send(HEAD + TINY + LAST)
        if shut:
            connection.shut()
        got = await connection.answer()
        assert (got.status, got.body == BYTES) == (200, True)
        if not shut:
            connection.send(HEAD + TINY + LAST + post(b"next"))
            assert (await connection.answer()).body == BYTES
            assert (await connection.answer()).body == b"next"


async def test_a_body_of_many_chunks_that_comes_before_there_is_a_replica(rig: Rig) -> None:
    async with scripted() as upstream, caller(rig.port) as connection:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": []})
        connection.send(HEAD + TINY[: len(TINY) // 2])
        await until(lambda: any(row.queued for report in rig.demand for row in report.rows), "it waits")
        connection.send(TINY[len(TINY) // 2 :] + LAST)
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        got = await connection.answer()
        assert (got.status, got.body == BYTES) == (200, True)


async def test_an_answer_of_a_hundred_thousand_chunks(rig: Rig) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + TINY + LAST
    async with scripted(answer(raw)) as upstream, caller(rig.port) as connection:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        for _ in range(3):
            connection.send(post(b"x"))
            await asyncio.sleep(0.1)  # a caller that reads late
            got = await connection.answer()
            assert (got.status, got.body == BYTES) == (200, True)
        assert upstream.connections == 1


async def test_a_caller_that_leaves_amid_many_chunks(rig: Rig) -> None:
    async with scripted() as upstream:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        async with caller(rig.port) as connection:
            connection.send(HEAD + TINY)
            await until(lambda: upstream.requests, "it is with the replica")
            connection.abort()
        await asyncio.wait_for(upstream.aborted.wait(), 30)


async def test_a_body_of_many_frames_and_many_requests_at_once_over_http2(rig: Rig) -> None:
    async with scripted() as upstream:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        async with http2(rig.port) as connection:
            stream = connection.begin([*request(), (b"x-large", b"a" * 20_000)])
            connection.send(*(DataFrame(stream, data=BYTES[at : at + 1]) for at in range(5_000)))
            connection.data(stream, b"", ended=True)
            others = [
                connection.post(b"%d" % number, extra=[(b"x-large-%d" % number, b"b" * 20_000)]) for number in range(90)
            ]
            got = await connection.answer(stream)
            assert (got.status, bytes(got.body)) == (200, BYTES[:5_000])
            assert [(await connection.answer(one)).body for one in others] == [b"%d" % number for number in range(90)]


@pytest.mark.parametrize("shut", [False, True])
async def test_tens_of_thousands_of_messages_over_websocket(rig: Rig, *, shut: bool) -> None:
    got: list[str | bytes] = []
    over = asyncio.Event()

    async def count(connection: ServerConnection) -> None:
        got.extend([message async for message in connection])
        over.set()

    sent = [b"%c" % one for one in BYTES[:40_000]]
    raw = b"".join(frame(BINARY, one, b"mask") for one in sent) + closing(1000, "", b"mask")
    async with socket_replica(count) as upstream:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        async with raw_socket(rig.port) as connection:
            connection.send(raw)
            if shut:
                connection.shut()
            await asyncio.wait_for(over.wait(), 60)
    assert got == sent


def giant(number: int, body: bytes = b"x", path: str = "/endpoints/loud/score") -> bytes:
    """A request with a head of 60 KB."""
    return post(body, path=path, extra=f"X-{number}: {'a' * 60_000}\r\n")


async def test_a_small_request_overtakes_giant_heads_that_came_before_it(rig: Rig) -> None:
    order: list[str] = []

    def noting(name: str) -> Script:
        async def script(request: Request, writer: asyncio.StreamWriter) -> None:
            order.append(name)
            await echo(request, writer)

        return script

    async with (
        scripted(noting("loud")) as loud,
        scripted(noting("quiet")) as quiet,
        contextlib.AsyncExitStack() as stack,
    ):
        for name, upstream in (("loud", loud), ("quiet", quiet)):
            await rig.publish(name, {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        crowd = [await stack.enter_async_context(caller(rig.port)) for _ in range(20)]
        small = await stack.enter_async_context(caller(rig.port))
        asked = post(b"small", path="/endpoints/quiet/score")
        for _ in range(2):  # connections to the replicas are there
            for connection in crowd:
                connection.send(post(b"x", path="/endpoints/loud/score"))
            small.send(asked)
            assert {(await connection.answer()).status for connection in [*crowd, small]} == {200}
        order.clear()
        for number, connection in enumerate(crowd):
            connection.send(giant(number))
        small.send(asked)
        assert {(await connection.answer()).status for connection in [*crowd, small]} == {200}
        assert order.index("quiet") < len(crowd) // 2, order


@pytest.mark.parametrize("shut", [False, True])
async def test_giant_heads_behind_one_another(rig: Rig, *, shut: bool) -> None:
    async with scripted() as upstream, caller(rig.port) as connection:
        await rig.publish("loud", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        bodies = [b"%d" % number * 1000 for number in range(6)]
        raw = b"".join(giant(number, body) for number, body in enumerate(bodies))
        connection.send(b"\r\n" + raw[:100_000])
        await asyncio.sleep(0.05)
        connection.send(raw[100_000:])
        if shut:
            connection.shut()
        assert [(await connection.answer()).body for _ in bodies] == bodies
        if shut:
            assert await connection.ended()


async def test_a_caller_that_leaves_while_its_giant_head_waits(rig: Rig) -> None:
    async with scripted() as upstream, contextlib.AsyncExitStack() as stack:
        await rig.publish("loud", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        crowd = [await stack.enter_async_context(caller(rig.port)) for _ in range(30)]
        for number, connection in enumerate(crowd):
            connection.send(giant(number))
        for connection in crowd[::2]:
            connection.abort()
        for connection in crowd[1::2]:
            assert (await connection.answer()).status == 200
        connection = crowd[1]
        for number in range(3):  # and again, on the same connection
            connection.send(giant(number))
            assert (await connection.answer()).status == 200


@pytest.mark.interpreted
def test_large_bodies_come_in_one_piece_of_each_connection_in_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On uvloop, which else reads on while the kernel has more: up to 8 MB before anybody else is looked at."""
    turn = 0
    pieces: Counter[tuple[int, type, int]] = Counter()

    def count_pieces(kind: type[Downstream | Upstream]) -> None:
        plain = kind.data_received

        def counting(self: Any, data: bytes) -> None:
            pieces[turn, kind, id(self)] += len(data) >= LARGE_PIECE
            plain(self, data)

        monkeypatch.setattr(kind, "data_received", counting)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def tick() -> None:
            nonlocal turn
            turn += 1
            ticking[0] = loop.call_soon(tick)

        async with gateway(tmp_path) as rig, scripted() as upstream, contextlib.AsyncExitStack() as stack:
            await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
            ticking = [loop.call_soon(tick)]
            callers = [await stack.enter_async_context(caller(rig.port)) for _ in range(4)]
            bodies = [b"%d" % number * 8_000_000 for number in range(len(callers))]
            for connection, body in zip(callers, bodies, strict=True):
                connection.send(post(body))
            for got, body in zip(await _all(callers), bodies, strict=True):
                assert (got.status, got.body == body) == (200, True)
            ticking[0].cancel()

    for kind in (Downstream, Upstream):
        count_pieces(kind)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
    for kind in (Downstream, Upstream):
        assert max(count for (_, of, _), count in pieces.items() if of is kind) == 1


async def test_endless_empty_lines_before_a_request_are_refused(rig: Rig) -> None:
    async with caller(rig.port) as connection:
        connection.send(b"\r\n" * 500_000)
        got = await connection.answer()
        assert (got.status, code(got)) == (400, "BadRequest")


@contextlib.asynccontextmanager
async def crowd(rig: Rig) -> AsyncIterator[list[Caller]]:
    """So many requests wait for a first replica."""
    await rig.publish("demo", {"blue": deployment(concurrency=WAITING)}, {"blue": 100}, {"blue": []})
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(caller(rig.port)) for _ in range(WAITING)]
        for number, connection in enumerate(callers):
            connection.send(post(b"%d" % number))
        await until(lambda: _queued(rig) == WAITING, "all wait")
        yield callers


def _queued(rig: Rig) -> int:
    return rig.demand[-1].rows[0].queued if rig.demand and rig.demand[-1].rows else 0


async def _all(callers: list[Caller]) -> list[Answer]:
    return await asyncio.gather(*[connection.answer() for connection in callers])


async def test_a_first_replica_gets_all_that_wait(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream, crowd(rig) as callers:
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await until(lambda: gate.inside == WAITING, "all are with the replica")
        for _ in callers:
            gate.passes.release()
        assert {one.status for one in await _all(callers)} == {200}


async def test_all_that_wait_are_told_that_the_deployment_has_failed(rig: Rig) -> None:
    async with crowd(rig) as callers:
        rig.publisher.replicas("demo", {"blue": DeploymentReplicas(1, 1, Phase.FAILED, reason="BadImage")})
        assert Counter((one.status, code(one)) for one in await _all(callers)) == {(503, "DeploymentFailed"): WAITING}


async def test_all_that_wait_are_told_that_the_endpoint_is_gone(rig: Rig) -> None:
    async with crowd(rig) as callers:
        rig.publisher.delete("demo")
        assert Counter((one.status, code(one)) for one in await _all(callers)) == {(404, "EndpointNotFound"): WAITING}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": []})
        assert _queued(rig) == 0


async def test_all_that_wait_leave_in_any_order(rig: Rig) -> None:
    async with crowd(rig) as callers:
        for connection in [*callers[200:], *reversed(callers[:200])]:
            connection.abort()
        await until(lambda: _queued(rig) == 0, "nobody waits")
