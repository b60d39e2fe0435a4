"""Classes of requests: a higher one goes first, a full queue makes room for it, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from router.contract.events import Outcome
from tests.support.gateway_figures import code, refusals
from tests.support.gateway_gate import Gate
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Answer, Caller, ScriptedReplica, ask, post, scripted
from tests.support.gateway_workers import one_caller_for_each_worker, publishing, workers

CLASSES = {"header": "X-Priority", "classes": ["high", "normal", "low"], "default": "normal"}


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


def request(body: bytes, name: str | None = None) -> bytes:
    return post(body, extra=f"X-Priority: {name}\r\n" if name is not None else "")


class Line:
    """Requests in the order in which they were sent, each known to wait before the next one comes."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.tasks: dict[bytes, asyncio.Task[Answer]] = {}

    async def joins(self, body: bytes, name: str | None = None, *, waits: bool = True) -> None:
        before = self._rig.demand[-1].rows[0].queued
        self.tasks[body] = asyncio.create_task(ask(self._rig.port, request(body, name)))
        if waits:
            await until(lambda: self._rig.demand[-1].rows[0].queued == before + 1, f"{body!r} waits")

    async def answer(self, body: bytes) -> Answer:
        return await self.tasks[body]

    async def all(self) -> dict[bytes, int]:
        return {body: (await task).status for body, task in self.tasks.items()}


async def serve(rig: Rig, upstream: ScriptedReplica | None, *, concurrency: int = 3, classes: Any = CLASSES) -> None:
    sets = {"blue": [replica(upstream.port)] if upstream is not None else []}
    extras = {"tidegate": {"priorities": classes}} if classes else {}
    await rig.publish("demo", {"blue": deployment(concurrency=concurrency)}, {"blue": 100}, sets, **extras)


async def filled(gate: Gate, line: Line, concurrency: int = 3) -> None:
    """The replica is full."""
    for number in range(concurrency):
        await line.joins(b"in%d" % number, waits=False)
    await until(lambda: gate.inside == concurrency, "it is full")


async def test_a_higher_class_goes_first_and_within_one_the_older(rig: Rig) -> None:
    gate, line = Gate(), Line(rig)
    async with scripted(gate.script) as upstream:
        await serve(rig, upstream, concurrency=6)
        await filled(gate, line, 6)
        for body, name in (
            (b"1", "low"),
            (b"2", None),
            (b"3", "HIGH"),
            (b"4", "low"),
            (b"5", "high"),
            (b"6", "urgent"),
        ):
            await line.joins(body, name)
        for count in range(6):
            gate.passes.release()
            await until(lambda: len(upstream.requests) == 7 + count, "the next one is in")  # noqa: B023 -- awaited at once
        order = [one.body for one in upstream.requests[6:]]
        for _ in range(6):
            gate.passes.release()
        assert set((await line.all()).values()) == {200}
        assert order == [b"3", b"5", b"2", b"6", b"1", b"4"]


async def test_a_full_queue_refuses_the_lowest_class_first_and_in_it_the_newest(rig: Rig) -> None:
    gate, line = Gate(), Line(rig)
    async with scripted(gate.script) as upstream:
        await serve(rig, upstream)
        await filled(gate, line)
        for body in (b"a", b"b", b"c"):
            await line.joins(body, "low")
        got = await ask(rig.port, request(b"d", "low"))
        assert (got.status, code(got)) == (429, "TooManyRequests"), "the newest of the lowest class is the newcomer"
        await line.joins(b"N", "normal", waits=False)
        got = await line.answer(b"c")
        assert (got.status, code(got), got.headers["retry-after"]) == (429, "DisplacedByPriority", "1")
        await line.joins(b"H", "high", waits=False)
        assert (await line.answer(b"b")).status == 429
        got = await ask(rig.port, request(b"d", "low"))
        assert code(got) == "TooManyRequests"
        for body in (b"I", b"J"):
            await line.joins(body, "high", waits=False)
        assert [(await line.answer(body)).status for body in (b"a", b"N")] == [429, 429]
        got = await ask(rig.port, request(b"K", "high"))
        assert code(got) == "TooManyRequests", "the highest class makes room for nobody"
        for _ in range(6):
            gate.passes.release()
        statuses = await line.all()
        assert {body for body, status in statuses.items() if status == 200} == {
            b"in0",
            b"in1",
            b"in2",
            b"H",
            b"I",
            b"J",
        }
        assert await refusals(rig) == {"TooManyRequests": 3, "DisplacedByPriority": 4}
        assert gate.most == 3
    records = await until(lambda: rig.records if len(rig.records) == 13 else None, "13 records")
    assert sum(one.outcome == Outcome.QUEUE_FULL for one in records) == 7
    assert sum(row.arrivals for report in rig.demand for row in report.rows) == 13


async def test_who_waits_for_a_first_replica_is_let_in_by_class(rig: Rig) -> None:
    line = Line(rig)
    async with scripted() as upstream:
        await serve(rig, None, concurrency=1)
        for body, name in ((b"1", "low"), (b"2", "normal"), (b"3", "high"), (b"4", None)):
            await line.joins(body, name)
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        assert set((await line.all()).values()) == {200}
        assert [one.body for one in upstream.requests] == [b"3", b"2", b"4", b"1"]


async def test_a_full_room_of_those_held_makes_room_too(tmp_path: Path) -> None:
    async with gateway(tmp_path, max_waiting=2) as rig, scripted() as upstream:
        line = Line(rig)
        await serve(rig, None, concurrency=1)
        await line.joins(b"1", "low")
        await line.joins(b"2", "normal")
        got = await ask(rig.port, request(b"3", "low"))
        assert code(got) == "TooManyWaiting"
        await line.joins(b"4", "high", waits=False)
        assert code(await line.answer(b"1")) == "DisplacedByPriority"
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        assert await line.all() == {b"1": 429, b"2": 200, b"4": 200}


async def test_without_classes_the_header_means_nothing(rig: Rig) -> None:
    gate, line = Gate(), Line(rig)
    async with scripted(gate.script) as upstream:
        await serve(rig, upstream, classes=None)
        await filled(gate, line)
        for body, name in ((b"1", "low"), (b"2", "high"), (b"3", "low")):
            await line.joins(body, name)
        assert code(await ask(rig.port, request(b"4", "high"))) == "TooManyRequests"
        for _ in range(6):
            gate.passes.release()
        assert set((await line.all()).values()) == {200}
        assert [one.body for one in upstream.requests[3:]] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("classes", [None, {"header": "X-Priority", "classes": ["low", "high"]}])
async def test_classes_change_while_requests_wait(rig: Rig, classes: Any) -> None:
    gate, line = Gate(), Line(rig)
    async with scripted(gate.script) as upstream:
        await serve(rig, upstream)
        await filled(gate, line)
        await line.joins(b"1", "low")
        await line.joins(b"2", "high")
        await serve(rig, upstream, classes=classes)
        await line.joins(b"3", "high")
        for _ in range(6):
            gate.passes.release()
        assert set((await line.all()).values()) == {200}
        await serve(rig, upstream)
        gate.passes.release()
        assert (await ask(rig.port)).status == 200


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def worker_of(connection: Caller) -> str:
    """Which worker has a connection; with it, what was sent to that worker before has been read."""
    connection.send(HEALTH)
    return (await connection.answer()).headers["x-request-id"][:23]


async def test_a_full_queue_in_another_worker_makes_room(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        publishing(tmp_path) as publisher,
        scripted(gate.script) as upstream,
        contextlib.AsyncExitStack() as stack,
    ):
        extras = {"priorities": CLASSES}
        publisher.endpoint("demo", {"blue": deployment(concurrency=2)}, {"blue": 100}, tidegate=extras)
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        settings, _ = await stack.enter_async_context(workers(tmp_path, publisher))
        of: dict[str, list[Caller]] = {}
        for _ in range(5):
            for connection in await one_caller_for_each_worker(stack, settings.port):
                of.setdefault(await worker_of(connection), []).append(connection)
        low, high = of.values()
        for connection in low[:4]:
            connection.send(request(b"low", "low"))
        await until(lambda: gate.inside == 2, "two are in")
        for _ in range(3):
            await worker_of(low[4])  # and the other two wait
        for connection in high[:2]:
            connection.send(request(b"high", "high"))
        answers = [asyncio.create_task(connection.answer()) for connection in low[:4]]
        await until(lambda: sum(one.done() for one in answers) == 2, "two have made room")
        assert {code(one.result()) for one in answers if one.done()} == {"DisplacedByPriority"}
        for _ in range(4):
            gate.passes.release()
        assert [(await connection.answer()).body for connection in high[:2]] == [b"high", b"high"]
        assert sorted([(await one).status for one in answers]) == [200, 200, 429, 429]
        assert gate.most == 2
