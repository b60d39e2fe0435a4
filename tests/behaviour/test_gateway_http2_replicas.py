"""Replicas that speak HTTP/2: one connection for many requests, judged as strictly as one that speaks HTTP/1.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import ask, caller, post, scripted
from tests.support.http2_caller import http2, request
from tests.support.http2_replica import Asked, Connection, Fields, Http2Replica, http2_replica

HTTP2 = {"protocol": "http2"}
OK = (b":status", b"200")


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Http2Replica]:
    async with http2_replica() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: Http2Replica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path, activation_seconds=0.5) as rig:
        await publish(rig, upstream)
        yield rig


async def publish(rig: Rig, *servers: Http2Replica) -> None:
    replicas = [replica(one.port, replica_id=f"r{number}") for number, one in enumerate(servers)]
    await rig.publish("demo", {"blue": deployment(tidegate=HTTP2)}, {"blue": 100}, {"blue": replicas})


async def test_a_caller_of_http_1_is_served_by_it(rig: Rig, upstream: Http2Replica) -> None:
    got = await ask(rig.port, post(b"hello", extra="X-Mine: 1\r\nTE: gzip\r\nConnection: x-hop\r\nX-Hop: 1\r\n"))
    assert (got.status, got.body, got.headers["transfer-encoding"]) == (200, b"hello", "chunked")
    (asked,) = upstream.asked
    assert [name for name, _ in asked.fields[:4]] == [b":method", b":scheme", b":path", b":authority"]
    assert (asked.field(b":path"), asked.field(b":authority")) == (b"/score", b"gateway")
    assert (asked.field(b"x-mine"), asked.field(b"te")) == (b"1", b"trailers")
    assert asked.field(b"x-hop") is asked.field(b"authorization") is asked.field(b"connection") is None
    assert asked.field(b"x-request-id") == got.headers["x-request-id"].encode()


async def test_requests_of_many_callers_share_a_connection(rig: Rig, upstream: Http2Replica) -> None:
    together = asyncio.Barrier(20)

    async def script(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        await together.wait()
        connection.head(asked, [OK, (b"content-length", b"%d" % len(asked.body))])
        connection.data(asked, asked.body, ended=True)

    upstream.script = script
    answers = await asyncio.gather(*(ask(rig.port, post(b"%d" % number)) for number in range(20)))
    assert [one.body for one in answers] == [b"%d" % number for number in range(20)]
    assert len(upstream.connections) == 1


async def test_no_more_requests_at_once_than_the_replica_takes(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(connection: Connection, asked: Asked) -> None:
        await go.wait()
        connection.head(asked, [OK], ended=True)

    async with http2_replica(script, streams=4) as upstream, gateway(tmp_path) as rig:
        await publish(rig, upstream)
        asking = [asyncio.ensure_future(ask(rig.port)) for _ in range(10)]
        await until(lambda: len(upstream.asked) == 10, "ten requests")
        assert sorted(len(one.asked) for one in upstream.connections) == [2, 4, 4]
        go.set()
        assert [one.status for one in await asyncio.gather(*asking)] == [200] * 10


async def test_trailers_reach_callers_of_http_2_alone(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        connection.head(asked, [OK])
        connection.data(asked, b"body")
        connection.head(asked, [(b"x-sum", b"7")], ended=True)

    upstream.script = script
    async with http2(rig.port) as peer:
        got = await peer.answer(peer.post())
        assert (bytes(got.body), got.trailers) == (b"body", [(b"x-sum", b"7")])
    assert (await ask(rig.port)).body == b"body"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_an_answer_without_a_body_is_one(rig: Rig, upstream: Http2Replica, method: str) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        connection.head(asked, [(b":status", b"200" if method == "HEAD" else b"204")], ended=True)

    upstream.script = script
    async with caller(rig.port) as connection:
        for _ in range(2):
            connection.send(post(method=method))
            assert (await connection.answer(head_only=method == "HEAD")).body == b""


async def test_an_interim_answer_comes_before(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        connection.head(asked, [(b":status", b"103"), (b"link", b"</a>")])
        connection.head(asked, [OK], ended=True)

    upstream.script = script
    async with http2(rig.port) as peer:
        got = await peer.answer(peer.post())
        assert (got.interim, got.status) == ([103], 200)


NONSENSE: dict[str, Fields] = {
    "no status": [(b"x-a", b"1")],
    "a status that is none": [(b":status", b"9")],
    "CR LF in a value": [OK, (b"x-a", b"1\r\nset-cookie: 2")],
    "a name in upper case": [OK, (b"X-A", b"1")],
    "a coding": [OK, (b"transfer-encoding", b"chunked")],
    "Connection": [OK, (b"connection", b"close")],
    "two lengths": [OK, (b"content-length", b"2"), (b"content-length", b"2")],
    "a length that is none": [OK, (b"content-length", b"+2")],
    "a length beyond the body": [OK, (b"content-length", b"9")],
}


@pytest.mark.parametrize("fields", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_is_never_passed_on(rig: Rig, upstream: Http2Replica, fields: Fields) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        if asked.field(b":path") == b"/well":
            connection.head(asked, [OK], ended=True)
            return
        connection.head(asked, fields, ended=True)

    upstream.script = script
    got = await ask(rig.port)
    assert (got.status, b"InvalidReplicaResponse" in got.body) == (502, True)
    assert (await ask(rig.port, post(path="/endpoints/demo/well"))).status == 200
    assert len(upstream.connections) == 1


async def test_interim_answers_without_end_are_nonsense(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        for _ in range(40):
            connection.head(asked, [(b":status", b"103")])

    upstream.script = script
    async with http2(rig.port) as peer:
        got = await peer.answer(peer.post())
        assert (got.status, got.interim) == (502, [103] * 32)


async def test_a_body_that_is_longer_than_announced_breaks_off(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        connection.head(asked, [OK, (b"content-length", b"4")])
        connection.data(asked, b"fo")
        connection.data(asked, b"urfive", ended=True)

    upstream.script = script
    got = await ask(rig.port)
    assert (got.status, got.whole) in ((200, False), (502, True))


async def test_a_request_that_the_replica_had_not_begun_is_sent_again(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        if len(upstream.asked) == 1:
            connection.reset(asked, 7)
        else:
            connection.head(asked, [OK], ended=True)

    upstream.script = script
    assert (await ask(rig.port)).status == 200
    assert len(upstream.asked) == 2


async def test_a_replica_that_always_refuses_is_not_asked_for_ever(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        connection.reset(asked, 7)

    upstream.script = script
    assert (await ask(rig.port)).status in (502, 503)
    assert len(upstream.asked) < 10


async def test_a_request_that_the_replica_broke_off_is_not_sent_again(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        connection.reset(asked, 2)

    upstream.script = script
    assert (await ask(rig.port)).status == 502
    assert len(upstream.asked) == 1


async def test_a_connection_that_goes_finishes_what_it_began(rig: Rig, upstream: Http2Replica) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        if asked.body == b"first":
            connection.goaway(asked.stream)
            begun.set()
            await go.wait()
        connection.head(asked, [OK])
        connection.data(asked, asked.body, ended=True)

    upstream.script = script
    first = asyncio.ensure_future(ask(rig.port, post(b"first")))
    await begun.wait()
    await until(lambda: _second(rig, upstream), "a second connection")
    assert (await ask(rig.port, post(b"second"))).body == b"second"
    go.set()
    assert (await first).body == b"first"
    assert len(upstream.connections) == 2
    await until(lambda: upstream.connections[0].transport.is_closing(), "the end of the first connection")


def _second(rig: Rig, upstream: Http2Replica) -> bool:
    """What is told to go is heard in the same turn."""
    return bool(rig.port and upstream.connections)


async def test_a_caller_that_leaves_cancels_its_request_and_no_other(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        if asked.body == b"stays":
            await until(lambda: any(one.reset == 8 for one in upstream.asked), "a cancelled request")
        if asked.body != b"leaves":
            connection.head(asked, [OK])
            connection.data(asked, asked.body, ended=True)

    upstream.script = script
    stays = asyncio.ensure_future(ask(rig.port, post(b"stays")))
    async with caller(rig.port) as connection:
        connection.send(post(b"leaves"))
        await until(lambda: len(upstream.asked) == 2, "both requests")
        connection.abort()
        assert (await stays).body == b"stays"
    assert len(upstream.connections) == 1


async def test_who_does_not_read_its_answer_holds_up_its_own_stream(rig: Rig, upstream: Http2Replica) -> None:
    sent = 0

    async def script(connection: Connection, asked: Asked) -> None:
        nonlocal sent
        await asked.ended.wait()
        connection.head(asked, [OK])
        if asked.body == b"quick":
            connection.data(asked, b"ok", ended=True)
            return
        while asked.reset is None:
            if connection.h2.local_flow_control_window(asked.stream) >= 8192:
                connection.data(asked, b"x" * 8192)
                sent += 8192
            await asyncio.sleep(0)

    upstream.script = script
    async with http2(rig.port, window=False) as peer:
        slow = peer.begin(request(), ended=True)
        await peer.heard(slow, 65535)
        peer.give(0, 1 << 20)
        for _ in range(10):
            assert bytes((await peer.answer(peer.post(b"quick"))).body) == b"ok"
        assert sent < 65535 + 3 * 65536
        assert len(upstream.connections) == 1


async def test_a_replica_that_speaks_http_1_is_not_ready_for_it(tmp_path: Path) -> None:
    async with scripted() as upstream, gateway(tmp_path, activation_seconds=0.3) as rig:
        sets = {"blue": [replica(upstream.port)]}
        await rig.publish("demo", {"blue": deployment(tidegate=HTTP2)}, {"blue": 100}, sets)
        got = await ask(rig.port)
        assert (got.status, b"NoReplicaReady" in got.body) == (503, True)


async def test_an_answer_before_the_end_of_the_request_is_the_answer(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        connection.head(asked, [(b":status", b"403")], ended=True)

    upstream.script = script
    async with http2(rig.port) as peer:
        stream = peer.begin(request())
        peer.data(stream, b"x")
        assert (await peer.answer(stream)).status == 424
        await until(lambda: upstream.asked[0].reset is not None, "that the replica gets no more of it")


async def test_a_call_of_grpc_is_given_what_is_left_of_its_time(rig: Rig, upstream: Http2Replica) -> None:
    async with http2(rig.port) as peer:
        fields = [*request(), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"5S")]
        assert (await peer.answer(peer.begin(fields, ended=True))).status == 200
    told = upstream.asked[0].field(b"grpc-timeout")
    assert told is not None
    assert 1_000_000 < int(told.removesuffix(b"u")) < 5_000_000


async def test_a_call_whose_time_is_over_is_ended_by_the_gateway_too(rig: Rig, upstream: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        await asyncio.Event().wait()

    upstream.script = script
    async with http2(rig.port) as peer:
        fields = [*request(), (b"content-type", b"application/grpc"), (b"grpc-timeout", b"200m")]
        got = await peer.answer(peer.begin(fields, ended=True))
        assert (got.status, got.trailer("grpc-status"), got.ended) == (200, "4", True)
    await until(lambda: upstream.asked[0].reset == 8, "that the replica is told")
