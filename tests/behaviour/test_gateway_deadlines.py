"""A caller's own deadline: nothing is sent to a replica after it, and nobody waits longer for the caller."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from router.contract.events import Outcome
from router.gateway import timers
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Answer, Request, ask, caller, echo, gone, post, scripted


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


def within(seconds: float, body: bytes = b"x", extra: str = "") -> bytes:
    return post(body, extra=f"X-Request-Deadline: {time.time() + seconds:.6f}\r\n{extra}")


def refused(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


PAST, WAITED, LATE = (408, "DeadlineAlreadyPassed"), (408, "DeadlineExceededWaiting"), (408, "DeadlineExceeded")


async def outcome(rig: Rig) -> Outcome:
    await until(lambda: rig.records, "its record is written")
    return rig.records[-1].outcome


async def test_it_reaches_the_replica_as_it_was_written(rig: Rig) -> None:
    async with scripted() as upstream, caller(rig.port) as connection:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        moment = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
        values = [f"{moment.timestamp() + number:.3f}" for number in range(4)] + [moment.isoformat()]
        for number, value in enumerate(values):
            connection.send(post(b"x", extra=f"X-Request-Deadline: {value}\r\nX-Number: {number // 3}\r\n"))
            assert (await connection.answer()).status == 200
            assert upstream.requests[-1].header("x-request-deadline") == value


async def test_one_that_has_passed_is_refused_at_the_door(rig: Rig) -> None:
    async with scripted() as upstream, caller(rig.port) as connection:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        for _ in range(3):
            connection.send(within(-0.001))
            assert refused(await connection.answer()) == PAST
        connection.send(post(b"x"))
        assert (await connection.answer()).status == 200
        assert len(upstream.requests) == 1
    assert await until(lambda: [one.outcome for one in rig.records[:3]], "records")
    assert rig.records[0].outcome is Outcome.REFUSED


@pytest.mark.parametrize("value", ["soon", "1764158400000", "2025-11-26"])
async def test_nonsense_is_refused_with_what_to_write(rig: Rig, value: str) -> None:
    await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": []})
    await ask(rig.port, within(-1))  # so that the next one's other lines are known
    for _ in range(2):
        got = await ask(rig.port, post(b"x", extra=f"X-Request-Deadline: {value}\r\n"))
        assert refused(got) == (400, "BadRequest")
        said = json.loads(got.body)["error"]["message"]
        assert f"x-request-deadline: '{value}'" in said
        assert "Unix seconds" in said


async def test_who_waits_for_a_first_replica_waits_no_longer_than_that(rig: Rig) -> None:
    await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": []})
    assert refused(await ask(rig.port, within(0.5))) == WAITED
    assert await outcome(rig) is Outcome.QUEUE_TIMEOUT


@pytest.mark.parametrize("seconds", [0.5, 1.0])
async def test_who_waits_in_the_queue_waits_no_longer_than_that(rig: Rig, seconds: float) -> None:
    release = asyncio.Event()

    async def hold(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    async with scripted(hold) as upstream:
        sets = {"blue": [replica(upstream.port)]}
        await rig.publish("demo", {"blue": deployment(concurrency=1)}, {"blue": 100}, sets)
        first = asyncio.create_task(ask(rig.port))
        await until(lambda: upstream.requests, "the only place is taken")
        assert refused(await ask(rig.port, within(seconds))) == WAITED
        release.set()
        assert (await first).status == 200
        assert (await ask(rig.port, within(60))).status == 200
        assert len(upstream.requests) == 2


@pytest.mark.interpreted
async def test_a_crowd_that_is_late_is_refused_whole_before_a_replica_has_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, and although the worker's own clock has not struck yet."""
    monkeypatch.setattr(timers, "_SHIFT", 40)
    async with gateway(tmp_path) as rig, scripted() as upstream, AsyncExitStack() as stack:
        await rig.publish("demo", {"blue": deployment(concurrency=1)}, {"blue": 100}, {"blue": []})
        moment = time.time() + 1.5
        crowd = [await stack.enter_async_context(caller(rig.port)) for _ in range(400)]
        for one in crowd:
            one.send(post(b"x", extra=f"X-Request-Deadline: {moment:.3f}\r\n"))
        await until(lambda: time.time() > moment, "they are late")
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        answers = await asyncio.gather(*(one.answer() for one in crowd))
        assert {refused(one) for one in answers} <= {PAST, WAITED}
        assert not upstream.requests


async def test_a_model_that_takes_longer_is_left_and_not_blamed(rig: Rig) -> None:
    begun = aborted = 0

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal begun, aborted
        await request.read_body()
        if request.body == b"slow":
            begun += 1
            try:
                await gone(request.reader)
            finally:
                aborted += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with scripted(slow) as one, scripted(slow) as other:
        sets = {"blue": [replica(one.port), replica(other.port)]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        for _ in range(30):
            assert refused(await ask(rig.port, within(0.1, b"slow"))) in {LATE, PAST, WAITED}
            assert (await ask(rig.port)).status == 200
        await until(lambda: aborted == begun, "the replicas' connections have ended")
        assert min(len(one.requests), len(other.requests)) > 5, "one of them was left alone"
    await until(lambda: len(rig.records) == 60, "all records are written")
    assert begun > 15
    # A replica may be left before it has read what it was sent.
    assert begun <= sum(one.outcome is Outcome.TIMEOUT for one in rig.records) <= 30


async def test_the_model_has_request_timeout_ms_at_most_all_the_same(rig: Rig) -> None:
    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await gone(request.reader)

    async with scripted(never) as upstream:
        sets = {"blue": [replica(upstream.port)]}
        await rig.publish("demo", {"blue": deployment(timeout_ms=100)}, {"blue": 100}, sets)
        assert refused(await ask(rig.port, within(60))) == (408, "RequestTimeout")


async def test_an_answer_that_has_begun_in_time_goes_on(rig: Rig) -> None:
    async def slowly(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1")
        deadline = float(request.header("x-request-deadline") or 0)
        while time.time() < deadline + 0.1:
            await asyncio.sleep(0.02)
        writer.write(b"2")

    async with scripted(slowly) as upstream:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        got = await ask(rig.port, within(3))
        assert (got.status, got.body) == (200, b"12")
