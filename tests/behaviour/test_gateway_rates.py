"""What an endpoint's callers may ask for together: requests per second and at once, over all workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest_asyncio

from loadtests.waiting import free_port
from router.contract.events import Outcome
from router.runtime.settings import DataLayout, GatewaySettings
from tests.support.gateway_figures import code, refusals
from tests.support.gateway_gate import Gate
from tests.support.gateway_rig import PATIENCE, Rig, deployment, gateway, replica, until, worker_process
from tests.support.gateway_upstream import Caller, ScriptedReplica, ask, caller, post, scripted
from tests.support.gateway_workers import Process, one_caller_for_each_worker, publishing, workers


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


async def limited(rig: Rig, upstream: ScriptedReplica, name: str = "demo", **limits: Any) -> None:
    sets = {"blue": [replica(upstream.port)]}
    await rig.publish(name, {"blue": deployment()}, {"blue": 100}, sets, tidegate={"limits": limits})


async def test_a_burst_passes_and_then_the_rate_holds(rig: Rig) -> None:
    async with scripted() as upstream:
        await limited(rig, upstream, requests_per_second=0.01, burst=3)
        left = []
        for _ in range(3):
            got = await ask(rig.port)
            assert got.status == 200
            assert got.headers["ratelimit-limit"] == "3"
            left.append(got.headers["ratelimit-remaining"])
            assert 0 < int(got.headers["ratelimit-reset"]) <= 300
        assert left == ["2", "1", "0"]
        got = await ask(rig.port)
        assert (got.status, code(got)) == (429, "RateLimitExceeded")
        assert 90 <= int(got.headers["retry-after"]) <= 100
        assert got.headers["ratelimit-remaining"] == "0"
        assert got.headers["ratelimit-reset"] == got.headers["retry-after"]
        assert len(upstream.requests) == 3
        assert await refusals(rig) == {"RateLimitExceeded": 1}
    records = await until(lambda: rig.records if len(rig.records) == 4 else None, "four records")
    assert [(one.status, one.outcome) for one in records[3:]] == [(429, Outcome.REFUSED)]
    assert sum(row.arrivals for report in rig.demand for row in report.rows) == 3, "what is refused is no demand"


async def test_who_waits_as_long_as_told_passes(rig: Rig) -> None:
    async with scripted() as upstream:
        await limited(rig, upstream, requests_per_second=2, burst=1)
        assert (await ask(rig.port)).status == 200
        got = await ask(rig.port)
        assert (got.status, got.headers["retry-after"]) == (429, "1")
        await asyncio.sleep(1)
        assert (await ask(rig.port)).status == 200


async def test_who_has_no_key_takes_nothing_of_the_rate(rig: Rig) -> None:
    async with scripted() as upstream:
        await limited(rig, upstream, requests_per_second=0.01, burst=1)
        for _ in range(5):
            assert (await ask(rig.port, post(key="wrong"))).status == 401
        assert (await ask(rig.port)).status == 200


async def test_limits_come_change_and_go_with_revisions(rig: Rig) -> None:
    async with scripted() as upstream:
        await limited(rig, upstream, requests_per_second=0.01, burst=1)
        assert [(await ask(rig.port)).status for _ in range(2)] == [200, 429]
        await limited(rig, upstream, requests_per_second=0.01, burst=2)
        assert [(await ask(rig.port)).status for _ in range(3)] == [200, 200, 429]
        await limited(rig, upstream)
        assert [(await ask(rig.port)).status for _ in range(3)] == [200] * 3


async def test_so_many_at_once_and_no_more_and_places_come_back(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream:
        await limited(rig, upstream, concurrent_requests=2)
        inside = [asyncio.create_task(ask(rig.port)) for _ in range(2)]
        await until(lambda: gate.inside == 2, "two are inside")
        got = await ask(rig.port)
        assert (got.status, code(got), got.headers["retry-after"]) == (429, "ConcurrencyLimitExceeded", "1")
        async with caller(rig.port) as leaving:
            gate.passes.release()
            await until(lambda: any(one.done() for one in inside), "one has left")
            leaving.send(post(b"x"))
            await until(lambda: gate.inside == 2, "the next one is inside")
            leaving.abort()
        await until(lambda: any(one.outcome == Outcome.CLIENT_ABORTED for one in rig.records), "it has left")
        inside.append(asyncio.create_task(ask(rig.port)))
        await until(lambda: len(upstream.requests) == 4, "its place is free")
        await limited(rig, upstream)  # while two are inside
        for _ in range(3):
            gate.passes.release()
        assert [one.status for one in await asyncio.gather(*inside)] == [200] * 3
        gate.passes.release()
        assert (await ask(rig.port)).status == 200


async def test_one_endpoints_limit_is_no_others(rig: Rig) -> None:
    async with scripted() as upstream:
        await limited(rig, upstream, requests_per_second=0.01, burst=1)
        await limited(rig, upstream, "other", requests_per_second=0.01, burst=2)
        assert [(await ask(rig.port)).status for _ in range(2)] == [200, 429]
        other = post(path="/endpoints/other/score")
        assert [(await ask(rig.port, other)).status for _ in range(3)] == [200, 200, 429]


async def test_the_rate_is_exact_over_two_workers(tmp_path: Path) -> None:
    async with publishing(tmp_path) as publisher, scripted() as upstream, contextlib.AsyncExitStack() as stack:
        limits = {"requests_per_second": 50, "burst": 20}
        publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100}, tidegate={"limits": limits})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        settings, _ = await stack.enter_async_context(workers(tmp_path, publisher))
        each = await one_caller_for_each_worker(stack, settings.port)
        crowd = [*each, *[await stack.enter_async_context(caller(settings.port)) for _ in range(6)]]
        statuses: Counter[int] = Counter()
        begun = time.monotonic()

        async def load() -> None:
            connection = crowd.pop()
            while time.monotonic() < begun + 3:
                connection.send(post(b"x"))
                statuses[(await connection.answer()).status] += 1

        await asyncio.gather(*(load() for _ in range(len(crowd))))
        took = time.monotonic() - begun
        assert set(statuses) == {200, 429}
        # At most the burst, the rate and one worker's last look; callers that came always find what there is.
        assert statuses[200] <= 20 + 50 * took + 1
        assert statuses[200] >= 20 + 50 * 2


def _process_of(processes: list[Process], connection: Caller) -> Process:
    """The worker that has the other end of a connection."""
    port = connection.writer.get_extra_info("sockname")[1]
    for process in processes:
        found = psutil.Process(process.pid).net_connections("tcp")
        if port in {getattr(one.raddr, "port", 0) for one in found}:
            return process
    raise AssertionError("no worker has it")


async def test_places_of_a_worker_that_was_killed_come_back(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        publishing(tmp_path) as publisher,
        scripted(gate.script) as upstream,
        contextlib.AsyncExitStack() as stack,
    ):
        limits = {"concurrent_requests": 1}
        publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100}, tidegate={"limits": limits})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        settings, processes = await stack.enter_async_context(workers(tmp_path, publisher))
        victim, survivor = await one_caller_for_each_worker(stack, settings.port)
        victim.send(post(b"1"))
        await until(lambda: gate.inside, "the place is taken")
        survivor.send(post(b"2"))
        assert code(await survivor.answer()) == "ConcurrencyLimitExceeded"
        process = _process_of(processes, victim)
        process.kill()
        await process.wait()
        gate.passes.release()
        gate.passes.release()
        status = 429
        deadline = time.monotonic() + PATIENCE
        while status == 429 and time.monotonic() < deadline:
            survivor.send(post(b"3"))
            status = (await survivor.answer()).status
        assert status == 200


async def test_a_successor_goes_by_what_its_predecessor_let_in(tmp_path: Path) -> None:
    gate = Gate()
    async with publishing(tmp_path) as publisher, contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(scripted())
        slow = await stack.enter_async_context(scripted(gate.script))
        for name, port, limits in (
            ("demo", upstream.port, {"requests_per_second": 0.01, "burst": 3}),
            ("often", upstream.port, {"requests_per_second": 7, "burst": 1}),
            ("slow", slow.port, {}),
        ):
            publisher.endpoint(
                name, {"blue": deployment(timeout_ms=60_000)}, {"blue": 100}, tidegate={"limits": limits}
            )
            publisher.replicas(name, {"blue": [replica(port)]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), take_over=True)
        old = await stack.enter_async_context(worker_process(settings))
        often = post(path="/endpoints/often/score")
        assert (await ask(settings.port, often)).status == 200
        for _ in range(2):
            assert (await ask(settings.port)).status == 200
        holding = await stack.enter_async_context(caller(settings.port))
        holding.send(post(b"x", path="/endpoints/slow/score"))
        await until(lambda: gate.inside, "the old one has a request to finish")
        await stack.enter_async_context(worker_process(settings))
        await _opens(settings.port, often)
        await asyncio.sleep(0.3)  # the bucket overflows, and both workers have their word of when
        await _opens(settings.port, often)
        gate.passes.release()
        assert (await holding.answer()).status == 200
        assert await asyncio.wait_for(old.wait(), PATIENCE) == 0
        assert [(await ask(settings.port)).status for _ in range(2)] == [200, 429]
        assert 1 <= int((await ask(settings.port)).headers["retry-after"]) <= 100
        await asyncio.sleep(0.3)  # the successor has looked after what the old one left
        await _opens(settings.port, often)


async def _opens(port: int, request: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    while (await ask(port, request)).status != 200:
        assert time.monotonic() < deadline, "it never opens again"
