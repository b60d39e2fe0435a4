"""The record of a request has what an access log wants, whatever became of the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from router.contract.events import NEVER_CAME, CallProfile, Outcome, RequestRecord
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import ScriptedReplica, ask, caller, post, scripted


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: ScriptedReplica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        yield rig


async def recorded(rig: Rig, count: int) -> list[RequestRecord]:
    await until(lambda: len(rig.records) >= count, f"{count} records")
    return sorted(rig.records, key=lambda one: one.sequence)


async def test_a_record_says_who_asked_for_what_and_how(rig: Rig) -> None:
    agent = "agent/" + "7" * 80
    extra = f"User-Agent: {agent}\r\nX-Ms-Client-Request-Id: nr-1\r\n"
    await ask(rig.port, post(b"hello", path="/endpoints/demo/score?secret=1", extra=extra))
    await ask(rig.port, post(b"hello", extra="User-Agent: old\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"))
    await ask(rig.port, b"GET / HTTP/1.1\r\nHost: demo.localhost\r\nConnection: close\r\n\r\n")
    told, old, refused = await recorded(rig, 3)
    assert told.profile == CallProfile("POST", "/score", "HTTP/1.1", "Key", agent[:70], "nr-1")
    assert (told.request_us, told.refusal) == (0, "")
    assert (old.profile.protocol, old.profile.user_agent) == ("HTTP/1.0", "old")
    assert refused.profile == CallProfile("GET", "/", "HTTP/1.1")
    assert (refused.status, refused.outcome, refused.refusal) == (401, Outcome.REFUSED, "Unauthorized")


async def test_every_caller_has_its_own_user_agent_also_beside_a_field_of_one_request_only(rig: Rig) -> None:
    async with caller(rig.port) as connection:
        for number in range(9):
            agent = f"User-Agent: agent-{number % 3}\r\ntraceparent: 00-{number:032x}-{number + 1:016x}-01\r\n"
            connection.send(post(b"hello", extra=agent))
            assert (await connection.answer()).status == 200
    found = await recorded(rig, 9)
    assert [one.profile.user_agent for one in found] == [f"agent-{number % 3}" for number in range(9)]


async def test_a_body_that_comes_late_or_never_is_told(rig: Rig, upstream: ScriptedReplica) -> None:
    whole = post(b"hello")
    async with caller(rig.port) as connection:
        connection.send(whole[:-2])
        await until(lambda: upstream.requests, "the model has the request")
        await asyncio.sleep(0.02)
        connection.send(whole[-2:])
        assert (await connection.answer()).status == 200
        connection.send(whole[:-2])
        await until(lambda: len(upstream.requests) == 2, "the model has the next request")
        connection.writer.transport.abort()
        late, never = await recorded(rig, 2)
    assert 20_000 <= late.request_us <= late.first_byte_us <= late.total_us
    assert (never.request_us, never.outcome, never.status) == (NEVER_CAME, Outcome.CLIENT_ABORTED, 0)


async def test_trace_context_passes_as_it_came_also_when_it_is_malformed(rig: Rig, upstream: ScriptedReplica) -> None:
    for value in ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-0-nonsense", "ff-" + "0" * 60):
        await ask(rig.port, post(b"hello", extra=f"traceparent: {value}\r\ntracestate: a=1, b=2\r\n"))
        request = upstream.requests[-1]
        assert (request.header("traceparent"), request.header("tracestate")) == (value, "a=1, b=2")
