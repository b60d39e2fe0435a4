"""A replica that errs while others do well gets no requests for a while; one that is gone costs no caller a connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from loadtests.waiting import free_port
from router.gateway.target import Target
from router.policy import ejection
from router.policy.retrying import Budget
from tests.support.gateway_rig import PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, Script, ScriptedReplica, answer, ask, caller, echo, post, scripted

ERROR = answer(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


async def serve(rig: Rig, *upstreams: ScriptedReplica) -> None:
    sets = {"blue": [replica(one.port) for one in upstreams]}
    await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)


async def replicas(stack: AsyncExitStack, *scripts: Script) -> list[ScriptedReplica]:
    return [await stack.enter_async_context(scripted(one)) for one in scripts]


async def statuses(rig: Rig, requests: int) -> Counter[int]:
    async with caller(rig.port) as connection:
        found: Counter[int] = Counter()
        for _ in range(requests):
            connection.send(post(b"x"))
            found[(await connection.answer()).status] += 1
        return found


async def figure(rig: Rig, name: str) -> float:
    """One number of the worker's metrics, as Prometheus would read it."""
    path = rig.settings.data.root / "run" / "metrics" / "gateway-0.sock"
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    text = (await asyncio.wait_for(reader.read(), PATIENCE)).decode()
    writer.close()
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.split()[-1])


async def test_who_errs_is_left_alone_and_comes_back_on_trial(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ejection, "ERRING_SECONDS", 0.2)
    async with AsyncExitStack() as stack:
        bad, *_ = good = await replicas(stack, ERROR, echo, echo)
        await serve(rig, *good)
        await until_left_alone(rig, 1)
        seen = len(bad.requests)
        assert seen >= ejection.ERRORS_IN_A_ROW
        await until_left_alone(rig, 2)  # after one request on trial
        assert len(bad.requests) == seen + 1
        bad.script = echo
        async with asyncio.timeout(PATIENCE):
            while len(bad.requests) < seen + 20:
                await statuses(rig, 10)
        assert await statuses(rig, 50) == {200: 50}
        assert await figure(rig, 'tidegate_gateway_ejected_replicas{process="gateway-0",why="erring"}') == 0


async def until_left_alone(rig: Rig, times: int) -> None:
    name = 'tidegate_gateway_ejections_total{process="gateway-0",why="erring"}'
    async with asyncio.timeout(PATIENCE):
        while await figure(rig, name) < times:
            await statuses(rig, 5)


def every(number: int) -> Script:
    """A replica whose every so-manieth answer is an error."""
    count = 0

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await (ERROR if count % number == 0 else echo)(request, writer)

    return script


@pytest.mark.parametrize("others", [1, 2, 4])
async def test_who_errs_more_often_than_the_others_is_left_alone(
    rig: Rig, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with few replicas, and although it never errs five times in a row."""
    monkeypatch.setattr(ejection, "ERRING_SECONDS", 600.0)
    monkeypatch.setattr(ejection, "LONGEST_ERRING_SECONDS", 600.0)
    lagging = 'tidegate_gateway_ejections_total{process="gateway-0",why="lagging"}'
    async with AsyncExitStack() as stack:
        some = await replicas(stack, every(2), *[every(20)] * others)
        await serve(rig, *some)
        async with asyncio.timeout(PATIENCE):
            while await figure(rig, lagging) < 1:
                await statuses(rig, 20)
        seen = len(some[0].requests)
        assert await figure(rig, 'tidegate_gateway_ejected_replicas{process="gateway-0",why="lagging"}') == 1
        await statuses(rig, 50)
        assert len(some[0].requests) == seen
        assert await figure(rig, 'tidegate_gateway_ejections_total{process="gateway-0",why="erring"}') == 0


async def test_where_all_err_as_often_nobody_is_left_alone(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        await serve(rig, *await replicas(stack, every(3), every(3), every(3)))
        assert (await statuses(rig, 600))[424] > 150
        for why in ("lagging", "erring"):
            assert await figure(rig, f'tidegate_gateway_ejections_total{{process="gateway-0",why="{why}"}}') == 0


async def test_a_model_that_errs_everywhere_is_left_as_it_is(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        await serve(rig, *await replicas(stack, ERROR, ERROR, ERROR))
        assert set(await statuses(rig, 60)) == {424}
        assert await figure(rig, 'tidegate_gateway_ejections_total{process="gateway-0",why="erring"}') == 0


async def test_no_more_than_the_rest_can_spare(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        await serve(rig, *await replicas(stack, ERROR, ERROR, echo))
        await until_left_alone(rig, 1)
        found = await statuses(rig, 100)
        assert found[424] > 10
        assert await figure(rig, 'tidegate_gateway_ejected_replicas{process="gateway-0",why="erring"}') == 1


async def test_what_the_caller_did_wrong_counts_for_nothing(rig: Rig) -> None:
    wrong = answer(b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 0\r\n\r\n")
    async with AsyncExitStack() as stack:
        one, other = await replicas(stack, wrong, echo)
        await serve(rig, one, other)
        await statuses(rig, 100)
        assert len(one.requests) > 20
        assert await figure(rig, 'tidegate_gateway_ejections_total{process="gateway-0",why="erring"}') == 0


async def test_who_dies_again_and_again_is_taken_for_erring(rig: Rig) -> None:
    async def die(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.transport.abort()

    async with AsyncExitStack() as stack:
        dead, other = await replicas(stack, die, echo)
        await serve(rig, dead, other)
        async with asyncio.timeout(PATIENCE):
            name = 'tidegate_gateway_ejections_total{process="gateway-0",why="erring"}'
            while await figure(rig, name) < 1:
                assert set(await statuses(rig, 5)) == {200}


async def test_when_everything_dies_not_everything_is_sent_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "RESERVE", 3)

    async def die(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.transport.abort()

    async with AsyncExitStack() as stack:
        both = await replicas(stack, die, die)
        sets = {"blue": [replica(one.port) for one in both]}
        await rig.publish("demo", {"blue": deployment(concurrency=1)}, {"blue": 100}, sets)
        for _ in range(20):
            assert (await ask(rig.port)).status == 502
        assert sum(len(one.requests) for one in both) == 24  # 2 x 1 x 2 may be in flight, which is more than three


async def test_better_an_erring_replica_than_none(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        bad, good = await replicas(stack, ERROR, echo)
        await serve(rig, bad, good)
        await until_left_alone(rig, 1)
        await good.stop()
        assert (await ask(rig.port)).status == 424


@pytest.mark.interpreted
async def test_who_is_gone_is_knocked_at_before_it_gets_a_request(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    knocks: list[bool] = []
    real = Target.knock

    async def knock(self: Target) -> bool:
        found = await real(self)
        knocks.append(found)
        return found

    monkeypatch.setattr(Target, "knock", knock)
    async with AsyncExitStack() as stack:
        (other,) = await replicas(stack, echo)
        port = free_port()
        sets = {"blue": [replica(port), replica(other.port)]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        async with asyncio.timeout(PATIENCE):
            while knocks.count(False) < 3:
                assert await statuses(rig, 20) == {200: 20}
        assert await figure(rig, 'tidegate_gateway_ejections_total{process="gateway-0",why="unreachable"}') == 1
        back = ScriptedReplica(echo)
        back.port = port
        await back.start()
        stack.push_async_callback(back.stop)
        await until(lambda: True in knocks, "it takes a connection")
        async with asyncio.timeout(PATIENCE):
            while not back.requests:
                await statuses(rig, 10)
