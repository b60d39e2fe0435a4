"""Requests that go to the replica that had their like before: the same everywhere, within a bound, and never late for it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Caller, Request, Script, ScriptedReplica, ask, caller, echo, post, scripted

USERS = [f"user-{number}" for number in range(60)]
BY_HEADER = {"by": "header", "name": "x-user"}
BY_PROMPT = {"by": "body", "json_field": "prompt", "prefix_bytes": 32}


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path / "one") as rig:
        yield rig


@pytest_asyncio.fixture
async def three() -> AsyncIterator[list[ScriptedReplica]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(scripted(named(f"r{number}"))) for number in range(3)]


def named(name: str) -> Script:
    """A replica that answers with its name."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nX-Replica: %b\r\nContent-Length: 0\r\n\r\n" % name.encode())

    return script


async def serve(
    rig: Rig, upstreams: dict[int, ScriptedReplica], rule: dict[str, Any], concurrency: int = 100, **endpoint: Any
) -> None:
    sets = [replica(one.port, replica_id=f"r{number}") for number, one in upstreams.items()]
    document = deployment(concurrency, tidegate={"affinity": rule})
    await rig.publish("demo", {"blue": document}, {"blue": 100}, {"blue": sets}, **endpoint)


def of(upstreams: list[ScriptedReplica]) -> dict[int, ScriptedReplica]:
    return dict(enumerate(upstreams))


async def served(connection: Caller, request: bytes) -> str:
    """The replica that answers."""
    connection.send(request)
    got = await connection.answer()
    assert got.status == 200, got
    return got.headers["x-replica"]


async def of_users(rig: Rig) -> dict[str, str]:
    async with caller(rig.port) as connection:
        return {user: await served(connection, post(b"x", extra=f"X-User: {user}\r\n")) for user in USERS}


async def test_a_user_stays_with_a_replica_in_every_gateway(
    rig: Rig, three: list[ScriptedReplica], tmp_path: Path
) -> None:
    await serve(rig, of(three), BY_HEADER)
    found = await of_users(rig)
    assert set(found.values()) == {"r0", "r1", "r2"}
    assert found == await of_users(rig)
    async with gateway(tmp_path / "two") as other:
        await serve(other, dict(reversed(of(three).items())), BY_HEADER)
        assert await of_users(other) == found


async def test_a_replica_that_goes_moves_its_own_users_only(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), BY_HEADER)
    before = await of_users(rig)
    await serve(rig, of(three[:2]), BY_HEADER)
    without = await of_users(rig)
    assert {user for user in USERS if without[user] != before[user]} == {user for user in USERS if before[user] == "r2"}
    await serve(rig, of(three), BY_HEADER)
    assert await of_users(rig) == before


async def test_users_of_a_replica_that_is_gone_go_elsewhere(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), BY_HEADER)
    before = await of_users(rig)
    await three[1].stop()
    now = await of_users(rig)
    assert {user for user in USERS if now[user] != before[user]} == {user for user in USERS if before[user] == "r1"}


async def test_who_cannot_be_told_apart_goes_anywhere(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), BY_HEADER)
    async with caller(rig.port) as connection:
        assert len({await served(connection, post(b"x")) for _ in range(60)}) == 3


async def test_a_client_is_its_address(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), {"by": "client"})
    assert len(set((await of_users(rig)).values())) == 1


def asked(prompt: str, **others: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt, **others}).encode()


async def test_prompts_that_begin_alike_go_to_one_replica(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), BY_PROMPT)
    async with caller(rig.port) as connection:
        homes = set()
        for number in range(30):
            system = f"You are helper number {number}, and you are kind."
            found = {await served(connection, post(asked(system + more, n=index))) for index, more in enumerate("abc")}
            assert len(found) == 1, system
            homes |= found
            short = {await served(connection, post(asked(f"hi {number}", n=index))) for index in range(3)}
            assert len(short) == 1
        assert len(homes) == 3
        assert len({await served(connection, post(b'{"input": "same"}')) for _ in range(60)}) == 3


async def test_a_body_may_come_behind_its_head(rig: Rig, three: list[ScriptedReplica]) -> None:
    """As most clients send it: in a packet of its own, or in several."""
    await serve(rig, of(three), BY_PROMPT)
    async with caller(rig.port) as connection:
        for number in range(10):
            request = post(asked(f"You are helper number {number}, and you are kind."))
            home = await served(connection, request)
            head = request.index(b"\r\n\r\n") + 4
            for cut in (head, head + 20, head + 40):
                connection.send(request[:cut])
                await asyncio.sleep(0.002)
                assert await served(connection, request[cut:]) == home
            chunked = post(extra="Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
            connection.send(chunked)
            await asyncio.sleep(0.002)
            body = request[head:]
            for piece in (body[:25], body[25:], b""):
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                await asyncio.sleep(0.002)
            assert await served(connection, b"") == home


async def test_a_body_that_does_not_come_is_not_waited_for_long(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), BY_PROMPT)
    request = post(asked("You are a helper, and you are kind."))
    async with caller(rig.port) as connection:
        connection.send(request[:-45])
        await until(lambda: any(one.requests for one in three), "it is sent, although nobody knows where it belongs")
        await served(connection, request[-45:])
    for one in three:
        one.requests.clear()
    async with caller(rig.port) as waiting:
        waiting.send(post(b"x" * 9, extra="Expect: 100-continue\r\n")[:-9])
        assert (await waiting.head()).status == 100
        await served(waiting, b"x" * 9)


async def test_a_caller_that_leaves_meanwhile_leaves_nothing_behind(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), BY_PROMPT)
    async with caller(rig.port) as connection:
        connection.send(post(asked("hi"))[:-10])
        await asyncio.sleep(0.01)
        connection.abort()
    await until(lambda: rig.records, "its record is written")
    assert rig.records[-1].deployment == "blue"
    assert (await ask(rig.port, post(asked("hi")))).status == 200
    await until(lambda: rig.demand[-1].rows and rig.demand[-1].rows[0].in_flight == 0, "nothing is in flight")


async def test_an_endpoint_deleted_meanwhile_is_none_any_more(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), BY_PROMPT)
    async with caller(rig.port) as connection:
        request = post(asked("hi"))
        connection.send(request[:-10])
        await asyncio.sleep(0.01)
        rig.publisher.delete("demo")
        while (await ask(rig.port, request)).status != 404:
            await asyncio.sleep(0.005)
        connection.send(request[-10:])
        assert (await connection.answer()).status in (200, 404)


async def in_flight(three: list[ScriptedReplica], total: int) -> list[int]:
    await until(lambda: sum(len(one.requests) for one in three) == total, f"{total} are sent")
    return [len(one.requests) for one in three]


@pytest.mark.parametrize("bound", [1.25, 2])
async def test_what_everybody_asks_for_spreads_as_far_as_it_must(
    rig: Rig, three: list[ScriptedReplica], bound: float
) -> None:
    release = asyncio.Event()

    async def hold(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    for one in three:
        one.script = hold
    await serve(rig, of(three), {**BY_HEADER, "bound": bound}, concurrency=4)
    asking = []
    most = 0
    for number in range(1, 13):
        asking.append(asyncio.create_task(ask(rig.port, post(b"x", extra="X-User: all\r\n"))))
        loads = await in_flight(three, number)
        assert max(loads) <= min(4, max(most, math.ceil(bound * number / 3))), loads
        most = max(loads)
    assert loads == [4, 4, 4]
    release.set()
    assert {(await one).status for one in asking} == {200}


async def test_a_caller_without_the_cookie_gets_one_that_brings_it_back(rig: Rig, three: list[ScriptedReplica]) -> None:
    await serve(rig, of(three), {"by": "cookie", "name": "near"})
    async with caller(rig.port) as connection:
        for _ in range(20):
            connection.send(post(b"x"))
            got = await connection.answer()
            cookie, *attributes = got.headers["set-cookie"].split("; ")
            assert cookie.startswith("near=")
            assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax"]
            for _ in range(3):
                connection.send(post(b"x", extra=f"Cookie: a=b; {cookie}\r\n"))
                again = await connection.answer()
                assert again.headers["x-replica"] == got.headers["x-replica"]
                assert "set-cookie" not in again.headers


async def test_one_cookie_may_serve_for_deployment_and_replica(rig: Rig, three: list[ScriptedReplica]) -> None:
    sticky = {"stickiness": {"by": "cookie", "name": "near"}}
    await serve(rig, of(three), {"by": "cookie", "name": "near"}, tidegate=sticky)
    async with caller(rig.port) as connection:
        connection.send(post(b"x"))
        cookie = (await connection.answer()).headers["set-cookie"].split("; ")[0]
        assert len({await served(connection, post(b"x", extra=f"Cookie: {cookie}\r\n")) for _ in range(10)}) == 1


async def test_two_cookies_whose_names_begin_alike_are_two(rig: Rig, three: list[ScriptedReplica]) -> None:
    sticky = {"stickiness": {"by": "cookie", "name": "nearby"}}
    await serve(rig, of(three), {"by": "cookie", "name": "near"}, tidegate=sticky)
    async with caller(rig.port) as connection:
        connection.send(post(b"x"))
        head = await asyncio.wait_for(connection.reader.readuntil(b"\r\n\r\n"), 30)
        assert head.count(b"set-cookie: nearby=") == head.count(b"set-cookie: near=") == 1
