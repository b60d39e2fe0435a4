"""A worker that has too much to do refuses what comes new, says so, and is itself again afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from router.runtime.memory import resident_bytes
from tests.support.gateway_figures import code, figures, refusals
from tests.support.gateway_gate import Gate
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import ScriptedReplica, ask, caller, echo, post, scripted

READY = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CLASSES = {"priorities": {"header": "x-priority", "classes": ["high", "low"], "default": "high"}}
MEGABYTE = 1 << 20


@contextlib.asynccontextmanager
async def serving(folder: Path, upstream: ScriptedReplica, **settings: Any) -> AsyncIterator[Rig]:
    async with gateway(folder, **settings) as rig:
        sets = {"blue": [replica(upstream.port)]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets, tidegate=CLASSES)
        yield rig


async def level(rig: Rig) -> int:
    return int((await figures(rig, "tidegate_gateway_overload_level"))[""])


async def becomes(rig: Rig, wanted: int) -> None:
    deadline = time.monotonic() + 30
    while await level(rig) != wanted:
        assert time.monotonic() < deadline, f"never at level {wanted}"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def busy_loop(seconds: float) -> AsyncIterator[None]:
    """Every turn of the loop takes so long."""

    async def block() -> None:
        while True:
            time.sleep(seconds)
            await asyncio.sleep(0)

    task = asyncio.create_task(block())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_loop_that_runs_late_sheds_what_comes_new_and_keeps_what_is_inside(tmp_path: Path) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream, serving(tmp_path, upstream, overload_lag_seconds=0.01) as rig:
        inside = asyncio.create_task(ask(rig.port, post(b"inside")))
        await until(lambda: gate.inside, "one is inside")
        async with busy_loop(0.12), caller(rig.port) as connection:
            await becomes(rig, 2)
            connection.send(post(b"new"))
            got = await connection.answer()
            assert (got.status, code(got), got.headers["retry-after"]) == (503, "Overloaded", "2")
            assert got.headers["connection"] == "close"
            assert (await ask(rig.port, READY)).status == 503
            assert (await ask(rig.port, HEALTH)).status == 200
            assert (await ask(rig.port, post(key="wrong"))).status == 401
            gate.passes.release()
            assert (await inside).body == b"inside"
        await becomes(rig, 0)
        upstream.script = echo
        assert (await ask(rig.port, READY)).status == 200
        assert (await ask(rig.port)).status == 200
        assert (await refusals(rig))["Overloaded"] == 1


async def test_memory_beyond_the_limit_sheds_until_it_is_free_again(tmp_path: Path) -> None:
    limit = int((resident_bytes() + 64 * MEGABYTE) / 0.95)
    async with scripted() as upstream, serving(tmp_path, upstream, memory_limit_bytes=limit) as rig:
        block = bytearray(400 * MEGABYTE)
        block[::4096] = b"x" * len(block[::4096])
        await becomes(rig, 2)
        got = await ask(rig.port)
        assert (got.status, code(got)) == (503, "Overloaded")
        del block
        await until(lambda: resident_bytes() < limit * 0.85, "it is free again")
        deadline = time.monotonic() + 30
        while (await ask(rig.port)).status != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_worker_that_is_pressed_refuses_the_lowest_class_and_ends_connections(tmp_path: Path) -> None:
    low = post(b"x", extra="x-priority: low\r\n")
    async with scripted() as upstream, serving(tmp_path, upstream, max_connections=20) as rig:
        assert (await ask(rig.port, low)).status == 200
        async with contextlib.AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(caller(rig.port)) for _ in range(19)]
            await becomes(rig, 1)
            crowd[0].send(post(b"x"))
            got = await crowd[0].answer()
            assert (got.status, got.headers["connection"]) == (200, "close")
            assert await crowd[0].ended()
            crowd[1].send(low)
            got = await crowd[1].answer()
            assert (got.status, code(got)) == (503, "Overloaded")
            crowd[2].send(READY)
            assert (await crowd[2].answer()).status == 200
        await becomes(rig, 0)
        async with caller(rig.port) as connection:
            for _ in range(2):
                connection.send(low)
                assert (await connection.answer()).status == 200
