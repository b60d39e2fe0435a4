"""Requests that are slow to be answered go to a second replica too: one answer, one record, and every place comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from router.contract.events import Outcome
from router.gateway.board import Board
from tests.support.gateway_board import is_zero
from tests.support.gateway_rig import PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, Script, ScriptedReplica, ask, caller, gone, post, scripted, trickle
from tests.support.http2_replica import Asked, Connection, http2_replica

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


@pytest_asyncio.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    boards: list[Board] = []
    original = Board.__init__

    def watched(self: Board, *places: Any, **options: Any) -> None:
        original(self, *places, **options)
        boards.append(self)

    monkeypatch.setattr(Board, "__init__", watched)
    async with gateway(tmp_path) as rig:
        yield rig
        await until(lambda: is_zero(boards[0]), "every place has come back")
        await until(lambda: not any(one.in_flight or one.queued for one in rig.demand[-1].rows), "demand says so too")


class Model:
    """Replicas of which the first requests do what is told, whichever replica has them; later ones echo."""

    def __init__(self, *first: Script) -> None:
        self.first = list(first)
        self.bodies: list[bytes] = []
        self.aborted = 0

    async def script(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.bodies.append(await request.read_body())
        if self.first:
            try:
                await self.first.pop(0)(request, writer)
            except ConnectionError:
                self.aborted += 1
                raise
        else:
            writer.write(OK % (len(request.body), request.body))


async def never(request: Request, writer: asyncio.StreamWriter) -> None:
    await gone(request.reader)


async def serve(
    rig: Rig, stack: AsyncExitStack, model: Model, count: int = 2, concurrency: int = 100, **rule: Any
) -> None:
    servers: list[ScriptedReplica] = [await stack.enter_async_context(scripted(model.script)) for _ in range(count)]
    document = deployment(concurrency, tidegate={"hedging": rule})
    await rig.publish("demo", {"blue": document}, {"blue": 100}, {"blue": [replica(one.port) for one in servers]})


async def figure(rig: Rig, name: str) -> float:
    path = rig.settings.data.root / "run" / "metrics" / "gateway-0.sock"
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    text = (await asyncio.wait_for(reader.read(), PATIENCE)).decode()
    writer.close()
    (line,) = [line for line in text.splitlines() if line.startswith(f"tidegate_gateway_{name}_total{{")]
    return float(line.split()[-1])


async def test_the_second_answers_and_the_first_is_cut_off(rig: Rig) -> None:
    model = Model(never)
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, after_ms=20)
        got = await ask(rig.port, post(b"hello"))
        assert (got.status, got.body) == (200, b"hello")
        assert model.bodies == [b"hello", b"hello"]
        await until(lambda: model.aborted == 1, "the first one's connection ends")
        assert (await figure(rig, "hedged"), await figure(rig, "hedges_won")) == (1, 1)
        (record,) = await until(lambda: rig.records, "its record")
        assert (record.outcome, record.model_status) == (Outcome.OK, 200)
        assert sum(row.arrivals for report in rig.demand for row in report.rows) == 1
        assert sum(row.completions for report in rig.demand for row in report.rows) <= 1


async def test_the_first_answers_after_all_and_the_second_is_cut_off(rig: Rig) -> None:
    go_on = asyncio.Event()

    async def late(request: Request, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK % (5, b"first"))

    async def second(request: Request, writer: asyncio.StreamWriter) -> None:
        go_on.set()
        await gone(request.reader)

    model = Model(late, second)
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, after_ms=20)
        assert (await ask(rig.port)).body == b"first"
        await until(lambda: model.aborted == 1, "the second one's connection ends")
        assert (await figure(rig, "hedged"), await figure(rig, "hedges_won")) == (1, 0)


async def die(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("first_dies", [True, False])
async def test_when_one_of_the_two_dies_the_other_goes_on(rig: Rig, first_dies: bool) -> None:
    second_is_there, dead = asyncio.Event(), asyncio.Event()

    async def one(request: Request, writer: asyncio.StreamWriter) -> None:
        await second_is_there.wait()
        if first_dies:
            writer.transport.abort()
            dead.set()
        else:
            await dead.wait()
            await asyncio.sleep(0.05)
            writer.write(OK % (5, b"first"))

    async def other(request: Request, writer: asyncio.StreamWriter) -> None:
        second_is_there.set()
        if first_dies:
            await dead.wait()
            await asyncio.sleep(0.05)
            writer.write(OK % (6, b"second"))
        else:
            writer.transport.abort()
            dead.set()

    async with AsyncExitStack() as stack:
        await serve(rig, stack, Model(one, other), after_ms=20)
        got = await ask(rig.port)
        assert (got.status, got.body) == (200, b"second" if first_dies else b"first")


async def test_when_both_die_there_is_one_answer(rig: Rig) -> None:
    second_is_there = asyncio.Event()

    async def one(request: Request, writer: asyncio.StreamWriter) -> None:
        await second_is_there.wait()
        writer.transport.abort()

    async def other(request: Request, writer: asyncio.StreamWriter) -> None:
        second_is_there.set()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with AsyncExitStack() as stack, caller(rig.port) as connection:
        await serve(rig, stack, Model(one, other, *[die] * 5), after_ms=20)
        connection.send(post(b"x"))
        assert (await connection.answer()).status == 502


@pytest.mark.parametrize("when", ["working", "answering"])
async def test_a_caller_that_leaves_ends_both(rig: Rig, when: str) -> None:
    async def begin(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        await trickle(writer, b"x")

    model = Model(never, begin if when == "answering" else never)
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, after_ms=20)
        async with caller(rig.port) as connection:
            connection.send(post(b"x"))
            if when == "answering":
                await connection.head()
            else:
                await until(lambda: len(model.bodies) == 2, "both work")
            connection.abort()
            await until(lambda: model.aborted == 2, "both connections end")
        (record,) = await until(lambda: rig.records, "its record")
        assert record.outcome is Outcome.CLIENT_ABORTED


async def test_no_answer_in_time_ends_both(rig: Rig) -> None:
    model = Model(never, never)
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, after_ms=20)
        async with caller(rig.port) as connection:
            connection.send(post(b"x", extra=f"X-Request-Deadline: {time.time() + 1:.3f}\r\n"))
            assert (await connection.answer()).status == 408
        await until(lambda: model.aborted == len(model.bodies), "every connection ends")


async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.15)
    writer.write(OK % (len(request.body), request.body))


async def test_the_budget_bounds_how_many_are_sent_twice(rig: Rig) -> None:
    model = Model(*[slow] * 100)
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, after_ms=10, budget_percent=10)
        answers = await asyncio.gather(*(ask(rig.port) for _ in range(8)))
        assert {one.status for one in answers} == {200}
        assert await figure(rig, "hedged") == 1
        for _ in range(3):
            assert (await ask(rig.port)).status == 200
        assert await figure(rig, "hedged") == 2  # each ten answers earn one


@pytest.mark.parametrize("why", ["one replica", "no free place", "a large body", "a body under way"])
async def test_what_is_not_sent_twice(rig: Rig, why: str) -> None:
    model = Model(*[slow] * 10)
    count, concurrency = (1, 100) if why == "one replica" else (2, 1 if why == "no free place" else 100)
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, count, concurrency, after_ms=1, budget_percent=100)
        if why == "no free place":
            asked = [asyncio.create_task(ask(rig.port)) for _ in range(2)]
            assert {(await one).status for one in asked} == {200}
            return  # the one that is left when the other is done may be sent to its replica
        request = post(b"x" * (70_000 if why == "a large body" else 100))
        async with caller(rig.port) as connection:
            connection.send(request[:-10])
            if why == "a body under way":
                await asyncio.sleep(0.1)
                assert await figure(rig, "hedged") == 0
            connection.send(request[-10:])
            assert (await connection.answer()).status == 200
        assert await figure(rig, "hedged") == (why == "a body under way")


async def test_a_percentile_of_what_was_usual_lately(rig: Rig) -> None:
    model = Model()
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, percentile=95, budget_percent=100)
        async with caller(rig.port) as connection:
            for _ in range(150):
                connection.send(post(b"x"))
                assert (await connection.answer()).status == 200
            before = await figure(rig, "hedged")
            model.first = [never]
            connection.send(post(b"late"))
            assert (await connection.answer()).body == b"late"
        assert await figure(rig, "hedged") > before
        assert await figure(rig, "hedges_won") >= 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_each_caller_has_its_own_answer_whichever_comes_first(rig: Rig, framing: str) -> None:
    """Where both answer at about the same time, and connections are used again."""
    dice = random.Random(3)

    async def about(request: Request, writer: asyncio.StreamWriter) -> None:
        body = await request.read_body()
        await asyncio.sleep(dice.choice([0, 0.008, 0.012, 0.016]))
        writer.write(OK % (len(body), body))

    model = Model()
    model.script = about  # type: ignore[method-assign]
    async with AsyncExitStack() as stack:
        await serve(rig, stack, model, 3, after_ms=1, budget_percent=100)

        async def load(number: int) -> None:
            async with caller(rig.port) as connection:
                for index in range(40):
                    body = b"%d-%d" % (number, index)
                    if framing == "length":
                        connection.send(post(body))
                    else:
                        head = post(extra="Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
                        connection.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
                    got = await connection.answer()
                    assert (got.status, got.body) == (200, body)

        await asyncio.gather(*(load(number) for number in range(8)))
        assert await figure(rig, "hedged") > 5
        await until(lambda: len(rig.records) == 320, "a record for each")


async def test_replicas_of_http_2_too(rig: Rig) -> None:
    async def first_never(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        if len(one.asked) + len(other.asked) > 1:
            connection.head(asked, [(b":status", b"200")])
            connection.data(asked, asked.body, ended=True)

    async with http2_replica(first_never) as one, http2_replica(first_never) as other:
        document = deployment(tidegate={"hedging": {"after_ms": 20}, "protocol": "http2"})
        sets = {"blue": [replica(each.port) for each in (one, other)]}
        await rig.publish("demo", {"blue": document}, {"blue": 100}, sets)
        got = await ask(rig.port, post(b"hello"))
        assert (got.status, got.body) == (200, b"hello")
        assert (len(one.asked), len(other.asked)) == (1, 1)
        await until(
            lambda: [each.asked[0].reset for each in (one, other)].count(8) == 1, "the first one's stream is cancelled"
        )
