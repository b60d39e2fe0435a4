"""Which replica takes a request, where the deployment asks for more than the less loaded of two."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, Script, ScriptedReplica, ask, caller, echo, post, scripted

LONG_AGO, WINDOW = 10_000.0, 3000.0


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


async def replicas(stack: AsyncExitStack, count: int, script: Script = echo) -> list[ScriptedReplica]:
    return [await stack.enter_async_context(scripted(script)) for _ in range(count)]


async def serve(
    rig: Rig, upstreams: list[ScriptedReplica], *ages: float | None, concurrency: int = 100, **extras: Any
) -> None:
    """Replicas that have been ready for these seconds; None: nobody says."""
    now = time.time_ns()
    sets = [
        dataclasses.replace(replica(one.port), ready_ns=0 if age is None else now - int(age * 1e9))
        for one, age in zip(upstreams, ages, strict=True)
    ]
    await rig.publish("demo", {"blue": deployment(concurrency, tidegate=extras)}, {"blue": 100}, {"blue": sets})


async def counts(rig: Rig, upstreams: list[ScriptedReplica], requests: int) -> list[int]:
    """How many of so many requests, one after the other, each replica got."""
    before = [len(one.requests) for one in upstreams]
    async with caller(rig.port) as connection:
        for _ in range(requests):
            connection.send(post(b"x"))
            assert (await connection.answer()).status == 200
    return [len(one.requests) - seen for one, seen in zip(upstreams, before, strict=True)]


async def test_a_new_replica_gets_a_growing_share(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        some = await replicas(stack, 4)
        await serve(rig, some, LONG_AGO, LONG_AGO, LONG_AGO, 0, slow_start_seconds=WINDOW)
        fresh = (await counts(rig, some, 600))[3]
        assert 0 < fresh < 60  # 600 x 0.1 / 3.1 = 19
        async with gateway(rig.settings.data.root / "later") as later:
            await serve(later, some, LONG_AGO, LONG_AGO, LONG_AGO, WINDOW / 2, slow_start_seconds=WINDOW)
            assert 40 < (await counts(later, some, 600))[3] < 130  # 600 x 0.5 / 3.5 = 86


@pytest.mark.parametrize("age", [None, 0.0, 5.0, -100.0])
async def test_where_all_are_new_nobody_is_slowed(rig: Rig, age: float | None) -> None:
    async with AsyncExitStack() as stack:
        some = await replicas(stack, 3)
        await serve(rig, some, age, age, age, slow_start_seconds=WINDOW)
        assert min(await counts(rig, some, 300)) > 50
    async with scripted() as alone:
        await serve(rig, [alone], 0, slow_start_seconds=WINDOW)
        assert await counts(rig, [alone], 20) == [20]


async def test_one_that_comes_later_without_an_age_is_new(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        some = await replicas(stack, 3)
        await serve(rig, some[:2], LONG_AGO, LONG_AGO, slow_start_seconds=WINDOW)
        await serve(rig, some, LONG_AGO, LONG_AGO, None, slow_start_seconds=WINDOW)
        assert (await counts(rig, some, 300))[2] < 60


async def test_without_slow_start_a_new_replica_has_its_whole_share_at_once(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        some = await replicas(stack, 3)
        await serve(rig, some, LONG_AGO, LONG_AGO, 0)
        assert min(await counts(rig, some, 300)) > 50


async def test_rather_than_wait_a_request_goes_to_a_new_replica(rig: Rig) -> None:
    release = asyncio.Event()

    async def hold(request: Request, writer: Any) -> None:
        await release.wait()
        await echo(request, writer)

    async with AsyncExitStack() as stack:
        some = await replicas(stack, 3, hold)
        await serve(rig, some, LONG_AGO, LONG_AGO, 0, concurrency=2, slow_start_seconds=WINDOW)
        asked = [asyncio.create_task(ask(rig.port)) for _ in range(6)]
        await until(lambda: sum(len(one.requests) for one in some) == 6, "all are sent")
        assert [len(one.requests) for one in some] == [2, 2, 2]
        release.set()
        assert Counter([(await one).status for one in asked]) == {200: 6}


async def sent(upstreams: list[ScriptedReplica], total: int) -> None:
    await until(lambda: sum(len(one.requests) for one in upstreams) == total, f"{total} are sent")


async def in_zones(
    rig: Rig, upstreams: list[ScriptedReplica], zones: str, concurrency: int = 100, **extras: Any
) -> None:
    """Replicas in zones of one letter each."""
    sets = [dataclasses.replace(replica(one.port), zone=zone) for one, zone in zip(upstreams, zones, strict=True)]
    await rig.publish("demo", {"blue": deployment(concurrency, tidegate=extras)}, {"blue": 100}, {"blue": sets})


@pytest_asyncio.fixture
async def in_a(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path / "a", zone="a") as rig:
        yield rig


@pytest.mark.parametrize("slow_start", [0, 60])
async def test_replicas_of_the_own_zone_are_preferred(in_a: Rig, slow_start: float) -> None:
    async with AsyncExitStack() as stack:
        some = await replicas(stack, 4)
        await in_zones(in_a, some, "aabb", slow_start_seconds=slow_start)
        found = await counts(in_a, some, 200)
        assert found[2:] == [0, 0]
        assert min(found[:2]) > 40
        await in_zones(in_a, some, "abbb", slow_start_seconds=slow_start)
        assert 200 < (await counts(in_a, some, 600))[0] < 400  # half of them
        await in_zones(in_a, some, "bbcc", slow_start_seconds=slow_start)
        assert min(await counts(in_a, some, 300)) > 30
        await in_zones(in_a, some, "aaaa", slow_start_seconds=slow_start)
        assert min(await counts(in_a, some, 300)) > 30


async def test_a_gateway_without_a_zone_has_no_preference(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        some = await replicas(stack, 4)
        await in_zones(rig, some, "aabb")
        assert min(await counts(rig, some, 300)) > 30


async def test_when_the_own_zone_is_full_or_gone_others_do(in_a: Rig) -> None:
    release = asyncio.Event()

    async def hold(request: Request, writer: Any) -> None:
        await release.wait()
        await echo(request, writer)

    async with AsyncExitStack() as stack:
        some = await replicas(stack, 4, hold)
        await in_zones(in_a, some, "aabb", concurrency=2)
        asked = []
        for number in range(8):
            asked.append(asyncio.create_task(ask(in_a.port)))
            await sent(some, number + 1)
            if number < 4:
                assert not some[2].requests
                assert not some[3].requests
        assert [len(one.requests) for one in some] == [2, 2, 2, 2]
        release.set()
        assert {(await one).status for one in asked} == {200}
        await some[0].stop()
        await some[1].stop()
        assert Counter([(await ask(in_a.port)).status for _ in range(20)]) == {200: 20}
