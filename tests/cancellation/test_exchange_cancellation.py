"""A caller that leaves at any stage of an exchange: places come back, connections close, the record is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from router.contract.events import Outcome
from router.gateway.board import Board
from router.gateway.target import Target
from tests.support.gateway_board import is_zero
from tests.support.gateway_mirror import FakeMirror
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ScriptedReplica, ask, caller, gone, post, scripted, trickle

HEAD = post(b"x" * 300_000)


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    boards: list[Board] = []
    original = Board.__init__

    def watched(self: Board, path: Path, worker: int, workers: int, *, beside: bool = False) -> None:
        original(self, path, worker, workers, beside=beside)
        boards.append(self)

    monkeypatch.setattr(Board, "__init__", watched)
    async with gateway(tmp_path) as rig, FakeMirror().listening(rig.settings.data.mirror_socket):
        yield rig
        await nothing_left(rig, boards[0])


async def nothing_left(rig: Rig, board: Board) -> None:
    """Every cell is zero and nothing of the gateway runs but what always runs."""
    await until(lambda: is_zero(board), "every place has come back")

    def idle() -> bool:
        names = {task.get_name() for task in asyncio.all_tasks()}
        return not any(name.startswith("connect ") for name in names)

    await until(idle, "no connection is being made")
    await until(lambda: not any(one.in_flight or one.queued for one in rig.demand[-1].rows), "demand says so too")


async def serve(rig: Rig, *servers: ScriptedReplica, concurrency: int = 1) -> None:
    documents = {"blue": deployment(concurrency=concurrency), "candidate": deployment()}
    sets = {"blue": [replica(one.port) for one in servers]}
    await rig.publish("demo", documents, {"blue": 100}, sets, mirror_traffic={"candidate": 50})


async def leave_and_check(rig: Rig, upstream: ScriptedReplica | None, recorded: int = 1) -> None:
    """After the caller has left: its outcome, and the next caller is served."""
    records = await until(lambda: rig.records if len(rig.records) >= recorded else None, "the record")
    assert records[-1].outcome == Outcome.CLIENT_ABORTED
    if upstream is not None:
        await until(lambda: upstream.open == 0, "the replica's connection is closed")


async def test_before_the_head_is_complete(rig: Rig, upstream: ScriptedReplica) -> None:
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        connection.send(HEAD[:40])
        await asyncio.sleep(0.01)
        connection.abort()
    assert (await ask(rig.port)).status == 200
    assert upstream.connections == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_while_the_body_arrives(rig: Rig, upstream: ScriptedReplica, share: float) -> None:
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        connection.send(HEAD[: int(len(HEAD) * share)])
        await until(lambda: upstream.requests, "the replica has begun to read")
        connection.abort()
        await leave_and_check(rig, upstream)
    assert (await ask(rig.port)).status == 200


async def test_while_it_waits_for_a_first_replica(rig: Rig, upstream: ScriptedReplica) -> None:
    await serve(rig)
    async with caller(rig.port) as connection:
        connection.send(post(b"hello"))
        await until(lambda: any(row.queued for report in rig.demand for row in report.rows), "it waits")
        connection.abort()
        await leave_and_check(rig, None)
    version = rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
    await rig.applied("demo", version=version)
    assert (await ask(rig.port, post(b"next"))).body == b"next"
    assert [one.body for one in upstream.requests] == [b"next"]


async def test_while_it_waits_in_the_queue(rig: Rig, upstream: ScriptedReplica) -> None:
    release = asyncio.Event()

    async def hold(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = hold
    await serve(rig, upstream)
    first = asyncio.create_task(ask(rig.port))
    await until(lambda: upstream.requests, "the place is taken")
    async with caller(rig.port) as connection:
        connection.send(post(b"second"))
        await until(lambda: rig.demand[-1].rows[0].queued, "it waits")
        connection.abort()
        await leave_and_check(rig, None)
    release.set()
    assert (await first).status == 200
    assert len(upstream.requests) == 1


async def test_while_a_connection_to_the_replica_is_made(
    rig: Rig, upstream: ScriptedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serve(rig, upstream)
    connecting, go_on = asyncio.Event(), asyncio.Event()
    original = Target._connect

    async def held(self: Target, exchange: object) -> None:
        connecting.set()
        await go_on.wait()
        await original(self, exchange)  # type: ignore[arg-type] # what the caller passes is passed on

    monkeypatch.setattr(Target, "_connect", held)
    async with caller(rig.port) as connection:
        connection.send(post(b"hello"))
        await connecting.wait()
        connection.abort()
        await leave_and_check(rig, None)
    go_on.set()
    # The connection that was on its way is not wasted: the next request goes over it.
    assert (await ask(rig.port, post(b"next"))).body == b"next"
    assert [one.body for one in upstream.requests] == [b"next"]


async def test_while_it_is_unclear_where_it_belongs(rig: Rig, upstream: ScriptedReplica) -> None:
    """By its body, of which nothing has come."""
    near = deployment(concurrency=1, tidegate={"affinity": {"by": "body"}})
    sets = {"blue": [replica(upstream.port), replica(upstream.port, replica_id="other")]}
    await rig.publish("demo", {"blue": near}, {"blue": 100}, sets)
    async with caller(rig.port) as connection:
        request = post(b"hello")
        connection.send(request[:-5])
        await asyncio.sleep(0.01)
        connection.abort()
        await leave_and_check(rig, upstream)
    assert (await ask(rig.port)).status == 200


async def test_politely_while_it_waits_in_the_queue_or_is_worked_on(rig: Rig, upstream: ScriptedReplica) -> None:
    """By closing, which looks like shutting the sending side only."""

    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await gone(request.reader)

    upstream.script = never
    await serve(rig, upstream)
    async with caller(rig.port) as first, caller(rig.port) as second:
        first.send(post(b"hello"))
        await until(lambda: upstream.requests, "it works")
        second.send(post(b"hello"))
        await until(lambda: rig.demand[-1].rows[0].queued, "it waits")
        second.writer.close()
        await until(lambda: rig.records, "it has left the queue")
        first.writer.close()
        await asyncio.wait_for(upstream.aborted.wait(), 30)
        await leave_and_check(rig, upstream, recorded=2)
    assert len(upstream.requests) == 1


async def test_while_it_reads_slower_than_the_answer_comes(rig: Rig, upstream: ScriptedReplica) -> None:
    stuck = asyncio.Event()

    async def pour(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 100_000)
            if writer.transport.get_write_buffer_size() > 1_000_000:
                stuck.set()
                await gone(request.reader)

    upstream.script = pour
    await serve(rig, upstream)
    async with caller(rig.port, limit=1000) as connection:
        connection.send(post(b"hello"))
        await asyncio.wait_for(stuck.wait(), 30)
        connection.abort()
        await asyncio.wait_for(upstream.aborted.wait(), 30)
        await leave_and_check(rig, upstream)


async def test_while_the_replica_works(rig: Rig, upstream: ScriptedReplica) -> None:
    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await gone(request.reader)

    upstream.script = never
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        connection.send(post(b"hello"))
        await until(lambda: upstream.requests, "it works")
        connection.abort()
        await asyncio.wait_for(upstream.aborted.wait(), 30)
        await leave_and_check(rig, upstream)


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked", "Connection: close"])
async def test_while_the_answer_streams(rig: Rig, upstream: ScriptedReplica, framing: str) -> None:
    async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        await trickle(writer, b"1\r\nx\r\n")

    upstream.script = stream
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        connection.send(post(b"hello"))
        await connection.head()
        connection.abort()
        await asyncio.wait_for(upstream.aborted.wait(), 30)
        await leave_and_check(rig, upstream)


async def test_while_a_retry_waits(rig: Rig, upstream: ScriptedReplica) -> None:
    async def die(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.transport.abort()

    upstream.script = die
    await serve(rig, upstream)
    async with caller(rig.port) as connection:
        connection.send(post(b"hello"))
        await until(lambda: upstream.requests, "the first attempt has failed")
        await upstream.stop()
        await until(lambda: any(row.queued for report in rig.demand for row in report.rows), "it waits again")
        connection.abort()
        await leave_and_check(rig, None)


async def test_many_leave_at_once(rig: Rig, upstream: ScriptedReplica) -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await asyncio.sleep(0.001)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = slow
    await serve(rig, upstream, concurrency=8)

    async def one(number: int) -> None:
        async with caller(rig.port) as connection:
            connection.send(post(b"x" * number))
            for _ in range(number % 13):
                await asyncio.sleep(0)
            connection.abort()

    for _ in range(5):
        await asyncio.gather(*(one(number) for number in range(40)))
    for _ in range(10):
        assert (await ask(rig.port)).status == 200
