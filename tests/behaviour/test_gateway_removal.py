"""Deployments, replicas and endpoints that go away: what they held on the board comes back, who was inside is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from router.contract.events import ReplicaState
from tests.support.gateway_board import small_board
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ask, caller, echo, post, scripted

COLUMNS = 10
"""Two deployments with one replica each; four columns for a deployment, one for a replica."""


@pytest_asyncio.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    small_board(monkeypatch, COLUMNS)
    async with gateway(tmp_path) as rig:
        yield rig


async def test_more_deployments_than_the_board_has_room_for_may_follow_each_other(rig: Rig) -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with scripted(slow) as upstream:
        inside: asyncio.Task[object] | None = None
        for number in range(COLUMNS):
            name = f"blue{number}"
            sets = {name: [replica(upstream.port, replica_id=f"r{number}")]}
            await rig.publish("demo", {name: deployment()}, {name: 100}, sets)
            if inside is not None:
                # The deployment before this one is gone, but its last request is not: its columns come back with that.
                assert not inside.done()
                release.set()
                await inside
                release.clear()
            inside = asyncio.create_task(answered_by(rig, name))
            await until(more_than(number, upstream.requests), "the request is inside")
        release.set()
        assert inside is not None
        await inside


def more_than(count: int, requests: list[Request]) -> Callable[[], bool]:
    return lambda: len(requests) > count


async def answered_by(rig: Rig, name: str) -> None:
    got = await ask(rig.port)
    assert (got.status, got.headers["azureml-model-deployment"]) == (200, name)


async def test_more_replicas_than_the_board_has_room_for_may_follow_each_other(rig: Rig) -> None:
    async with scripted() as upstream:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {})
        for number in range(COLUMNS):
            version = rig.publisher.replicas("demo", {"blue": [replica(upstream.port, replica_id=f"r{number}")]})
            await rig.applied("demo", version=version)
            assert (await ask(rig.port)).status == 200


async def test_more_endpoints_than_the_board_has_room_for_may_follow_each_other(rig: Rig) -> None:
    async with scripted() as upstream:
        for number in range(COLUMNS):
            name = f"demo{number}"
            sets = {"blue": [replica(upstream.port)]}
            await rig.publish(name, {"blue": deployment()}, {"blue": 100}, sets)
            assert (await ask(rig.port, post(b"x", path=f"/endpoints/{name}/score"))).status == 200
            rig.publisher.delete(name)


async def test_the_record_of_a_request_that_outlives_its_endpoint_is_kept(rig: Rig) -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    async with scripted(slow) as upstream:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        async with caller(rig.port) as connection:
            connection.send(post(b"last"))
            await until(lambda: upstream.requests, "it is inside")
            rig.publisher.delete("demo")
            while (await ask(rig.port, post(key="wrong"))).status != 404:
                await asyncio.sleep(0.01)
            release.set()
            assert (await connection.answer()).body == b"last"
        await until(lambda: [one for one in rig.records if one.status == 200], "its record")


async def test_who_is_sent_back_by_a_deployment_that_is_gone_goes_to_its_successor(rig: Rig) -> None:
    die = asyncio.Event()

    async def mortal(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await die.wait()
        writer.transport.abort()

    async with scripted(mortal) as old, scripted() as new:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(old.port)]})
        asked = asyncio.create_task(ask(rig.port, post(b"hello")))
        await until(lambda: old.requests, "it is inside")
        await rig.publish("demo", {"green": deployment()}, {"green": 100}, {"green": [replica(new.port)]})
        die.set()
        got = await asyncio.wait_for(asked, 30)
        assert (got.status, got.body, got.headers["azureml-model-deployment"]) == (200, b"hello", "green")


@pytest.mark.parametrize("whole", [False, True], ids=["deployment", "endpoint"])
async def test_who_is_inside_something_that_is_deleted_is_reported_until_answered(rig: Rig, *, whole: bool) -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    async with scripted(slow) as upstream, scripted() as other:
        stays = {"green": [replica(other.port)]}
        both = {"blue": [replica(upstream.port, replica_id="old")], **stays}
        await rig.publish("demo", dict.fromkeys(both, deployment()), {"blue": 100}, both)
        async with caller(rig.port) as connection:
            connection.send(post(b"last"))
            await until(lambda: upstream.requests, "it is inside")
            if whole:
                rig.publisher.delete("demo")
            else:
                rig.publisher.endpoint("demo", {"green": deployment()}, {"green": 100})
            leaving = replica(upstream.port, ReplicaState.DRAINING, "old")
            version = rig.publisher.replicas("demo", {"blue": [leaving], **({} if whole else stays)})
            await rig.applied("demo", version=version)
            seen = [one for one in rig.demand if one.replicas_version == version]
            assert {one.draining for one in seen} == {(("old", 1),)}
            release.set()
            assert (await connection.answer()).body == b"last"
        await until(lambda: not rig.demand[-1].draining and rig.demand[-1].endpoint == "demo", "nobody is inside")


async def test_who_is_inside_a_deleted_endpoint_is_reported_also_when_it_is_made_again(rig: Rig) -> None:
    release = asyncio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    async with scripted(slow) as upstream:
        sets = {"blue": [replica(upstream.port, replica_id="old")]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        async with caller(rig.port) as connection:
            connection.send(post(b"last"))
            await until(lambda: upstream.requests, "it is inside")
            rig.publisher.delete("demo")
            await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(1, replica_id="new")]})
            version = rig.publisher.replicas("demo", {"blue": [replica(2, replica_id="new")]})
            await rig.applied("demo", version=version)
            assert {one.draining for one in rig.demand if one.replicas_version == version} == {(("old", 1),)}
            release.set()
            assert (await connection.answer()).body == b"last"
        await until(lambda: not rig.demand[-1].draining, "nobody is inside")


async def test_the_end_of_a_deleted_endpoints_replicas_waits_for_no_silence(rig: Rig) -> None:
    async with scripted() as upstream:
        sets = {"blue": [replica(upstream.port, replica_id="old")]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        assert (await ask(rig.port)).status == 200
        rig.publisher.delete("demo")
        leaving = replica(upstream.port, ReplicaState.DRAINING, "old")
        version = rig.publisher.replicas("demo", {"blue": [leaving]})
        await rig.applied("demo", version=version)
        assert not rig.demand[-1].draining
        ended = rig.publisher.replicas("demo", {})
        await rig.applied("demo", version=ended)
        # There is no more to be said about it.
        await rig.publish("other", {"blue": deployment()}, {"blue": 100}, sets)
        last = max(index for index, one in enumerate(rig.demand) if one.endpoint == "demo")
        await until(lambda: sum(one.endpoint == "other" for one in rig.demand[last:]) >= 3, "reports go on")
        assert {one.endpoint for one in rig.demand[last + 1 :]} == {"other"}
