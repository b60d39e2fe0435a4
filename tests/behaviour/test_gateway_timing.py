"""`Server-Timing` on the answers of endpoints that ask for it, and of no others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Answer, Request, ScriptedReplica, ask, caller, echo, post, scripted


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: ScriptedReplica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        await publish(rig, upstream, timed=True)
        yield rig


async def publish(rig: Rig, upstream: ScriptedReplica, *, timed: bool) -> None:
    documents = {"blue": deployment(concurrency=1, wait_ms=50)}
    sets = {"blue": [replica(upstream.port)]}
    await rig.publish("demo", documents, {"blue": 100}, sets, tidegate={"server_timing": timed})


def told(answer: Answer) -> dict[str, float]:
    return {name: float(text) for name, text in re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"])}


async def test_an_answer_tells_where_its_time_went(rig: Rig, upstream: ScriptedReplica) -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        await echo(request, writer)

    upstream.script = slow
    async with caller(rig.port) as connection:
        for kept in (False, True):
            connection.send(post(b"hello"))
            found = told(await connection.answer())
            assert list(found) == ["queue", "connect", "model", "total"]
            assert found["model"] >= 20
            assert (found["connect"] == 0) is kept
            assert found["queue"] + found["connect"] + found["model"] <= found["total"] + 0.002


async def test_a_wait_and_a_refusal_are_told_too(rig: Rig, upstream: ScriptedReplica) -> None:
    release = asyncio.Event()

    async def held(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    upstream.script = held
    first = asyncio.create_task(ask(rig.port, post(b"hello")))
    await until(lambda: upstream.requests, "the model has the first")
    waited = await ask(rig.port, post(b"hello"))
    assert waited.status == 429
    assert list(told(waited)) == ["queue", "total"]
    assert told(waited)["queue"] >= 50
    release.set()
    assert (await first).status == 200


async def test_an_endpoint_that_does_not_ask_for_it_says_nothing(rig: Rig, upstream: ScriptedReplica) -> None:
    await publish(rig, upstream, timed=False)
    assert "server-timing" not in (await ask(rig.port, post(b"hello"))).headers
