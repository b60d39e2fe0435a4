"""What one endpoint's callers, model or replicas do moves no other endpoint's answers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from loadtests.waiting import free_port
from router.contract.events import Flag
from router.runtime.settings import DataLayout, GatewaySettings
from tests.support.gateway_figures import code, figures_of, refusals
from tests.support.gateway_gate import Gate
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until, worker_process
from tests.support.gateway_upstream import Caller, ScriptedReplica, ask, caller, post, scripted
from tests.support.gateway_workers import publishing

QUIET = "/endpoints/quiet/score"


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


@contextlib.asynccontextmanager
async def quiet(rig: Rig) -> AsyncIterator[ScriptedReplica]:
    """An endpoint that is well."""
    async with scripted() as upstream:
        await rig.publish("quiet", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        yield upstream


async def answered_at_once(rig: Rig, requests: int = 200) -> None:
    """All of the quiet endpoint's requests succeed, and none of them waits for anything."""
    before = len([one for one in rig.records if one.replica])
    async with caller(rig.port) as connection:
        for number in range(requests):
            connection.send(post(b"%d" % number, path=QUIET))
            got = await connection.answer()
            assert (got.status, got.body) == (200, b"%d" % number)
    await until(lambda: len([one for one in rig.records if one.replica]) >= before + requests, "they are recorded")
    assert not any(one.flags & Flag.WAITED for one in rig.records if one.replica and one.status == 200)


async def test_a_model_that_never_answers_and_its_full_queue(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as stuck, quiet(rig), contextlib.AsyncExitStack() as stack:
        settings = deployment(concurrency=5, timeout_ms=60_000, wait_ms=60_000)
        await rig.publish("loud", {"blue": settings}, {"blue": 100}, {"blue": [replica(stuck.port)]})
        crowd = [await stack.enter_async_context(caller(rig.port)) for _ in range(40)]
        for connection in crowd:
            connection.send(post(b"x", path="/endpoints/loud/score"))
        await until(lambda: gate.inside == 5, "the model is full")
        counted = (await until(lambda: _rejected(rig), "the queue is full"), gate.most)
        await answered_at_once(rig)
        assert counted == (30, 5)
        assert gate.most == 5
        for connection in crowd:
            connection.abort()


def _rejected(rig: Rig) -> int:
    total = sum(row.rejected for report in rig.demand if report.endpoint == "loud" for row in report.rows)
    return total if total >= 30 else 0


async def test_giant_heads_and_heads_that_are_never_the_same(rig: Rig) -> None:
    async with quiet(rig), scripted() as upstream, contextlib.AsyncExitStack() as stack:
        await rig.publish("loud", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        done = asyncio.Event()
        statuses: Counter[int] = Counter()

        async def load(connection: Caller, number: int) -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                field = f"X-{number}-{turn}: {'a' * (60_000 if turn % 2 else 10)}\r\n"
                connection.send(post(b"x", path="/endpoints/loud/score", extra=field))
                statuses[(await connection.answer()).status] += 1

        crowd = [await stack.enter_async_context(caller(rig.port)) for _ in range(4)]
        loads = [asyncio.create_task(load(connection, number)) for number, connection in enumerate(crowd)]
        await until(lambda: statuses[200] > 20, "the others are at it")
        await answered_at_once(rig)
        done.set()
        await asyncio.gather(*loads)
        assert set(statuses) == {200}


async def test_bodies_that_wait_leave_room_for_those_of_others(rig: Rig) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for name in ("loud", "quiet"):
            await rig.publish(name, {"blue": deployment()}, {"blue": 100}, {"blue": []})
        body = b"x" * 100_000
        crowd = [await stack.enter_async_context(caller(rig.port)) for _ in range(600)]
        answers = [asyncio.create_task(one.answer()) for one in crowd]
        for connection in crowd:
            connection.send(post(body, path="/endpoints/loud/score"))
            await asyncio.sleep(0)
        await until(lambda: any(one.done() for one in answers), "the memory is full")
        refused = [one.result() for one in answers if one.done()]
        assert {(one.status, code(one)) for one in refused} == {(429, "WaitingBodiesTooLarge")}
        waiting = [asyncio.create_task(ask(rig.port, post(body, path=QUIET))) for _ in range(20)]
        await until(lambda: _queued(rig, "quiet") == 20, "the other's wait")
        upstream = await stack.enter_async_context(scripted())
        rig.publisher.replicas("quiet", {"blue": [replica(upstream.port)]})
        assert {(one.status, one.body) for one in await asyncio.gather(*waiting)} == {(200, body)}
        assert set(await refusals(rig)) == {"WaitingBodiesTooLarge"}
        for connection in crowd:
            connection.abort()
        await asyncio.gather(*answers, return_exceptions=True)
        await until(lambda: _queued(rig, "loud") == 0, "they have left")
        # All of it has been given back: as many as before fit again.
        rig.publisher.replicas("loud", {"blue": [replica(upstream.port)]})
        assert (await ask(rig.port, post(body, path="/endpoints/loud/score"))).status == 200


def _queued(rig: Rig, endpoint: str) -> int:
    found = [row.queued for report in rig.demand if report.endpoint == endpoint for row in report.rows]
    return found[-1] if found else 0


def _all_inside(gate: Gate) -> bool:
    return gate.inside == 100


async def test_connections_that_an_endpoints_peak_leaves_behind(tmp_path: Path) -> None:
    """With as many descriptors as one peak takes: idle connections to the one's replicas make room for the other's."""
    async with publishing(tmp_path) as publisher, contextlib.AsyncExitStack() as stack:
        gates = {name: Gate() for name in ("loud", "quiet")}
        for name, gate in gates.items():
            upstream = await stack.enter_async_context(scripted(gate.script))
            publisher.endpoint(name, {"blue": deployment(concurrency=100, timeout_ms=60_000)}, {"blue": 100})
            publisher.replicas(name, {"blue": [replica(upstream.port)]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), max_connections=110)
        process = await stack.enter_async_context(worker_process(settings))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (280, 280))
        for name, gate in gates.items():
            path = f"/endpoints/{name}/score"
            async with contextlib.AsyncExitStack() as callers:
                crowd = [await callers.enter_async_context(caller(settings.port)) for _ in range(100)]
                for connection in crowd:
                    connection.send(post(b"x", path=path))
                await until(functools.partial(_all_inside, gate), f"all of {name}'s are with the replica")
                for _ in crowd:
                    gate.passes.release()
                assert {(await connection.answer()).status for connection in crowd} == {200}
            while (await figures_of(settings, "tidegate_gateway_open_connections"))[""]:
                await asyncio.sleep(0.01)


async def test_of_many_idle_connections_only_as_many_are_closed_as_others_need(tmp_path: Path) -> None:
    async with publishing(tmp_path) as publisher, scripted() as upstream, contextlib.AsyncExitStack() as stack:
        names = [f"tide-{number}" for number in range(60)]
        for name in names:
            publisher.endpoint(name, {"blue": deployment()}, {"blue": 100})
            publisher.replicas(name, {"blue": [replica(upstream.port)]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), max_connections=48)
        await stack.enter_async_context(worker_process(settings))
        connection = await stack.enter_async_context(caller(settings.port))
        fewest = len(names)
        for asked, name in enumerate([*names, *names[-10:]], 1):
            connection.send(post(b"x", path=f"/endpoints/{name}/score"))
            assert (await connection.answer()).status == 200
            if asked >= 48:
                fewest = min(fewest, upstream.open)
        assert fewest >= 36, "an eighth at a time, and no more while there is room for another eighth"
        await until(lambda: upstream.open <= 48, "the others are closed")
        assert upstream.connections == len(names), "those that were used last are kept"
